"""The usual stack on the same rows: datasets, ftfy, datasketch, map(tokenizer), save_to_disk.

python usual_stack.py CORPUS TOKENIZER OUT [--processes N]

What a careful user of these libraries writes, each used the way its documentation advises: batched maps, the fast
tokenizer, the same 5-word shingles and 14 bands of 8 as the workflow. It does less than the workflow: no HTML, no
personal data, no verification of candidates, no families in the split, no ledger. Prints one line of JSON.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
from datasets import Dataset, load_dataset
from datasketch import MinHash, MinHashLSH
from transformers import PreTrainedTokenizerFast

WORD = re.compile(r"\w+")


def mend(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    """ftfy and white space."""
    return {"text": [" ".join(ftfy.fix_text(text).split(" ")).strip() for text in batch["text"]]}


def sign(batch: dict[str, list[str]]) -> dict[str, Any]:
    """MinHash of 5-word shingles; datasketch's own bulk interface."""
    sets = []
    for text in batch["text"]:
        words = WORD.findall(text.lower())
        runs = [" ".join(words[at : at + 5]).encode() for at in range(max(1, len(words) - 4))]
        sets.append(list(set(runs)))
    return {"signature": [made.hashvalues for made in MinHash.bulk(sets, num_perm=112, seed=1)]}


def unique(data: Dataset) -> list[int]:
    """The rows that stay: greedy, the first of each set of near-duplicates."""
    index, scheme = MinHashLSH(num_perm=112, params=(14, 8)), MinHash(num_perm=112, seed=1).scheme
    kept = []
    for number, values in enumerate(data.with_format("numpy")["signature"]):
        made = MinHash(num_perm=112, seed=1, hashvalues=np.asarray(values, dtype=np.uint64), scheme=scheme)
        if not index.query(made):
            index.insert(str(number), made)
            kept.append(number)
    return kept


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    workers = {"num_proc": given.processes} if given.processes > 1 else {}
    files = [str(path) for path in sorted(given.corpus.glob("*.jsonl"))]
    data = load_dataset("json", data_files=files, split="train", cache_dir=f"{given.out}-cache")
    data = data.map(mend, batched=True, **workers)
    data = data.filter(lambda batch: [bool(text) for text in batch["text"]], batched=True, **workers)
    rows = len(data)
    data = data.map(sign, batched=True, **workers)
    data = data.select(unique(data)).remove_columns("signature")
    kept = len(data)
    parts = data.train_test_split(test_size=0.2, seed=42)
    held = parts["test"].train_test_split(test_size=0.5, seed=42)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(given.tokenizer)
    tokens = 0
    for name, part in (("train", parts["train"]), ("validation", held["train"]), ("test", held["test"])):
        encoded = part.map(
            lambda batch: {"input_ids": tokenizer(batch["text"], add_special_tokens=False)["input_ids"]},
            batched=True,
            remove_columns=part.column_names,
            **workers,
        )
        tokens += sum(len(ids) for ids in encoded.with_format("arrow")["input_ids"])
        encoded.save_to_disk(f"{given.out}/{name}")
    json.dump({"rows": rows, "kept": kept, "tokens": tokens}, sys.stdout)


if __name__ == "__main__":
    main()
