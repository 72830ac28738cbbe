"""The proof that nothing of validation or test stands in train, by other means than those that dealt the rows.

In:  the train table (augmented, where rows were made), split/{validation,test}.parquet
Out: split/leaks.json     each check with its count and examples; how near the splits come to each other
     split/leaks.parquet  each validation and test row, and its nearest row of train

Equality is checked of ids, whole texts, clusters, families, groups and prompts, on keys that are made here (see
`equal_rows`), not by deduplication. Likeness is asked of every validation and test row: its nearest row of train by
exact Jaccard similarity, with candidates from an inverted index instead of MinHash bands (see `near_rows`).
What fails raises a StageError with the first examples, and no metric is published; the log has all of them.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError, run
from snaketune.leaks import equal_rows
from snaketune.leaks.near_rows import COLUMNS, FLOOR, HEAD, Neighbours, joint
from snaketune.rows import TableWriter, batches

LEAKS = pa.schema(
    [
        ("split", pa.string()),
        ("row_id", pa.string()),
        ("train_row_id", pa.string()),
        ("similarity", pa.float64()),
        ("head", pa.string()),
        ("train_head", pa.string()),
    ]
)
EVALUATED = ("validation", "test")
EXAMPLES = 5
EDGES = np.round(np.r_[0, np.arange(20 * FLOOR, 21) / 20], 2)
MEND = {
    "row_id": "The tables are not those of one split: remove `split` in the results of the run, and run again",
    "text": "Let `dedup.near` find such rows, or give them one group (`source.columns.group`)",
    "prompt": "Give such rows one group (`source.columns.group`)",
}
MEND |= dict.fromkeys(("cluster", "family", "group"), MEND["row_id"])


def leaks(paths: dict[str, str], outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Check the splits `paths` (train, validation, test); `outputs` names the files checks and nearest.

    settings: the section `leaks`, and shingle_words. Raises StageError where anything leaks.
    """
    checks, told = equal_rows.compare(paths)
    folder = Path(outputs["checks"]).parent
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".leaks-") as spill:
        rows = Neighbours([paths[split] for split in EVALUATED], settings["shingle_words"], Path(spill))
        near = _near(rows, paths, settings["similarity"])
        report = {"checks": checks, "told": told, "near": near, "passed": True}
        if faults := _faults(report, settings):
            print(json.dumps(report | {"passed": False}, indent=1, ensure_ascii=False))
            raise StageError(" ".join(faults))
        _write_nearest(rows, paths, outputs["nearest"])
        most = float(rows.similarity.max(initial=0.0))
        rows.forget()
        pairs = rows.show(paths["validation"], settings["similarity"], first=rows.counts[0])
        near["validation_test"] = {"pairs": pairs, "examples": _examples(rows, paths, settings["similarity"])}
    Path(outputs["checks"]).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    counts = " and ".join(f"{count:,} {split}" for split, count in near["rows"].items())
    alike = f"{near['pairs']:,} pairs are alike at {settings['similarity']:g} or more, " * bool(near["pairs"])
    nearest = f"the nearest two rows at {most:.2f}" if most else f"no two rows are alike at {FLOOR:g}"
    return f"no check finds the {counts} rows in train; {alike}{nearest}"


def _near(rows: Neighbours, paths: dict[str, str], similarity: float) -> dict[str, Any]:
    """How near train comes to the evaluation rows: the part `near` of leaks.json."""
    pairs = rows.show(paths["train"], similarity)
    parts = dict(zip(EVALUATED, np.split(rows.similarity, [rows.counts[0]]), strict=True))
    return {
        "similarity": similarity,
        "pairs": pairs,
        "examples": _examples(rows, paths, similarity),
        "histogram": {"edges": EDGES.tolist()}
        | {split: np.histogram(part, EDGES)[0].tolist() for split, part in parts.items()},
        "rows": dict(zip(EVALUATED, rows.counts, strict=True)),
    }


def _examples(rows: Neighbours, paths: dict[str, str], similarity: float) -> list[dict[str, Any]]:
    """The evaluation rows with the nearest neighbours, at `similarity` or more."""
    order = np.argsort(-rows.similarity, kind="stable")[:EXAMPLES]
    made = []
    for number in order[rows.similarity[order] >= similarity].tolist():
        split = EVALUATED[number >= rows.counts[0]]
        within = number - rows.counts[0] * (split == "test")
        source, line = rows.near_place[number]
        other = {"other_row_id": rows.near_id[number], "other_source": source, "other_line": line}
        place = equal_rows.rows_at(paths[split], [within])[within]
        made.append({"split": split, **place, **other, "similarity": float(rows.similarity[number])})
    return made


def _faults(report: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """A sentence for each check that fails, with its first example and what to do."""
    faults = []
    for check in report["checks"]:
        if check["count"]:
            other, split = check["pair"].split("-")
            what = f"{check['count']:,} {split} rows share their {check['name']} with {other} rows"
            faults.append(f"{what}: {_pair(check['examples'][0])}. {MEND[check['name']]}.")
    near = report["near"]
    if near["pairs"] and settings["near"] == "fail":
        pairs = "; ".join(f"{_pair(example)}: {example['similarity']:.3f}" for example in near["examples"][:3])
        faults.append(
            f"{near['pairs']:,} pairs of a train row and a validation or test row are alike at "
            f"{near['similarity']:g} or more: {pairs}. Raise `dedup.bands` so that deduplication finds them, or set "
            "`leaks.near: report`."
        )
    return faults


def _pair(example: dict[str, Any]) -> str:
    one, other = (
        f"{example[side + 'row_id']} ({example[side + 'source']}, line {example[side + 'line']})"
        for side in ("", "other_")
    )
    return f"{one} and {other}"


def _write_nearest(rows: Neighbours, paths: dict[str, str], path: str) -> None:
    """Write each evaluation row with its nearest row of train, sorted by split and row_id."""
    starts = {"test": rows.counts[0], "validation": 0}
    with TableWriter(path, LEAKS) as out:
        for split, start in starts.items():
            done = start
            for batch in batches(paths[split], COLUMNS):
                part = slice(done, done + batch.num_rows)
                columns = {
                    "split": pa.repeat(split, batch.num_rows),
                    "row_id": batch["row_id"],
                    "train_row_id": pa.array(rows.near_id[part], pa.string()),
                    "similarity": pa.array(rows.similarity[part]),
                    "head": pc.utf8_slice_codeunits(joint(batch), 0, HEAD),
                    "train_head": pa.array(rows.near_head[part], pa.string()),
                }
                out.write(pa.table(columns, schema=LEAKS))
                done += batch.num_rows


if __name__ == "__main__":
    run(
        lambda job: leaks(
            {name: job.input[name] for name in ("train", *EVALUATED)},
            {name: job.output[name] for name in ("checks", "nearest")},
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
