"""A table is computed once for everything that decides it, and handed back to whoever asks again."""

import subprocess
import sys
from pathlib import Path

import pytest

from snaketune.reuse import reused
from snaketune.store import prune, trainings


def computed(folder: Path, content: str, calls: list[str], stage: str = "likelihood", **parts: object) -> str:
    """What a computation says that writes `content` and notes that it was called; the table is in folder/out."""
    text = folder / "texts"
    text.write_text("rows")

    def compute(path: str) -> str:
        calls.append(content)
        Path(path).write_text(content)
        return f"made {content}"

    out = str(folder / "out")
    return reused(stage, {"device": "cpu"} | parts, [str(text)], out, compute, run="r", store=folder / "store")


def test_an_equal_fingerprint_hands_the_table_back_and_says_so(tmp_path: Path) -> None:
    calls: list[str] = []
    assert computed(tmp_path, "one", calls) == "made one"
    (tmp_path / "out").unlink()
    assert computed(tmp_path, "two", calls) == "made one (from the store: computed before)"
    assert (tmp_path / "out").read_text() == "one"
    assert calls == ["one"]


@pytest.mark.parametrize("change", [{"device": "cuda"}, {"settings": {"window": 4}}, {"stage": "generate"}])
def test_whatever_decides_the_table_makes_another_one(tmp_path: Path, change: dict[str, object]) -> None:
    calls: list[str] = []
    computed(tmp_path, "one", calls)
    computed(tmp_path, "two", calls, **change)
    assert calls == ["one", "two"]
    assert (tmp_path / "out").read_text() == "two"


def test_other_texts_make_another_table(tmp_path: Path) -> None:
    calls: list[str] = []
    computed(tmp_path, "one", calls)

    def compute(path: str) -> str:
        Path(path).write_text("two")
        return "made two"

    (tmp_path / "texts").write_text("other rows")
    said = reused(
        "likelihood",
        {"device": "cpu"},
        [str(tmp_path / "texts")],
        str(tmp_path / "out"),
        compute,
        run="r",
        store=tmp_path / "store",
    )
    assert said == "made two"


def test_a_computation_that_fails_leaves_nothing_to_hand_back(tmp_path: Path) -> None:
    def fail(path: str) -> str:
        Path(path).write_text("half")
        raise RuntimeError("no memory")

    arguments = ("likelihood", {}, [], str(tmp_path / "out"))
    with pytest.raises(RuntimeError, match="no memory"):
        reused(*arguments, fail, run="r", store=tmp_path)
    assert not (tmp_path / "out").exists()

    def succeed(path: str) -> str:
        Path(path).write_text("whole")
        return "made"

    assert reused(*arguments, succeed, run="r", store=tmp_path) == "made"


def test_the_store_shows_tables_apart_and_prunes_them_like_trainings(tmp_path: Path) -> None:
    computed(tmp_path, "x" * 5000, [])
    (tmp_path / "store/abc/done").mkdir(parents=True)
    (tmp_path / "store/abc/done/model").write_text("x" * 9000)
    assert [entry.is_table for entry in trainings(tmp_path / "store")].count(True) == 1
    command = [sys.executable, "workflow/scripts/snaketune/store.py", "--store", str(tmp_path / "store"), "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout
    assert "1 training and 1 table" in said
    assert "likelihood-" in said
    gone = prune(tmp_path / "store", 0.000001)
    assert gone is not None
    assert gone.startswith("removed 1 table, ")
    assert [entry.folder.name for entry in trainings(tmp_path / "store")] == ["abc"], "the latest training stays"
