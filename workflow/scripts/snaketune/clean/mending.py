"""Mending texts: encoding, HTML, control characters, Unicode's normal form, white space, case, in this order.

Each step has a flag of `scan` and runs on the texts that have it: what it would leave as they are it never sees. A
text that a step has changed is scanned again, since one mending brings up the need of another (an entity may be a
space, a removed character may have parted two letters).

Order: mojibake first, as its signs are characters that later steps would remove; HTML before white space, as its
blocks become lines; control characters before the normal form, as they stand between letters that may compose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean.scan import COMBINING, CONTROL, MARKUP, MOJIBAKE, NON_ASCII, SPACING, characters, scan
from snaketune.compiled import njit
from snaketune.text.text_kernels import buffers

Mend = Callable[[pa.Array], pa.Array]
# Takes the name of a step, the numbers [k] of the texts that it changed, and by how many characters altogether.
Note = Callable[[str, np.ndarray, int], None]
# ASCII that ftfy need not see: its patterns look at no more than six characters around one beyond ASCII, or around
# SUBSTITUTE, which stands for a lost one.
AROUND = 16
PLAIN = re.compile(rf"[\x01-\x19\x1b-\x7f]{{{3 * AROUND},}}")


def mend(texts: pa.Array, settings: dict[str, Any], note: Note) -> pa.Array:
    """Mend an array of texts [n] by the settings of `clean`; nulls stay null."""
    steps = list(_steps(settings))
    flags = scan(texts)
    touched = flags & sum({flag for _, flag, _ in steps}) != 0
    if touched.any():
        numbers = np.flatnonzero(touched)
        part = texts.filter(pa.array(touched))
        part = _stepwise(part, flags[numbers], steps, lambda name, which, more: note(name, numbers[which], more))
        texts = pc.replace_with_mask(texts, pa.array(touched), part)
    if settings["case"] == "lower":
        lowered = pc.utf8_lower(texts)
        note("case", *difference(texts, lowered))
        texts = lowered
    return texts


def _steps(settings: dict[str, Any]) -> Iterator[tuple[str, int, Mend]]:
    """The steps that are switched on: name, flag of `scan`, and what mends an array of texts without nulls."""
    if settings["encoding"]:
        yield "encoding", MOJIBAKE, _encoding
    if settings["html"]:
        yield "html", MARKUP, partial(_html, boilerplate=settings["boilerplate"])
    if settings["control_characters"]:
        yield "control_characters", CONTROL, _controls
    if settings["unicode"] != "none":
        flag = COMBINING if settings["unicode"] == "NFC" else NON_ASCII
        yield "unicode", flag, partial(pc.utf8_normalize, form=settings["unicode"])
    if settings["whitespace"]:
        yield "whitespace", SPACING, _spaces


def _stepwise(texts: pa.Array, flags: np.ndarray, steps: list[tuple[str, int, Mend]], note: Note) -> pa.Array:
    for name, flag, step in steps:
        marked = flags & flag != 0
        if not marked.any():
            continue
        old = texts.filter(pa.array(marked))
        new = step(old)
        changed, more = difference(old, new)
        if len(changed):
            numbers = np.flatnonzero(marked)
            note(name, numbers[changed], more)
            flags[numbers] = scan(new)
            texts = pc.replace_with_mask(texts, pa.array(marked), new)
    return texts


def difference(old: pa.Array, new: pa.Array) -> tuple[np.ndarray, int]:
    """The numbers [k] of the texts that differ (a null is an empty text), and how many characters there are more."""
    old, new = pc.fill_null(old, ""), pc.fill_null(new, "")
    changed = np.flatnonzero(pc.not_equal(old, new).to_numpy(zero_copy_only=False))
    return changed, count(new) - count(old)


def count(texts: pa.Array) -> int:
    """The characters (code points) of all texts."""
    return pc.sum(pc.utf8_length(texts), min_count=0).as_py()


def _encoding(texts: pa.Array) -> pa.Array:
    """Undo mojibake, by ftfy and nothing else of it: the other steps have their own switches.

    A line of Latin-1 with signs of its C1 block was Windows-1252, and is read as that; in other lines they stay what
    they are, controls. (ftfy heeds `fix_c1_controls` only where it also explains.)
    """
    import ftfy

    config = ftfy.TextFixerConfig(
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
        explain=True,
    )

    def mended(line: str) -> str:
        if line.isascii():
            return line
        if len(line) > config.max_decode_length:
            return ftfy.fix_text(line, config)
        return _without_plain(line, lambda part: ftfy.fix_encoding_and_explain(part, config).text)

    return pa.array(["".join(map(mended, _lines(text))) for text in texts.to_pylist()], pa.string())


def _lines(text: str) -> list[str]:
    """The lines of a text, each with its line feed: ftfy looks at a line at a time."""
    lines = text.split("\n")
    return [*(line + "\n" for line in lines[:-1]), lines[-1]]


def _without_plain(line: str, fix: Callable[[str], str]) -> str:
    """What ftfy makes of a line, without showing it the insides of long runs of ASCII, which are most of the line.

    A NUL stands for each of them: it is no sign of anything either. ftfy changes no ASCII but next to other characters,
    so each NUL comes back in its place. A line that holds a NUL of its own, or gets one, is shown as it is.
    """
    if "\0" in line:
        return fix(line)
    hidden: list[str] = []

    def hide(run: re.Match[str]) -> str:
        hidden.append(run[0][AROUND:-AROUND])
        return run[0][:AROUND] + "\0" + run[0][-AROUND:]

    parts = fix(PLAIN.sub(hide, line)).split("\0")
    if len(parts) != len(hidden) + 1:
        return fix(line)
    return "".join(part + plain for part, plain in zip(parts, [*hidden, ""], strict=True))


def _html(texts: pa.Array, boilerplate: bool) -> pa.Array:
    from snaketune.clean.markup import html_to_text

    return pa.array([html_to_text(text, boilerplate) for text in texts.to_pylist()], pa.string())


def _controls(texts: pa.Array) -> pa.Array:
    """Make line feeds of all line ends (CR, CR LF, VT, FF, NEL, U+2028, U+2029), and remove what is not to be seen:
    Unicode's Cc but the tab, zero-width spaces, directional marks, the byte order mark. Joiners stay: Persian and
    emoji are written with them."""
    return _built(*_strip_controls(*buffers(texts), characters()))


def _spaces(texts: pa.Array) -> pa.Array:
    """Make one space of runs of spaces and tabs, at most one blank line of runs of line ends, and none of either at
    the ends of lines and of the text."""
    return _built(*_collapse(*buffers(texts), characters()))


def _built(data: np.ndarray, offsets: np.ndarray) -> pa.Array:
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@njit(cache=True, boundscheck=False)
def _width(byte):
    """The bytes of a character, by its first."""
    return 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4


@njit(cache=True, boundscheck=False)
def _code(data, at, width):
    """A character of the basic plane; 0x40 ("@") stands for all beyond, of which none is a space or a control."""
    if width == 1:
        return np.int64(data[at])
    if width == 2:
        return np.int64(data[at] & 0x1F) << 6 | np.int64(data[at + 1] & 0x3F)
    if width == 3:
        return np.int64(data[at] & 0x0F) << 12 | np.int64(data[at + 1] & 0x3F) << 6 | np.int64(data[at + 2] & 0x3F)
    return np.int64(0x40)


@njit(cache=True, boundscheck=False)
def _strip_controls(data, offsets, characters):
    count = len(offsets) - 1
    out = np.empty(offsets[count] - offsets[0], dtype=np.uint8)
    ends = np.zeros(count + 1, dtype=np.int32)
    to = 0
    for row in range(count):
        at, end = offsets[row], offsets[row + 1]
        while at < end:
            width = _width(data[at])
            code = _code(data, at, width)
            if characters[code] & CONTROL == 0:
                for byte in range(width):
                    out[to + byte] = data[at + byte]
                to += width
            elif code in (0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029):
                out[to] = 0x0A
                to += 1
                if code == 0x0D and at + 1 < end and data[at + 1] == 0x0A:
                    width = 2
            at += width
        ends[row + 1] = to
    return out[:to], ends


@njit(cache=True, boundscheck=False)
def _collapse(data, offsets, characters):
    count = len(offsets) - 1
    out = np.empty(offsets[count] - offsets[0], dtype=np.uint8)
    ends = np.zeros(count + 1, dtype=np.int32)
    to = 0
    for row in range(count):
        at, end = offsets[row], offsets[row + 1]
        begin = solid = to  # where the text begins, and where its last character but white space ends
        lines, space = 0, False  # that wait for the next character
        while at < end:
            if 0x20 < data[at] < 0x7F and not space and not lines:  # most bytes, on a short way
                out[to] = data[at]
                at += 1
                to += 1
                solid = to
                continue
            width = _width(data[at])
            code = _code(data, at, width)
            if code in (0x0A, 0x0D):
                lines += 1
                if code == 0x0D and at + 1 < end and data[at + 1] == 0x0A:
                    width = 2
                at += width
                continue
            white = code in (0x20, 0x09) or characters[code] & SPACING != 0
            if white and (code == 0x09 or characters[code] & CONTROL == 0):
                space = True
                at += width
                continue
            if to > begin:
                for _ in range(min(lines, 2)):
                    out[to] = 0x0A
                    to += 1
                if space and not lines:
                    out[to] = 0x20
                    to += 1
            lines, space = 0, False
            if not white or to > begin:  # of line ends and separators that were left, none begins a text
                for byte in range(width):
                    out[to + byte] = data[at + byte]
                to += width
                if not white:
                    solid = to
            at += width
        to = solid
        ends[row + 1] = to
    return out[:to], ends
