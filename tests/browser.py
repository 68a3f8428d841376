"""A real browser for tests of pages: Debian's chromium, or Chrome; tests are skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def executable() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(names)}")
    return found


class Watched:
    """A page, its errors, and what it asked of other hosts."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1", "http://localhost")):
            self.foreign.append(request.url)


@contextmanager
def browser() -> Iterator[Any]:
    """`open_page(width, scheme)` of a running browser."""
    path = executable()
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def open_page(width: int = 1280, scheme: str = "light") -> Watched:
            context = running.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            return Watched(context.new_page())

        try:
            yield open_page
        finally:
            running.close()
