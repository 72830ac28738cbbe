"""Corpus TER (Snover et al. 2006) as sacrebleu counts it: edits for each word of the references, in percent.

An edit inserts, deletes or replaces a word, or moves a run of words. TER of a corpus is a function of two sums over its
rows, the edits and the reference's words; `aggregate` turns sums into scores. An answer that is too long can have a TER
over 100.

sacrebleu tries up to 1,000 moves for a row, and compares the whole texts for each, in Python: 0.1 s for two texts of 60
words, 20 minutes for 10,000 rows. Words and signature are sacrebleu's; the search is its own (`lib_ter.py`, after
Tercom), step by step and with all of its limits, but compiled: the same edits, some hundred times as fast.

The search keeps a table of all pairs of words. So a row with over CELLS pairs (texts of 2,000 words each) is counted
without moves: its edits are the edit distance of its words (Hyyrö 2003, over Python's long integers). The signature
says so.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba import njit
from sacrebleu.metrics import TER

CELLS = 4_000_000

# Limits of the search, in words and in moves that are tried: those of sacrebleu and Tercom.
MOVE_WORDS, MOVE_REACH, BEAM, MOVES = 10, 50, 25, 1000
FAR = 1 << 28  # no way through the table is as long


class Measure:
    """Corpus TER: words between white space, case ignored."""

    METRICS = ("ter",)
    HIGHER_IS_BETTER: ClassVar = {"ter": False}

    def __init__(self) -> None:
        self._scorer = TER()
        self._scorer.num_refs = 1

    def signature(self) -> dict[str, str]:
        """sacrebleu's signature, and from where on moves are not tried."""
        return {"ter": f"{self._scorer.get_signature()}|moves:up to {CELLS} pairs of words"}

    def statistics(self, answers: Any) -> dict[str, np.ndarray]:
        """Edits and words of the reference of every row, from `outputs` and `references`: column -> float64 [rows]."""
        counts = [self._row(*pair) for pair in zip(answers.outputs, answers.references, strict=True)]
        return dict(zip(("edits", "reference_length"), np.array(counts, dtype=np.float64).T, strict=True))

    def aggregate(self, sums: dict[str, np.ndarray], n: np.ndarray) -> dict[str, np.ndarray]:
        """TER of corpora whose statistics sum to `sums` (arrays of one shape); it does not depend on the rows `n`."""
        edits, length = (np.asarray(sums[name], dtype=np.float64) for name in ("edits", "reference_length"))
        without = np.asarray(edits > 0, dtype=np.float64)  # nothing was to be said: all of it is wrong, or nothing
        return {"ter": 100.0 * np.divide(edits, length, out=without, where=length > 0)}

    def row_scores(self, statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """TER of each row for itself."""
        return self.aggregate(statistics, np.float64(1))

    def _row(self, output: str, reference: str) -> tuple[int, int]:
        said, wanted = (self._scorer._preprocess_segment(text).split() for text in (output, reference))
        if not said or not wanted:
            return max(len(said), len(wanted)), len(wanted)
        if len(said) * len(wanted) > CELLS:
            return edit_distance(said, wanted), len(wanted)
        codes = {word: code for code, word in enumerate(dict.fromkeys(said + wanted))}
        edits = _edits(*(np.array([codes[word] for word in words], dtype=np.int64) for words in (said, wanted)))
        return int(edits), len(wanted)


def edit_distance(first: list[str], second: list[str]) -> int:
    """Words to insert, delete or replace between two texts: Hyyrö's bit vectors, a long integer for a column."""
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full, last = (1 << len(first)) - 1, 1 << len(first) >> 1
    up, down, distance = full, 0, len(first)
    for word in second:
        match = places.get(word, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right, left = down | ~(diagonal | up) & full, up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & full, left << 1 & full
        up, down = left | ~(diagonal | right) & full, right & diagonal
    return distance


@njit(cache=True)
def _edits(said, wanted):
    """sacrebleu's `translation_edit_rate`: moves that were made, and edits after them. Both texts have words."""
    shape = len(said) + 1, len(wanted) + 1
    costs, trial, rest = np.full(shape, FAR, np.int32), np.full(shape, FAR, np.int32), np.full(shape, FAR, np.int32)
    costs[0] = np.arange(shape[1])
    moves = tried = 0
    while True:
        _fill(said, wanted, 1, len(said), costs, costs)
        _fill_back(said, wanted, rest)
        start, length, target, gain, tried = _best_move(said, wanted, costs, rest, trial, tried)
        if tried >= MOVES or gain <= 0:
            return moves + costs[-1, -1]
        said = _moved(said, start, length, target)
        moves += 1


@njit(cache=True)
def _band(i, rows, columns):
    """The cells of row i of a table of so many rows and columns that are near its diagonal: first, and one after."""
    ratio = (columns - 1) / (rows - 1)
    beam = int(np.ceil(ratio / 2 + BEAM)) if ratio / 2 > BEAM else BEAM
    diagonal = int(np.floor(i * ratio))
    return max(0, diagonal - beam), columns if i in (0, rows - 1) else min(columns, diagonal + beam)


@njit(cache=True)
def _fill(said, wanted, first, last, above, costs):
    """Rows `first` to `last` of the table of edit costs; the row before them is read from the table `above`.

    costs: [said + 1, wanted + 1] int32, the edits from the first i words of one to the first j of the other; FAR away
    from the diagonal.
    """
    for i in range(first, last + 1):
        before, now = above[i - 1] if i == first else costs[i - 1], costs[i]
        start, stop = _band(i, *costs.shape)
        left = FAR
        for j in range(start, stop):
            least = before[j] + 1
            if j > 0:
                least = min(least, left + 1, before[j - 1] + (said[i - 1] != wanted[j - 1]))
            now[j] = left = min(least, FAR)


@njit(cache=True)
def _fill_back(said, wanted, rest):
    """The table of the edits that are left from each cell to the end, over the same cells as `_fill`."""
    rows, columns = rest.shape
    for i in range(rows - 1, -1, -1):
        start, stop = _band(i, rows, columns)
        left = FAR
        for j in range(stop - 1, start - 1, -1):
            least = left + 1
            if i == rows - 1:
                least = columns - 1 - j
            else:
                least = min(least, rest[i + 1, j] + 1)
                if j < columns - 1:
                    least = min(least, rest[i + 1, j + 1] + (said[i] != wanted[j]))
            rest[i, j] = left = min(least, FAR)


@njit(cache=True)
def _aligned(said, wanted, costs):
    """The cheapest edits, by word; of equals a replacement, then a deletion.

    Returns for each wanted word the said one at or before it, -1 for none, [wanted] int64; and which words of either
    are wrong, [said] and [wanted] bool.
    """
    partner = np.empty(len(wanted), np.int64)
    wrong, missed = np.ones(len(said), np.bool_), np.ones(len(wanted), np.bool_)
    i, j = len(said), len(wanted)
    while i > 0 or j > 0:
        other = i > 0 and j > 0 and said[i - 1] != wanted[j - 1]
        if i > 0 and j > 0 and costs[i, j] == costs[i - 1, j - 1] + other:
            wrong[i - 1] = missed[j - 1] = other
            partner[j - 1] = i - 1
            i, j = i - 1, j - 1
        elif i > 0 and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            partner[j - 1] = i - 1
            j -= 1
    return partner, wrong, missed


@njit(cache=True)
def _best_move(said, wanted, costs, rest, trial, tried):
    """sacrebleu's `_shift`: the move that saves the most edits; of equals the longest, the earliest, the nearest.

    Returns start, length and target of the move, the edits that it saves, and the moves that were tried so far.
    """
    partner, wrong, missed = _aligned(said, wanted, costs)
    best = (-FAR, 0, 0, 0)  # saved, length, -start, -target
    for start in range(len(said)):
        for at in range(max(0, start - MOVE_REACH), min(len(wanted), start + MOVE_REACH + 1)):
            longest = min(MOVE_WORDS, len(said) - start, len(wanted) - at)
            length = 0
            while length < longest and said[start + length] == wanted[at + length]:
                length += 1
                if not wrong[start : start + length].any() or not missed[at : at + length].any():
                    continue
                if start <= partner[at] < start + length:
                    continue
                last = -1
                for offset in range(-1, length):
                    target = 0 if at + offset == -1 else partner[at + offset] + 1
                    if target == last:
                        continue
                    last = target
                    saved = costs[-1, -1] - _cost(said, wanted, start, length, target, costs, rest, trial)
                    tried += 1
                    move = (saved, length, -start, -target)
                    best = move if move > best else best  # numba knows no max of tuples
                if tried >= MOVES:
                    return -best[2], best[1], -best[3], best[0], tried
    return -best[2], best[1], -best[3], best[0], tried


@njit(cache=True)
def _cost(said, wanted, start, length, target, costs, rest, trial):
    """The edits after a move: only rows of words that change places are computed anew."""
    end = target + length if start <= target <= start + length else max(start + length, target)
    end = min(end, len(said))
    _fill(_moved(said, start, length, target), wanted, min(start, target) + 1, end, costs, trial)
    first, stop = _band(end, *costs.shape)
    return (trial[end, first:stop] + rest[end, first:stop]).min()


@njit(cache=True)
def _moved(words, start, length, target):
    """The words with a run of them at another place, counted as sacrebleu's `_perform_shift` does."""
    run = words[start : start + length]
    if target < start:
        return np.concatenate((words[:target], run, words[target:start], words[start + length :]))
    if target > start + length:
        return np.concatenate((words[:start], words[start + length : target], run, words[target:]))
    return np.concatenate((words[:start], words[start + length : length + target], run, words[length + target :]))
