"""A hook of mkdocs: pages that are made from what says it already, so that no fact stands in two places.

The first page is the README, the history and the way to contribute are the files at the top of the repository, and the
command line is what the parsers say of themselves.
"""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from rich.console import Console

from oddetr.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
FROM_ROOT = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "CITATION.cff": "CITATION.cff",
}
"""Pages of the site, and the files that they are."""
WIDTH = "80"
"""Columns of the help texts, which a page 1280 px wide shows without scrolling."""
COMMAND_LINE = """\
# Command line

This page lists every command with all of its options, as `oddetr VERB --help` prints them.
Exit codes: 0 done; 1 failed, not reproduced (`replay`), or data with errors (`check`); 2 a wrong command.
"""


def from_root(name: str) -> str:
    """A file at the top of the repository, with its links as they are from `docs/`."""
    text = (ROOT / name).read_text()
    for page, file in FROM_ROOT.items():
        text = text.replace(f"]({file})", f"]({page})")
    return text.replace("](docs/", "](").replace('src="docs/', 'src="')


def help_of(verb: str) -> str:
    """What `oddetr VERB --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        VERBS[verb](["--help"], Console(file=printed))
    # jsonargparse glues `[=flags]` to its option by a backspace, which only a terminal understands.
    return printed.getvalue().replace(" \b", "").strip()


def command_line() -> str:
    """The reference of the command line: a section and a block of text for each verb."""
    os.environ["COLUMNS"] = WIDTH
    sections = [f"## {verb}\n\n{VERBS[verb].__doc__}\n\n```text\n{help_of(verb)}\n```\n" for verb in VERBS]
    return "\n".join([COMMAND_LINE, *sections])


def on_files(files: Files, config: Any) -> Files:
    """Add the pages to the site."""
    pages = {page: from_root(name) for page, name in FROM_ROOT.items()} | {"command-line.md": command_line()}
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files
