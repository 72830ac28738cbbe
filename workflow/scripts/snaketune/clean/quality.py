"""Published rules for web text: Gopher, its repetition rules, C4 and FineWeb.

The rules are those of the papers (Rae et al. 2021, table A1 and section A1.1; Raffel et al. 2020, section 2.2; Penedo
et al. 2024, section 3.5), counted as in huggingface/datatrove where the papers leave it open. What differs:

- Words are runs between white space (`text_kernels` has the vocabulary), not tokens of spaCy. "end." is one word of
  four characters where datatrove has a word and a sign, so mean word lengths come out 0.1 to 0.2 higher and shares of
  words about a tenth higher; a dash between spaces is a word. Languages without spaces have few, very long words: of
  them, only the rules on lines, paragraphs and characters make sense.
- Lines are stripped, blank ones are no lines, and only the line feed ends one. datatrove's Gopher counts blank lines.
- Stop words are found through capitals and punctuation: "The", "that,".
- A run of words that occurs once is not repeated: its share is 0, where datatrove counts the commonest run whatever
  its count, which fails every text of a few words.
- A sentence ends at a word with . ! ? or the like at its end (quotation marks and brackets after it aside) when no
  lower-case letter follows, and at the end of a line. Abbreviations before a capital ("Mr. Smith") count as ends, so a
  text has rather more sentences than by a trained splitter.
- Lines end a sentence, for FineWeb, with the sentence marks of the larger scripts, an ellipsis or a quotation mark.
- C4's citation marks ([1]) are left in place, and `}` is as bad as `{`.
- A share of nothing is 0: an empty text fails the rules that ask for some minimum, and no other.

A value that equals its threshold passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean import line_kernels, repeat_kernels
from snaketune.text import text_kernels

Statistics = Mapping[str, np.ndarray]  # int64 [n] each
SLICE_BYTES = 1 << 18  # texts that are looked at together: their words then stay in the processor's cache


def _share(part: str, whole: str) -> Callable[[Statistics], np.ndarray]:
    return lambda counts: counts[part] / np.maximum(counts[whole], 1)


def _count(name: str) -> Callable[[Statistics], np.ndarray]:
    return lambda counts: counts[name].astype(np.float64)


def _symbols(counts: Statistics) -> np.ndarray:
    return np.maximum(counts["hash_signs"], counts["ellipses"]) / np.maximum(counts["words"], 1)


# Set -> setting -> its value [n] float64. Settings that begin with `max` are upper limits, with `min` lower ones;
# the others are switches, and a text that has any of it fails.
RULES: dict[str, dict[str, Callable[[Statistics], np.ndarray]]] = {
    "gopher": {
        "min_words": _count("words"),
        "max_words": _count("words"),
        "min_mean_word_length": _share("word_chars", "words"),
        "max_mean_word_length": _share("word_chars", "words"),
        "max_symbol_ratio": _symbols,
        "max_bullet_lines": _share("bullet_lines", "lines"),
        "max_ellipsis_lines": _share("ellipsis_lines", "lines"),
        "min_alphabetic_words": _share("letter_words", "words"),
        "min_stop_words": _count("stop_words"),
    },
    "repetition": {
        "max_duplicate_lines": _share("duplicate_lines", "lines"),
        "max_duplicate_line_chars": _share("duplicate_line_chars", "chars"),
        "max_duplicate_paragraphs": _share("duplicate_paragraphs", "paragraphs"),
        "max_duplicate_paragraph_chars": _share("duplicate_paragraph_chars", "chars"),
        **{f"max_top_{words}gram": _share(f"run_{words}", "chars") for words in (2, 3, 4)},
        **{f"max_duplicate_{words}grams": _share(f"run_{words}", "chars") for words in range(5, 11)},
    },
    "c4": {
        "min_sentences": _count("sentences"),
        "lorem_ipsum": _count("lorem"),
        "curly_bracket": _count("curly"),
    },
    "fineweb": {
        "min_punctuated_lines": _share("ended_lines", "lines"),
        "max_short_lines": _share("short_lines", "lines"),
        "max_duplicate_line_chars": _share("duplicate_line_chars", "visible"),
        "max_newlines_per_word": _share("breaks", "words"),
    },
}


def mend(texts: pa.Array | pa.ChunkedArray, settings: Mapping[str, Any]) -> pa.Array | pa.ChunkedArray:
    """Remove the lines that C4 removes, and strip the others; nulls stay null.

    settings: those of `clean.quality`. Without `c4.enabled` the texts come back as they are. With
    `c4.terminal_punctuation` or `c4.min_words_per_line`, blank lines go too, and with them the paragraphs: as in C4, a
    text is lines afterwards.
    """
    c4 = settings["c4"]
    if not c4["enabled"]:
        return texts
    kinds = text_kernels.marks()
    data, offsets = text_kernels.buffers(texts)
    parts, lengths = [], [np.zeros(1, dtype=np.int64)]
    for part in _slices(offsets):
        _, places, _, ends = text_kernels.scan_words(data, part, kinds)
        kept, to = line_kernels.keep_lines(
            data,
            places,
            ends,
            c4["terminal_punctuation"],
            c4["min_words_per_line"],
            c4["max_word_length"],
            c4["policy_lines"],
        )
        parts.append(kept)
        lengths.append(np.diff(to))
    ends = np.cumsum(np.concatenate(lengths))
    kept = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
    made = pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(kept)).cast(texts.type)
    return pc.if_else(texts.is_valid(), made, None) if texts.null_count else made


def failures(
    texts: pa.Array | pa.ChunkedArray, settings: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Judge texts by the rules of the enabled sets, in a fixed order.

    settings: those of `clean.quality`. Yields (rule, fails [n] bool, value [n] float64, threshold), where a rule is
    named after its set and setting: `gopher_min_words`. C4 judges what `mend` left of a text, so that comes first. A
    null is judged as an empty text.
    """
    sets = [name for name in RULES if settings[name]["enabled"]]
    if not sets:
        return
    counts = statistics(texts, runs="repetition" in sets)
    for name in sets:
        for setting, value_of in RULES[name].items():
            given = settings[name][setting]
            values = value_of(counts)
            if setting.startswith("min_"):
                yield f"{name}_{setting}", values < given, values, float(given)
            elif setting.startswith("max_"):
                yield f"{name}_{setting}", values > given, values, float(given)
            elif given:
                yield f"{name}_{setting}", values > 0, values, 0.0


def statistics(texts: pa.Array | pa.ChunkedArray, runs: bool = True) -> dict[str, np.ndarray]:
    """What the rules are made of: int64 [n] each, by name. Runs of words are left out where no rule asks for them."""
    kinds = text_kernels.marks()
    data, offsets = text_kernels.buffers(texts)
    parts: dict[str, list[np.ndarray]] = {}
    for part in _slices(offsets):
        counts, places, words, ends = text_kernels.scan_words(data, part, kinds)
        lines, paragraphs = text_kernels.scan_lines(data, places, words, ends, kinds, counts)
        columns = dict(zip(text_kernels.STATISTICS, counts.T, strict=True))
        columns["visible"] = columns["chars"] - columns["breaks"]
        columns["paragraphs"] = np.diff(paragraphs[2])
        columns["duplicate_lines"], columns["duplicate_line_chars"] = repeat_kernels.duplicates(*lines).T
        repeats = repeat_kernels.duplicates(*paragraphs).T
        columns["duplicate_paragraphs"], columns["duplicate_paragraph_chars"] = repeats
        if runs:
            repeats = repeat_kernels.ngrams(words, np.ascontiguousarray(places[:, 3]), ends)
            columns |= {f"run_{words}": column for words, column in enumerate(repeats.T, start=repeat_kernels.SHORTEST)}
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in parts.items()}


def _slices(offsets: np.ndarray) -> Iterator[np.ndarray]:
    """The offsets of consecutive texts [k + 1] that together have about SLICE_BYTES, or of one larger text."""
    start, last = 0, len(offsets) - 1
    while True:
        stop = int(np.searchsorted(offsets, offsets[start] + SLICE_BYTES, side="right")) - 1
        stop = min(max(stop, start + 1), last)
        yield offsets[start : stop + 1]
        start = stop
        if start >= last:
            return
