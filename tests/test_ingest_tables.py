"""Parquet, Arrow and zip: what is damaged costs its row, its batch or its member, and never the file around it."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import settings
from raw_files import bad, good, rows_of, taken, zst
from snaketune.ingest.formats import Bad, Raw
from snaketune.ingest.sources import opened

TABLE = pa.table({"text": [f"row {number}" for number in range(20)], "n": range(20)})
ROWS = [(number + 1, {"text": f"row {number}", "n": number}) for number in range(20)]


def ipc(path: Path, table: pa.Table, new: Any = pa.ipc.new_file, batch: int = 5) -> Path:
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("packer", [None, gzip.compress, zst])
def test_an_arrow_file_and_a_stream_are_read_also_compressed(tmp_path: Path, new: Any, packer: Any) -> None:
    path = ipc(tmp_path / "a.arrow", TABLE, new)
    if packer:
        data = packer(path.read_bytes())
        path = path.with_name("a.arrow.gz" if packer is gzip.compress else "a.arrow.zst")
        path.write_bytes(data)
    assert good(rows_of(path, "arrow")) == ROWS


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_file_that_was_cut_off_keeps_its_first_batches(tmp_path: Path, new: Any) -> None:
    path = ipc(tmp_path / "a.arrow", TABLE, new)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    items = rows_of(path, "arrow")
    assert good(items) == ROWS[: len(items) - 1]
    assert 5 <= len(items) - 1 < 20
    assert bad(items) == [(len(items), bad(items)[0][1])]


def test_text_that_is_no_utf8_costs_its_row(tmp_path: Path) -> None:
    texts = [b"a", b"x\xff", None, b"d"]
    table = pa.table({"text": pa.array(texts, pa.binary()).view(pa.string()), "n": range(4)})
    paths = [ipc(tmp_path / "a.arrow", table), tmp_path / "a.parquet"]
    pq.write_table(table, paths[1])
    for path in paths:
        items = rows_of(path, path.suffix[1:])
        assert [(line, fields["text"]) for line, fields in good(items)] == [(1, "a"), (3, None), (4, "d")]
        assert bad(items) == [(2, "invalid UTF-8 at byte 2 of the column `text`")]


def test_offsets_that_point_outside_cost_the_batch_and_no_crash(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(number.to_bytes(4, "little") for number in (0, 1, 90_000_000, 3)))
    array = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
    items = rows_of(ipc(tmp_path / "a.arrow", pa.table({"text": array})), "arrow")
    assert not good(items)
    assert bad(items)[0][0] == 1
    assert "the rows to 3 cannot be read" in bad(items)[0][1]


def test_a_damaged_row_group_costs_itself(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=5, compression="none", use_dictionary=False)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    second = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0).data_page_offset
    data[second : second + 12] = b"\xff" * 12  # the head of its first page
    (tmp_path / "a.parquet").write_bytes(data)
    items = rows_of(tmp_path / "a.parquet", "parquet")
    assert good(items) == ROWS[:5] + ROWS[10:]
    assert [item.line for item in items if isinstance(item, Bad)] == [6]
    assert "the rows to 10 cannot be read" in bad(items)[0][1]


def test_of_a_table_only_the_columns_that_matter_are_read(tmp_path: Path) -> None:
    table = TABLE.append_column("heavy", pa.array(["x"] * 20))
    for path in (ipc(tmp_path / "a.arrow", table), tmp_path / "a.parquet"):
        pq.write_table(table, tmp_path / "a.parquet")
        file = {"path": str(path), "name": "a", "format": path.suffix[1:]}
        source = {"format": "auto", "text_unit": "file", "max_line_mb": 64}
        ((_, items),) = opened(file, source, {"text", "absent"})
        assert {tuple(item.fields) for item in items if isinstance(item, Raw)} == {("text",)}
        ((_, items),) = opened(file, source, {"absent"})  # all of them, so that the message can name them
        assert {tuple(item.fields) for item in items if isinstance(item, Raw)} == {("text", "n", "heavy")}


def test_values_of_tables_become_text_as_they_are_written(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array([None, "q", "q", "q"]),
            "completion": pa.array([1.5, float("nan"), None, 3.0]),
            "label": pa.array([True, False, None, True]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, _ = taken(tmp_path / "a.parquet", "parquet", columns={"label": "label"})
    assert [(row["prompt"], row["completion"], row["label"]) for row in rows] == [
        ("", "1.5", "true"), ("q", "", "false"), ("q", "", None), ("q", "3.0", "true")
    ]  # fmt: skip


# Archives


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def of_archive(path: Path, **changes: Any) -> list[tuple[str, int, str]]:
    """(name, line, text or reason) of all members."""
    found = []
    file = {"path": str(path), "name": "a.zip", "format": "zip", "start": 0, "end": None}
    for name, items in opened(file, settings("source", **changes)):
        found += [(name, item.line, item.fields["text"] if isinstance(item, Raw) else item.reason) for item in items]
    return found


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["p"]}), sink)
    return sink.getvalue()


def test_each_member_of_an_archive_is_a_file_of_its_own_in_the_order_of_names(tmp_path: Path) -> None:
    members = {
        "z.csv": b"text\nz\n",
        "deep/b.jsonl.gz": gzip.compress(b'{"text": "b"}\n'),
        "../../evil.txt": b"e",
        "a.tsv": b"text\na1\na2\n",
        "deep/p.parquet": parquet_bytes(),
        "deep/i.arrow.zst": zst(ipc(tmp_path / "i", pa.table({"text": ["i"]})).read_bytes()),
        "m.md": b"m",
        "j.json": b'[{"text": "j"}]',
        "h.html": b"<p>h",
        ".hidden.txt": b"no",
        "__MACOSX/._a.tsv": b"no",
    }
    assert of_archive(archive(tmp_path / "a.zip", members)) == [
        ("a.zip/../../evil.txt", 1, "e"),
        ("a.zip/a.tsv", 2, "a1"),
        ("a.zip/a.tsv", 3, "a2"),
        ("a.zip/deep/b.jsonl.gz", 1, "b"),
        ("a.zip/deep/i.arrow.zst", 1, "i"),
        ("a.zip/deep/p.parquet", 1, "p"),
        ("a.zip/h.html", 1, "<p>h"),
        ("a.zip/j.json", 1, "j"),
        ("a.zip/m.md", 1, "m"),
        ("a.zip/z.csv", 2, "z"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "i"]  # nothing is unpacked beside it


def test_a_set_format_counts_for_the_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"data.odd": b"text\nx\n"})
    assert of_archive(path, format="csv") == [("a.zip/data.odd", 2, "x")]


def test_a_bad_member_costs_itself(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a.csv": b"text\na\n", "b.doc": b"?", "c.zip": b"PK", "d.csv": b"text\nd\n"})
    found = of_archive(path)
    assert [(name, line) for name, line, _ in found] == [
        ("a.zip/a.csv", 2), ("a.zip/b.doc", 1), ("a.zip/c.zip", 1), ("a.zip/d.csv", 2)
    ]  # fmt: skip
    assert "the format of the member cannot be told" in found[1][2]
    assert "an archive in an archive" in found[2][2]


def test_an_encrypted_and_a_damaged_member_cost_themselves(tmp_path: Path) -> None:
    body = b"".join(b'{"text": "%d"}\n' % (number * 7919**3) for number in range(200_000))
    path = archive(tmp_path / "a.zip", {"a.jsonl": b'{"text": "a"}', "b.jsonl": body, "c.jsonl": b'{"text": "c"}'})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as read:
        second = read.getinfo("b.jsonl")
    data[second.header_offset + 30 + len("b.jsonl") + second.compress_size // 2] ^= 0xFF
    third = data.rindex(b"PK\x01\x02")
    data[third + 8] |= 1  # says of the last member that it is encrypted
    path.write_bytes(data)
    found = of_archive(path)
    assert found[0] == ("a.zip/a.jsonl", 1, "a")
    assert found[-1] == ("a.zip/c.jsonl", 1, "the member of the archive is encrypted: unpack it")
    texts = [text for name, _, text in found if name == "a.zip/b.jsonl"]
    assert len(texts) > 1000
    assert texts[:1000] == [str(number * 7919**3) for number in range(1000)]
    assert "cannot be read any further" in texts[-1]


def test_of_two_members_of_one_name_the_later_counts_as_for_unzip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("a.txt", "old")
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("a.txt", "new")
    assert of_archive(tmp_path / "a.zip") == [
        ("a.zip/a.txt", 1, "a later member of the archive has the same name, and takes its place"),
        ("a.zip/a.txt", 1, "new"),
    ]


def test_what_is_no_archive_is_one_bad_row(tmp_path: Path) -> None:
    (path := tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no")
    ((name, line, reason),) = of_archive(path)
    assert (name, line) == ("a.zip", 1)
    assert "cannot be read" in reason


def test_rows_of_an_archive_go_by_the_names_of_its_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"x/a.jsonl": b'{"text": "a"}\n{oops\n', "b.csv": b"text\nb\n"})
    rows, aside = taken(path, "zip")
    assert [(row["source"], row["line"], row["completion"]) for row in rows] == [
        ("a.zip/b.csv", 2, "b"), ("a.zip/x/a.jsonl", 1, "a")
    ]  # fmt: skip
    assert [(row["source"], row["line"], row["head"]) for row in aside] == [("a.zip/x/a.jsonl", 2, "{oops")]
    assert json.dumps(aside[0]["reason"]).startswith('"broken JSON')
