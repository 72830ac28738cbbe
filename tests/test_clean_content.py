"""What cleaning asks of others: languages, quality, personal data, lists of words, annotators; and conversations."""

import json
from pathlib import Path

import pytest

from builders import row
from snaketune.clean.effects import Effects
from snaketune.job import StageError
from snaketune.text import chat
from test_clean_rows import cleaned, pairs, steps

MAIL = "ann@example.com"
ENGLISH = "The committee will meet again next week to discuss the budget and the plans for the new school."
GERMAN = "Der Ausschuss wird sich nächste Woche wieder treffen, um über den Haushalt und die neue Schule zu sprechen."


def talk(*contents: str) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content} for role, content in zip(["user", "assistant"] * 9, contents, strict=False)
    ]


def chat_row(*contents: str, line: int = 1) -> dict[str, object]:
    messages = talk(*contents)
    return row(contents[-1], chat.render(messages[:-1]), messages=chat.dump(messages), line=line)


# Languages and quality


def test_a_row_in_another_language_goes_and_an_unsure_one_stays(tmp_path: Path) -> None:
    rows = [row(ENGLISH, line=1), row(GERMAN, line=2), row("ok", line=3), row(" ", line=4)]
    done = cleaned(tmp_path, rows, languages=["en"], min_language_probability=0.99)
    assert [line["line"] for line in done["kept"]] == [1, 3]
    assert [fate[:2] for fate in done["gone"]] == [(2, "language"), (4, "empty")]
    _, _, value, threshold = done["gone"][0]
    assert threshold == 0.99 <= value <= 1
    assert done["effects"]["languages"] == {"en": 1, "und": 1}


def test_quality_rules_judge_the_completion_and_name_themselves(tmp_path: Path) -> None:
    rows = [row("one two three", "four five", line=1), row("one two three four", line=2), row("", line=3)]
    quality = {"gopher": {"enabled": True, "min_words": 4, "min_stop_words": 0}}
    done = cleaned(tmp_path, rows, quality=quality)
    assert done["gone"] == [(1, "gopher_min_words", 3, 4), (3, "empty", 0, 1)]
    assert [line["line"] for line in done["kept"]] == [2]


def test_bad_lines_go_before_a_text_is_judged_and_prompts_keep_theirs(tmp_path: Path) -> None:
    rows = [row("This line is good.\nmenu", "home", line=1), row("menu\nhome", "p", line=2)]
    quality = {"c4": {"enabled": True, "min_sentences": 0}}
    done = cleaned(tmp_path, rows, quality=quality)
    assert pairs(done) == [("home", "This line is good.")]
    assert done["gone"] == [(2, "empty", 0, 1)]
    assert steps(done) == {"c4_lines": (2, -14)}


# Personal data and lists of words


def test_personal_data_is_reported_by_kind_and_count_over_prompt_and_completion(tmp_path: Path) -> None:
    rows = [row(f"{MAIL} or bob@example.com", f"to {MAIL}", line=3), row("none", line=4), row(f"{MAIL}", " ", line=5)]
    done = cleaned(tmp_path, rows)
    assert done["found"] == [(3, "pii", "email", 3)]
    assert pairs(done)[0] == (f"to {MAIL}", f"{MAIL} or bob@example.com")


def test_masked_data_is_reported_too_and_its_characters_are_counted(tmp_path: Path) -> None:
    rows = [row(f"to {MAIL}", None, line=1), row("none", MAIL, line=2), row(f"{MAIL} is too long for this", line=3)]
    done = cleaned(tmp_path, rows, pii={"action": "mask"}, max_chars=30)
    assert pairs(done) == [(None, "to [EMAIL]"), ("[EMAIL]", "none")]
    assert done["found"] == [(1, "pii", "email", 1), (2, "pii", "email", 1)]
    assert steps(done) == {"pii": (2, -16)}
    assert done["gone"] == [(3, "too_long", 36, 30)]


def test_nothing_is_masked_in_a_row_that_its_words_drop(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("fool\n")
    rows = [row(f"fool {MAIL}", line=1), row(f"to {MAIL}", line=2)]
    given = {"pii": {"action": "mask"}, "toxicity": {"action": "drop"}}
    done = cleaned(tmp_path, rows, {"toxicity": [str(words)]}, **given)
    assert done["gone"] == [(1, "toxicity", 1, 0)]
    assert done["found"] == [(2, "pii", "email", 1)]
    assert steps(done) == {"pii": (1, -8)}
    assert done["effects"]["chars_dropped"] == len(f"fool {MAIL}")


def test_rows_with_personal_data_are_dropped_where_that_is_wanted(tmp_path: Path) -> None:
    done = cleaned(tmp_path, [row(f"{MAIL} {MAIL}", line=1), row("none", line=2)], pii={"action": "drop"})
    assert done["gone"] == [(1, "pii", 2, 0)]
    assert done["found"] == []


def test_only_kinds_that_are_asked_for_are_found_and_masked(tmp_path: Path) -> None:
    text = f"{MAIL} at 8.8.8.8"
    done = cleaned(tmp_path, [row(text, line=1)], pii={"action": "mask", "kinds": ["ip"]})
    assert pairs(done) == [(None, f"{MAIL} at [IP]")]
    assert done["found"] == [(1, "pii", "ip", 1)]
    assert cleaned(tmp_path, [row(text, line=1)], pii={"action": "off"})["found"] == []


def test_listed_words_are_reported_and_rows_with_more_than_is_allowed_dropped(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("fool\nblock head\n")
    rows = [row("You fool, you!", "A block head", line=1), row("Fool FOOL fool", line=2), row("foolish", line=3)]
    beside = {"toxicity": [str(words)], "identity_terms": [str(words)]}
    reported = cleaned(tmp_path, rows, beside, toxicity={"action": "report"})
    assert reported["found"] == [
        (1, "toxicity", "fool", 1),
        (1, "toxicity", "block head", 1),
        (2, "toxicity", "fool", 3),
    ] or reported["found"] == [
        (1, "toxicity", "block head", 1),
        (1, "toxicity", "fool", 1),
        (2, "toxicity", "fool", 3),
    ]
    strict = cleaned(
        tmp_path, rows, beside, toxicity={"action": "drop", "max_hits": 2}, identity_terms={"action": "report"}
    )
    assert strict["gone"] == [(2, "toxicity", 3, 2)]
    assert {fate[:2] for fate in strict["found"]} == {(1, "toxicity"), (1, "identity_terms")}


# Annotators and spelling


def decided(folder: Path, row_id: str, **values: str) -> list[str]:
    """An export of Label Studio with one annotation; the row's own texts are not in it."""
    kinds = {"verdict": "choices", "label": "choices"}
    result = [
        {"from_name": name, "to_name": "completion", "type": kinds.get(name, "textarea"),
         "value": {kinds.get(name, "text"): [text]}}
        for name, text in values.items()
    ]  # fmt: skip
    data = {"row_id": row_id, "prompt": "", "completion": "", "label": ""}
    task = {"id": 1, "data": data, "annotations": [{"id": 1, "was_cancelled": False, "result": result}]}
    path = folder / f"{row_id}.json"
    path.write_text(json.dumps([task]))
    return [str(path)]


def test_what_annotators_wrote_takes_the_place_of_the_row_and_what_they_rejected_goes(tmp_path: Path) -> None:
    rows = [row("old", "p", line=1), row("bad", line=2), row("same", "q", line=3, label="l")]
    files = decided(tmp_path, rows[0]["row_id"], completion="new one", label="good")
    files += decided(tmp_path, rows[1]["row_id"], verdict="reject")
    done = cleaned(tmp_path, rows, {"annotations": files})
    assert pairs(done) == [("p", "new one"), ("q", "same")]
    assert [line["label"] for line in done["kept"]] == ["good", "l"]
    assert [line["row_id"] for line in done["kept"]] == [rows[0]["row_id"], rows[2]["row_id"]]
    assert done["gone"] == [(2, "annotated_reject", 1, 0)]
    assert steps(done) == {"annotations": (1, 4)}


def test_an_annotators_text_is_judged_like_any_other(tmp_path: Path) -> None:
    rows = [row("old", line=1)]
    done = cleaned(tmp_path, rows, {"annotations": decided(tmp_path, rows[0]["row_id"], completion="x")}, min_chars=2)
    assert done["gone"] == [(1, "too_short", 1, 2)]


def test_spelling_is_corrected_in_prompts_and_completions(tmp_path: Path) -> None:
    dictionary = tmp_path / "words.txt"
    dictionary.write_text("definitely 100\nreceive 100\n")
    rows = [row("definitly", "recieve", line=1), row("<b>definitly</b>", line=2)]
    done = cleaned(tmp_path, rows, {"dictionary": [str(dictionary)]}, spelling={"enabled": True})
    assert pairs(done) == [("receive", "definitely"), (None, "definitely")]
    assert steps(done) == {"html": (1, -7), "spelling": (2, 2)}


# Conversations


def test_each_turn_of_a_conversation_is_cleaned_and_the_prompt_follows(tmp_path: Path) -> None:
    rows = [
        row("x <b>y</b>", "p", line=1),
        chat_row("caf\u00c3\u00a9?", "yes &amp; no", "a  b", "<i>c</i> d", line=2),
        chat_row("q", "r", line=3),
    ]
    done = cleaned(tmp_path, rows)
    messages = talk("café?", "yes & no", "a b", "c d")
    assert [line["messages"] for line in done["kept"]] == [None, chat.dump(messages), rows[2]["messages"]]
    prompt = "User: café?\n\nAssistant: yes & no\n\nUser: a b\n\nAssistant:"
    assert pairs(done) == [("p", "x y"), (prompt, "c d"), ("User: q\n\nAssistant:", "r")]
    assert steps(done) == {"encoding": (1, -1), "html": (2, -18), "whitespace": (1, -1)}


def test_personal_data_is_masked_in_the_turns_of_a_conversation(tmp_path: Path) -> None:
    rows = [chat_row(f"I am {MAIL}", f"Hello {MAIL}", "And?", f"Bye {MAIL}"), chat_row("q", "r", line=2)]
    done = cleaned(tmp_path, rows, pii={"action": "mask"})
    masked = talk("I am [EMAIL]", "Hello [EMAIL]", "And?", "Bye [EMAIL]")
    assert done["kept"][0]["messages"] == chat.dump(masked)
    assert pairs(done)[0] == (chat.render(masked[:-1]), "Bye [EMAIL]")
    assert done["found"] == [(1, "pii", "email", 3)]
    assert steps(done) == {"pii": (1, -24)}


def test_a_filled_or_annotated_answer_is_also_the_last_turn(tmp_path: Path) -> None:
    rows = [chat_row("q", " "), chat_row("q2", "old", line=2)]
    beside = {"annotations": decided(tmp_path, rows[1]["row_id"], completion="new")}
    done = cleaned(tmp_path, rows, beside, missing="fill", fill={"completion": "-"})
    assert [json.loads(line["messages"])[-1]["content"] for line in done["kept"]] == ["-", "new"]
    assert [line["completion"] for line in done["kept"]] == ["-", "new"]


def test_a_conversation_whose_prompt_an_annotator_wrote_is_a_prompt_and_completion(tmp_path: Path) -> None:
    rows = [chat_row(f"q {MAIL}", "r")]
    beside = {"annotations": decided(tmp_path, rows[0]["row_id"], prompt=f"Q? {MAIL}")}
    done = cleaned(tmp_path, rows, beside, pii={"action": "mask"})
    assert pairs(done) == [("Q? [EMAIL]", "r")]
    assert done["kept"][0]["messages"] is None
    assert done["found"] == [(1, "pii", "email", 1)]


def test_a_prompt_that_an_annotator_left_as_it_was_leaves_the_conversation(tmp_path: Path) -> None:
    rows = [chat_row("q", "r")]
    done = cleaned(tmp_path, rows, {"annotations": decided(tmp_path, rows[0]["row_id"], prompt=rows[0]["prompt"])})
    assert done["kept"] == rows


def test_a_prompt_that_was_not_written_from_its_turns_is_written_anew_and_counted(tmp_path: Path) -> None:
    raw = row("r", "something else", messages=chat.dump(talk("q", "r")))
    done = cleaned(tmp_path, [raw])
    assert pairs(done) == [("User: q\n\nAssistant:", "r")]
    assert steps(done) == {"conversations": (1, 5)}


# The books


def test_characters_that_do_not_add_up_stop_the_run(tmp_path: Path) -> None:
    effects = Effects()
    effects.begin(1, 10)
    effects.note("html", [0], -3)
    effects.end(1, 6, 0)
    with pytest.raises(StageError, match="please report this"):
        effects.write(tmp_path / "effects.json", ["html"])
