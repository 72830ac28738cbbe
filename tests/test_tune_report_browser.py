"""The page of a search in a real browser: nothing of the data runs, the table sorts, no width or colour breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from search_pages import hostile, made, many, trial

pytest_plugins = ("browser",)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A page of many trials in nine dimensions, one of hostile texts, one of a single trial."""
    folder = tmp_path_factory.mktemp("search")
    made(folder / "many", *many(60, 9))
    hostile(folder / "hostile")
    made(folder / "one", [trial(0, 2.5)])
    return [folder / name / "p.html" for name in ("many", "hostile", "one")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page_and_nothing_runs(
    page: Page, faults: list[str], pages: list[Path], width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for path in pages:
        page.goto(path.as_uri())
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.parent.name
        assert page.evaluate("document.scripts.length") == 1
    assert faults == []


def test_the_table_of_trials_sorts_by_loss_and_leaves_trials_without_one_last(page: Page, pages: list[Path]) -> None:
    page.goto(pages[0].as_uri())
    losses = lambda: page.locator("table.trials tbody tr > :nth-child(3)").all_inner_texts()  # noqa: E731
    button = page.locator("table.trials thead button").nth(2)
    button.click()
    button.click()
    shown = losses()
    known = [float(loss) for loss in shown if loss != "–"]
    assert known == sorted(known, reverse=True)
    assert shown[-3:] == ["–"] * 3
