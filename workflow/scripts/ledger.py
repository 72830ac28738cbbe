"""Every raw row on one line: where it is now, or which rule dropped it, on which value.

In:  the raw rows and the quarantine of every shard, what each stage dropped, the splits
Out: ledger.parquet (schema rows.LEDGER), ingest/quarantine.parquet (all shards in one)

The books must balance: every raw row is either dropped by exactly one stage or stands in exactly one split. Where
they do not, a stage has lost or invented rows, and the run stops here rather than report on it.
"""

from typing import Any

import pandas as pd
import pyarrow as pa

from snaketune.job import StageError, run
from snaketune.rows import LEDGER, QUARANTINE, read_table, write_table

KEY = ["row_id", "source", "line"]
SPLITS = ("train", "validation", "test")


def ledger(paths: dict[str, list[str]], outputs: dict[str, str]) -> str:
    """Join the raw rows with what became of them. Raises StageError where the books do not balance."""
    quarantine = read_table(paths["quarantine"]).sort_by([(name, "ascending") for name in ("source", "line", "row_id")])
    write_table(quarantine, outputs["quarantine"], QUARANTINE)
    raw = _numbered(read_table(paths["raw"], KEY).to_pandas())
    fates = _numbered(read_table([*paths["dropped"], *paths["duplicates"], *paths["notes"]]).to_pandas())
    books = raw.merge(fates, on=[*KEY, "nth"], how="outer", validate="one_to_one", indicator=True)
    if (invented := books["_merge"] == "right_only").any():
        row = books[invented].iloc[0]
        raise StageError(f"{row['stage']} dropped the row {row['row_id']}, which was never read: please report this")
    books["kept"] = books["rule"].isna() | books["rule"].eq("truncated")
    books["stage"] = books["stage"].fillna("tokenize")
    books["rule"] = books["rule"].fillna("")
    dealt = _splits(paths["splits"])
    books = books.merge(dealt, on="row_id", how="left", validate="many_to_one")
    books["split"] = books["split"].where(books["kept"] | books["stage"].eq("tokenize"))
    _balance(books, dealt)
    aside = pd.DataFrame(quarantine.select(KEY).to_pandas()).assign(stage="ingest", rule="quarantine", kept=False)
    whole = pd.concat([books, aside]).sort_values(["source", "line", "row_id", "rule"], kind="stable")
    table = pa.Table.from_pandas(whole[LEDGER.names], schema=LEDGER, preserve_index=False)
    write_table(table, outputs["ledger"], LEDGER)
    kept = int(whole["kept"].sum())
    return f"{len(whole):,} raw rows = {kept:,} kept + {len(whole) - kept:,} dropped"


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Equal keys told apart by a running number: two templates may make the same row of one line."""
    return frame.assign(nth=frame.groupby(KEY).cumcount())


def _splits(paths: list[str]) -> pd.DataFrame:
    parts = [
        read_table(path, ["row_id"]).to_pandas().assign(split=name) for name, path in zip(SPLITS, paths, strict=True)
    ]
    dealt = pd.concat(parts)
    if (twice := dealt["row_id"].duplicated()).any():
        raise StageError(
            f"the row {dealt['row_id'][twice].iloc[0]} is kept twice; set `dedup.exact: true`, or mend the source"
        )
    return dealt.reset_index(drop=True)


def _balance(books: pd.DataFrame, dealt: pd.DataFrame) -> None:
    kept = books[books["kept"]]
    there = books["row_id"][books["kept"] | books["stage"].eq("tokenize")]
    if (invented := ~dealt["row_id"].isin(there)).any():
        row = dealt[invented].iloc[0]
        raise StageError(
            f"the row {row['row_id']} stands in the {row['split']} split, but was never read, or was dropped: please "
            "report this"
        )
    if (lost := kept["split"].isna()).any():
        row = kept[lost].iloc[0]
        raise StageError(
            f"the row {row['row_id']} ({row['source']}, line {row['line']}) was dropped by no stage and stands in no "
            "split: please report this"
        )
    if (twice := kept["row_id"].duplicated()).any():
        row = kept[twice].iloc[0]
        raise StageError(
            f"the row {row['row_id']} was read twice and stands in the {row['split']} split once, and no stage dropped "
            "the other: please report this"
        )


def _from_job(job: Any) -> str:
    paths = {name: list(job.input[name]) for name in ("raw", "quarantine", "dropped", "splits", "notes")}
    paths["duplicates"] = [job.input.duplicates]
    return ledger(paths, {name: job.output[name] for name in ("ledger", "quarantine")})


if __name__ == "__main__":
    run(_from_job, snakemake)
