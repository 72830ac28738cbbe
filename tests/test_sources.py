"""Every raw row is read or set aside with its line and reason, whatever the bytes are."""

import gzip
import json
import zlib
from pathlib import Path

import pytest

from raw_files import PACKERS, bad, good, parquet_bytes, rows_of
from snaketune.ingest import pieces
from snaketune.ingest.formats import format_of

CONTENTS = {
    "csv": ('text\none\n"zwei\n"\nтри\n'.encode(), [2, 3, 5]),
    "tsv": ('text\none\n"zwei\n"\nтри\n'.encode(), [2, 3, 5]),
    "json": (json.dumps([{"text": "one"}, {"text": "zwei\n"}, {"text": "три"}]).encode(), [1, 2, 3]),
    "jsonl": ('{"text": "one"}\n\n{"text": "zwei\\n"}\r\n{"text": "три"}'.encode(), [1, 3, 4]),
    "parquet": (parquet_bytes(), [1, 2, 3]),
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_format_is_read_also_compressed(tmp_path: Path, kind: str, packer: str) -> None:
    data, lines = CONTENTS[kind]
    path = tmp_path / f"a.{kind}{packer}"
    path.write_bytes(PACKERS[packer](data))
    items = rows_of(path, kind)
    assert not bad(items)
    assert good(items) == list(zip(lines, [{"text": "one"}, {"text": "zwei\n"}, {"text": "три"}], strict=True))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("file", [(1, "a\nb\n\n\nc\n")]),
        ("paragraph", [(1, "a\nb\n"), (5, "c\n")]),
        ("line", [(1, "a"), (2, "b"), (5, "c")]),
    ],
)
def test_a_text_file_is_read_by_file_paragraph_or_line(
    tmp_path: Path, unit: str, expected: list[tuple[int, str]], packer: str
) -> None:
    path = tmp_path / f"speech.txt{packer}"
    path.write_bytes(PACKERS[packer](b"a\nb\n\n\nc\n"))
    assert [(line, fields["text"]) for line, fields in good(rows_of(path, "text", unit))] == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "tsv"),
        ("a.v2.jsonl.gz", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.md", "markdown"),
        ("a", None),
        ("a.doc", None),
        (".gz", None),
    ],
)
def test_the_format_goes_by_the_name(name: str, kind: str | None) -> None:
    assert format_of(name) == kind


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "text"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, kind: str) -> None:
    data = {
        "csv": b"text\nx\n",
        "tsv": b"text\nx\n",
        "json": b'[{"text": "x"}]',
        "jsonl": b'{"text": "x"}\n',
        "text": b"x",
    }
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf" + data[kind])
    ((_, fields),) = good(rows_of(path, kind))
    assert fields["text"] == "x"


MARKED = ["utf-16", "utf-32", "utf-8-sig"]
UNMARKED = ["latin-1", "cp1252", "shift_jis", "koi8-r", "utf-8", "ascii"]


@pytest.mark.parametrize("codec", MARKED + UNMARKED)
@pytest.mark.parametrize(
    ("kind", "content"), [("text", "{}\n"), ("jsonl", '{{"text": "{}"}}\n'), ("csv", "text\n{}\n")]
)
def test_another_encoding_than_utf8_is_told_and_never_guessed(
    tmp_path: Path, codec: str, kind: str, content: str
) -> None:
    word = {"shift_jis": "日本語", "koi8-r": "слово", "ascii": "word"}.get(codec, "café")
    data = content.format(word).encode(codec)
    (path := tmp_path / "a").write_bytes(data)
    items = rows_of(path, kind, "line")
    fault = _fault_of_utf8(data)
    if fault is None:
        assert [fields["text"] for _, fields in good(items)] == [word]
        assert not bad(items)
        return
    ((line, reason),) = bad(items)
    assert not good(items)
    if codec in MARKED:
        assert line == 1
        assert reason.endswith(f"the file is {codec.upper()}, by its byte order mark: convert it to UTF-8")
    else:
        begin = data.rfind(b"\n", 0, fault) + 1
        assert line == 1 + data[:begin].count(b"\n")
        assert reason == f"invalid UTF-8 at byte {fault - begin + 1} of the line"


def _fault_of_utf8(data: bytes) -> int | None:
    """Where Python's own codec stops."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def test_a_byte_order_mark_where_files_were_joined_is_no_part_of_an_object(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b'{"text": "x"}\n\xef\xbb\xbf{"text": "y"}\n')
    assert good(rows_of(path, "jsonl")) == [(1, {"text": "x"}), (2, {"text": "y"})]


@pytest.mark.parametrize("unit", ["file", "paragraph", "line"])
def test_an_html_file_is_one_row_and_a_markdown_file_a_text(tmp_path: Path, unit: str) -> None:
    (path := tmp_path / "page.html").write_bytes(b"<p>a</p>\n\n<p>b</p>\n")
    ((line, fields),) = good(rows_of(path, "html", unit))
    assert (line, fields) == (1, {"text": "<p>a</p>\n\n<p>b</p>\n", "file": "page.html", "stem": "page"})
    (path := tmp_path / "a.md").write_bytes(b"# a\n\nb\n")
    texts = [fields["text"] for _, fields in good(rows_of(path, "markdown", unit))]
    assert texts == {"file": ["# a\n\nb\n"], "paragraph": ["# a\n", "b\n"], "line": ["# a", "b"]}[unit]


def test_invalid_utf8_is_set_aside_with_its_line_and_byte_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b'{"text": "x"}\n{"text": "\xe9"}\n{"text": "z"}\n')
    items = rows_of(path, "jsonl")
    assert good(items) == [(1, {"text": "x"}), (3, {"text": "z"})]
    assert bad(items) == [(2, "invalid UTF-8 at byte 11 of the line")]
    path.write_bytes(b"text\nx\n\xff\nz\n")
    items = rows_of(path, "csv")
    assert good(items) == [(2, {"text": "x"}), (4, {"text": "z"})]
    assert bad(items) == [(3, "invalid UTF-8 at byte 1 of the line")]


@pytest.mark.parametrize(
    ("unit", "kept", "aside"),
    [("file", [], [3]), ("paragraph", [(1, "a\n"), (6, "d\n")], [3]), ("line", [(1, "a"), (4, "c"), (6, "d")], [3])],
)
def test_a_text_with_a_fault_in_it_is_set_aside_whole(
    tmp_path: Path, unit: str, kept: list[tuple[int, str]], aside: list[int]
) -> None:
    (path := tmp_path / "a").write_bytes(b"a\n\n\xff b\nc\n\nd\n")
    items = rows_of(path, "text", unit)
    assert [(line, fields["text"]) for line, fields in good(items)] == kept
    assert [line for line, _ in bad(items)] == aside


@pytest.mark.parametrize("value", ['{"text": ', "[1]", "3", '"x"', "null", "1" * 5000, "[" * 100_000])
def test_what_is_no_json_object_is_set_aside(tmp_path: Path, value: str) -> None:
    (path := tmp_path / "a").write_text(f'{{"text": "x"}}\n{value}\n{{"text": "z"}}\n', encoding="utf-8")
    items = rows_of(path, "jsonl")
    assert [line for line, _ in good(items)] == [1, 3]
    assert [line for line, _ in bad(items)] == [2]


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5000, '{"a": "\xe9"', '[1, "', "]"])
def test_a_json_file_without_an_object_is_set_aside(tmp_path: Path, value: str) -> None:
    (path := tmp_path / "a").write_text(value, encoding="utf-8")
    items = rows_of(path, "json")
    assert not good(items)
    assert [line for line, _ in bad(items)] == list(range(1, len(items) + 1)) != []


@pytest.mark.parametrize(
    ("text", "kept", "aside"),
    [
        ('[{"a": 1},\n oops, {"a": 3}]', [1, 3], [2]),
        ('[{"a": 1}, {"a": }, {"a": 3}]', [1, 3], [2]),
        ('[{"a": "}],{"}, {"a": "\\"]"}]', [1, 2], []),  # brackets and quotation marks in strings are none
        ('[{"a": "\\\\"}, {"a": 2}]', [1, 2], []),
        ('[{"a": [1, {"b": 2}]}, 7, {"a": 3}]', [1, 3], [2]),
        ('[{"a": 1},, {"a": 3},]', [1, 3], [2, 4]),
        ('[{"a": 1}, {"a": 2}', [1, 2], [3]),  # cut off between two items
        ('[{"a": 1}, {"a": ', [1], [2]),
        ('[{"a": 1}, {"a": "x}, {"a": 3}]', [1], [2]),  # of a missing quotation mark the rest is lost
        ('[{"a": 1}] tail', [1], [2]),
        ('{"a": 1}', [1], []),
        ('{"a": 1}\n{"a": 2}\n\n[{"a": 3}, {"a": 4}]', [1, 2, 3, 4], []),
        ("[]", [], []),
        (" [ ] ", [], []),
        ("", [], []),
    ],
)
def test_a_broken_item_of_a_json_file_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kept: list[int], aside: list[int]
) -> None:
    (path := tmp_path / "a").write_text(text, encoding="utf-8")
    for piece in (1, 2, 3, 5, 1 << 19):
        monkeypatch.setattr(pieces, "PIECE", piece)
        items = rows_of(path, "json")
        assert [line for line, _ in good(items)] == kept
        assert [line for line, _ in bad(items)] == aside


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    lines = ['{"a": 123456789012345678901234567890}', '{"a": [{"b": -9223372036854775809}]}', '{"a": NaN, "b": 1e999}']
    (path := tmp_path / "a").write_text("\n".join(lines), encoding="utf-8")
    (_, first), (_, second), (_, third) = good(rows_of(path, "jsonl"))
    assert first == {"a": 123456789012345678901234567890}
    assert second == {"a": [{"b": -9223372036854775809}]}
    assert str(third) == "{'a': nan, 'b': inf}"


def test_a_wrong_number_of_columns_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_text("a,b\n1,2\n1,2,3\n\n1\n3,4\n", encoding="utf-8")
    items = rows_of(path, "csv")
    assert good(items) == [(2, {"a": "1", "b": "2"}), (6, {"a": "3", "b": "4"})]
    assert bad(items) == [(3, "3 columns, where the header has 2"), (5, "1 columns, where the header has 2")]


def test_quoted_line_breaks_keep_the_line_numbers_right(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_text('a,b\n1,"x\ny\n\nz"\n2,"p""q"\n"3\n3",r\n', encoding="utf-8", newline="")
    assert good(rows_of(path, "csv")) == [
        (2, {"a": "1", "b": "x\ny\n\nz"}),
        (6, {"a": "2", "b": 'p"q'}),
        (7, {"a": "3\n3", "b": "r"}),
    ]


def test_blank_lines_before_the_header_are_no_header(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_text("\n\ntext\nx\n", encoding="utf-8")
    assert good(rows_of(path, "csv")) == [(4, {"text": "x"})]


def test_a_quote_that_is_never_closed_is_no_row(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_text('a,b\n1,x\n2,"y\n3,z\n', encoding="utf-8")
    items = rows_of(path, "csv")
    assert good(items) == [(2, {"a": "1", "b": "x"})]
    assert bad(items) == [(3, "a quoted field is opened here and never closed")]


def test_a_carriage_return_inside_a_line_spoils_that_line_only(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b"a,b\n1,x\ry\n2,z\n")
    items = rows_of(path, "csv")
    assert good(items) == [(3, {"a": "2", "b": "z"})]
    assert [line for line, _ in bad(items)] == [2]


@pytest.mark.parametrize("header", [b"a\xff,b", b"a,a"])
def test_without_a_sound_header_no_row_is_read_under_wrong_names(tmp_path: Path, header: bytes) -> None:
    (path := tmp_path / "a").write_bytes(header + b"\n1,2\n3,4\n")
    items = rows_of(path, "csv")
    assert not good(items)
    assert [line for line, _ in bad(items)] == [1]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "text"])
def test_a_cut_off_gz_keeps_the_rows_before_the_cut(tmp_path: Path, kind: str) -> None:
    lines = [json.dumps({"text": str(number * 7919**3)}) for number in range(500)]
    if kind == "csv":
        lines = ["text", *(str(number * 7919**3) for number in range(500))]
    packed = gzip.compress("\n".join(lines).encode())
    (path := tmp_path / f"a.{kind}.gz").write_bytes(packed[: len(packed) // 2])
    unpacked = zlib.decompressobj(wbits=31).decompress(path.read_bytes())  # Python's own, as far as it comes
    complete = unpacked.count(b"\n")
    items = rows_of(path, kind, "line")
    assert len(good(items)) == complete - (kind == "csv") > 50
    assert bad(items) == [(complete + 1, bad(items)[0][1])]
    assert "cannot be read any further" in bad(items)[0][1]


def test_a_cut_off_text_is_no_row(tmp_path: Path) -> None:
    packed = gzip.compress(bytes(range(32, 127)) * 50)
    (path := tmp_path / "a.txt.gz").write_bytes(packed[:-20])
    items = rows_of(path, "text", "file")
    assert not good(items)
    assert len(bad(items)) == 1


def test_a_broken_parquet_file_is_one_bad_row(tmp_path: Path) -> None:
    (path := tmp_path / "a.parquet").write_bytes(b"PAR1 not at all")
    assert len(bad(rows_of(path, "parquet"))) == 1
