"""Each step runs only on texts that a scan has flagged, and gives what it would give on every text.

The reference applies every step to the text, with Python's own `re`, `unicodedata` and `str`, and ftfy.
"""

import re
import sys
import unicodedata
from typing import Any

import ftfy
import numpy as np
import pyarrow as pa
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import settings
from snaketune.clean.markup import html_to_text
from snaketune.clean.mending import mend
from snaketune.clean.scan import COMBINING, MARKUP, MOJIBAKE, NON_ASCII, SPACING, scan

FTFY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    fix_c1_controls=False,
    normalization=None,
)


def reference(text: str, chosen: dict[str, Any]) -> str:
    if chosen["encoding"]:
        text = ftfy.fix_text(text, FTFY)
    if chosen["html"]:
        text = html_to_text(text, chosen["boilerplate"])
    if chosen["control_characters"]:
        text = re.sub("\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text)
        text = re.sub("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]", "", text)
    if chosen["unicode"] != "none":
        text = unicodedata.normalize(chosen["unicode"], text)
    if chosen["whitespace"]:
        text = re.sub("\r\n?", "\n", text)
        text = re.sub("[\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000 ]+", " ", text)
        text = re.sub(" ?\n ?", "\n", text)
        text = re.sub("\n{3,}", "\n\n", text)
        text = text.strip()
    return text


PIECES = [
    *"ab1 \n\r\t<>&;/!-=\"'.",
    *("\x00", "\x07", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x85", "\x92", "\xa0", "\xad"),
    *"\u1680\u2003\u200b\u200c\u200d\u200e\u2028\u2029\u202e\u202f\u2060\u3000\ufeff\ufffd",
    *"éÃÂâ€™“”’‚Äœž…—×²вЂГўА°ØÙ«»日한각ﬁ①½\u0301\u0308\u093c\u1100\u1161\u11a8\u30ab\u3099Å\u212b\u0340",
    *("😀", "👩‍👩‍👧", "\U0001d15e", "\U00020000", "\U0002f800", "\U000110ba"),
    *("  ", "\n\n\n", " \n", "\r\n", "&amp;", "&#65;", "&#x41;", "&nbsp;", "&eacute;", "&lt;b&gt;", "R&D"),
    *("<p>", "</p>", "<br/>", "<b>", "</b>", "<!--", "-->", "<!DOCTYPE html>", "<!doctype x>", "List<String>"),
    *("<nav>x</nav>", "<body>", "<script>", "</script>", "<td>", "<P>", "<a href='x'>"),
    *(word.encode().decode("cp1252") for word in ("é", "’", "ö", "ß", "€", "☃")),
    *(word.encode().decode("latin-1") for word in ("à", "“x”", "Å")),
    *(word.encode().decode("mac_roman") for word in ("é", "™")),
]
# Python and Arrow must know the same Unicode: characters that Python's does not have may compose in Arrow's.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
TEXTS = st.lists(st.sampled_from(PIECES) | CHARACTERS, max_size=12).map("".join)


@bounds(max_examples=600, deadline=None)
@given(
    st.lists(st.none() | TEXTS, max_size=6),
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("encoding", "html", "boilerplate", "control_characters", "whitespace")}
    ),
    st.sampled_from(["NFC", "NFKC", "none"]),
    st.integers(0, 2),
)
@example(["\x85x\x0b ", " \x1c a\x1c \n"], {"control_characters": False}, "NFC", 0)
@example(["Ã ", "x\x92s", "Œ\n", "“É—”", "<!Doctype x>", "&#1;", "a&b;c"], {}, "NFKC", 0)
def test_flagged_texts_are_mended_as_if_every_step_had_seen_every_text(
    texts: list[str | None], switches: dict[str, bool], form: str, skipped: int
) -> None:
    chosen = settings("clean") | switches | {"unicode": form}
    expected = [text if text is None else reference(text, chosen) for text in texts[skipped:]]
    array = pa.array(texts, pa.string())[skipped:]
    changed: set[int] = set()
    result = mend(array, chosen, lambda _, which, more: changed.update(which.tolist()))
    assert result.to_pylist() == expected
    assert {at for at, text in enumerate(expected) if text != texts[skipped + at]} <= changed
    result.validate(full=True)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 64, 65, 200])
def test_a_fault_is_seen_wherever_it_stands_in_a_text(size: int) -> None:
    faults = ["\t", "  ", " \n", "\n ", "\n\n\n", "\r", "\x00", "\xa0", "\u200b", "e\u0301", "<b>", "&lt;", "Ã©"]
    chosen = settings("clean")
    for fault in faults:
        texts = ["x" * at + fault + "y" * (size - at) for at in range(size + 1)]
        result = mend(pa.array(texts), chosen, lambda *_: None).to_pylist()
        assert result == [reference(text, chosen) for text in texts], repr(fault)


@bounds(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from([piece for piece in PIECES if not piece.isascii()] + ["\x1a", "\0", "?", " ", "À\x80", "\xed"])
        | st.sampled_from(["plain words ", "x", " ", "Ã quele ", "\x1a", "?"]).flatmap(
            lambda piece: st.integers(1, 70).map(lambda times: piece * times)
        ),
        max_size=8,
    ).map("".join)
)
@example("a" * 70 + "Ã©" + "b" * 70 + "â€™" + "c" * 70)
@example("a" * 70 + "Ã©" + "\0" + "b" * 70)  # a NUL of its own
@example("a" * 70 + "À\x80Ã©" + "b" * 70)  # one that comes of mending
@example("a" * 70 + "\x1a" + "Ã©" + "b" * 70)
def test_long_runs_of_ascii_that_ftfy_does_not_see_change_nothing(line: str) -> None:
    text = "Ã©" + line  # flagged, whatever follows
    chosen = settings("clean") | {"html": False, "control_characters": False, "unicode": "none", "whitespace": False}
    assert mend(pa.array([text]), chosen, lambda *_: None).to_pylist() == [ftfy.fix_text(text, FTFY)]


def test_nothing_of_a_sound_text_is_flagged() -> None:
    sound = ["One sentence.\n\nAnother - with 3 < 4 & more, R&D, a<1.", "“Curly” quotes — and ’dashes’…", "x", ""]
    assert scan(pa.array([*sound, None])).tolist()[:1] == [0]
    assert set(scan(pa.array([*sound, "5\xa0€", None])).tolist()) == {0, NON_ASCII, NON_ASCII | SPACING}


def test_a_null_is_not_flagged_whatever_bytes_lie_beneath_it() -> None:
    texts = pa.array(["<b>", "<i>"])
    _, offsets, data = texts.buffers()
    hidden = pa.Array.from_buffers(pa.string(), 2, [pa.py_buffer(b"\x02"), offsets, data])
    assert scan(hidden).tolist() == [0, MARKUP]


ALPHABET = sorted(
    {
        chr(code)
        for ranges in MOJIBAKE_CATEGORIES.values()
        for code in range(0x80, 0x10000)
        if re.match(f"[{ranges}]", chr(code))
    }
)


def test_every_text_that_ftfy_would_look_at_is_flagged() -> None:
    """All pairs of the signs of mojibake, and random runs of them among letters."""
    pairs = [one + two for one in ALPHABET for two in [*ALPHABET, " ", "x", "\n"]]
    bad = np.array([is_bad(pair) for pair in pairs])
    flagged = scan(pa.array(pairs)) & MOJIBAKE > 0
    assert not (bad & ~flagged).any()
    draw = np.random.default_rng(1)
    signs = np.array([*ALPHABET, *"aZ .\n?" * 20])
    runs = ["".join(signs[draw.integers(len(signs), size=5)]) for _ in range(20_000)]
    missed = [run for run in runs if is_bad(run)]
    assert len(missed) > 1000
    assert (scan(pa.array(missed)) & MOJIBAKE > 0).all()


def test_every_character_that_nfc_may_change_is_flagged() -> None:
    """By Unicode's quick check: a text is in NFC if no character may compose, and none is out of order."""
    codes = [code for code in range(0x80, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    inert = (scan(pa.array([chr(code) for code in codes])) & COMBINING) == 0
    calm = [chr(code) for code, still in zip(codes, inert, strict=True) if still]
    assert not any(unicodedata.combining(sign) for sign in calm)
    assert all(unicodedata.is_normalized("NFC", sign) for sign in calm)
    seconds = {
        int(parts.split()[1], 16)
        for code in codes
        if (parts := unicodedata.decomposition(chr(code))) and not parts.startswith("<") and " " in parts
    }
    hangul = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    assert not {ord(sign) for sign in calm} & (seconds | hangul)
