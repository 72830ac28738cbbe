"""Chats to token ids by the tokenizer's own template.

The prompt is what the template makes of all messages but the last, with the words that ask for an answer; the rest is
what it adds to that for the whole chat, its own end of text included. Tokens that the template writes are parsed. What
a person wrote is not: `<|im_end|>` in a message stays text, or a message could end its own turn.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError
from snaketune.tokens.backends import HuggingFace
from snaketune.tokens.ragged import Ragged, merged
from snaketune.tokens.tokenizer import added_texts

# Before a template that writes the date of today: no run may depend on that. It is the date of Llama's own templates.
_DAY = {"%d": "26", "%-d": "26", "%m": "07", "%B": "July", "%b": "Jul", "%Y": "2024", "%y": "24", "%A": "Friday"}
_DAY |= {"%a": "Fri", "%H": "00", "%M": "00", "%S": "00"}
_SAME_DAY = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(f"|replace('{code}', '{value}')" for code, value in _DAY.items())
    + " }}{% endmacro %}{{ '' }}"
)


class ChatTemplate:
    """The chat template of a tokenizer. `parse`: what reads like a special token is that token, in messages too."""

    def __init__(self, tokenizer: Any, parse: bool) -> None:
        self._tokenizer = tokenizer
        special = [] if parse else added_texts(tokenizer, special_only=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._plain = HuggingFace(tokenizer, parse=True)
        self._template = tokenizer.get_chat_template()
        if "strftime_now" in self._template:
            self._template = _SAME_DAY + self._template

    def encode(self, chats: pa.Array, row_ids: pa.Array) -> tuple[Ragged, Ragged, np.ndarray]:
        """The ids of prompts and answers, and [n] bool: which answers have no end-of-text token at their end.

        chats: JSON lists of {role, content}. Raises StageError for one that the template does not take.
        """
        texts, hostile = [], []
        for chat, row_id in zip(chats.to_pylist(), row_ids.to_pylist(), strict=True):
            messages = json.loads(chat)
            texts.append(self._texts(messages, row_id))
            hostile.append(any(self._special.search(str(message.get("content"))) for message in messages))
            if hostile[-1]:
                texts[-1] = self._marked(messages, row_id, texts[-1])
        where = np.array(hostile, dtype=bool)
        heads, tails = (self._ids([pair[side] for pair in texts], where) for side in (0, 1))
        endless = [not self._ends(tails.row(number)) for number in range(len(tails))]
        return heads, tails, np.array(endless, dtype=bool)

    def _texts(self, messages: list[dict[str, Any]], row_id: str) -> tuple[str, str]:
        """The prompt and what the whole chat adds to it."""
        from jinja2 import TemplateError

        write = {"tokenize": False, "chat_template": self._template}
        try:
            prompt = self._tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **write)
            whole = self._tokenizer.apply_chat_template(messages, **write)
        except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            raise StageError(
                f"the chat template refuses row {row_id}: {error}; set `tokenize.chat_template: none`, or mend the row"
            ) from error
        if not whole.startswith(prompt):
            raise StageError(
                f"the chat template writes another prompt for row {row_id} when it asks for the answer than when it "
                "shows it, so that training and generation would differ; set `tokenize.chat_template: none`"
            )
        return prompt, whole[len(prompt) :]

    def _marked(self, messages: list[dict[str, Any]], row_id: str, texts: tuple[str, str]) -> tuple[str, str]:
        """The same texts, with marks around the special tokens that people wrote; transformers knows the marks."""
        from transformers.utils.chat_template_utils import mark_control_tokens

        marked = self._texts(mark_control_tokens(messages, self._special), row_id)
        if tuple(_unmarked(text) for text in marked) != tuple(_unmarked(text) for text in texts):
            raise StageError(
                f"row {row_id} holds the text of a special token, which the chat template acts on, so that it cannot "
                "stay text; set `tokenize.special_tokens: parse`, or take it out of the row"
            )
        return marked

    def _ids(self, texts: list[str], marked: np.ndarray) -> Ragged:
        plain = self._plain.encode(pa.array(texts, pa.string()).filter(pa.array(~marked)))
        wanted = {"add_special_tokens": False, "sanitize_control_tokens": True, "verbose": False}
        try:
            ids = [self._tokenizer(texts[number], **wanted)["input_ids"] for number in np.flatnonzero(marked)]
        except (ValueError, NotImplementedError) as error:
            raise StageError(
                f"a special token in a chat cannot stay text: {error}; see `tokenize.special_tokens`"
            ) from error
        return merged(marked, Ragged.of(ids), plain)

    def _ends(self, ids: list[int]) -> bool:
        """Whether nothing but white space follows the last end-of-text token."""
        end = self._tokenizer.eos_token_id
        return end in ids and not self._tokenizer.decode(ids[len(ids) - ids[::-1].index(end) :]).strip()


def _unmarked(text: str) -> str:
    return re.sub("[\U000f0000\U000f0001]", "", text)
