"""What the model says while it trains: answers to the same few prompts at each evaluation, the base's beside them.

A loss that falls says that the model learns; an answer shows what. The prompts are the first validation rows by row id,
as the test prompts are of the test split, and answers are greedy and short. Nothing here touches the training: random
numbers, modes and settings are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from snaketune.model.batches import Rows
from snaketune.model.decoding import answers, questions
from snaketune.model.lm import positions_of

NEW_TOKENS = 48
TEXT_PROMPT_TOKENS = 32
GREEDY = {"strategy": "greedy", "num_beams": 1, "cache": "dynamic"}
Line = dict[str, Any]


class Samples:
    """The prompts of a training and the base model's answers to them.

    rows: the validation split; count: how many rows are asked; earlier: the lines of samples.jsonl of a training that
    is resumed, for the base model's answers.
    """

    def __init__(self, rows: Rows, tokenizer: Any, count: int, earlier: Iterable[Line] = ()) -> None:
        self.tokenizer = tokenizer
        self.questions = questions(rows, count, TEXT_PROMPT_TOKENS) if count else []
        self.base: dict[str, str] = {line["row_id"]: line["base"] for line in earlier}

    def answer(
        self, model: Any, step: int, plain: Callable[[Any], AbstractContextManager[Any]] = nullcontext
    ) -> list[Line]:
        """The lines of samples.jsonl of an evaluation: step, row_id, prompt, reference, base, output.

        model: the network itself, neither compiled nor wrapped for several processes; plain: switches its attention to
        the model's own while it generates. Step 0 is the base model; where it was never asked, `base` is None. Answers
        are computed in the precision of the caller's autocast.
        """
        if not self.questions:
            return []
        positions = positions_of(model.config) or 1 << 30
        new = min(NEW_TOKENS, positions // 2)
        ids = [question.prompt[-(positions - new) :] for question in self.questions]
        with plain(model), _undisturbed(model):
            made = answers(model, ids, self.tokenizer, GREEDY | {"max_new_tokens": new})
        lines = []
        for question, answer in zip(self.questions, made, strict=True):
            output = self._text(answer)
            if step == 0:
                self.base[question.row_id] = output
            lines.append(
                {
                    "step": step,
                    "row_id": question.row_id,
                    "prompt": self.tokenizer.decode(question.prompt, skip_special_tokens=True).strip(),
                    "reference": self._text(question.follows[:new]),
                    "base": self.base.get(question.row_id),
                    "output": output,
                }
            )
        return lines

    def _text(self, ids: Any) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def shown(text: str, width: int = 80) -> str:
    """A text for the terminal: one line of `width` characters at most, all that could steer a terminal escaped.

    Escaped is whatever does not print (str.isprintable): control characters of both sets, line breaks, and the marks
    that turn the direction of a line.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: width + 1])
    return line if len(line) <= width else line[: width - 1] + "\u2026"


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Generate in eval mode and with a neutral generation_config, and leave all as it was, random numbers too."""
    from transformers import GenerationConfig

    modes = [(module, module.training) for module in model.modules()]
    config = model.generation_config
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.generation_config = config
        for module, training in modes:
            module.training = training
