"""Signatures in, every row's cluster and fate out, with every decision and its evidence.

In:  dedup/signatures-<shard>.parquet, clean/rows-<shard>.parquet, all shards in one order
Out: dedup/clusters.parquet   every clean row: its cluster, the first row of its prompt, whether it stays
     dedup/evidence.parquet   every verified pair: similarity, relation, both heads
     dedup/dropped.parquet    schema rows.DROPPED

Candidates come from MinHash LSH and are verified by exact Jaccard before anything is joined: without that step, chains
of chance matches merge thousands of unrelated texts. Two rows are *duplicates* where they are equal, or alike in prompt
and in completion, each by itself; only duplicates are removed. Rows that are alike as a whole are *related*: all stay,
in one cluster, so that the split cannot tear them apart (see `near`).
The row that stays is the longest, then the first; but where the data itself names a test set, its rows stay, so that
a published test set is not made smaller by its copies in train. A cluster's name is the smallest id of all its members.

Nothing here depends on the shards: all work is in the order of (row_id, source, line). Texts are read of candidates
alone, a bounded chunk at a time (see `verify`). Resident memory is about 0.3 GB, a chunk, and 220 bytes a row at the
peak (measured from one to two million rows), and for each row of a verified pair up to 160 characters of its head.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.dedup.candidates import unpack
from snaketune.dedup.components import Components
from snaketune.dedup.near import is_duplicate, search
from snaketune.dedup.signatures import NAMES, Signatures
from snaketune.dedup.verify import Rows, Verified, nothing
from snaketune.job import StageError, run
from snaketune.rows import CLUSTERS, DROPPED, TableWriter

SLICE = 65_536  # rows whose strings are made at a time
EVIDENCE = pa.schema(
    [
        ("row_id_a", pa.string()),
        ("row_id_b", pa.string()),
        ("relation", pa.string()),
        ("similarity", pa.float64()),
        ("similarity_prompt", pa.float64()),
        ("similarity_completion", pa.float64()),
        ("head_a", pa.string()),
        ("head_b", pa.string()),
    ]
)


def deduplicate(signatures: list[str], rows: list[str], outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Deduplicate all shards as one; `outputs` names the files clusters, evidence and dropped.

    Raises StageError where no row is left to work on, or a cluster is implausibly large.
    """
    signed = Signatures(signatures)
    count = len(signed)
    if not count:
        raise StageError(
            "no row is left after cleaning. Look in ledger.parquet or clean/dropped-*.parquet for the rules that "
            "dropped them, and loosen these in `clean`, or check `source`"
        )
    exact = signed.exact if settings["exact"] else np.arange(count)
    pairs = nothing()
    if settings["near"]:
        texts = Rows(rows, signed.order, signed.chars)
        folder = Path(outputs["clusters"]).parent
        pairs = search(signed, texts, exact == np.arange(count), settings, folder)
    same = is_duplicate(pairs, settings["threshold"])
    kept = _representatives(signed, _labels(exact, pairs.pairs[same]))
    _write_clusters(outputs["clusters"], signed, _labels(exact, pairs.pairs), kept)
    _write_evidence(outputs["evidence"], signed, pairs, same)
    equal, nearest = _reasons(exact, pairs.where(same))
    _write_dropped(outputs["dropped"], signed, np.flatnonzero(~kept), equal, nearest, threshold=settings["threshold"])
    return (
        f"{int(kept.sum()):,} of {count:,} rows kept: {int((equal & ~kept).sum()):,} exact and "
        f"{int((~equal & ~kept).sum()):,} near-duplicates removed"
    )


def _labels(exact: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The first row of each row's component [n] int64, joined by equality and by pairs."""
    ties = Components(len(exact))
    ties.union_pairs(np.arange(len(exact)), exact)
    ties.union_pairs(*unpack(pairs))
    return ties.labels()


def _representatives(signed: Signatures, labels: np.ndarray) -> np.ndarray:
    """Which rows stay [n] bool: of each component one of the test set that the data names; the longest; the first."""
    kept = np.bincount(labels, minlength=len(labels))[labels] == 1
    several = np.flatnonzero(~kept)
    order = several[np.lexsort((several, -signed.chars[several], -signed.protection()[several], labels[several]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = labels[order[1:]] != labels[order[:-1]]
    kept[order[first]] = True
    return kept


def _reasons(exact: np.ndarray, duplicates: Verified) -> tuple[np.ndarray, np.ndarray]:
    """Whether a row, if it is removed, is so as an exact duplicate [n] bool; the similarity to its nearest one [n]."""
    nearest = np.zeros(len(exact))
    for side in unpack(duplicates.pairs):
        np.maximum.at(nearest, side, duplicates.similarity[:, 0])
    equal = exact != np.arange(len(exact))
    # The kept row of exact duplicates may be any of them: a removed first one is an exact duplicate all the same.
    shared = np.zeros(len(exact), dtype=bool)
    shared[exact[equal]] = True
    return equal | (shared[exact] & (nearest == 0)), nearest


def _slices(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, SLICE):
        yield np.arange(start, min(start + SLICE, count))


def _write_clusters(path: str, signed: Signatures, labels: np.ndarray, kept: np.ndarray) -> None:
    with TableWriter(path, CLUSTERS) as out:
        for some in _slices(len(signed)):
            columns = {name: signed.names(name, some) for name in NAMES} | {
                "row_id": signed.row_ids(some),
                "line": pa.array(signed.line[some]),
                "chars": pa.array(signed.chars[some]),
                "question": signed.row_ids(signed.question[some]),
                "cluster": signed.row_ids(labels[some]),
                "kept": pa.array(kept[some]),
            }
            out.write(pa.table(columns))


def _write_evidence(path: str, signed: Signatures, found: Verified, same: np.ndarray) -> None:
    sides = dict(zip("ab", unpack(found.pairs), strict=True))
    with TableWriter(path, EVIDENCE) as out:
        for some in _slices(len(found.pairs)):
            columns = {"relation": pa.array(np.where(same[some], "duplicate", "related"))}
            for number, name in enumerate(("similarity", "similarity_prompt", "similarity_completion")):
                columns[name] = pa.array(found.similarity[some, number])
            for side, rows in sides.items():
                columns[f"row_id_{side}"] = signed.row_ids(rows[some])
                columns[f"head_{side}"] = found.head(rows[some])
            out.write(pa.table(columns))


def _write_dropped(
    path: str, signed: Signatures, gone: np.ndarray, equal: np.ndarray, nearest: np.ndarray, *, threshold: float
) -> None:
    with TableWriter(path, DROPPED) as out:
        for some in _slices(len(gone)):
            rows = gone[some]
            columns = {
                "row_id": signed.row_ids(rows),
                "source": signed.names("source", rows),
                "line": pa.array(signed.line[rows]),
                "stage": pa.repeat("dedup", len(rows)),
                "rule": pa.array(np.where(equal[rows], "exact_duplicate", "near_duplicate")),
                "value": pa.array(np.where(equal[rows], 1.0, nearest[rows])),
                "threshold": pa.array(np.where(equal[rows], 1.0, threshold)),
            }
            out.write(pa.table(columns))


if __name__ == "__main__":
    run(
        lambda job: deduplicate(
            list(job.input.signatures),
            list(job.input.rows),
            {name: job.output[name] for name in ("clusters", "evidence", "dropped")},
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
