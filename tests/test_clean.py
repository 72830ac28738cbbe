"""Damage is mended, and sound text is left as it is."""

import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import settings
from clean import clean_text


def cleaned(text: str, **changes: Any) -> str:
    return clean_text(pa.array([text], pa.string()), settings("clean", **changes))[0].as_py()


GOOD = [
    "café, naïve, señor, Ñandú, Ærø, Łódź, € 5, 50 °C, «été», société»",
    "Ça va ? L’été — “déjà” – voilà…",
    "日本語の文章です。全角（ＡＢＣ）、「引用」。",
    "中文，标点！（全角）",
    "« société», in full width: （ＡＢＣ）",  # looks like mojibake to the quick test
    "한국어 문장입니다.",
    "Привет, мир! Ёлка и ÿ",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ❤️",
    "می‌خواهم",  # Persian, with a zero-width non-joiner that belongs to it
    "क्‍ष",  # Devanagari, with a zero-width joiner
    "if a < b && c > d: x <- y; a <b && c> d; a<b",
    "List<String> x = new HashMap<K, V>(); Vec<Box<dyn Fn(u8)>>; List<Object>, Set<A>, #include <vector>",
    "usage: convert <input> <output> [<name>]",
    "AT&T & Co; R&D; http://x.org/?a=1&copy=2&b",
    "see the <title> tag; an open <!-- comment; a lone <script> too",
    "2 <3 you",
    "class Box<A extends B> {} class Box<T extends Shape> {}",
    "<record><Name>x</Name><price unit='€'>3</price></record>",
    'put <script src="x.js"> first',
]


@pytest.mark.parametrize("text", GOOD)
def test_sound_text_is_left_as_it_is(text: str) -> None:
    assert cleaned(text) == text


def misread(text: str, codec: str) -> str | None:
    """UTF-8 read in another code, the origin of mojibake; None where the code has no sign for one of the bytes."""
    try:
        return text.encode("utf-8").decode(codec)
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
@pytest.mark.parametrize(
    "text", ["naïve café", "señor, mañana", "Łódź", "L’été — “déjà”", "日本語", "Привет", "👍🏽 ❤️"]
)
def test_mojibake_is_mended(text: str, codec: str) -> None:
    broken = misread(text, codec)
    if broken is not None:
        assert cleaned(broken, html=False) == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two &amp; three</p>", "One\n\nTwo & three"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>a</li><li>b</li></ul>c", "a\nb\nc"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("<div>un<b>brok</b>en</div>", "unbroken"),
        ("x<script>var a = '<p>';</script>y<style>p {}</style>z", "xyz"),
        ("x<!-- a <b>comment</b> -->y", "xy"),
        ("<!DOCTYPE html><html><head><title>T</title></head><body>Hello</body></html>", "Hello"),
        ("<a href='x>y' title=z>link</a>", "link"),
        ("caf&eacute; &#233; &#xE9; 1&nbsp;2 &lt;b&gt; &quot;q&quot;", 'café é é 1 2 <b> "q"'),
        ("<FONT COLOR=red>old</FONT><BR>style<HR>page", "old\nstylepage"),
        ("<p>if a<b: List<String> &amp; Map<K, V></p>", "if a<b: List<String> & Map<K, V>"),
        ("<p>R&D, ?a=1&copy=2</p>", "R&D, ?a=1&copy=2"),
    ],
)
def test_html_becomes_its_visible_text(html: str, text: str) -> None:
    assert cleaned(html) == text


def test_html_is_left_as_it_is_where_it_is_not_to_be_mended() -> None:
    assert cleaned("<p>a &amp; b</p>", html=False) == "<p>a &amp; b</p>"


@pytest.mark.parametrize(("form", "changed"), [("NFC", "é ﬁ ①"), ("NFKC", "é fi 1"), ("none", "e\u0301 ﬁ ①")])
def test_unicode_takes_the_form_that_is_set(form: str, changed: str) -> None:
    assert cleaned("e\u0301 ﬁ ①", unicode=form) == changed


def test_control_and_zero_width_characters_are_removed_and_those_that_end_a_line_end_it() -> None:
    assert cleaned("a\x00b\u200bc\ufeffd\x7fe\u202ef") == "abcdef"
    assert cleaned("one\x0ctwo\x85three\u2028four\r\nfive\rsix") == "one\ntwo\nthree\nfour\nfive\nsix"
    assert cleaned("a\u200bb", control_characters=False) == "a\u200bb"


def test_letters_that_a_zero_width_character_parts_are_composed_once_it_is_gone() -> None:
    assert cleaned("e\u200b\u0301") == "é"


def test_white_space_is_collapsed_and_line_ends_are_kept() -> None:
    assert cleaned("  a \t\u00a0 b  \n\n\n\n  c\u3000d\u2003e \n f \n") == "a b\n\nc d e\nf"
    assert cleaned(" a  b \n", whitespace=False) == " a  b \n"


def test_nulls_stay_null() -> None:
    assert clean_text(pa.array([None, "<p>a</p>"], pa.string()), settings("clean")).to_pylist() == [None, "a"]


@bounds(max_examples=150, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["NFC", "NFKC", "none"]))
@example("e\u200b\u0301", "NFC")
@example(" \n \u1680\n\n\n\u205f a", "NFC")
@example("\ufeff \u0308x", "NFKC")
def test_cleaning_twice_changes_no_more_than_once(text: str, form: str) -> None:
    # Not so for html and encoding: `&amp;lt;` is rightly `&lt;` after one cleaning, and `<` after two.
    once = cleaned(text, html=False, encoding=False, unicode=form)
    assert cleaned(once, html=False, encoding=False, unicode=form) == once


@bounds(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("<>&;/!-abp \"'=sript"), max_size=40))
def test_no_mark_up_makes_the_parser_fail_and_words_outside_of_tags_stay(text: str) -> None:
    result = cleaned("zzz " + text + "")
    assert result.startswith("zzz")


@bounds(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), max_size=12))
def test_words_of_latin_letters_are_composed_and_nothing_else(text: str) -> None:
    # Encoding aside: "Ãº" is two letters, and also what became of an "ú".
    assert cleaned(text, encoding=False) == unicodedata.normalize("NFC", text)
