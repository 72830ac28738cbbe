"""A table that a model made before is handed back: under an equal fingerprint, whatever run asks for it.

What a base model says to a test split does not hang on the run that tunes it, nor on how its train rows were cleaned.
So the tables of the stages that compute with a model are kept in the store beside the trainings, under everything that
decides them: settings, texts, tokens, weights, code, libraries, device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snaketune.store import STORE, claim, fingerprint, publish

TABLE, SENTENCE = "table.parquet", "sentence.txt"


def reused(
    stage: str,
    parts: dict[str, Any],
    files: Iterable[str],
    out: str,
    compute: Callable[[str], str],
    *,
    run: str,
    store: Path = STORE,
) -> str:
    """Write the table of a stage to `out`: from the store, or by `compute(path)`, which is then kept.

    parts, files: what decides the result, settings and contents. Returns the sentence of the computation.
    """
    folder = store / f"{stage}-{fingerprint(parts, files)}"
    with claim(folder, run):
        done = folder / "done"
        if again := done.exists():
            sentence = (done / SENTENCE).read_text(encoding="utf-8")
        else:
            part = folder / "part"
            shutil.rmtree(part, ignore_errors=True)  # of a job that was cut off
            part.mkdir()
            sentence = compute(str(part / TABLE))
            (part / SENTENCE).write_text(sentence, encoding="utf-8")
            publish(part, done)
        shutil.copyfile(done / TABLE, out)
    return f"{sentence} (from the store: computed before)" if again else sentence


def table_of(job: Any, stage: str, device: str, files: Iterable[str], compute: Callable[[str], str]) -> str:
    """The same for a job of Snakemake: its settings, its code and `files`; device: "cpu" or "cuda"."""
    code = [path for path in job.input.code if path.endswith(".py")]
    parts = {"settings": job.params.settings, "device": device}
    return reused(stage, parts, [*files, *code], job.output.table, compute, run=job.wildcards.run)
