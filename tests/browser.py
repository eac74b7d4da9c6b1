"""Pages in a real browser, Chromium, driven by playwright: what they do, what they say, what they ask for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]


@contextmanager
def chromium() -> Iterator["Browser"]:
    """The browser of the machine; the test is skipped where there is none.

    For a fixture of a module, and no more: while it runs, nothing else in the process can have a loop of asyncio.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"there is no browser on the PATH ({', '.join(NAMES)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """An open page.

    Attributes:
        page: playwright's.
        complaints: errors and warnings of its console, and errors that nothing caught.
        requests: every address that it asked for, without data URIs.
    """

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextmanager
def opened(
    browser: "Browser", address: Path | str, width: int = 1280, height: int = 900, **context: Any
) -> Iterator[Opened]:
    """A file, or an address of http, in a window of its own; more as playwright's ``new_context`` takes it, such as
    ``color_scheme="dark"``."""
    window = browser.new_context(viewport={"width": width, "height": height}, **context)
    try:
        found = Opened(window.new_page())
        found.page.on(
            "console", lambda said: found.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on(
            "request", lambda asked: None if asked.url.startswith("data:") else found.requests.append(asked.url)
        )
        found.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address)
        yield found
    finally:
        window.close()
