"""Clean rows in, rows without duplicates out, with every decision and its evidence.

In:  clean/rows-<shard>.parquet, all shards
Out: dedup/rows-00000.parquet     the rows that stay, with their `cluster`
     dedup/clusters.parquet       every clean row: its cluster, its group, the first row of its prompt, whether it stays
     dedup/evidence.parquet       every verified pair: similarity, relation, both heads
     dedup/dropped.parquet        schema rows.DROPPED

Candidates come from MinHash LSH and are verified by exact Jaccard before anything is joined: without that step, chains
of chance matches merge thousands of unrelated texts. Two relations are told apart. A *duplicate* is alike in prompt
and in completion, each by itself; only duplicates are removed. Rows that are alike as a whole, such as two questions
about one long document, are *related*: all stay, in one cluster, so that the split cannot tear them apart.
Rows about one long document fill the same buckets, and are compared there with the first row only; so among rows
that are related, duplicates are looked for once more, by the prompts and by the completions alone.
The row that stays is the longest, then the smallest id; a cluster's name is the smallest id of all its members.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune import minhash
from snaketune.components import Components
from snaketune.job import run
from snaketune.rows import CLUSTERED, DROPPED, read_table, write_table

HEAD = 160
CLUSTERS = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("cluster", pa.string()),
        ("kept", pa.bool_()),
    ]
)
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


def deduplicate(inputs: list[str], outputs: dict[str, str], settings: dict[str, Any]) -> str:
    """Deduplicate all shards as one; `outputs` names the files rows, clusters, evidence and dropped."""
    rows = read_table(inputs).sort_by([("row_id", "ascending"), ("source", "ascending"), ("line", "ascending")])
    prompts, completions = (_comparable(rows[column]) for column in ("prompt", "completion"))
    exact, firsts = _exact(prompts, completions, settings["exact"])
    pairs = list(_near(prompts, completions, firsts, settings)) if settings["near"] else []

    related, same = Components(rows.num_rows), Components(rows.num_rows)
    for number, first in enumerate(exact.tolist()):
        related.union(number, first)
        same.union(number, first)
    for pair in pairs:
        related.union(pair["a"], pair["b"])
        if pair["relation"] == "duplicate":
            same.union(pair["a"], pair["b"])
    kept = _representatives(rows, same.labels())
    ids = rows["row_id"].combine_chunks()
    rows = rows.append_column("cluster", ids.take(pa.array(related.labels())))
    rows = rows.append_column("question", ids.take(_questions(prompts)))
    rows = rows.append_column("kept", pa.array(kept))

    write_table(rows, outputs["clusters"], CLUSTERS)
    write_table(_evidence(rows, pairs), outputs["evidence"], EVIDENCE)
    dropped = _dropped(rows, exact, pairs, settings["threshold"])
    write_table(dropped, outputs["dropped"], DROPPED)
    write_table(rows.filter(rows["kept"]), outputs["rows"], CLUSTERED)
    rules = dropped["rule"].to_pylist()
    return (
        f"{int(kept.sum()):,} of {rows.num_rows:,} rows kept: {rules.count('exact_duplicate'):,} exact and "
        f"{rules.count('near_duplicate'):,} near-duplicates removed"
    )


def _comparable(texts: pa.ChunkedArray) -> list[str | None]:
    """Texts as they are compared: lower case, white space collapsed."""
    folded = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    return folded.to_pylist()


def _questions(prompts: list[str | None]) -> pa.Array:
    """For each row the number of the first row with an equal prompt; null for plain text."""
    seen: dict[str, int] = {}
    first = (None if text is None else seen.setdefault(text, number) for number, text in enumerate(prompts))
    return pa.array(first, pa.int64())


def _exact(prompts: list[str | None], completions: list[str | None], wanted: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each row [n], the first row with equal texts; and the numbers of those first rows."""
    numbers = np.arange(len(completions))
    if not wanted:
        return numbers, numbers
    seen: dict[tuple[str | None, str | None], int] = {}
    pairs = enumerate(zip(prompts, completions, strict=True))
    first = np.fromiter((seen.setdefault(texts, number) for number, texts in pairs), np.int64, len(completions))
    return first, np.flatnonzero(first == numbers)


def _near(
    prompts: list[str | None], completions: list[str | None], numbers: np.ndarray, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The verified pairs among the rows `numbers`, in order of their numbers."""
    joints = [_joint(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    found = {pair: _verified(*pair, prompts, completions, settings) for pair in _buckets(joints, numbers, settings)}
    ties = Components(len(joints))
    for (a, b), evidence in found.items():
        if evidence:
            ties.union(a, b)
    labels = ties.labels()
    crowd = numbers[np.bincount(labels, minlength=len(joints))[labels[numbers]] > 2]
    for texts in (prompts, completions):
        for pair in _buckets(texts, crowd, settings, labels):
            if pair not in found:
                found[pair] = _verified(*pair, prompts, completions, settings)
    yield from (found[pair] for pair in sorted(found) if found[pair])


def _verified(
    a: int, b: int, prompts: list[str | None], completions: list[str | None], settings: dict[str, Any]
) -> dict[str, Any] | None:
    """The evidence that two rows are duplicates or related; None where they are neither."""
    words, threshold = settings["shingle_words"], settings["threshold"]
    joint = _similarity(_joint(prompts[a], completions[a]), _joint(prompts[b], completions[b]), words)
    if joint < threshold:
        return None
    prompt = _similarity(prompts[a] or "", prompts[b] or "", words)
    completion = _similarity(completions[a] or "", completions[b] or "", words)
    return {
        "a": a,
        "b": b,
        "relation": "duplicate" if min(prompt, completion) >= threshold else "related",
        "similarity": joint,
        "similarity_prompt": prompt,
        "similarity_completion": completion,
    }


def _joint(prompt: str | None, completion: str | None) -> str:
    return f"{prompt or ''}\n{completion or ''}"


def _similarity(one: str, other: str, words: int) -> float:
    """Jaccard similarity of shingles; texts without a word, such as two emoji, are alike only where they are equal."""
    ours, theirs = minhash.shingles(one, words), minhash.shingles(other, words)
    return minhash.jaccard(ours, theirs) if len(ours) or len(theirs) else float(one == other)


def _buckets(
    texts: list[str | None], numbers: np.ndarray, settings: dict[str, Any], labels: np.ndarray | None = None
) -> list[tuple[int, int]]:
    """The pairs of the rows `numbers` to verify, by the bands of their texts; only within a label [n] if given."""
    family = minhash.permutations(settings["bands"] * settings["rows_per_band"])
    keys = np.zeros((len(numbers), settings["bands"]), dtype=np.uint64)
    wordless = np.zeros(len(numbers), dtype=bool)
    for at, number in enumerate(numbers.tolist()):
        hashes = minhash.shingles(texts[number] or "", settings["shingle_words"])
        wordless[at] = not len(hashes)
        if len(hashes):
            keys[at] = minhash.bands(hashes, family, settings["rows_per_band"])
    if labels is not None:
        keys ^= minhash.scramble(labels[numbers].astype(np.uint64))[:, None]
    return _candidates(keys[~wordless], numbers[~wordless])


def _candidates(keys: np.ndarray, numbers: np.ndarray) -> list[tuple[int, int]]:
    """Pairs to verify: in each bucket of each band, every member with the first, so that work stays linear."""
    found: set[tuple[int, int]] = set()
    for band in keys.T:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
        member = np.flatnonzero(first != np.arange(len(ordered)))
        found.update(zip(numbers[order[first[member]]].tolist(), numbers[order[member]].tolist(), strict=True))
    return sorted(found)


def _representatives(rows: pa.Table, labels: np.ndarray) -> np.ndarray:
    """Which rows stay [n] bool: of each component the longest, then the first."""
    prompt = pc.fill_null(pc.utf8_length(rows["prompt"]), 0)
    length = pc.add(pc.utf8_length(rows["completion"]), prompt).to_numpy()
    order = np.lexsort((np.arange(len(labels)), -length, labels))
    kept = np.zeros(len(labels), dtype=bool)
    kept[order[np.r_[True, labels[order][1:] != labels[order][:-1]]]] = True
    return kept


def _evidence(rows: pa.Table, pairs: list[dict[str, Any]]) -> pa.Table:
    told = ("relation", "similarity", "similarity_prompt", "similarity_completion")
    columns: dict[str, Any] = {name: [pair[name] for pair in pairs] for name in told}
    heads = pc.utf8_slice_codeunits(rows["completion"], 0, HEAD)
    for side in ("a", "b"):
        at = pa.array([pair[side] for pair in pairs], pa.int64())
        columns[f"row_id_{side}"] = rows["row_id"].take(at)
        columns[f"head_{side}"] = heads.take(at)
    return pa.table({name: columns[name] for name in EVIDENCE.names}).cast(EVIDENCE)


def _dropped(rows: pa.Table, exact: np.ndarray, pairs: list[dict[str, Any]], threshold: float) -> pa.Table:
    """The removed rows; `value` is the similarity to the nearest verified duplicate, 1 for exact ones."""
    nearest = np.zeros(len(exact))
    for pair in pairs:
        if pair["relation"] == "duplicate":
            both = [pair["a"], pair["b"]]
            nearest[both] = np.maximum(nearest[both], pair["similarity"])
    is_exact = exact != np.arange(len(exact))
    # The kept row of exact duplicates may be any of them: a removed first one is an exact duplicate all the same.
    is_exact |= np.isin(exact, exact[is_exact]) & (nearest == 0)
    gone = rows.append_column("rule", pa.array(np.where(is_exact, "exact_duplicate", "near_duplicate")))
    gone = gone.append_column("value", pa.array(np.where(is_exact, 1.0, nearest)))
    gone = gone.append_column("threshold", pa.array(np.where(is_exact, 1.0, threshold)))
    gone = gone.filter(pc.invert(gone["kept"]))
    return gone.append_column("stage", pa.repeat("dedup", gone.num_rows))


if __name__ == "__main__":
    run(
        lambda job: deduplicate(
            list(job.input.rows),
            {name: job.output[name] for name in ("rows", "clusters", "evidence", "dropped")},
            job.params.settings,
        ),
        snakemake,
    )
