"""Near-duplicates: candidates by the bands of their signatures, verified by their texts, guarded against chains.

Two relations are told apart. A *duplicate* is alike in prompt and in completion, each by itself. Rows that are alike
as a whole, such as two questions about one long document, are *related*. Rows about one long document fill the same
buckets, and are compared there with few others; so among rows that are related, duplicates are looked for once more,
by the prompts and by the completions alone. Plain texts have no need of it: what is alike as a whole is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snaketune.dedup.candidates import Band, contained, pack, second_stars, stars, unpack
from snaketune.dedup.components import Components
from snaketune.dedup.signatures import Signatures
from snaketune.dedup.verify import Rows, Verified, nothing, read_at, verify
from snaketune.job import StageError
from snaketune.text.minhash import band_keys, scramble, shingle_sets

CROWD = 100  # a smaller cluster is never implausible
COMPARED = 500  # members of an implausible cluster that are compared to show what is in it


def search(signatures: Signatures, rows: Rows, wanted: np.ndarray, settings: dict[str, Any], folder: Path) -> Verified:
    """The pairs of `wanted` rows [n] bool that are related or duplicates, verified.

    Raises StageError where they join an implausible share of all different rows.
    """

    def compare(pairs: np.ndarray) -> Verified:
        return verify(rows, pairs, settings["shingle_words"], settings["threshold"], folder)

    def bands() -> Iterator[Band]:
        for number in range(settings["bands"]):
            keys, valid = signatures.band(number)
            some = np.flatnonzero(valid & wanted)
            yield keys[some], some

    def related(found: Verified) -> np.ndarray:
        return found.similarity[:, 0] >= settings["threshold"]

    def duplicates(found: Verified) -> np.ndarray:
        return is_duplicate(found, settings["threshold"])

    found = _two_rounds(bands, compare, related, nothing())
    ties = Components(len(signatures))
    ties.union_pairs(*unpack(found.pairs[related(found)]))
    labels = ties.labels()
    _guard(labels, signatures, rows, settings, folder)
    crowd = _crowd(labels, wanted, signatures.question >= 0)
    for text in ("prompt", "completion"):
        keys, some = _keys(rows, crowd, text, settings)
        keys ^= scramble(labels[some].astype(np.uint64))[:, None]  # only within a cluster
        found = _two_rounds(lambda keys=keys, some=some: ((key, some) for key in keys.T), compare, duplicates, found)
    return found.where(related(found))


def is_duplicate(found: Verified, threshold: float) -> np.ndarray:
    """Which pairs [p] bool are alike as a whole and in each of their texts."""
    return (found.similarity >= threshold).all(axis=1)


def _two_rounds(
    bands: Callable[[], Iterator[Band]],
    compare: Callable[[np.ndarray], Verified],
    alike: Callable[[Verified], np.ndarray],
    found: Verified,
) -> Verified:
    """Compare each bucket's rows with its first; those that were not alike, once more with the first of them."""
    pairs = stars(bands())
    found += compare(pairs[~contained(pairs, found.pairs)])
    failed = found.pairs[~alike(found)]
    if not len(failed):
        return found
    pairs = second_stars(bands(), failed)
    return found + compare(pairs[~contained(pairs, found.pairs)])


def _crowd(labels: np.ndarray, wanted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The wanted rows in clusters of more than two, where one has a prompt."""
    size = np.bincount(labels[wanted], minlength=len(labels))
    prompted = np.zeros(len(labels), dtype=bool)
    prompted[labels[asked]] = True
    return np.flatnonzero(wanted & (size > 2)[labels] & prompted[labels])


def _keys(rows: Rows, numbers: np.ndarray, text: str, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The band keys [m, bands] of one text of rows, and the numbers [m] of those rows that have a word in it."""
    numbers = numbers[np.argsort(rows.order[numbers])]
    keys = np.empty((len(numbers), settings["bands"]), np.uint64)
    worded = np.zeros(len(numbers), dtype=bool)
    for some, batch in read_at(rows.paths, rows.order[numbers]):
        flat, offsets = shingle_sets(batch[text], settings["shingle_words"])
        keys[some] = band_keys(flat, offsets, settings["bands"], settings["rows_per_band"])
        worded[some] = np.diff(offsets) > 0
    return keys[worded], numbers[worded]


def _guard(labels: np.ndarray, signatures: Signatures, rows: Rows, settings: dict[str, Any], folder: Path) -> None:
    """Raise StageError where one cluster of verified pairs holds too many of the different rows."""
    different = signatures.exact == np.arange(len(labels))
    size = np.bincount(labels[different])
    largest, total = int(size.argmax()), int(different.sum())
    count = int(size[largest])
    if count <= CROWD or count <= settings["max_cluster_share"] * total:
        return
    members = np.flatnonzero(different & (labels == largest))
    others = members[1:][np.linspace(0, count - 2, min(COMPARED, count - 1)).astype(np.int64)]
    compared = verify(rows, pack(np.full(len(others), members[0]), others), settings["shingle_words"], 0.0, folder)
    least = int(compared.similarity[:, 0].argmin())
    one, other = (compared.head(side[least : least + 1])[0].as_py() or "" for side in unpack(compared.pairs))
    raise StageError(
        f"near-duplicates join {count:,} of {total:,} different rows ({count / total:.0%}) to one cluster, which is "
        f"mostly a shared template. Two of its rows that are only {compared.similarity[least, 0]:.2f} alike begin "
        f"{one[:80]!r} and {other[:80]!r}. Raise `dedup.threshold`, take the template out of the rows, or raise "
        f"`dedup.max_cluster_share` above {count / total:.2f} if they are duplicates indeed"
    )
