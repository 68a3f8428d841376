"""The demo's page, served by a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.web.asking import Served


@pytest.fixture(scope="session")
def served(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Served]":
    """A page that accepts files of at most 1 MB, with threshold 0; in the end, Ctrl-C must stop it cleanly."""
    pytest.importorskip("gradio", reason="the demo needs gradio: pip install 'oddetr[demo]'")
    from tests.web.asking import WATCHED, Served

    folder = tmp_path_factory.mktemp("demo")
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port = trial.getsockname()[1]
    words = [folder / "foreign", trained, "--port", port, "--max-mb", "1", "--threshold", "0"]
    (folder / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "HTTP_PROXY": "http://203.0.113.7:3128"}
    command = [sys.executable, "-c", WATCHED, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C ends it.\n"
            yield Served(f"http://127.0.0.1:{port}/", folder / "foreign")
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "The demo has ended.\n")
    assert list((folder / "tmp").glob("oddetr-demo-*")) == []
