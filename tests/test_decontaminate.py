"""A row that holds a test item is found whatever the item's length, and common property accuses nobody."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from builders import jsonl, read, row, settings, write
from decontaminate import decontaminate
from snaketune.job import StageError
from snaketune.leaks import items as test_items

LICENCE = " ".join(f"licence{n}" for n in range(40))


def words(name: str, count: int, start: int = 0) -> str:
    return " ".join(f"{name}{number}" for number in range(start, start + count))


def run(folder: Path, rows: list[dict[str, Any]], *tests: Any, shards: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """The hits of rows against test files, each given as a path or as a list of objects."""
    paths = [str(jsonl(folder / f"test{at}.jsonl", test) if isinstance(test, list) else test)
             for at, test in enumerate(tests)]  # fmt: skip
    found = []
    for shard in range(shards):
        part = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
        source, hits = write(folder / f"rows-{shard}.parquet", part), str(folder / f"hits-{shard}.parquet")
        told = decontaminate(source, paths, hits, settings("decontaminate", files=paths, **changes))
        (folder / f"told-{shard}").write_text(told)
        found += read(hits)
    return found


def test_the_overlap_is_the_share_of_the_items_n_grams_that_the_row_holds(tmp_path: Path) -> None:
    item = words("w", 32)  # 20 runs of 13 words
    rows = [
        row("before " + words("w", 32) + " after", source="a", line=7),  # all of them
        row(words("w", 22), source="a", line=8),  # 10 of them
        row(words("w", 21), source="a", line=9),  # 9 of them
        row(words("other", 50), source="a", line=10),
    ]
    hits = run(tmp_path, rows, [{"text": words("x", 30)}, {"text": item}])
    assert [(hit["line"], hit["overlap"], hit["item"]) for hit in hits] == [(7, 1.0, 2), (8, 0.5, 2)]
    assert [hit["row_id"] for hit in hits] == [one["row_id"] for one in rows[:2]]
    assert {(hit["source"], hit["test_file"], hit["head"]) for hit in hits} == {
        ("a", str(tmp_path / "test0.jsonl"), item[:160])
    }
    assert [hit["line"] for hit in run(tmp_path, rows, [{"text": item}], min_overlap=0.45)] == [7, 8, 9]
    assert [hit["line"] for hit in run(tmp_path, rows, [{"text": item}], min_overlap=1)] == [7]
    assert (tmp_path / "told-0").read_text() == "1 of 4 rows hold text of 1 of 1 test rows"


def test_case_punctuation_and_line_ends_hide_nothing(tmp_path: Path) -> None:
    hits = run(tmp_path, [row(words("W", 14).replace(" ", ",\n"))], [{"text": words("w", 14)}])
    assert [hit["overlap"] for hit in hits] == [1.0]


@pytest.mark.parametrize("count", range(3, 16))
def test_an_item_of_any_length_from_three_words_is_seen(tmp_path: Path, count: int) -> None:
    rows = [
        row(f"so {words('w', count)} he said"),
        row(words("w", count)),
        row(words("w", count - 1)),
        row(words("w", count - 1) + " no " + words("w", 1, count - 1)),
    ]
    hits = run(tmp_path, rows, [{"question": words("w", count)}], min_overlap=1)
    assert [hit["row_id"] for hit in hits] == [rows[0]["row_id"], rows[1]["row_id"]]


def test_a_short_item_must_stand_as_a_sequence_of_whole_words(tmp_path: Path) -> None:
    rows = [
        row("who wrote war and peace and why"),
        row("who wrote war, and who made peace"),  # all words
        row("who wrote war and peaceful songs"),  # half a word
        row("wrote war and peace; who wrote war and"),  # all runs of three, and not in a row
    ]
    assert [hit["row_id"] for hit in run(tmp_path, rows, [{"q": "Who wrote War and Peace?"}])] == [rows[0]["row_id"]]


def test_a_text_without_spaces_is_seen_too(tmp_path: Path) -> None:
    rows = [row("他说：你今天晚上吃什么？我不知道"), row("你今天晚上吃了什么")]
    assert [hit["row_id"] for hit in run(tmp_path, rows, [{"q": "你今天晚上吃什么"}])] == [rows[0]["row_id"]]


def test_an_item_of_one_or_two_words_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row("yes of course he did")]
    assert run(tmp_path, rows, [{"q": "of course"}, {"q": "yes"}, {"q": ""}, {}, {"q": words("w", 5)}]) == []
    assert "0 of 1 rows hold text of 0 of 5 test rows; 4 test rows of fewer than 3 words" in (
        tmp_path / "told-0").read_text()  # fmt: skip


def test_an_item_may_stand_across_prompt_and_completion(tmp_path: Path) -> None:
    hits = run(tmp_path, [row(words("w", 20, 20), words("w", 20))], [{"text": words("w", 40)}])
    assert [hit["overlap"] for hit in hits] == [1.0]


def test_a_licence_that_many_test_items_have_accuses_nobody(tmp_path: Path) -> None:
    tests = [{"text": f"{LICENCE} {words(f'own{n}x', 20)}"} for n in range(4)]
    rows = [row(LICENCE), row(words("own2x", 20))]
    hits = run(tmp_path, rows, tests, max_rows=3, min_overlap=0.4)
    assert [(hit["row_id"], hit["item"]) for hit in hits] == [(rows[1]["row_id"], 3)]
    assert hits[0]["overlap"] == 8 / 20  # 12 runs begin in the licence and end in the text


def test_runs_that_are_common_property_count_neither_above_nor_below_the_line(tmp_path: Path) -> None:
    tests = [{"text": LICENCE}] * 3 + [{"text": f"{LICENCE} {words('own', 13)}"}]
    both = row(f"{LICENCE} {words('own', 13)}")
    assert [(hit["item"], hit["overlap"]) for hit in run(tmp_path, [both, row(LICENCE)], tests, max_rows=3)] == [(4, 1)]
    assert len(run(tmp_path, [row(LICENCE)], tests, max_rows=4)) == 4


def test_a_short_item_that_many_test_rows_have_accuses_nobody(tmp_path: Path) -> None:
    tests = [{"q": "none of the above"}] * 3 + [{"q": "none of the below"}]
    rows = [row("is it none of the above or none of the below")]
    assert [hit["item"] for hit in run(tmp_path, rows, tests, max_rows=2)] == [4]


def test_of_a_row_categories_and_ids_are_left_out_and_a_named_field_counts(tmp_path: Path) -> None:
    test = [{"subject": "high school physics", "question": words("w", 12), "options": [words("o", 7), words("p", 8)]}]
    rows = [row("she teaches high school physics"), row(words("w", 12)), row(f"{words('o', 7)} {words('p', 8)}")]
    hits = run(tmp_path, rows, test)
    assert [hit["row_id"] for hit in hits] == [rows[1]["row_id"], rows[2]["row_id"]]
    assert [hit["head"] for hit in hits] == [words("w", 12), words("o", 7) + "\n" + words("p", 8)]
    hits = run(tmp_path, rows, test, fields=["subject"])
    assert [hit["row_id"] for hit in hits] == [rows[0]["row_id"]]


def test_of_the_fields_of_one_test_row_the_greatest_overlap_is_told_once(tmp_path: Path) -> None:
    test = [{"question": words("q", 32), "context": words("c", 32)}]
    hits = run(tmp_path, [row(words("q", 25) + " and " + words("c", 30))], test)
    assert [(hit["overlap"], hit["head"]) for hit in hits] == [(18 / 20, words("c", 32)[:160])]


def test_nested_texts_are_read_in_order(tmp_path: Path) -> None:
    chat = [{"role": {"name": words("a", 6)}, "content": [words("b", 4), {"text": words("c", 5)}, 7, None]}]
    hits = run(tmp_path, [row(f"{words('a', 6)} {words('b', 4)} {words('c', 5)}")], [{"messages": chat}])
    assert [hit["overlap"] for hit in hits] == [1.0]


def test_a_field_that_no_row_of_a_file_has_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"test0\.jsonl has no field `ask`, .* it has answer, question"):
        run(tmp_path, [row("x")], [{"question": "a b c"}, {"answer": "d"}], fields=["question", "ask"])


def test_a_broken_line_of_a_test_file_stops_the_run_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"q": "a b c"}\n{"q": \n')
    with pytest.raises(StageError, match=r"bad\.jsonl cannot be read at line 2: broken JSON"):
        run(tmp_path, [row("x")], path)
    with pytest.raises(StageError, match=r"test\.xyz cannot be told"):
        run(tmp_path, [row("x")], tmp_path / "test.xyz")


def test_test_sets_may_be_csv_or_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,question\n1,{words('w', 14)}\n2,{words('v', 14)}\n")
    (tmp_path / "my file name is long.txt").write_text(f"{words('x', 14)}\n\n{words('y', 14)}\n")
    rows = [row(words("v", 14)), row(words("y", 14)), row("my file name is long")]
    hits = run(tmp_path, rows, tmp_path / "a.csv", tmp_path / "my file name is long.txt")
    assert [(hit["row_id"], Path(hit["test_file"]).name) for hit in hits] == [
        (rows[0]["row_id"], "a.csv"), (rows[1]["row_id"], "my file name is long.txt")]  # fmt: skip
    assert hits[0]["item"] == 2


def test_neither_shards_nor_batches_change_a_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)
    tests = [{"text": words("t", draw.randrange(3, 40), draw.randrange(200))} for _ in range(300)]
    rows = [row(words("t", draw.randrange(5, 90), draw.randrange(200)), line=n) for n in range(100)]
    whole = run(tmp_path / "1", rows, tests[:120], tests[120:], max_rows=20)
    monkeypatch.setattr(test_items, "PIECE", 500)
    parts = run(tmp_path / "3", rows, tests[:120], tests[120:], max_rows=20, shards=3)
    assert len(whole) > 1000
    assert parts == [hit | {"test_file": hit["test_file"].replace("/1/", "/3/")} for hit in whole]


def test_words_are_counted_up_to_the_bound() -> None:
    texts = ["", "!!", "one", "one one", "one one one", words("a", 4), words("a", 5), words("a", 900), "a a a a a a"]
    assert test_items.word_counts(pa.array(texts), 5).tolist() == [0, 0, 1, 2, 3, 4, 5, 5, 5]


def test_the_trigger_of_a_short_item_is_its_rarest_run() -> None:
    texts = pa.array(["what is the name of it", "what is the name of her", "what is the"])
    triggers = test_items.rarest(texts)
    assert len(np.unique(triggers)) == 3
