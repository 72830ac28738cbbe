"""Every raw row is kept or set aside with its file, line and reason, whatever the bytes are."""

import bz2
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import jsonl, read, settings
from ingest import ingest
from snaketune.job import StageError
from snaketune.sources import Bad, Raw, format_of
from snaketune.sources import read as read_raw


def rows_of(path: Path, kind: str, unit: str = "file") -> list[Raw | Bad]:
    return list(read_raw(path, path.name, kind, unit))


def good(items: list[Raw | Bad]) -> list[tuple[int, dict[str, Any]]]:
    return [(item.line, item.fields) for item in items if isinstance(item, Raw)]


def bad(items: list[Raw | Bad]) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in items if isinstance(item, Bad)]


def taken(path: Path, kind: str, **changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What ingest makes of one file: the typed rows and the quarantine."""
    out = path.parent / "rows.parquet", path.parent / "quarantine.parquet"
    file = {"path": str(path), "name": path.name, "format": kind}
    ingest([file], *map(str, out), settings("source", **changes))
    return read(out[0]), read(out[1])


def zst(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst, ".bz2": bz2.compress}


def parquet_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["one", "zwei\n", "три"]}), sink)
    return sink.getvalue().to_pybytes()


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
        ("a.md", "text"),
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


@pytest.mark.parametrize("value", ['[{"a": 1},\n oops]', "[" * 100_000, "1" * 5000, '{"a": "\xe9"'])
def test_a_broken_json_file_is_one_bad_row(tmp_path: Path, value: str) -> None:
    (path := tmp_path / "a").write_text(value, encoding="utf-8")
    assert len(rows_of(path, "json")) == len(bad(rows_of(path, "json"))) == 1


def test_broken_json_tells_its_line(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_text('[{"a": 1},\n oops]', encoding="utf-8")
    assert bad(rows_of(path, "json"))[0][0] == 2


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


# Typed rows


def test_a_template_that_names_a_missing_or_null_field_sets_the_row_aside(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "one?", "a": "1"}, {"q": "two?"}, {"q": "three?", "a": None}])
    rows, aside = taken(path, "jsonl", templates=[{"prompt": "Q: {{ q }}", "completion": "{{ a }}"}])
    assert [(row["line"], row["prompt"], row["completion"]) for row in rows] == [(1, "Q: one?", "1")]
    assert [(row["source"], row["line"]) for row in aside] == [("a.jsonl", 2), ("a.jsonl", 3)]
    assert "template 1: 'a' is undefined" in aside[0]["reason"]
    assert "null" in aside[1]["reason"]
    assert json.loads(aside[0]["head"]) == {"q": "two?"}


def test_a_raw_row_gives_a_row_for_each_template_or_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "1", "b": "2"}, {"a": "1", "b": "\ud800"}, {"a": "1"}])
    rows, aside = taken(path, "jsonl", templates=[{"completion": "{{ a }}"}, {"completion": "{{ b }}"}])
    assert [(row["line"], row["completion"]) for row in rows] == [(1, "1"), (1, "2")]
    assert [row["line"] for row in aside] == [2, 3]


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ a.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{{ a.b.c }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_sets_the_row_aside(tmp_path: Path, attack: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x", "good": True}, {"a": "x"}])
    template = "{% if good is defined %}fine{% else %}" + attack + "{% endif %}"
    rows, aside = taken(path, "jsonl", templates=[{"completion": template}])
    assert [row["line"] for row in rows] == [1]
    assert [row["line"] for row in aside] == [2]


def test_a_template_that_is_none_is_told_before_any_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x"}])
    with pytest.raises(StageError, match=r"`source.templates`.*line 1"):
        taken(path, "jsonl", templates=[{"completion": "{{ a "}])


def test_columns_are_found_under_their_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "why?", "completion": 42, "who": "", "x": [1]}, {"completion": "b"}])
    rows, aside = taken(path, "jsonl", columns={"prompt": "q", "group": "who"}, keep=["x"])
    (row,) = rows
    assert (row["prompt"], row["completion"], json.loads(row["meta"])) == ("why?", "42", {"x": [1]})
    assert row["group"] is None  # an empty cell is no group: else all such rows would be one family
    assert aside[0]["reason"] == "no column `q`, which `source.columns.prompt` names"


@pytest.mark.parametrize(
    "fields",
    [{"text": "\ud800"}, {"\udfff": "x"}, {"text": "ok", "x": "\ud83d"}, {"text": "ok", "x": {"\ud83d": 1}}],
)
def test_half_a_surrogate_pair_is_set_aside_and_no_crash(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [fields, {"text": "good 😀"}])
    rows, aside = taken(path, "jsonl", keep=["x"])
    assert [row["completion"] for row in rows] == ["good 😀"]
    assert [row["line"] for row in aside] == [1]


def test_bytes_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([b"abc", None], pa.binary())}), tmp_path / "a.parquet")
    rows, aside = taken(tmp_path / "a.parquet", "parquet")
    assert [row["line"] for row in aside] == [1]
    assert [row["completion"] for row in rows] == [""]  # null: clean drops it, with a line in the ledger


def test_on_bad_row_fail_stops_with_file_line_and_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"txt": "y"}])
    with pytest.raises(StageError, match=r"a\.jsonl, line 2: no column `text` or `completion`"):
        taken(path, "jsonl", on_bad_row="fail")
    assert not list(tmp_path.glob("*.parquet*"))


def test_no_usable_row_at_all_is_told_with_the_commonest_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "x"}, {"a": "y"}])
    with pytest.raises(StageError, match=r"none of the 2 raw rows .* no column `text`"):
        taken(path, "jsonl")


def test_equal_rows_have_one_id_and_moved_borders_another(tmp_path: Path) -> None:
    values = [
        {"prompt": "ab", "completion": "c"},
        {"prompt": "a", "completion": "bc"},
        {"completion": "abc"},
        {"prompt": "", "completion": "abc"},
        {"prompt": "ab", "completion": "c", "other": 1},
        {"prompt": "café", "completion": "c"},
        {"prompt": "cafe\u0301", "completion": "c"},
    ]
    rows, _ = taken(jsonl(tmp_path / "a.jsonl", values), "jsonl")
    ids = [row["row_id"] for row in rows]
    assert ids[0] == ids[4]
    assert ids[5] == ids[6]  # the same text in two Unicode forms
    assert len(set(ids)) == 5
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


ODD_LINES = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode()),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=5).map(lambda text: json.dumps({text: text}).encode()),
    st.sampled_from(
        [b'{"text": 1e999}', b'{"text": NaN}', b"[" * 2000, b'{"text": {"a": null}}', b"\xef\xbb\xbf", b" \r"]
    ),
)


@bounds(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ODD_LINES, max_size=8))
def test_of_any_bytes_each_line_that_is_not_blank_is_a_row_or_set_aside(tmp_path: Path, lines: list[bytes]) -> None:
    data = b'{"text": "anchor"}\n' + b"\n".join(lines)
    (path := tmp_path / "a.jsonl").write_bytes(data)
    rows, aside = taken(path, "jsonl")
    numbers = [number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    assert sorted(row["line"] for row in rows + aside) == numbers


@bounds(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "json", "jsonl", "text"]))
def test_no_bytes_make_a_reader_fail(tmp_path: Path, data: bytes, kind: str) -> None:
    (path := tmp_path / "a").write_bytes(data)
    for unit in ("file", "paragraph", "line"):
        for item in rows_of(path, kind, unit):
            assert item.line >= 1
