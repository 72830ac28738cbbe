"""Every raw row on one line: where it is now, or which rule dropped it on which value, and its characters.

In:  the raw, quarantined, clean and dropped rows of every shard; dedup/{clusters,dropped}.parquet; the splits, and the
     rows that the split dropped; the notes of tokenization
Out: ledger.parquet (schema rows.LEDGER) and ingest/quarantine.parquet (all shards in one), both sorted by source, line
     and row_id

The books must balance, in rows and in characters: every raw row is dropped by exactly one stage or stands in exactly
one split, with as many characters there as it had after cleaning. Where they do not, a stage has lost or invented
rows, and the run stops here rather than report on it.

Texts are read batch by batch, for their lengths alone. Held are 59 bytes for each row that left cleaning (its claim,
see snaketune.books; twice that while they are sorted) and some 300 bytes for each raw row of the shard in work. Shards
come in the order of their rows; shards whose rows interleave are worked on together, so that the ledger is the same
however the files were dealt to shards.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.books import KEY, Claims, Fates, Sources, dropped, first_at, ids, in_order, lengths, pair, places
from snaketune.job import StageError, run
from snaketune.rows import LEDGER, QUARANTINE, TableWriter, batches, read_table

SPLITS = ("train", "validation", "test")
SHARDED = ("raw", "quarantine", "clean", "dropped")
KEEPING = ("", "truncated")  # rules of tokenization after which the row is still there
MANY_ROWS = 65536

Spot = tuple[str, int]  # a source and a line of it
Block = tuple[Spot, Spot, list[int]]  # the first and last spot of some shards, and the numbers of the shards


def ledger(paths: dict[str, list[str]], outputs: dict[str, str]) -> str:
    """Join the raw rows with what became of them. Raises StageError where the books do not balance."""
    shards = list(zip(*(paths[name] for name in SHARDED), strict=True))
    sources, blocks = _blocks([shard[:2] for shard in shards])
    fates = Fates()
    claims = _claims(paths, sources, fates)
    starts = [0, *(first_at(claims.key, sources.place(spot[0]), spot[1]) for spot, _, _ in blocks[1:]), len(claims)]
    totals: Counter[str] = Counter()
    with TableWriter(outputs["quarantine"], QUARANTINE) as aside, TableWriter(outputs["ledger"], LEDGER) as out:
        for (_, _, members), (start, stop) in zip(blocks, pairwise(starts), strict=True):
            files = {name: [shards[member][at] for member in members] for at, name in enumerate(SHARDED)}
            rows = _accounted(files, claims.take(slice(start, stop)), sources, fates, totals)
            unread = _set_aside(files["quarantine"], sources, aside)
            for part in _told(rows, unread, sources, fates):
                out.write(part)
                _count(part, totals)
        _balance(paths, totals)
    return _sentence(totals)


def _blocks(shards: list[tuple[str, str]]) -> tuple[Sources, list[Block]]:
    """The names of all sources, and the shards in the order of their rows; those that interleave are one block."""
    names: set[str] = set()
    spans: list[Block] = []
    idle = []  # shards without any row
    for number, files in enumerate(shards):
        spots: list[Spot] = []
        for path in files:
            for batch in batches(path, ["source", "line"]):
                ends = batch.group_by("source").aggregate([("line", "min"), ("line", "max")])
                names.update(ends["source"].to_pylist())
                spots += [(end["source"], end[f"line_{which}"]) for end in ends.to_pylist() for which in ("min", "max")]
                spots = [min(spots), max(spots)]
        if spots:
            spans.append((*spots, [number]))
        else:
            idle.append(number)
    blocks: list[Block] = []
    for span in sorted(spans):
        if blocks and span[0] <= blocks[-1][1]:
            first, last, members = blocks.pop()
            blocks.append((first, max(last, span[1]), members + span[2]))
        else:
            blocks.append(span)
    if not blocks:
        blocks = [(("", 0), ("", 0), [])]
    blocks[0][2].extend(idle)
    return Sources(names), blocks


def _claims(paths: dict[str, list[str]], sources: Sources, fates: Fates) -> Claims:
    """What the stages after cleaning say of the rows, by (source, line): dropped, or standing in a split."""
    gone = [dropped(path, sources, fates) for path in (*paths["duplicates"], *paths["undealt"])]
    there = Claims.joined([places(path, split, sources, fates) for split, path in enumerate(paths["splits"])])
    _once(there)
    for path in paths["notes"]:
        notes = dropped(path, sources, fates)
        found = pair(there.key, notes.key)
        if (astray := found < 0).any():
            raise StageError(
                f"tokenize dropped the row {_id(notes.key[astray.argmax()])}, which was never read, or stands in no "
                "split: please report this"
            )
        there.fate[found], there.value[found], there.threshold[found] = notes.fate, notes.value, notes.threshold
    claims = Claims.joined([*gone, there])
    return claims.take(in_order(claims.key))


def _once(there: Claims) -> None:
    order = np.lexsort(there.key[:, :1:-1].T)
    halves = there.key[order, 2:]
    if (twice := (halves[1:] == halves[:-1]).all(axis=1)).any():
        row = _id(there.key[order[twice.argmax()]])
        raise StageError(f"the row {row} is kept twice; set `dedup.exact: true`, or mend the source")


def _accounted(
    files: dict[str, list[str]], claims: Claims, sources: Sources, fates: Fates, totals: Counter[str]
) -> tuple[Claims, np.ndarray]:
    """What became of each raw row of a block, in the order of the files, and its raw characters [n] int64."""
    raw, raw_chars = lengths(files["raw"], sources)
    clean, clean_chars = lengths(files["clean"], sources)
    gone = Claims.joined([Claims.none(), *(dropped(path, sources, fates) for path in files["dropped"])])
    totals.update(read=len(raw), raw_chars=int(raw_chars.sum()), clean=len(clean), clean_chars=int(clean_chars.sum()))
    after = _after_cleaning(raw, clean, clean_chars, gone)

    claims = Claims.joined([gone, claims])
    found = pair(raw, claims.key)
    if (invented := found < 0).any():
        _refuse(claims, int(invented.argmax()), fates)
    claim_of = np.full(len(raw), -1, dtype=np.int64)
    claim_of[found] = np.arange(len(claims))
    if (lost := claim_of < 0).any():
        _mourn(raw[int(lost.argmax())], claims, sources)
    rows = claims.take(claim_of)
    if (wrong := (rows.split >= 0) & (rows.chars != after)).any():
        number = int(wrong.argmax())
        raise StageError(
            f"the row {_id(rows.key[number])} had {after[number]:,} characters after cleaning, and has "
            f"{rows.chars[number]:,} in the {SPLITS[rows.split[number]]} split: please report this"
        )
    totals["dealt_chars"] += int(rows.chars[rows.split >= 0].sum())
    return rows, raw_chars


def _after_cleaning(raw: np.ndarray, clean: np.ndarray, clean_chars: np.ndarray, gone: Claims) -> np.ndarray:
    """The characters [n] of each raw row after cleaning, -1 where cleaning dropped it."""
    found = pair(raw, np.concatenate([gone.key, clean]))
    if (invented := found[len(gone) :] < 0).any():
        key = clean[int(invented.argmax())]
        raise StageError(f"the row {_id(key)} stands in clean/, but was never read, or was dropped: please report this")
    missed = np.ones(len(raw), dtype=bool)
    missed[found[found >= 0]] = False
    if missed.any():
        key = raw[int(missed.argmax())]
        raise StageError(f"the row {_id(key)} was neither kept nor dropped by cleaning: please report this")
    after = np.full(len(raw), -1, dtype=np.int64)
    after[found[len(gone) :]] = clean_chars
    return after


def _refuse(claims: Claims, number: int, fates: Fates) -> None:
    """Say what is wrong with a claim on a row that no file holds, or that another stage has dropped."""
    stage, row, split = fates.names[claims.fate[number]][0], _id(claims.key[number]), claims.split[number]
    if split < 0:
        raise StageError(
            f"{stage} dropped the row {row}, which was never read, or was dropped before: please report this"
        )
    raise StageError(
        f"the row {row} stands in the {SPLITS[split]} split, but was never read, or was dropped: please report this"
    )


def _mourn(key: np.ndarray, claims: Claims, sources: Sources) -> None:
    """Say what is wrong with a raw row that nothing claims."""
    place = f"{sources.names[int(key[0])]}, line {int(key[1])}"
    equal = (claims.split >= 0) & (claims.key[:, 2:] == key[2:]).all(axis=1)
    if equal.any():
        split = SPLITS[claims.split[equal.argmax()]]
        raise StageError(
            f"the row {_id(key)} ({place}) was read twice and stands in the {split} split once, and no stage dropped "
            "the other: please report this"
        )
    raise StageError(f"the row {_id(key)} ({place}) was dropped by no stage and stands in no split: please report this")


def _id(key: np.ndarray) -> str:
    return ids(key[None])[0].as_py()


def _set_aside(paths: list[str], sources: Sources, out: TableWriter) -> np.ndarray:
    """Copy the quarantined rows of a block in order; their keys [n, 4], in order.

    Rows that stand in order already, as ingest writes them, are copied batch by batch.
    """
    keys = [np.empty((0, 4), np.uint64)]
    keys += [sources.keys(batch) for path in paths for batch in batches(path, KEY)]
    found = np.concatenate(keys)
    order = in_order(found)
    if (order == np.arange(len(order))).all():
        for path in paths:
            for batch in batches(path):
                out.write(batch)
    else:
        whole = read_table(paths)
        out.write(whole.sort_by([(name, "ascending") for name in ("source", "line", "row_id", "reason", "head")]))
    return found[order]


def _told(lines: tuple[Claims, np.ndarray], unread: np.ndarray, sources: Sources, fates: Fates) -> Iterator[pa.Table]:
    """The lines of the ledger, in order, some at a time: raw rows with their characters, and the quarantined."""
    count = len(unread)
    fate = np.full(count, fates.code("ingest", "quarantine"), np.int16)
    empty, nowhere = np.full(count, np.nan), np.full(count, -1, np.int64)
    rows = Claims.joined([lines[0], Claims(unread, fate, empty, empty, nowhere, nowhere.astype(np.int8))])
    chars = np.concatenate([lines[1], nowhere])
    by_rule = sorted(range(len(fates.names)), key=lambda code: fates.names[code][::-1])
    rank = np.empty(len(by_rule), np.int16)
    rank[by_rule] = np.arange(len(by_rule))
    order = np.lexsort((rows.value, rank[rows.fate], *rows.key.T[::-1]))
    stages, rules = (pa.array([name[at] for name in fates.names], pa.string()) for at in (0, 1))
    keeping = np.array([stage == "tokenize" and rule in KEEPING for stage, rule in fates.names])
    for start in range(0, len(order), MANY_ROWS):
        some = order[start : start + MANY_ROWS]
        part = rows.take(some)
        kept = keeping[part.fate]
        yield pa.table(
            {
                "row_id": ids(part.key),
                "source": pa.array(sources.names, pa.string()).take(pa.array(part.key[:, 0])),
                "line": part.key[:, 1].astype(np.int64),
                "stage": stages.take(pa.array(part.fate)),
                "rule": rules.take(pa.array(part.fate)),
                "value": pa.array(part.value, from_pandas=True),
                "threshold": pa.array(part.threshold, from_pandas=True),
                "kept": kept,
                "split": pa.array(SPLITS).take(pa.array(part.split, mask=part.split < 0)),
                "chars": pa.array(chars[some], mask=chars[some] < 0),
                "chars_kept": np.where(kept, part.chars, 0),
            }
        ).cast(LEDGER)


def _count(lines: pa.Table, totals: Counter[str]) -> None:
    """Add some lines of the ledger, as they are written, to the totals."""
    kept = lines.filter(lines["kept"])
    gone = lines.filter(pc.invert(lines["kept"]))
    cut = gone.filter(pc.is_valid(gone["split"]))
    sums = {"lines": lines.num_rows, "kept": kept.num_rows, "dropped": gone.num_rows, "undone": cut.num_rows}
    for name, table, column in (("before", kept, "chars"), ("after", kept, "chars_kept"), ("gone", gone, "chars")):
        sums[name] = pc.sum(table[column], min_count=0).as_py()
    totals.update(sums)


def _balance(paths: dict[str, list[str]], totals: Counter[str]) -> None:
    """Hold the ledger against counts that were made without it. Raises StageError where one differs."""
    stored = {name: sum(pq.read_metadata(path).num_rows for path in paths[name]) for name in paths if name != "notes"}
    clusters: Counter[str] = Counter()
    for path in paths["clusters"]:
        for batch in batches(path, ["chars", "kept"]):
            removed = pc.invert(batch["kept"])
            clusters.update(
                chars=pc.sum(batch["chars"], min_count=0).as_py(), removed=pc.sum(removed, min_count=0).as_py()
            )
    accounts = [
        ("rows that ingest wrote", stored["raw"] + stored["quarantine"], "lines of the ledger", totals["lines"]),
        ("lines of the ledger", totals["lines"], "kept and dropped lines", totals["kept"] + totals["dropped"]),
        (
            "rows of the splits",
            stored["splits"],
            "kept lines, and lines dropped by tokenization",
            totals["kept"] + totals["undone"],
        ),
        (
            "characters that ingest wrote",
            totals["raw_chars"],
            "characters of the kept and dropped lines",
            totals["before"] + totals["gone"],
        ),
        ("rows that cleaning kept", totals["clean"], "rows of the clusters", stored["clusters"]),
        ("characters that cleaning kept", totals["clean_chars"], "characters of the clusters", clusters["chars"]),
        (
            "rows that deduplication dropped",
            stored["duplicates"],
            "rows that the clusters do not keep",
            clusters["removed"],
        ),
    ]
    for one, count, other, again in accounts:
        if count != again:
            raise StageError(f"the books do not balance: {count:,} {one}, but {again:,} {other}: please report this")


def _sentence(totals: Counter[str]) -> str:
    mended = totals["before"] - totals["after"]
    how = f"- {-mended:,} that cleaning put in" if mended < 0 else f"+ {mended:,} taken out by cleaning"
    return (
        f"{totals['lines']:,} raw rows = {totals['kept']:,} kept + {totals['dropped']:,} dropped; "
        f"{totals['raw_chars']:,} characters = {totals['after']:,} kept + {totals['gone']:,} dropped {how}"
    )


LISTED = ("raw", "quarantine", "clean", "dropped", "splits", "notes")
SINGLE = ("clusters", "duplicates", "undealt")

if __name__ == "__main__":
    run(
        lambda job: ledger(
            {name: list(job.input[name]) for name in LISTED} | {name: [job.input[name]] for name in SINGLE},
            {name: job.output[name] for name in ("ledger", "quarantine")},
        ),
        snakemake,
        light=True,
    )
