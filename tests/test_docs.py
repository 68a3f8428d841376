"""The documentation builds without a warning, and needs no network to be read."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from oddetr.cli import VERBS
from tests.helpers import load_script

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


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """The hook that makes pages."""
    pytest.importorskip("mkdocs")
    return load_script(ROOT / "docs" / "generated.py")


def test_pages_from_the_root_when_made_then_link_to_files_of_the_site(generated: ModuleType) -> None:
    made = {*generated.FROM_ROOT, "command-line.md"}
    for name in generated.FROM_ROOT.values():
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", generated.from_root(name))
        assert [each for each in targets if each not in made and not (ROOT / "docs" / each).is_file()] == []


def test_command_line_when_made_then_lists_every_verb_with_its_options(generated: ModuleType) -> None:
    page = generated.command_line()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [*VERBS]
    assert all(option in page for option in ("--hours HOURS", "--mend MEND", "--print-config"))


def test_changelog_and_citation_name_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
