"""The answers that a training shows: to the same prompts each time, and without a trace in the training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import models
from snaketune.model.batches import Rows
from snaketune.model.samples import Samples, shown


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Rows, list[tuple[str | None, str]]]:
    """A tokenizer, the rows of a validation split, and the texts that they were made of."""
    folder = tmp_path_factory.mktemp("samples")
    texts = [*models.pairs(6), ("j" * 26, "light"), *models.texts(3, low=3, high=9)]  # one prompt too long to answer
    tokens = models.tokens(texts, models.base(folder / "base"), folder / "tokens", "validation")
    return models.tokenizer_of(), Rows(tokens), texts


def network(tokenizer: Any, kind: str = "gpt2", **options: Any) -> torch.nn.Module:
    return models.build(kind, len(tokenizer), tokenizer.eos_token_id, **options)


def greedy(model: torch.nn.Module, ids: list[int], count: int, end: int) -> list[int]:
    """The independent way: one prompt alone, no cache, the likeliest token again and again; without the end."""
    ids, start = list(ids), len(ids)
    with torch.no_grad():
        while len(ids) < start + count:
            new = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if new == end:
                break
            ids.append(new)
    return ids[start:]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama"])
def test_each_answer_is_the_greedy_one_to_the_row_s_prompt(kind: str, asked: Any) -> None:
    tokenizer, rows, texts = asked
    model = network(tokenizer, kind)
    lines = Samples(rows, tokenizer, 99).answer(model, 7)
    assert max(len(tokenizer(prompt or "")["input_ids"]) for prompt, _ in texts) > models.POSITIONS // 2
    assert [line["row_id"] for line in lines] == sorted(f"{number * 7 % 101:03d}" for number in range(len(texts)))
    by_row = {line["row_id"]: line for line in lines}
    for number, (prompt, text) in enumerate(texts):
        line = by_row[f"{number * 7 % 101:03d}"]
        ids = tokenizer(text if prompt is None else prompt + "\n")["input_ids"]
        follows = text
        if prompt is None:
            cut = (len(ids) + 1) // 2  # + 1: the row ends with the end-of-text token
            ids, follows = ids[:cut], tokenizer.decode(ids[cut:])
        room = models.POSITIONS // 2  # 48 new tokens would leave no place for the prompt
        new = greedy(model, ids[-room:], room, tokenizer.eos_token_id)
        assert line["output"] == tokenizer.decode(new).strip()
        assert line["prompt"] == tokenizer.decode(ids).strip()
        assert line["reference"] == follows.strip()
        assert line["step"] == 7


def test_the_base_model_s_answers_stand_beside_the_later_ones_also_after_a_resume(asked: Any) -> None:
    tokenizer, rows, _ = asked
    base, tuned = network(tokenizer), network(tokenizer)
    with torch.no_grad():
        tuned.transformer.ln_f.weight.mul_(-1)
    samples = Samples(rows, tokenizer, 3)
    first, second = samples.answer(base, 0), samples.answer(tuned, 5)
    assert len(first) == len(second) == 3
    assert [line["base"] for line in first] == [line["output"] for line in first]
    assert [line["base"] for line in second] == [line["output"] for line in first]
    assert [line["output"] for line in second] != [line["base"] for line in second]
    written = [json.loads(json.dumps(line)) for line in first]
    assert Samples(rows, tokenizer, 3, written).answer(tuned, 5) == second
    assert {line["base"] for line in Samples(rows, tokenizer, 3).answer(tuned, 5)} == {None}


def test_no_samples_are_a_setting_too(asked: Any) -> None:
    tokenizer, rows, _ = asked
    assert Samples(rows, tokenizer, 0).answer(network(tokenizer), 0) == []


def trained(tokenizer: Any, rows: Rows, look: bool) -> tuple[list[torch.Tensor], list[Any]]:
    """A few steps with dropout; with `look`, samples are taken between them. The weights, and the random states."""
    torch.manual_seed(5)
    np.random.seed(5)
    model = network(tokenizer, dropout=0.3).train()
    model.generation_config.repetition_penalty = 4.0
    model.transformer.h[0].mlp.eval()  # a part that is kept in eval mode
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    samples = Samples(rows, tokenizer, 3)
    ids = torch.tensor(rows[0].astype(np.int64))[None]
    for step in range(3):
        if look:
            samples.answer(model, step)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    modes = [module.training for module in model.modules()]
    assert model.generation_config.repetition_penalty == 4.0
    return list(model.parameters()), [torch.get_rng_state().tolist(), np.random.random(), modes]


def test_a_training_that_is_looked_at_is_bit_for_bit_the_same(asked: Any) -> None:
    tokenizer, rows, _ = asked
    (alone, state), (seen, seen_state) = (trained(tokenizer, rows, look) for look in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(alone, seen, strict=True))
    assert state == seen_state


def test_dropout_and_the_model_s_own_generation_settings_change_no_answer(asked: Any) -> None:
    tokenizer, rows, _ = asked
    model = network(tokenizer, dropout=0.5)
    plain = Samples(rows, tokenizer, 4).answer(model, 1)
    model.train()
    model.generation_config = GenerationConfig(do_sample=True, temperature=9.0, suppress_tokens=list(range(200)))
    assert Samples(rows, tokenizer, 4).answer(model, 1) == plain


def test_the_attention_is_switched_while_the_model_answers_and_back_when_it_fails(asked: Any) -> None:
    tokenizer, rows, _ = asked
    model = network(tokenizer).train()
    calls: list[str] = []

    @contextmanager
    def plain(given: Any) -> Iterator[None]:
        assert given is model
        calls.append("own")
        yield
        calls.append("back")

    model.register_forward_pre_hook(lambda *_: calls.append("forward"))
    Samples(rows, tokenizer, 1).answer(model, 0, plain)
    assert calls[0] == "own"
    assert calls[-1] == "back"
    assert set(calls[1:-1]) == {"forward"}
    broken = model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Samples(rows, tokenizer, 1).answer(model, 0, plain)
    broken.remove()
    assert model.training


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("river stone", "river stone"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("two\nlines\r\ttab", r"two\nlines\r\ttab"),
        ("turn \u202e round", r"turn \u202e round"),
        ("Grüße 日本 🙂", "Grüße 日本 🙂"),
        ("x" * 30, "x" * 19 + "…"),
        ("\x1b" * 30, r"\x1b\x1b\x1b\x1b\x1b"[:19] + "…"),
    ],
)
def test_nothing_in_an_answer_can_steer_the_terminal(text: str, seen: str) -> None:
    assert shown(text, 20) == seen
    assert shown(text, 20).isprintable()
