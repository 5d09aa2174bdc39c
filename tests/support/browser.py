"""The system's Chromium, driven by Playwright: a page with all that it logged and asked for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Tab:
    """One open page.

    Attributes:
        page: Playwright's page.
        complaints: Errors and warnings of the console, and what scripts threw.
        requests: Every address that was asked for.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> Tab:
        """Starts noting."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        return self

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A running Chromium with a profile of its own, which is gone afterwards."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with api.sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=list(ARGUMENTS)
        )
        yield running
        running.close()


def opened(running: Any, address: str, width: int, height: int, scheme: str = "light") -> Tab:
    """A page in a window of that size, loaded."""
    context = running.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = Tab(context.new_page()).watch()
    tab.page.goto(address)
    return tab
