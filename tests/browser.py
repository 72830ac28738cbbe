"""A real browser for the tests of the pages: Chromium through Playwright.

A test file that uses the fixtures says `pytest_plugins = ("browser",)`.
"""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The first Chromium of the machine. Where there is none, the test is skipped with that reason."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses to run as root
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=as_root)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page with storage of its own, 1280 by 800, in light colours."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def faults(page: Page) -> list[str]:
    """What the page does that no page of ours may do, in words, as it happens: the list stays empty for a good one.

    Dialogs, errors and warnings of the console, and requests for anything but local files and blobs.
    """
    faults: list[str] = []

    def dialog(opened: Dialog) -> None:
        faults.append(f"dialog: {opened.message}")
        opened.dismiss()

    def request(sent: Request) -> None:
        if not sent.url.startswith(("file:", "blob:", "data:", "about:")):
            faults.append(f"request: {sent.url}")

    def console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            faults.append(f"console: {message.text}")

    def error(raised: Error) -> None:
        faults.append(f"error: {raised}")

    page.on("dialog", dialog)
    page.on("request", request)
    page.on("console", console)
    page.on("pageerror", error)
    return faults
    return faults
