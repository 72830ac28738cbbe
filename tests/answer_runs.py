"""Answers of small models, as the stage gives them and by hand."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from generate import generate

SETTINGS = {
    "max_new_tokens": 6,
    "strategy": "greedy",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "num_beams": 1,
    "batch_tokens": 60,
    "few_shot": 0,
    "precision": "fp32",
    "cache": "dynamic",
    "separator": "\n",
    "text_prompt_tokens": 5,
    "limit": None,
    "seed": 3,
    "trust_remote_code": False,
}


def answered(model: str, tokens: str, out: Path, **settings: Any) -> list[dict[str, Any]]:
    """The answers as dicts."""
    generate(tokens, f"{tokens}.parquet", model, str(out), SETTINGS | settings, gpus=0, threads=1)
    return pq.read_table(out).to_pylist()


def greedy(model: torch.nn.Module, ids: list[int], count: int, end: int) -> list[int]:
    """The independent way: one prompt alone, no cache, the likeliest token again and again."""
    ids = list(ids)
    new: list[int] = []
    with torch.no_grad():
        while len(new) < count and (not new or new[-1] != end):
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new
