"""Rows in, train, validation and test out: whole families of rows are dealt, never single rows.

In:  dedup/clusters.parquet, clean/rows-<shard>.parquet, decontaminate/hits-<shard>.parquet (all shards, maybe none)
Out: split/{train,validation,test}.parquet, each sorted by row_id
     split/dropped.parquet   rows that are dealt to no split, schema rows.DROPPED, of the rules
                             `contaminated`       a test set of the user has its text (value: the overlap)
                             `straddles_splits`   its family stands in a better protected split of the user

A family (see `families`) is everything that a row is tied to, through removed duplicates too: no paper, customer or
question stands in two splits. `quota`, `stratified` and `k-fold` put families in an order that the seed draws, and cut
it; `hash` draws for each family by itself, so that old rows stay where they are when rows are added, as long as the
new rows do not join their families; `column` takes the data's own split.

First everything is decided on numbers, about 90 bytes a clean row. Then the texts are moved once to disk buckets and
once into the sorted tables: memory holds two buckets of about 32 MB and three row groups.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import DROPPED, SPLIT, TableWriter, batches, numbers, write_table
from snaketune.split import external_sort, families, given_splits
from snaketune.split.families import Families

SPLITS = ("train", "validation", "test")


def split(clusters: str, rows: list[str], hits: list[str], outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Deal the kept rows; `settings` holds the section `split`, the seed, and `contaminated`: report or drop.

    Raises StageError where a split would be empty, where the data's own split cannot be read, or where the files do
    not belong together.
    """
    places = families.column(clusters, ["row_id", "source", "line"], families.place_keys, ((), np.uint64))
    stays = families.column(clusters, ["kept"], lambda batch: batch["kept"].to_numpy(), ((), np.bool_))
    labels = families.components(clusters)
    told, reasons = [], {}

    if hits:
        overlaps = np.where(stays, _overlaps(hits, places), np.nan)
        found = np.isfinite(overlaps)
        drop = settings["contaminated"] == "drop"
        told.append(f"{int(found.sum()):,} rows with text of the given test sets {'dropped' if drop else 'stay'}")
        if drop:
            reasons["contaminated"] = overlaps
            stays &= ~found
    given = given_splits.read(clusters) if settings["method"] == "column" else None
    if given is not None:
        straddles = stays & given_splits.unprotected(given, labels)
        told += [f"{int(straddles.sum()):,} rows dropped that straddle the given splits"] * bool(straddles.any())
        reasons["straddles_splits"] = np.where(straddles, np.inf, np.nan)
        stays &= ~straddles

    at = np.flatnonzero(stays)
    ids = families.column(clusters, ["row_id"], lambda batch: numbers(batch["row_id"]), ((2,), np.uint64))[at]
    family = families.named(labels[at], ids)
    names = ids[family.first]
    if given is None:
        strata = families.label_numbers(clusters)[at] if settings["method"] == "stratified" else None
        parts = deal(family, names, settings, strata)[family.member]
    else:
        parts = given[at].astype(np.int64)
    counts = np.bincount(parts, minlength=len(SPLITS))
    _check(counts, len(names), settings["method"])
    if settings["method"] == "quota" and (large := int(families.giants(family.sizes, _shares(settings)).sum())):
        told.append(f"{large:,} larger than the smallest split dealt first, to train")

    del labels, stays, given
    _write(clusters, rows, outputs, Deal(places[at], at, parts, names[family.member]))
    _write_dropped(clusters, outputs["dropped"], reasons)
    dealt = ", ".join(f"{count:,} {name}" for count, name in zip(counts, SPLITS, strict=True))
    return "; ".join([f"{dealt} rows, of {len(names):,} families", *told])


@dataclass(frozen=True)
class Deal:
    """What was decided for the k rows that are dealt."""

    places: np.ndarray  # [k] uint64, families.place_keys
    at: np.ndarray  # [k] int64, their numbers in dedup/clusters.parquet
    parts: np.ndarray  # [k] int64, the number of the split
    family: np.ndarray  # [k, 2] uint64, the row_id that names the family


def deal(family: Families, names: np.ndarray, settings: dict[str, Any], strata: np.ndarray | None) -> np.ndarray:
    """The number of the split of each family [f]; names: [f, 2] row ids; strata: the label of each row [k]."""
    shares = _shares(settings)
    salt = families.salted(names, settings["seed"])
    order = np.lexsort((names[:, 1], names[:, 0], salt))
    match settings["method"]:
        case "hash":
            return families.by_hash(salt, shares)
        case "k-fold":
            return families.folded(family.sizes, order, settings["folds"], settings["fold"])
        case "stratified":
            assert strata is not None
            return families.stratified(
                family.sizes, order, shares, families.majorities(family.member, strata, len(names))
            )
        case _:
            return families.quota(family.sizes, order, shares)


def _shares(settings: dict[str, Any]) -> list[float]:
    return [settings[name] for name in SPLITS]


def _overlaps(hits: list[str], places: np.ndarray) -> np.ndarray:
    """The greatest overlap of each clean row [n] with an item of the test sets; NaN without a hit."""
    tables = [batch for path in hits for batch in batches(path, ["row_id", "source", "line", "overlap"])]
    if not tables:
        return np.full(len(places), np.nan)
    table = pa.concat_tables(tables)
    keys, member = np.unique(families.place_keys(table), return_inverse=True)
    most = np.zeros(len(keys))
    np.maximum.at(most, member, table["overlap"].to_numpy())
    near = np.minimum(np.searchsorted(keys, places), len(keys) - 1)
    return np.where(keys[near] == places, most[near], np.nan)


def _check(counts: np.ndarray, families_dealt: int, method: str) -> None:
    """Raise StageError where a split has no row."""
    for count, name in zip(counts.tolist(), SPLITS, strict=True):
        if not count:
            if method == "column":
                reason = "no row that stays names it. Name it in the data, or choose another `split.method`"
            else:
                reason = (
                    f"{counts.sum():,} rows in {families_dealt:,} families of related rows are too few to deal. Add "
                    "data, or let `source.columns.group` name a finer group"
                )
            raise StageError(f"the {name} split is empty: {reason}")


def _write(clusters: str, rows: list[str], outputs: dict[str, str], deal: Deal) -> None:
    """Move the dealt rows from the shards to the tables of their splits, sorted."""
    cluster = families.column(clusters, ["cluster"], lambda batch: numbers(batch["cluster"]), ((2,), np.uint64))
    chars = families.column(clusters, ["chars"], lambda batch: batch["chars"].to_numpy(), ((), np.int64))
    bits = external_sort.bucket_bits(int(chars[deal.at].sum()))
    picked = _picked(rows, deal, cluster[deal.at])
    del cluster, chars
    parent = Path(outputs["train"]).parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent, prefix=".sort-") as folder, ExitStack() as stack:
        writers = [stack.enter_context(TableWriter(outputs[name], SPLIT)) for name in SPLITS]
        for table in external_sort.sorted_rows(picked, Path(folder), bits):
            for number, writer in enumerate(writers):
                writer.write(table.filter(pa.array(table["part"].to_numpy() == number)))


def _picked(rows: list[str], deal: Deal, cluster: np.ndarray) -> Iterator[pa.Table]:
    """The dealt rows of the shards, with `cluster`, `family` and `part`; each once, though a line may hold it twice.

    Raises StageError where a dealt row is in no shard.
    """
    order = np.argsort(deal.places, kind="stable")
    places = deal.places[order]
    taken = np.zeros(len(order), dtype=np.int32)  # of rows with one place: how many came
    for path in rows:
        for batch in batches(path):
            keys = families.place_keys(batch)
            first = np.searchsorted(places, keys)
            place = first + taken[np.minimum(first, len(places) - 1)] + _repeats(keys)
            found = (place < len(places)) & (places[np.minimum(place, len(places) - 1)] == keys)
            np.add.at(taken, first[found], 1)
            which = order[place[found]]
            table = batch.filter(pa.array(found))
            table = table.append_column("cluster", families.texts(cluster[which]))
            table = table.append_column("family", families.texts(deal.family[which]))
            yield table.append_column("part", pa.array(deal.parts[which].astype(np.int8)))
    if missing := len(order) - int(taken.sum()):
        raise StageError(
            f"{missing:,} rows of dedup/clusters.parquet are in no clean shard: the files are of two runs. Remove "
            "`dedup` and `split` in the results of the run, and run again"
        )


def _repeats(keys: np.ndarray) -> np.ndarray:
    """How often each key [n] stood before in the array."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0][: len(keys)])
    repeats = np.empty(len(keys), dtype=np.int64)
    repeats[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    return repeats


def _write_dropped(clusters: str, path: str, reasons: dict[str, np.ndarray]) -> None:
    """Write the rows that are dealt to no split.

    reasons: for each rule a value for each clean row [n]: NaN where the rule does not apply, infinite where it has no
    value. No rule has a threshold here: that of `contaminated` belongs to an earlier stage.
    """
    done, tables = 0, [DROPPED.empty_table()]
    for batch in batches(clusters, ["row_id", "source", "line"]):
        for rule, values in reasons.items():
            value = values[done : done + batch.num_rows]
            gone = batch.filter(pa.array(~np.isnan(value)))
            value = value[~np.isnan(value)]
            nothing = pa.nulls(len(value), pa.float64())
            gone = gone.append_column("stage", pa.repeat("split", len(value)))
            gone = gone.append_column("rule", pa.repeat(rule, len(value)))
            gone = gone.append_column("value", pa.array(value, mask=np.isinf(value)))
            gone = gone.append_column("threshold", nothing)
            tables.append(gone)
        done += batch.num_rows
    write_table(pa.concat_tables(tables).sort_by(external_sort.ORDER), path, DROPPED)


if __name__ == "__main__":
    run(
        lambda job: split(
            job.input.clusters,
            list(job.input.rows),
            list(job.input.hits),
            {name: job.output[name] for name in (*SPLITS, "dropped")},
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
