"""Likelihoods of small models, as the stage gives them and by hand: one window at a time through the plain model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import models
from likelihood import likelihood

Ids = dict[str, tuple[list[int], list[int], int]]
Table = dict[str, dict[str, Any]]

BINS = range(10)
COUNTS = ["n_tokens", "n_tokens_full", "n_bytes", "n_correct", "n_top5", *(f"bin{k}_n" for k in BINS)]
SUMS = [
    "nll",
    "nll_full",
    "nll_text",
    "entropy",
    *(f"bin{k}_{name}" for k in BINS for name in ("confidence", "correct")),
]


def scored(
    model: str,
    tokens: str,
    out: Path,
    special_tokens: str = "text",
    window: int | None = None,
    stride: int | None = None,
) -> tuple[Table, str]:
    """The table, row_id -> line, and the sentence."""
    settings = {"trust_remote_code": False, "special_tokens": special_tokens, "window": window, "stride": stride}
    sentence = likelihood(tokens, f"{tokens}.parquet", model, str(out), settings, gpus=0, threads=1)
    return {row["row_id"]: row for row in pq.read_table(out).to_pylist()}, sentence


def ids_of(rows: list[tuple[str | None, str]], eos: bool = True) -> Ids:
    """The ids of each row: row_id -> (of the prompt, of the completion, the bytes of the completion)."""
    tokenizer = models.tokenizer_of()
    return {
        f"{number * 7 % 101:03d}": (
            [] if prompt is None else tokenizer(prompt + "\n")["input_ids"],
            tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id] * eos,
            len(completion.encode()),
        )
        for number, (prompt, completion) in enumerate(rows)
    }


def by_hand(
    model: torch.nn.Module,
    rows: Ids,
    window: int = models.POSITIONS,
    stride: int | None = None,
    start: int = 0,
    end: int = 0,
) -> Table:
    """The independent way: each window of each row alone, and each token for itself. rows: as of `ids_of`."""
    table = {}
    for row_id, (head, tail, size) in rows.items():
        line = dict.fromkeys(COUNTS + SUMS, 0) | {"n_bytes": size, "token_ids": [], "token_nll": []}
        for context, foretold in [(head[:1], head[1:] + tail)] if head else text_windows(tail, window, stride, start):
            ids = context + foretold
            with torch.no_grad():
                chances = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)[-len(foretold) :]
            prompt = len(head) - 1 if head else 0
            for place, (token, row) in enumerate(zip(foretold, chances.numpy(), strict=True)):
                add(line, token, row, place >= prompt)
        ended = line["token_ids"][-1] == end
        line["nll_text"] = line["nll"] - ended * line["token_nll"][-1]
        table[row_id] = line
    return table


def text_windows(ids: list[int], window: int, stride: int | None, start: int) -> list[tuple[list[int], list[int]]]:
    """(the context, the tokens that are foretold) by and by, in plain words."""
    parts = [([start], ids[:window])]
    done = window
    while done < len(ids):
        until = min(done + (stride or window), len(ids))
        parts.append((ids[until - window - 1 : done], ids[done:until]))
        done = until
    return parts


def add(line: dict[str, Any], token: int, row: np.ndarray, answer: bool) -> None:
    """One token; row: the logarithms of all chances."""
    line["nll_full"] -= row[token]
    line["n_tokens_full"] += 1
    if answer:
        best = np.argsort(-row, kind="stable")
        confidence = math.exp(row[best[0]])
        (k,) = [k for k in BINS if k / 10 < confidence <= (k + 1) / 10]
        line["nll"] -= row[token]
        line["n_tokens"] += 1
        line["n_correct"] += int(best[0] == token)
        line["n_top5"] += int(token in best[:5])
        line["entropy"] -= sum(math.exp(value) * value for value in row.tolist())
        line[f"bin{k}_n"] += 1
        line[f"bin{k}_confidence"] += confidence
        line[f"bin{k}_correct"] += best[0] == token
        line["token_ids"].append(token)
        line["token_nll"].append(-row[token])


def same(table: Table, expected: Table) -> None:
    """Counts are equal, and sums but for rounding."""
    assert table.keys() == expected.keys()
    for row_id, line in expected.items():
        assert {name: table[row_id][name] for name in COUNTS} == {name: line[name] for name in COUNTS}
        assert table[row_id]["token_ids"] == line["token_ids"]
        assert table[row_id]["token_nll"] == pytest.approx(line["token_nll"], rel=1e-5, abs=1e-5)
        for name in SUMS:
            assert table[row_id][name] == pytest.approx(line[name], rel=3e-6, abs=1e-9), (row_id, name)
