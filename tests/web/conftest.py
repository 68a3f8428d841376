"""The demo's page, served by a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import executable
from tests.web.asking import WATCHED, Served, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def served(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page that accepts files of at most 1 MB, with threshold 0; in the end, Ctrl-C must stop it cleanly."""
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'oddetr[demo]'")
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    log, go_on = folder / "log.txt", folder / "go_on"
    words = [log, go_on, trained, "--port", port, "--max-mb", "1", "--threshold", "0"]
    command = [sys.executable, "-c", WATCHED, *map(str, words)]
    (folder / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "HTTP_PROXY": "http://203.0.113.7:3128"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C ends it.\n"
            yield Served(f"http://127.0.0.1:{port}/", log, go_on, process.pid)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "The demo has ended.\n")
    assert list((folder / "tmp").glob("oddetr-demo-*")) == []


@pytest.fixture
def browser() -> Iterator["Browser"]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")
    found = executable()
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
