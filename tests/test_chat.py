"""A conversation is checked, and becomes the prompt and the answer that a model is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import jsonl
from raw_files import taken
from snaketune.rows import row_id
from snaketune.text import chat

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "Because."}
AGAIN = {"role": "user", "content": "Naïve 😀?"}
LAST = {"role": "assistant", "content": "No."}
LONG = [SYSTEM, ASK, ANSWER, AGAIN, LAST]


@pytest.mark.parametrize(
    "value",
    [
        [ASK, ANSWER],
        json.dumps([ASK, ANSWER]),
        [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}],
        [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]}, ANSWER],
        [ASK | {"name": "Ann", "weight": None}, ANSWER],
        [
            {"role": None, "content": None, "from": "user", "value": "Why?"},
            ANSWER,
        ],  # as a table of both spellings has it
    ],
)
def test_every_spelling_of_a_conversation_means_the_same(value: Any) -> None:
    assert chat.parse(value) == [ASK, ANSWER]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "a conversation is a list of turns, found nothing"),
        ({"role": "user"}, "found a value of the type dict"),
        ("[{", "the conversation is broken JSON"),
        ('"text"', "found a value of the type str"),
        ("[" * 100_000, "broken JSON"),
        ([], "no turn of the assistant after its first turn"),
        ([ASK], "no turn of the assistant after its first turn"),
        ([ANSWER], "no turn of the assistant after its first turn"),
        ([ANSWER, ASK], "no turn of the assistant after its first turn"),
        ([ASK, "Because."], "turn 2 is a value of the type str"),
        ([ASK, {"role": "bot", "content": "x"}], "turn 2 has the role `bot`; known are system, user, assistant, tool"),
        ([{"content": "x"}, ANSWER], "turn 1 has the role `None`"),
        ([{"role": ["user"], "content": "x"}, ANSWER], "turn 1 has the role"),
        ([ASK, {"role": "assistant", "content": None}], "turn 2 has no text: its content is nothing"),
        ([ASK, {"role": "assistant", "content": 3}], "turn 2 has no text"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER],
            "turn 1 has a part that is no text (`image_url`)",
        ),
        ([{"role": "user", "content": ["x"]}, ANSWER], "turn 1 has a part that is no text"),
    ],
)
def test_what_is_no_conversation_is_told_in_a_sentence(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"turn|conversation") as caught:
        chat.parse(value)
    assert words in str(caught.value)


def test_a_prompt_names_each_turn_and_ends_where_the_answer_begins() -> None:
    assert chat.render([SYSTEM, ASK]) == "System: Be brief.\n\nUser: Why?\n\nAssistant:"
    assert (
        chat.render([{"role": "tool", "content": "a\n\nb"}, ANSWER])
        == "Tool: a\n\nb\n\nAssistant: Because.\n\nAssistant:"
    )
    assert chat.render([]) == "Assistant:"


def test_the_last_answer_or_each_one_is_learnt_and_what_follows_it_is_not() -> None:
    assert chat.rows_of(LONG, "last") == [([SYSTEM, ASK, ANSWER, AGAIN], "No.")]
    assert chat.rows_of([*LONG, ASK], "last") == [([SYSTEM, ASK, ANSWER, AGAIN], "No.")]
    assert chat.rows_of(LONG, "each") == [([SYSTEM, ASK], "Because."), ([SYSTEM, ASK, ANSWER, AGAIN], "No.")]
    assert chat.rows_of([ANSWER, ASK, LAST], "each") == [([ANSWER, ASK], "No.")]  # a greeting answers nothing


# Rows of conversations


def test_a_chat_becomes_a_row_with_prompt_completion_and_messages(tmp_path: Path) -> None:
    (row,), aside = taken(jsonl(tmp_path / "a.jsonl", [{"messages": [*LONG, ASK]}]), "jsonl")
    prompt = "System: Be brief.\n\nUser: Why?\n\nAssistant: Because.\n\nUser: Naïve 😀?\n\nAssistant:"
    assert (row["prompt"], row["completion"], row["group"]) == (prompt, "No.", None)
    assert json.loads(row["messages"]) == LONG
    assert '"content":"Naïve 😀?"},{"role"' in row["messages"]
    assert row["row_id"] == row_id(prompt, "No.", row["messages"])
    assert not aside


def test_the_rows_of_one_conversation_are_of_one_group(tmp_path: Path) -> None:
    values = [{"messages": LONG}, {"messages": [*LONG[:4], ANSWER]}, {"messages": LONG, "x": 1}]
    rows, _ = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl", chat_turns="each")
    assert [row["line"] for row in rows] == [1, 1, 2, 2, 3, 3]
    groups = [row["group"] for row in rows]
    assert groups[0] == groups[1] == groups[4] == groups[5] != groups[2] == groups[3]
    assert None not in groups
    rows, _ = taken(
        jsonl(tmp_path / "a.jsonl", [{"messages": LONG, "who": "Ann"}]),
        "jsonl",
        chat_turns="each",
        columns={"group": "who"},
    )
    assert [row["group"] for row in rows] == ["Ann", "Ann"]


def test_a_bad_conversation_is_set_aside_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    values = [
        {"messages": value} for value in ([ASK, ANSWER], [ASK], [ASK, {"role": "assistant", "content": "\0"}], LONG)
    ]
    rows, aside = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl")
    assert [row["line"] for row in rows] == [1, 4]
    assert [(row["line"], row["reason"]) for row in aside] == [
        (2, "the conversation has no turn of the assistant after its first turn"),
        (3, "the text holds a NUL character at character 1"),
    ]


def test_a_completion_or_a_text_comes_before_messages_and_a_named_column_must_be_there(tmp_path: Path) -> None:
    values = [{"text": "t", "messages": [ASK, ANSWER]}, {"completion": "c", "messages": None}]
    rows, _ = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl")
    assert [(row["completion"], row["messages"]) for row in rows] == [("t", None), ("c", None)]
    values = [{"conversations": [ASK, ANSWER]}, {"text": "t"}]
    rows, aside = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl", columns={"messages": "conversations"})
    assert [row["completion"] for row in rows] == ["Because."]
    assert aside[0]["reason"] == "no column `conversations`, which `source.columns.messages` names"
