"""The drawing of the loss, and what is said of it in words."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from curves import draw
from runs import history
from snaketune.pages.history import read_history, verdict


def test_the_curves_are_well_formed_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    history(tmp_path / "history.jsonl", [4.0, 3.7, 3.9])
    words = [draw(str(tmp_path / "history.jsonl"), str(tmp_path / f"{i}.svg")) for i in range(2)]
    first, second = ((tmp_path / f"{i}.svg").read_bytes() for i in range(2))
    assert first == second
    root = ET.fromstring(first)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}desc") == words[0]
    assert len(root.findall(f"{space}path")) == 3
    assert "best 3.700 at step 20" in [node.text for node in root.findall(f"{space}text")]


def test_ten_thousand_steps_stay_a_small_drawing(tmp_path: Path) -> None:
    history(tmp_path / "history.jsonl", [4.0, 3.7, 3.9], per=10_000)
    draw(str(tmp_path / "history.jsonl"), str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").stat().st_size < 20_000


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ([4.0, 3.7, 3.5, 3.3], "still learning"),
        ([4.0, 3.7, 3.5, 3.499], "levelled off"),
        ([4.0, 3.5, 3.6, 3.9], "began to overfit"),
        ([4.0, 3.5, 3.51, 3.51], "stood still"),
        ([3.5, 3.9, 4.2], "made the model worse"),
        ([3.5, math.nan], "diverged"),
        ([3.5], "one point shows no course"),
        ([], "No validation loss"),
    ],
)
def test_the_curves_are_read_in_words(tmp_path: Path, validation: list[float], words: str) -> None:
    history(tmp_path / "history.jsonl", validation)
    assert words in verdict(read_history(tmp_path / "history.jsonl"))
    draw(str(tmp_path / "history.jsonl"), str(tmp_path / "curves.svg"))
    ET.fromstring((tmp_path / "curves.svg").read_bytes())
