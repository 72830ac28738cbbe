"""The leaderboard in a real browser: it sorts, and no width or colour breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from runs import HOSTILE, metric
from test_leaderboard import built, files_of, write_metrics
from test_leaderboard_best import scored

pytest_plugins = ("browser",)


def cost(files: dict[str, str], seconds: float, config: dict[str, object]) -> dict[str, str]:
    folder = Path(files["metrics"]).parent
    (folder / "train").mkdir()
    line = {"step": 1, "seconds": seconds, "tokens_per_second": 7300.5, "memory_mb": 2541.9}
    (folder / "train/speed.jsonl").write_text(json.dumps(line) + "\n")
    facts = {"parameters": 4_863_488, "trainable_parameters": 4_863_488, "tokens_per_step": 2517.7, "steps": 188}
    (folder / "train/summary.json").write_text(json.dumps(facts | {"device": "cpu"}))
    (folder / "manifest.json").write_text(json.dumps({"config": config}))
    return files_of(files["metrics"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all there is: comparisons, costs, folded differences, seeds, folds, long and hostile texts."""
    folder = tmp_path_factory.mktemp("board")
    long = "a-very-long-name-of-a-run-" * 4
    runs = []
    for place, name in enumerate(["main", "lora", "main-seed-1", "main-seed-2", long, "late"]):
        bits = [1 + place / 10 + row / 50 * (-1) ** (place + row) for row in range(6)]
        settings = {"train": {f"{HOSTILE}{n}": "v" * 200 * (place % 2) for n in range(9)}, "seed": place}
        seconds = 99_000.0 if name == "lora" else 60 * 3.0 ** (5 - place)
        runs.append(cost(scored(folder, name, bits, [0.5 - place / 20] * 6), seconds, settings))
    for fold in range(3):
        own = metric(0.1, 0.4, 0.1, True)
        files = write_metrics(folder, f"main-fold-{fold}", 1.5 + fold, f"fold{fold}", **{HOSTILE: own})
        runs.append(files_of(files))
    resigned = json.loads(Path(runs[1]["metrics"]).read_text())
    resigned["signatures"]["bleu"] = HOSTILE + "y" * 300
    Path(runs[1]["metrics"]).write_text(json.dumps(resigned))
    built(folder, runs)
    return folder / "l.html"


def test_the_leaderboard_sorts_and_leaves_a_missing_number_last(page: Page, faults: list[str], tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 1.5), ("b", 10.5), ("c", 9.5))]
    document = json.loads(Path(files[1]).read_text())
    document["metrics"]["bleu"] |= {"tuned": None, "tuned_ci95": None}
    Path(files[1]).write_text(json.dumps(document))
    built(tmp_path, [files_of(path) for path in files])
    page.goto((tmp_path / "l.html").as_uri())
    table = page.locator("table.scores")
    runs = lambda: [text.strip() for text in table.locator("tbody th").all_inner_texts()]  # noqa: E731
    assert runs() == ["a", "c", "b"]
    for expected in (["a", "c", "b"], ["b", "c", "a"]):
        table.get_by_role("button", name="Bits per byte").click()
        assert runs() == expected
    for _ in range(2):
        table.get_by_role("button", name="BLEU").click()
        assert runs()[-1] == "b"
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_leaderboard_is_not_wider_than_the_page(
    page: Page, faults: list[str], many: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(many.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg").bounding_box()["width"] > 0.6 * min(width, 700)  # type: ignore[index]
    # Beside the names, which stay where they are, there is room for numbers.
    heads = page.locator("table.lead tbody th").evaluate_all("all => all.map(one => one.offsetWidth)")
    assert max(heads) < 0.6 * width
    inks = page.locator("figure svg circle").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert len(set(inks)) == 2
    assert faults == []


def test_no_name_leaves_the_drawing_or_covers_another(page: Page, many: Path) -> None:
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(many.as_uri())
        boxes = page.locator("figure svg text.name, figure svg text.second").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).filter(box => box.width > 0)"
            ".map(box => [box.left, box.top, box.right, box.bottom])"
        )
        assert len(boxes) > 3
        assert all(left >= 0 and right <= width for left, _, right, _ in boxes)
        for at, one in enumerate(boxes):
            for other in boxes[at + 1 :]:
                apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] + 2 or other[3] <= one[1] + 2
                assert apart, (one, other)
