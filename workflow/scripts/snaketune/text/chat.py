"""Conversations: what a `messages` column may hold, and how the turns before an answer are written as a prompt."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, str]

# How each role is written in a prompt.
NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
# The spelling of ShareGPT: {"from": "human", "value": "..."}.
SHAREGPT = {"human": "user", "gpt": "assistant"}


def parse(value: Any) -> list[Message]:
    """The turns of a conversation, each {role, content}.

    `value` is a list of {role, content} or of ShareGPT's {from, value}, or JSON of such a list. Raises ValueError,
    with a sentence, where it is none or holds no answer of the assistant that could be learnt.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the conversation is broken JSON: {error}") from None
    if not isinstance(value, list):
        raise ValueError(f"a conversation is a list of turns, found {_kind(value)}")
    messages = [_message(turn, number) for number, turn in enumerate(value, start=1)]
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise ValueError("the conversation has no turn of the assistant after its first turn")
    return messages


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number} is {_kind(turn)}, where an object with `role` and `content` was expected")
    role, content = turn.get("role"), turn.get("content")
    if role is None and turn.get("from") is not None:
        role, content = turn["from"], turn.get("value")
    role = SHAREGPT.get(role, role) if isinstance(role, str) else role
    if not isinstance(role, str) or role not in NAMES:
        raise ValueError(f"turn {number} has the role `{role}`; known are {', '.join(NAMES)}")
    if isinstance(content, list):
        content = _joined(content, number)
    if not isinstance(content, str):
        raise ValueError(f"turn {number} has no text: its content is {_kind(content)}")
    return {"role": role, "content": content}


def _joined(parts: list[Any], number: int) -> str:
    """The text of a content that is given in parts, [{"type": "text", "text": "..."}]."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"turn {number} has a part that is no text (`{kind}`); only text can be learnt")
        texts.append(part["text"])
    return "".join(texts)


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else f"a value of the type {type(value).__name__}"


def render(messages: list[Message]) -> str:
    """The turns before an answer as plain text: `User: ...` and so on, blank lines between, and `Assistant:` last."""
    return "\n\n".join([*(f"{NAMES[turn['role']]}: {turn['content']}" for turn in messages), "Assistant:"])


def rows_of(messages: list[Message], turns: str) -> list[tuple[list[Message], str]]:
    """What is learnt of a conversation: (the turns before, the answer) of its last answer, or of `each`.

    A first turn of the assistant answers nothing, and is only ever a part of what stands before.
    """
    answers = [number for number, turn in enumerate(messages) if number and turn["role"] == "assistant"]
    chosen = answers if turns == "each" else answers[-1:]
    return [(messages[:number], messages[number]["content"]) for number in chosen]


def dump(messages: list[Message]) -> str:
    """The `messages` of a row: compact JSON, its characters as they are."""
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))
