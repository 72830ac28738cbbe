"""Each published rule on two hand-made documents: one that just passes, one that just fails. Values counted by hand."""

import pyarrow as pa
import pytest

from snaketune.clean import quality
from test_quality import enabled, judged

# Rule -> a document that passes, its value, a document that fails, its value; thresholds are the defaults.
CASES: dict[str, tuple[str, float, str, float]] = {
    "gopher_min_words": ("word " * 50, 50, "word " * 49, 49),
    "gopher_max_words": ("w " * 100_000, 100_000, "w " * 100_001, 100_001),
    # (2 + 4) / 2 = 3; (2 + 3) / 2 = 2.5
    "gopher_min_mean_word_length": ("ab abcd", 3, "ab abc", 2.5),
    # Characters, not bytes: ten é are twenty bytes.
    "gopher_max_mean_word_length": ("éééééééééé", 10, "ééééééééééé", 11),
    # 1 of 10 words; 2 of 10. Six dots are two ellipses.
    "gopher_max_symbol_ratio": ("# " + "x " * 9, 0.1, "x...... " + "x " * 9, 0.2),
    "gopher_max_bullet_lines": ("- x\n" * 9 + "x", 0.9, "• x\n" * 10 + "x", 10 / 11),
    "gopher_max_ellipsis_lines": ("x\n" * 7 + "x...\n" * 3, 0.3, "x\n" * 6 + "x…\n" * 3, 3 / 9),
    "gopher_min_alphabetic_words": ("a é 3d x 12", 0.8, "a b c 12 13", 0.6),
    "gopher_min_stop_words": ('The end, "of" sorts', 2, "the the theory bee", 1),
    # Ten lines, three of them for the second time; and nine.
    "repetition_max_duplicate_lines": ("a\na\na\na\nb\nc\nd\ne\nf\ng", 0.3, "a\na\na\na\nb\nc\nd\ne\nf", 3 / 9),
    # 2 of 10 characters: "ab", seven others with three line feeds. And 2 of 9.
    "repetition_max_duplicate_line_chars": ("ab\nab\ncdef", 0.2, "ab\nab\ncde", 2 / 9),
    "repetition_max_duplicate_paragraphs": (
        "\n\n".join(["a\nb", "c", "a\n b", "d", "e", "c", "f", "g", "h", "h"]),
        0.3,
        "\n \n".join(["a\nb", "c", "a\nb", "d", "e", "c", "f", "g", "g"]),
        3 / 9,
    ),
    # "a\nb" is three characters, of 3 + 2 + 3 + 2 + 5 = 15; and of 14.
    "repetition_max_duplicate_paragraph_chars": ("a\nb\n\na\nb\n\ncdefg", 0.2, "a\nb\n\na\nb\n\ncdef", 3 / 14),
    # "a b" twice is six characters, of 30; of 29.
    "repetition_max_top_2gram": ("a b c a b " + "d" * 20, 0.2, "a b c a b " + "d" * 19, 6 / 29),
    # "a b c" twice is ten characters, of 56 (0.179); of 55 (0.182).
    "repetition_max_top_3gram": ("a b c x a b c " + "d" * 42, 10 / 56, "a b c x a b c " + "d" * 41, 10 / 55),
    # "a b c d" twice is fourteen characters, of 88 (0.159); of 87 (0.161).
    "repetition_max_top_4gram": ("a b c d x a b c d " + "y" * 70, 14 / 88, "a b c d x a b c d " + "y" * 69, 14 / 87),
    # The second "a b c d e" is five characters, spaces aside: of 34 (0.147); of 33 (0.152).
    "repetition_max_duplicate_5grams": (
        "a b c d e x a b c d e " + "y" * 12,
        5 / 34,
        "a b c d e x a b c d e " + "y" * 11,
        5 / 33,
    ),
    "repetition_max_duplicate_6grams": (
        "a b c d e f x a b c d e f " + "y" * 17,
        6 / 43,
        "a b c d e f x a b c d e f " + "y" * 16,
        6 / 42,
    ),
    "repetition_max_duplicate_7grams": (
        "a b c d e f g x a b c d e f g " + "y" * 24,
        7 / 54,
        "a b c d e f g x a b c d e f g " + "y" * 23,
        7 / 53,
    ),
    "repetition_max_duplicate_8grams": (
        "a b c d e f g h x a b c d e f g h " + "y" * 33,
        8 / 67,
        "a b c d e f g h x a b c d e f g h " + "y" * 32,
        8 / 66,
    ),
    "repetition_max_duplicate_9grams": (
        "a b c d e f g h i x a b c d e f g h i " + "y" * 44,
        9 / 82,
        "a b c d e f g h i x a b c d e f g h i " + "y" * 43,
        9 / 81,
    ),
    "repetition_max_duplicate_10grams": (
        "a b c d e f g h i j x a b c d e f g h i j " + "y" * 58,
        0.1,
        "a b c d e f g h i j x a b c d e f g h i j " + "y" * 57,
        10 / 99,
    ),
    # The title is a sentence for itself; 1.5 and "e.g. this" end none.
    "c4_min_sentences": (
        'A title\nOne is 1.5. Two (e.g. this)! "Three?" Four',
        5,
        "One. Two. Three, e.g. this. Four",
        4,
    ),
    "c4_lorem_ipsum": ("lorem, ipsum", 0, "a Lorem\nIPSUM dolor", 1),
    "c4_curly_bracket": ("[x](y)", 0, "f {x}", 2),
    # 3 of 25 lines; 2 of 17 (0.118).
    "fineweb_min_punctuated_lines": ("x.\nx!\nx”\n" + "x\n" * 22, 0.12, "x.\nx?\n" + "x,\n" * 15, 2 / 17),
    # 2 of 3 lines have at most 30 characters; 7 of 10.
    "fineweb_max_short_lines": (
        ("z" * 30 + "\n") * 2 + "z" * 31,
        2 / 3,
        ("é" * 30 + "\n") * 7 + ("z" * 31 + "\n") * 3,
        0.7,
    ),
    # 1 of 100 characters, line feeds aside; 1 of 99.
    "fineweb_max_duplicate_line_chars": ("a\n\na\n" + "b" * 98, 0.01, "a\n\na\n" + "b" * 97, 1 / 99),
    # 3 line feeds for 10 words; for 9.
    "fineweb_max_newlines_per_word": ("x\n\n" + "x " * 9 + "\n", 0.3, "x\n\n" + "x " * 8 + "\n", 3 / 9),
}


def test_every_rule_has_its_two_documents() -> None:
    assert set(judged([""])) == set(CASES)


@pytest.mark.parametrize("rule", CASES)
def test_a_document_just_passes_and_one_just_fails(rule: str) -> None:
    passing, good, failing, bad = CASES[rule]
    fails, values, threshold = judged([passing, failing])[rule]
    assert values.tolist() == [pytest.approx(good), pytest.approx(bad)]
    assert fails.tolist() == [False, True]
    name, setting = rule.split("_", 1)
    assert threshold == enabled()[name].get(setting) if "_m" in rule else threshold == 0


def test_of_equally_common_runs_the_first_counts() -> None:
    text = "aa b c c aa b c c"  # "aa b" and "b c" and "c c" come twice each; 2 * 4 of 17 characters
    assert judged([text])["repetition_max_top_2gram"][1][0] == 8 / 17
    longer_later = "a b x cc d a b y cc d"  # twice three characters, though "cc d" has four
    assert judged([longer_later])["repetition_max_top_2gram"][1][0] == 6 / 21


def test_overlapping_runs_count_each_among_the_commonest_and_once_among_the_repeated() -> None:
    values = judged(["a a a a a a a a a a a a"])  # twelve words, 23 characters
    assert values["repetition_max_top_2gram"][1][0] == 11 * 3 / 23
    # At words 1 the run of five comes again (5 characters), then the search goes on at word 6 (5 more); 11 is too late.
    assert values["repetition_max_duplicate_5grams"][1][0] == 10 / 23
    assert values["repetition_max_duplicate_10grams"][1][0] == 10 / 23


def test_a_run_whose_first_stand_lay_in_a_repeated_run_is_new() -> None:
    text = "a b c d e a b c d e f g h i j e f g h i"
    # "a b c d e" comes again at word 5, and the search goes on at 10: "e f g h i" began at 9 and was not looked at.
    assert judged([text])["repetition_max_duplicate_5grams"][1][0] == 5 / 39


def test_runs_that_come_once_are_no_repetition() -> None:
    assert judged(["Yes, it is."])["repetition_max_top_2gram"][1][0] == 0


def test_c4_removes_each_kind_of_bad_line_and_strips_the_rest() -> None:
    lines = [
        "  This line is good.  ",
        "This line has no end",
        "This one trails off...",
        "Too short.",
        "",
        f"A word of {'w' * 1001} letters.",
        f"A word of {'é' * 1000} letters.",
        "Please turn on JAVASCRIPT in your browser.",
        "See our Privacy Policy for more.",
        "This site uses cookies, as all do.",
        "We use of course no cookies.",
        'He said "no such thing"',
        "They said ‘nothing at all’",
        "A question, is it?\r",
        "{ curly } but good!",
    ]
    expected = [lines[0].strip(), lines[6], lines[10], lines[11], lines[12], "A question, is it?", lines[14]]
    mended = quality.mend(pa.array(["\n".join(lines)]), enabled("c4"))
    assert mended.to_pylist() == ["\n".join(expected)]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("terminal_punctuation", False, "No end of it\nGood line it is."),
        ("min_words_per_line", 1, "One.\nGood line it is."),
        ("max_word_length", 3, ""),
        ("max_word_length", 4, "Good line it is."),
        ("policy_lines", False, "Our terms of use.\nGood line it is."),
    ],
)
def test_each_kind_can_be_set(setting: str, value: object, expected: str) -> None:
    text = "No end of it\nOne.\nOur terms of use.\nGood line it is."
    given = enabled("c4", c4={setting: value})
    assert quality.mend(pa.array([text]), given).to_pylist() == [expected]


def test_mending_twice_is_mending_once() -> None:
    once = quality.mend(pa.array([" A line of it. \n\nno\nAnother line of it!\r\n"]), enabled("c4"))
    assert once.to_pylist() == ["A line of it.\nAnother line of it!"]
    assert quality.mend(once, enabled("c4")).equals(once)
