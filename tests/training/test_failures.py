"""Trainings whose disk, folder or data fails, or which get a signal. By the command line."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddetr.cli import main
from oddetr.training.safety.resume import find_state, steps_done
from tests.training.helpers import assert_same_weights
from tests.training.killing import command, ended, fill_disk, list_children, running, start, wait

TINY = [
    *("--epochs", "2", "--image-size", "64", "--batch-size", "2", "--trainer.accelerator", "cpu"),
    *("--detector.backbone", "test_efficientnet", "--detector.pretrained", "false", "--detector.width", "32"),
    *("--detector.heads", "4", "--detector.num-queries", "12"),
]


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["train", "--data", str(scenes), "--out", str(folder / "run"), *TINY]
    assert ended(start(command, words, folder / "log", 0, print)) == 0, (folder / "log").read_text()
    return folder / "run"


def failed(words: list[str], log: Path, save: int, then: Callable[..., Any], *arguments: Any) -> str:
    """What a command prints that ends in one clear error."""
    code = ended(start(command, ["train", *words], log, save, then, *arguments))
    printed = log.read_text()
    assert code == 1, printed
    assert "Traceback" not in printed
    assert printed.count("oddetr train: ") == 1
    return " ".join(printed[printed.index("oddetr train: ") :].split())


def resume(out: Path, log: Path, whole: Path, *more: str) -> None:
    """The command that was printed ends in the weights of the run to which nothing happened."""
    assert f"Go on after the last checkpoint: oddetr train --out {out} --resume" in log.read_text()
    words = ["train", "--out", str(out), "--resume", "--trainer.accelerator", "cpu", *more]
    assert ended(start(command, words, log, 0, print)) == 0, log.read_text()
    assert_same_weights(whole, out)


def test_a_full_disk_is_an_error_and_the_run_is_resumed_later(scenes: Path, tmp_path: Path, whole: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    error = failed(["--data", str(scenes), "--out", str(out), *TINY], log, 3, fill_disk, out)
    assert error.startswith(f"oddetr train: {out} cannot be written: No space left on device. ")
    assert find_state(out, pytest.fail) == out / "last" / "resume.ckpt"
    assert steps_done(out / "last" / "resume.ckpt") == 3
    assert not (out / "last.new").exists()
    resume(out, log, whole)


def test_a_folder_that_cannot_be_made_is_an_error_before_the_training(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", "--data", str(scenes), "--out", str(tmp_path / "file" / "run"), *TINY]) == 1
    words = f"oddetr train: {tmp_path}/file/run cannot be written: Not a directory. Give another folder"
    assert words in " ".join(capsys.readouterr().err.split())


def test_data_that_vanish_are_an_error_and_the_run_is_resumed_later(scenes: Path, tmp_path: Path, whole: Path) -> None:
    """In a loading process."""
    data, away, out, log = (tmp_path / name for name in ("data", "away", "run", "log"))
    shutil.copytree(scenes, data)
    words = ["--data", str(data), "--out", str(out), "--workers", "2", *TINY]
    error = failed(words, log, 1, data.rename, away)
    assert error.startswith(f"oddetr train: Cannot read the image {data}/")
    assert error.endswith(f": there is no {data}. Bring it back.")
    away.rename(data)
    resume(out, log, whole, "--workers", "2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_a_run_with_loading_processes_leaves_none_of_them(
    scenes: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """SIGINT, as a terminal sends it, to the whole process group: a checkpoint is saved. SIGKILL to the run alone."""
    out, log, saved = (tmp_path / name for name in ("run", "log", "children"))
    words = ["train", "--data", str(scenes), "--out", str(out), "--workers", "2", *TINY, "--epochs", "1000"]
    process = start(command, words, log, 6, list_children, saved)
    wait(saved.exists)
    children = [int(each) for each in saved.read_text().split()]
    assert len(children) >= 2
    if number == signal.SIGKILL:
        assert all(running(child) for child in children)
        process.kill()
        assert ended(process) == -signal.SIGKILL
    else:
        os.killpg(process.pid, number)
        assert ended(process) == 130, log.read_text()
        assert "Go on after this step: oddetr train --out" in log.read_text()
        assert "Traceback" not in log.read_text()
    wait(lambda: not any(running(child) for child in children))
    assert steps_done(find_state(out, print)) >= 6
