"""Personal data: what counts and what only looks like it, and that a mask hides what was counted and nothing else."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.clean import pii
from snaketune.clean.pii_patterns import LENGTHS

KINDS = list(pii.PLACEHOLDERS)


def masked(text: str, kinds: list[str] = KINDS) -> str:
    return pii.mask(pa.array([text]), kinds)[0].as_py()


def counted(text: str, kinds: list[str] = KINDS) -> dict[str, int]:
    """The kinds that were found, and how often."""
    return {kind: int(count[0]) for kind, count in pii.find(pa.array([text]), kinds).items() if count[0]}


def listed(text: str) -> list[str]:
    """The texts of a block, with bars between them."""
    return [part.strip() for part in text.split("|")]


# Test numbers as payment providers publish them, and the examples of SWIFT's IBAN registry.
CARDS = listed("""
    4242424242424242 | 4000056655665556 | 5555555555554444 | 2223003122003222 | 5105105105105100 | 378282246310005 |
    371449635398431 | 6011111111111117 | 3566002020360505 | 30569309025904 | 4222222222222 | 38520000023237 |
    6200000000000005
""")
IBANS = listed("""
    GB29NWBK60161331926819 | DE89370400440532013000 | FR1420041010050500013M02606 | NO9386011117947 |
    MT84MALT011000012345MTLCAST001S | SA0380000000608010167519 | CH9300762011623852957 | BE68539007547034 |
    NL91ABNA0417164300 | ES9121000418450200051332 | IT60X0542811101000000123456 | BR9700360305000010009795493P1
""")
FOUND = {
    "email": listed("""
        bob@example.com | o'brien+tag@mail.example.co.uk | jörg.müller@exämple.de | BOB_2@EXAMPLE.ORG
    """),
    "phone": listed("""
        +442071838750 | +44 20 7183 8750 | +1-800-555-0199 | (212) 555-0100 | 212-555-0100 | 212.555.0100 |
        1-212-555-0100 | 212 555 0100 | 020 7946 0958 | 07700 900123 | 01 23 45 67 89 | 030/1234567 | 02 9374 4000 |
        (0211) 12 34 56 78 | 0044 20 7183 8750 | +49 (0)30 123456 | 03-1234-5678 | (11) 91234-5678
    """),
    "ip": listed("""
        8.8.8.8 | 93.184.216.34 | 2606:4700:4700::1111 | 2a00:1450:4001:82b::200e
    """),
    "card": CARDS + listed("""
        4242 4242 4242 4242 | 5555-5555-5555-4444 | 3782 822463 10005 | 3056 930902 5904
    """),
    "iban": IBANS + listed("""
        GB29 NWBK 6016 1331 9268 19 | DE89-3704-0044-0532-0130-00 | NO93 8601 1117 947
    """),
}  # fmt: skip
NOTHING = {
    "email": listed("""
        bob@localhost | @app.route | icon@2x.png | git@github.com:owner/project.git | a@b.c0m | 5@1.50 each
    """),
    "phone": listed("""
        2019-05-12 | 1999-2003 | 01.02.2003 04:05 | 12/31/1999 23:59 | 1234567890 | 20071838750 | 555-1234 |
        978-0-306-40615-7 | 0-306-40615-2 | 3.14159265358979 | +1.23456789 | 1,234,567,890 | 10.1000/182 | 1.2.3.4.5 |
        12(34) 123-145 | (2003) 1234-5678 | 01234-5678 | 123-45-6789 | arXiv:0704.0001 | 212 555 0100 33 212 |
        17 212 555 0100 | 0028-0836 | 123-456-7890 | v2.0.0-20190512
    """),
    "ip": listed("""
        127.0.0.1 | 10.1.2.3 | 192.168.0.1 | 192.0.2.7 | v1.2.3.4 | version 8.8.8.8 | Section 4.4.2.1 | 256.1.1.1 |
        1.2.3.4.5 | linux-5.10.0.1 | 8.8.8.8-rc1 | ::1 | fe80::1 | 2001:db8::1 | std::dead | a::b | 12:30:45 |
        00:1a:2b:3c:4d:5e | § 3.2.1.4
    """),
    "card": listed("""
        4242424242424241 | 4242 4242 4242 4241 | 1234567890123452 | 0.4242424242424242 | 42424242424242421234 |
        id4242424242424242 | 4242 4242-4242 4242 | 4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 2
    """),
    "iban": listed("""
        GB29NWBK60161331926818 | GB29NWBK6016133192681 | ZZ29NWBK60161331926819 | XGB29NWBK60161331926819 |
        GB29NWBK60161331926819A | gb29nwbk60161331926819
    """),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_is_personal_data_is_found_whole_and_masked(kind: str, text: str) -> None:
    for before, after in (
        ("", ""),
        ("write to ", " today"),
        ("(", ")"),
        ("see: ", ". Then"),
        ("“", "”,"),
        ("联系", "。"),
    ):
        assert counted(before + text + after) == {kind: 1}
        assert masked(before + text + after) == before + pii.PLACEHOLDERS[kind] + after


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NOTHING.items() for text in texts])
def test_what_only_looks_like_it_stays(kind: str, text: str) -> None:
    for before, after in (("", ""), ("see ", " there"), ("(", ")")):
        assert masked(before + text + after, [kind]) == before + text + after
        assert counted(before + text + after, [kind]) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:secret@host/x", "https://[CREDENTIALS]@host/x"),
        ("(postgres://me:p4ss!word@db.example.com:5432/a)", "(postgres://[CREDENTIALS]@db.example.com:5432/a)"),
        ("redis://:secret@localhost", "redis://[CREDENTIALS]@localhost"),
        ("ssh://git@github.com/a/b", "ssh://git@github.com/a/b"),
        ("https://host:8080/@user", "https://host:8080/@user"),
        ("https://host/a:b@c", "https://host/a:b@c"),
    ],
)
def test_only_the_secret_of_a_url_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert counted(text) == ({"url_credentials": 1} if "CRED" in expected else {})


def test_the_digits_of_one_kind_are_never_counted_as_another() -> None:
    assert counted("GB29 NWBK 6016 1331 9268 19") == {"iban": 1}
    assert counted("https://bob:secret@example.com") == {"url_credentials": 1}
    assert counted("https://8.8.8.8:x@example.com and me@8.8.8.8.example.com") == {"url_credentials": 1, "email": 1}
    assert counted("4242 4242 4242 4242", ["phone"]) == {}
    assert counted("+4242424242424242", ["phone", "card"]) == {"card": 1}


def test_neighbours_are_found_one_by_one() -> None:
    assert masked("4242 4242 4242 4242 12/27, order 12345 4242 4242 4242 4242") == "[CARD] 12/27, order 12345 [CARD]"
    assert masked("GB29 NWBK 6016 1331 9268 19 IS MINE") == "[IBAN] IS MINE"
    assert masked("+44 20 7183 8750 99999 1") == "[PHONE] 99999 1"  # a phone has 15 digits at most
    assert masked("a@example.com,b@example.com;8.8.8.8:53/8.8.4.4") == "[EMAIL],[EMAIL];[IP]:53/[IP]"


def test_only_the_kinds_asked_for_are_masked_and_counted() -> None:
    text = "bob@example.com 8.8.8.8"
    assert masked(text, ["ip"]) == "bob@example.com [IP]"
    assert counted(text, ["ip"]) == {"ip": 1}
    assert list(pii.find(pa.array([text]), ["phone", "email"])) == ["phone", "email"]


def test_texts_keep_their_places_nulls_and_bytes() -> None:
    texts = pa.array(["no", None, "a@example.com", "", "grüße", "b@example.com and c@example.com", None])
    for part in (texts, texts.slice(1), texts.slice(2, 4), texts.slice(0, 0), texts.cast(pa.large_string())):
        expected = [
            text and text.replace("a@", "b@").replace("c@", "b@").replace("b@example.com", "[EMAIL]")
            for text in part.to_pylist()
        ]
        made = pii.mask(part, KINDS)
        made.validate(full=True)
        assert made.type == part.type
        assert made.to_pylist() == expected
        counts = [(text or "").count("@") for text in part.to_pylist()]
        assert pii.find(part, KINDS)["email"].tolist() == counts


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_personal_data_is_found_wherever_it_stands_in_prose(kind: str) -> None:
    """The scan passes over whole blocks of bytes in which nothing can begin."""
    text = {
        "url_credentials": "https://me:secret@example.org",
        "email": "me@example.org",
        "iban": "DE89370400440532013000",
        "card": "4242424242424242",
        "ip": "2606:4700:4700::1111",
        "phone": "+41 44 668 18 00",
    }[kind]
    texts = ["x" * before + f" {text} " + "y" * after for before in range(70) for after in (0, 40)]
    assert pii.find(pa.array(texts), KINDS)[kind].tolist() == [1] * len(texts)


def test_a_long_line_without_spaces_is_searched_in_a_moment() -> None:
    assert counted("a@" * 20_000 + "x") == {}
    assert counted("12-" * 100_000) == {}
    assert counted("ab:" * 100_000) == {}
    assert counted("a." * 50_000 + "@example.com") in ({}, {"email": 1})


def test_the_registry_of_ibans_is_complete_where_examples_are_known() -> None:
    assert all(len(iban) == LENGTHS[iban[:2]] for iban in IBANS)


PIECES = st.sampled_from(
    [text for texts in (*FOUND.values(), *NOTHING.values()) for text in texts]
    + [
        " ",
        " ",
        "-",
        ".",
        ",",
        "\n",
        "[",
        "]",
        "(",
        "@",
        ":",
        "+",
        "1",
        "99",
        "x",
        "é",
        "https://u:p@h",
        "//",
        "[EMAIL]",
    ]
)


@bounds(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=8), kinds=st.lists(st.sampled_from(KINDS), unique=True))
@example(pieces=["4242424242424242", "@example.com"], kinds=KINDS)
@example(pieces=["+442071838750", "GB29NWBK60161331926819"], kinds=KINDS)
def test_the_count_is_the_number_of_placeholders_and_masking_twice_is_masking_once(
    pieces: list[str], kinds: list[str]
) -> None:
    text = "".join(pieces)
    once = masked(text, kinds)
    for kind, count in pii.find(pa.array([text]), kinds).items():
        assert once.count(pii.PLACEHOLDERS[kind]) - text.count(pii.PLACEHOLDERS[kind]) == count[0]
    assert masked(once, kinds) == once


@bounds(max_examples=300, deadline=None)
@given(text=st.text(alphabet="0123456789 -.+()/:@abcFGB[]é\n", max_size=60))
def test_masking_any_text_twice_is_masking_it_once(text: str) -> None:
    assert masked(masked(text)) == masked(text)
