"""Which raw files a shard takes: every file once, in the order of names, cut where a row can be told from a cut."""

from pathlib import Path
from typing import Any

import pytest

from builders import raw_config
from snaketune import config
from snaketune.config import ConfigError
from snaketune.shards import shards


def source(**changes: Any) -> dict[str, Any]:
    return config.load(raw_config(source={"files": ["*.txt"]} | changes))["tiny"]["source"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(7):
        (tmp_path / f"f{number}.txt").write_bytes(b"x" * 400_000)
    return tmp_path


def test_shards_hold_every_file_once_in_the_order_of_names_whatever_the_globs(here: Path) -> None:
    one = shards(source(files=["*.txt"]))
    other = shards(source(files=["f[4-6].txt", "f0.txt", "./f[0-5].txt"]))
    assert one == other
    assert [file["name"] for shard in one for file in shard] == [f"f{number}.txt" for number in range(7)]


def test_a_shard_is_no_larger_than_its_bound_unless_a_single_file_is(here: Path) -> None:
    (here / "big.txt").write_bytes(b"x" * 2_500_000)
    dealt = shards(source(shard_mb=1))
    assert [[file["name"] for file in shard] for shard in dealt] == [
        ["big.txt"], ["f0.txt", "f1.txt"], ["f2.txt", "f3.txt"], ["f4.txt", "f5.txt"], ["f6.txt"]
    ]  # fmt: skip


def test_a_large_file_is_cut_where_its_format_lets_a_row_be_told(here: Path) -> None:
    for name in ("a.jsonl", "b.parquet", "c.csv", "d.jsonl.gz", "e.txt"):
        (here / name).write_bytes(b"x" * 2_500_000)
    dealt = shards(source(files=["?.*"], shard_mb=1))
    pieces = [(file["name"], file["start"], file["end"]) for shard in dealt for file in shard]
    cut = [(0, 833_333), (833_333, 1_666_666), (1_666_666, 2_500_000)]
    assert pieces == [
        *(("a.jsonl", *piece) for piece in cut),
        *(("b.parquet", *piece) for piece in cut),
        ("c.csv", 0, None),
        ("d.jsonl.gz", 0, None),
        ("e.txt", 0, None),
    ]
    lines = shards(source(files="e.txt", text_unit="line", shard_mb=1))
    assert [(shard[0]["start"], shard[0]["end"]) for shard in lines] == cut


def test_a_folder_stands_for_the_files_in_it(here: Path) -> None:
    for name in ("data/b.txt", "data/deep/a.csv", "data/.hidden.txt", "data/.git/c.txt"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    (shard,) = shards(source(files="data"))
    assert [file["name"] for file in shard] == ["data/b.txt", "data/deep/a.csv"]


def test_an_archive_stays_one_whatever_the_format_in_it(here: Path) -> None:
    (here / "a.zip").touch()
    assert shards(source(files="a.zip", format="csv"))[0][0]["format"] == "zip"


def test_files_of_a_package_go_by_their_name_in_it() -> None:
    (shard,) = shards(source(package="aclsum", files="dataset/*.jsonl"))
    names = [file["name"] for file in shard]
    assert names
    assert all(name.startswith("aclsum:dataset/") for name in names)
    assert all(Path(file["path"]).is_file() and file["format"] == "jsonl" for file in shard)


def test_a_package_in_a_folder_with_brackets_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "env[1]" / "bracketed_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "a.csv").write_text("text\nx\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder.parent))
    assert [
        [file["name"] for file in shard] for shard in shards(source(package="bracketed_package", files="*.csv"))
    ] == [["bracketed_package:a.csv"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"package": "no_such_package_here"}, "`no_such_package_here`, which is not installed"),
        ({"package": "aclsum", "files": "nothing/*.csv"}, "finds no file in the package `aclsum`"),
        ({"files": ["*.txt", "*.csv"]}, "`*.csv` finds no file"),
        ({"files": "odd.xyz"}, "format of `odd.xyz` cannot be told"),
    ],
)
def test_raw_data_that_cannot_be_found_is_told_in_a_sentence(here: Path, changes: dict[str, Any], words: str) -> None:
    (here / "odd.xyz").touch()
    with pytest.raises(ConfigError) as caught:
        shards(source(**changes))
    assert words in str(caught.value)


def test_a_set_format_needs_no_telling_name(here: Path) -> None:
    (here / "odd.xyz").touch()
    assert shards(source(files="odd.xyz", format="csv"))[0][0]["format"] == "csv"
