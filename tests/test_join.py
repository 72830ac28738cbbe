"""Parts of a table put end to end."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from join import join
from snaketune import rows as tables
from snaketune.job import StageError
from snaketune.rows import write_table

SCHEMA = pa.schema([("row_id", pa.string()), ("n", pa.int64()), ("nll", pa.list_(pa.float32()))], {"windows": "{}"})


def table(ids, **more):
    lines = [{"row_id": row_id, "n": number, "nll": [0.5] * number} | more for number, row_id in enumerate(ids)]
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def written(folder, parts):
    paths = []
    for number, ids in enumerate(parts):
        paths.append(str(folder / f"parts/base-{number:05d}.parquet"))
        write_table(table(ids), paths[-1], SCHEMA)
    return paths


@pytest.mark.parametrize(
    "parts", [["abcdefg"], ["ab", "cde", "f", "g"], ["abcdef", "g", "", ""], ["", "abc", "", "defg"]]
)
def test_the_parts_make_the_bytes_that_the_whole_makes(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(tables, "BATCH_ROWS", 3)
    columns = [table(ids) for ids in parts]
    write_table(pa.concat_tables(columns), tmp_path / "whole.parquet", SCHEMA)
    said = join(written(tmp_path, parts), str(tmp_path / "base.parquet"))
    assert (tmp_path / "base.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert pq.read_schema(tmp_path / "base.parquet").metadata[b"windows"] == b"{}"
    assert said == f"base: 7 rows of {len(parts)} parts"


@pytest.mark.parametrize("parts", [["abd", "cef"], ["abc", "cd"], ["ab", "ab"], ["ab", "", "b"]])
def test_parts_of_different_splits_are_refused_and_leave_no_table(tmp_path, parts):
    with pytest.raises(StageError, match=r"base-0000\d.parquet does not go on where the part before it ends"):
        join(written(tmp_path, parts), str(tmp_path / "base.parquet"))
    assert not (tmp_path / "base.parquet").exists()


def test_the_parts_of_a_run_that_had_more_are_removed_and_no_others(tmp_path):
    paths = written(tmp_path, ["ab", "cd", "ef", "gh"])
    other = tmp_path / "parts/tuned-00003.parquet"
    write_table(table("gh"), other, SCHEMA)
    join(paths[:2], str(tmp_path / "base.parquet"))
    left = sorted(path.name for path in other.parent.iterdir())
    assert left == ["base-00000.parquet", "base-00001.parquet", "tuned-00003.parquet"]
