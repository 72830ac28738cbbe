"""The workflow's decoding beside plain `generate` and transformers' pipeline: the same answers to the same prompts.

python benchmarks/generate/run.py [--model FOLDER] [--tokens results/aclsum/tokens/test] [--repeats 5]

All programs answer greedily in fp32 with one loaded model; loading is not on the clock. They take turns (A B C A B C),
because a shared machine is fast at one time and slow at another: what counts is the ratio of two programs of the same
round. Stops where an answer differs. Prints medians as a table, and one line of JSON for each program and round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow/scripts"))  # what is imported from there is imported in functions
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

OURS, PLAIN, PIPELINE = "ours", "generate, one by one", "pipeline, batches of 32"
Answerer = Callable[[list[np.ndarray]], list[str]]


def ours(network: Any, tokenizer: Any, settings: dict[str, Any]) -> Answerer:
    """As generate.py answers a split."""
    from snaketune.model.decoding import answer_all, as_text

    def answer(ids: list[np.ndarray]) -> list[str]:
        row_ids = [f"{number:08d}" for number in range(len(ids))]
        return [as_text(new, tokenizer)[0] for new in answer_all(network, ids, row_ids, tokenizer, settings)]

    return answer


def plain(network: Any, tokenizer: Any, options: dict[str, Any]) -> Answerer:
    """What most evaluation scripts do: one prompt after the other."""

    def answer(ids: list[np.ndarray]) -> list[str]:
        made = []
        for prompt in ids:
            given = torch.from_numpy(prompt)[None].to(network.device)
            new = network.generate(given, attention_mask=torch.ones_like(given), **options)[0, len(prompt) :]
            made.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        return made

    return answer


def piped(network: Any, tokenizer: Any, options: dict[str, Any]) -> Answerer:
    """The pipeline, with padding on the left, prompts in the order of the rows. It takes texts and tokenizes them."""
    from transformers import pipeline

    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    pipe = pipeline("text-generation", model=network, tokenizer=tokenizer, batch_size=32)

    def answer(ids: list[np.ndarray]) -> list[str]:
        texts = [tokenizer.decode(prompt) for prompt in ids]
        if any(tokenizer(text)["input_ids"] != prompt.tolist() for text, prompt in zip(texts, ids, strict=True)):
            sys.exit("a prompt's text has other tokens than its row, so that the pipeline would answer another one")
        return [made[0]["generated_text"].strip() for made in pipe(texts, return_full_text=False, **options)]

    return answer


def timed(answer: Answerer, ids: list[np.ndarray]) -> tuple[list[str], float, float]:
    """The answers, seconds on the clock, and seconds of the processors."""
    clock, used = time.perf_counter(), time.process_time()
    with torch.no_grad():
        texts = answer(ids)
    return texts, time.perf_counter() - clock, time.process_time() - used


def table(lines: list[dict[str, Any]]) -> str:
    """Medians of the rounds, and how many times as fast ours are, by pairs of one round.

    `processors`: the fewest that a program had in a round; below the threads, others took them, and the round is void.
    """
    names = list(dict.fromkeys(line["program"] for line in lines))
    speed = {name: [line["tokens_per_second"] for line in lines if line["program"] == name] for name in names}
    rows = [["program", "tokens/s (lowest to highest)", "s", "processors", "ours is times as fast"], ["---"] * 5]
    for name in names:
        of = [line for line in lines if line["program"] == name]
        ratios = sorted(one / other for one, other in zip(speed[OURS], speed[name], strict=True))
        rows.append(
            [
                name,
                f"{median(speed[name]):,.0f} ({min(speed[name]):,.0f} to {max(speed[name]):,.0f})",
                f"{median(line['seconds'] for line in of):.1f}",
                f"{min(line['processor_seconds'] / line['seconds'] for line in of):.2f}",
                f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "resources/tiny-gpt"), help="a folder with model and tokenizer")
    parser.add_argument("--tokens", default=str(ROOT / "results/aclsum/tokens/test"), help="made by `make run`")
    parser.add_argument("--limit", type=int, help="only so many rows")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Let every program answer in turns, hold their answers against each other, and print the table."""
    from generate import opened
    from snaketune.model.batches import Rows
    from snaketune.model.decoding import questions
    from snaketune.model.lm import load_tokenizer, positions_of

    given = arguments()
    torch.set_num_threads(given.threads)
    settings = {"strategy": "greedy", "num_beams": 1, "precision": "fp32", "cache": "dynamic"}
    settings |= {"max_new_tokens": given.max_new_tokens, "batch_tokens": given.batch_tokens, "trust_remote_code": False}
    network = opened(given.model, settings, torch.device(given.device))
    tokenizer = load_tokenizer(given.model)
    room = (positions_of(network.config) or 1 << 30) - given.max_new_tokens
    asked = questions(Rows(given.tokens), given.limit, 32)
    ids = [question.prompt for question in asked if len(question.prompt) <= room]

    end = tokenizer.eos_token_id
    options = {"max_new_tokens": given.max_new_tokens, "eos_token_id": end, "pad_token_id": end, "do_sample": False}
    options |= {"use_cache": True}
    programs = {
        OURS: ours(network, tokenizer, settings),
        f"{OURS}, static cache": ours(network, tokenizer, settings | {"cache": "static"}),
        PLAIN: plain(network, tokenizer, options),
        PIPELINE: piped(network, tokenizer, options),
    }
    for answer in programs.values():
        timed(answer, ids[:2])
    expected, _, _ = timed(programs[OURS], ids)
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in expected)  # of the texts: the same for all programs
    lines: list[dict[str, Any]] = []
    for number in range(given.repeats):
        for name, answer in programs.items():
            texts, seconds, used = timed(answer, ids)
            if wrong := [row for row, text in enumerate(expected) if texts[row] != text]:
                sys.exit(f"{name} answers {len(wrong)} of {len(ids)} prompts otherwise, number {wrong[0]} first")
            figures = {"program": name, "round": number, "rows": len(ids), "tokens_per_second": tokens / seconds}
            lines.append(figures | {"seconds": seconds, "processor_seconds": used})
            print(json.dumps(lines[-1]), flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
