"""Rows of one split as tasks for Label Studio, and the configuration to annotate them with.

In:  split/<split>.parquet of the split that the settings name
Out: annotate/tasks.json, annotate/labels.xml

Which rows are drawn depends on the seed and on each row's id alone, so that more rows later are the same rows and
some more. The decisions come back by `annotate.files`, and are applied after cleaning, whichever split a row is in.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean import labelstudio
from snaketune.job import StageError, run
from snaketune.rows import batches

COLUMNS = ["row_id", "prompt", "completion", "label"]


def annotate(rows: str, tasks: str, labels: str, settings: dict[str, Any]) -> str:
    """Write at most `rows` rows of a split as tasks, and the configuration; ids are held as text, 100 bytes a row.

    Raises StageError where the split has no rows.
    """
    names: set[str] = set()
    ids: set[str] = set()
    for batch in batches(rows, ["row_id", "label"]):
        names.update(pc.drop_null(batch["label"].unique()).to_pylist())
        ids.update(batch["row_id"].to_pylist())
    if not ids:
        raise StageError(f"The {settings['split']} split has no rows to annotate: choose another `annotate.split`.")
    drawn = draw(ids, settings["rows"], settings["seed"])
    chosen = pa.concat_tables(_chosen(rows, drawn))
    made = labelstudio.tasks(chosen)
    Path(tasks).parent.mkdir(parents=True, exist_ok=True)
    Path(tasks).write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    prompts = chosen["prompt"].null_count < len(chosen)
    Path(labels).write_text(labelstudio.labels(names - {""}, prompts), encoding="utf-8")
    return f"{len(made):,} of {len(ids):,} {settings['split']} rows for Label Studio: import {tasks} and {labels}"


def draw(ids: Iterable[str], count: int, seed: int) -> set[str]:
    """At most `count` ids, those with the smallest hashes of seed and id."""
    return set(sorted(ids, key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())[:count])


def _chosen(rows: str, drawn: set[str]) -> Iterator[pa.Table]:
    """The rows with these ids, each id once."""
    left = set(drawn)
    for batch in batches(rows, COLUMNS):
        places = []
        for place, name in enumerate(batch["row_id"].to_pylist()):
            if name in left:
                left.discard(name)
                places.append(place)
        yield batch.take(places)


if __name__ == "__main__":
    run(
        lambda job: annotate(
            job.input[job.params.settings["split"]], job.output.tasks, job.output.labels, job.params.settings
        ),
        snakemake,
        light=True,
    )
