"""The pages in a real browser: nothing of the data runs, tables sort, and no width or colour breaks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

from runs import HOSTILE, rendered

pytest_plugins = ("browser",)
LONG = "x" * 100_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with hostile texts, a row of 100 kB without a space, and empty answers."""
    folder = tmp_path_factory.mktemp("report")
    text = f"{HOSTILE} \u05d0\u0644 "
    rendered(folder, text=text)
    errors = json.loads((folder / "errors.json").read_text())
    errors["rows"][3]["base"]["output"] = errors["rows"][3]["prompt"] = errors["rows"][3]["label"] = LONG
    errors["rows"][3]["nearest"]["completion"] = LONG
    errors["rows"][4]["reference"] = errors["rows"][4]["tuned"]["output"] = ""
    errors["slices"][0]["value"] = LONG[:2000]
    rendered(folder, text=text, errors=errors)
    return folder / "report.html"


def column(where: Page, table: str, place: int) -> list[str]:
    return where.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()


def test_hostile_text_does_nothing_in_the_browser(page: Page, faults: list[str], report: Path) -> None:
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.locator("#samples").inner_text().count("<script>alert(2)</script>") > 8
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.images.length") == 0
    assert faults == []


def test_the_policy_stops_what_would_slip_through(page: Page, faults: list[str], tmp_path: Path, report: Path) -> None:
    breach = "<script>document.title = 'broken'</script><b onclick='document.title = `broken`'>press</b></main>"
    html = report.read_text(encoding="utf-8").replace("</main>", breach)
    (tmp_path / "breach.html").write_text(html, encoding="utf-8")
    page.goto((tmp_path / "breach.html").as_uri())
    page.get_by_text("press", exact=True).click()
    assert page.title() != "broken"
    assert sum("Content Security Policy" in fault for fault in faults) == 2
    assert page.locator("table.live").count() > 0  # while our own script runs


def test_a_column_of_numbers_sorts_by_value_then_back_to_the_order_of_the_page(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    table = "#errors table.slices"
    assert column(page, table, 2) == ["4", "30", "5"]
    button = page.locator(f"{table} thead button").nth(1)
    heads = page.locator(f"{table} thead th")
    for state, rows in (("ascending", ["4", "5", "30"]), ("descending", ["30", "5", "4"]), (None, ["4", "30", "5"])):
        button.click()
        assert column(page, table, 2) == rows
        assert heads.nth(1).get_attribute("aria-sort") == state
    page.locator(f"{table} thead button").nth(2).click()
    assert [cell[:6] for cell in column(page, table, 3)] == ["400.0 "] * 3
    assert column(page, table, 2) == ["5", "4", "30"]  # by differences of -300, -50 and -7
    assert heads.nth(1).get_attribute("aria-sort") is None


def test_a_column_of_words_sorts_from_the_keyboard_with_its_numbers_in_order(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    page.locator("#errors table.slices thead button").first.focus()
    page.keyboard.press("Enter")
    first = [text.split("\n")[0] for text in column(page, "#errors table.slices", 1)]
    assert first[:2] == ["9 to 20 tokens", "100 tokens"]
    page.keyboard.press("Space")
    assert column(page, "#errors table.slices", 2) == ["4", "5", "30"]


def test_the_page_is_whole_without_its_script(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    bare = context.new_page()
    bare.goto(report.as_uri())
    assert bare.locator("thead button").count() == 0
    assert bare.locator("#errors table.slices thead th").first.inner_text() == "Part"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_page(
    page: Page, faults: list[str], report: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    assert (light(ink) > 0.8, light(paper) < 0.2) == (scheme == "dark",) * 2
    assert faults == []


def light(colour: str) -> float:
    """How light an rgb() colour is, 0 to 1."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 765
