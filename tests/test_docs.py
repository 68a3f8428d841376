"""The documentation builds without a warning, needs no network to be read, and agrees with the README."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""What a browser fetches by itself: tags, and the attribute that says where from."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    needed = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
    if needed:
        pytest.skip(f"the documentation's tools are not there ({', '.join(needed)}): pip install 'oddetr[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """Collects the addresses that a page makes a browser fetch."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADED and given.get("rel") != "canonical":
            self.addresses.append(given.get(LOADED[tag]) or "")


@pytest.mark.slow
def test_site_when_built_then_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    foreign = [
        (page.name, address)
        for page in pages
        for address in Fetched(page).addresses
        if re.match(r"(https?:)?//", address)
    ]
    assert foreign == []
    styles = [
        style for style in site.rglob("*.css") if re.search(r"(@import|url\()[\s\"']*(https?:)?//", style.read_text())
    ]
    assert styles == []


def rows(file: Path) -> dict[str, str]:
    """The rows of a page's tables, by their first cell that says something."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return {line.split(" | ")[0].strip("| "): line for line in lines if line.split(" | ")[0].strip("| ")}


def test_tables_when_in_readme_and_first_page_then_say_the_same() -> None:
    here, there = rows(ROOT / "README.md"), rows(ROOT / "docs" / "index.md")
    assert {name: here[name] for name in here.keys() & there.keys()} == {
        name: there[name] for name in here.keys() & there.keys()
    }
