"""The language of texts, offline: the model of py3langid (Lui and Baldwin 2012, "langid.py"), read by our own kernel.

py3langid walks a text byte by byte in Python. Its model is plain arrays: an automaton that names the byte sequences
which tell languages apart, and for each of them and each language a weight. The kernel here walks the same automaton
and gives the same answers, six times as fast or more. The model has 142 columns for 140 languages; it takes one to two
seconds and 240 MB to load, so it is loaded when the first text asks for it.

Probabilities are py3langid's normalised ones: a softmax whose temperature is the root of the text's length. A short
sentence has 0.6 to 1, a paragraph nearly 1; below some twenty characters they are guesses. Near languages (Bosnian,
Croatian, Serbian; Malay, Indonesian; Norwegian, Danish) share the probability.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.compiled import njit
from snaketune.text.text_kernels import buffers

HEAD_CHARS = 1000  # more tells the language no better, and costs
UNKNOWN = "und"  # ISO 639's code for an undetermined language


class Model(NamedTuple):
    """py3langid's model as arrays: s states, d distinct rows of transitions, f features, c columns."""

    moves: np.ndarray  # [d * 256] uint32: the next state, by row and byte
    rows: np.ndarray  # [s] uint16: the row of a state
    features: np.ndarray  # [s] int32: what is found on arrival, or -1
    weights: np.ndarray  # [f, c] float32
    prior: np.ndarray  # [c] float32
    same: np.ndarray  # [c] int64: the first column of the same language (some have one for each script)
    codes: np.ndarray  # [c] object


@lru_cache(maxsize=1)
def model() -> Model:
    """Load the model that py3langid ships."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    codes = list(found.nb_classes)
    return Model(
        moves=np.asarray(found.tk_nextmove),
        rows=np.asarray(found.tk_row),
        features=np.array(found.tk_output, dtype=np.int32),
        weights=np.ascontiguousarray(found.nb_ptc, dtype=np.float32),
        prior=np.ascontiguousarray(found.nb_pc, dtype=np.float32),
        same=np.array([codes.index(code) for code in codes]),
        codes=np.array(codes, dtype=object),
    )


@njit(cache=True)
def _visit(data, start, stop, moves, rows, features, counts, seen):
    """Count the features of a text in `counts` [f]; those that occur are listed in `seen`. Returns how many."""
    state, found = np.int64(0), 0
    for at in range(start, stop):
        state = np.int64(moves[np.int64(rows[state]) * 256 + data[at]])
        feature = features[state]
        if feature >= 0:
            if not counts[feature]:
                seen[found] = feature
                found += 1
            counts[feature] += 1
    return found


@njit(cache=True)
def _classify(data, offsets, moves, rows, features, weights, prior, same):
    """The best column [n] int64, -1 without any feature, and its probability [n] float64."""
    n = len(offsets) - 1
    best, probability = np.full(n, -1, dtype=np.int64), np.zeros(n)
    counts = np.zeros(len(weights), dtype=np.int32)
    seen = np.empty(len(weights), dtype=np.int32)
    scores, shares = np.empty_like(prior), np.empty(len(prior))
    for text in range(n):
        start, stop = offsets[text], offsets[text + 1]
        found = _visit(data, start, stop, moves, rows, features, counts, seen)
        if not found:
            continue
        scores[:] = prior
        for number in range(found):
            feature = seen[number]
            count = np.float32(np.log1p(counts[feature]))
            for column in range(len(scores)):
                scores[column] += count * weights[feature, column]
            counts[feature] = 0
        shares[:] = 0
        highest = scores.max()
        for column in range(len(scores)):
            shares[same[column]] += np.exp((scores[column] - highest) / np.sqrt(stop - start))
        best[text] = shares.argmax()
        probability[text] = shares[best[text]] / shares.sum()
    return best, probability


def identify(texts: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The language of each text and its probability, from the first HEAD_CHARS characters.

    Returns (codes [n] object, probability [n] float64). Codes are ISO 639-1 where that has one ("en"), else ISO 639-3
    ("ace"); "zxx" is what has no language, such as numbers. Nulls, and texts without any sign of a language (nothing,
    white space, dots), are ("und", 0.0). Texts in capitals are judged by their small letters, as py3langid does.
    """
    if not len(texts):
        return np.array([], dtype=object), np.zeros(0)
    heads = pc.utf8_normalize(pc.utf8_slice_codeunits(pc.fill_null(texts, ""), 0, HEAD_CHARS), "NFC")
    data, offsets = buffers(pc.if_else(_in_capitals(heads), pc.utf8_lower(heads), heads))
    known = model()
    best, probability = _classify(data, offsets, *known[:-1])
    return np.where(best < 0, UNKNOWN, known.codes[best]), probability


def _in_capitals(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Which texts are of capitals, in the eyes of Python: `ª` and `ʰ` are small letters there, and none for Arrow."""
    found = np.array(pc.utf8_is_upper(texts), dtype=bool)
    found[found] = [text.isupper() for text in texts.filter(pa.array(found)).to_pylist()]  # of few rows
    return pa.array(found)
