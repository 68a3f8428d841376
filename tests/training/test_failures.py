"""What happens around a training that is the fault of none of it: disks, folders, signals. By the command line."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from oddetr.training.safety.resume import find_state, steps_done
from tests.training.killing import command, ended, fill_disk, forbid_writing, running, start, tell_children

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


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A run's folder, which may be written to again when the test is over."""
    yield tmp_path / "run"
    for path in [tmp_path, *tmp_path.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


def failed(words: list[str], log: Path, save: int, then: Callable[..., None], *arguments: Any) -> str:
    """What a command says that ends in one clear error."""
    code = ended(start(command, ["train", *words], log, save, then, *arguments))
    told = log.read_text()
    assert code == 1, told
    assert "Traceback" not in told
    assert told.count("oddetr train: ") == 1
    return " ".join(told[told.index("oddetr train: ") :].split())


def go_on(out: Path, log: Path, whole: Path, *more: str) -> None:
    """The command that was printed ends in the weights of the run to which nothing happened."""
    assert f"Go on after the last checkpoint: oddetr train --out {out} --resume" in log.read_text()
    words = ["train", "--out", str(out), "--resume", "--trainer.accelerator", "cpu", *more]
    assert ended(start(command, words, log, 0, print)) == 0, log.read_text()
    for file in ("student.safetensors", "model.safetensors"):
        expected, found = load_file(whole / "last" / file), load_file(out / "last" / file)
        assert all(value.equal(found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (fill_disk, "cannot be written: No space left on device. "),
        (
            forbid_writing,
            "cannot be written: Permission denied. Give another folder, or allow this user to write ",
        ),
    ],
)
def test_train_when_the_disk_is_full_or_read_only_then_says_so_and_goes_on_later(
    scenes: Path, out: Path, whole: Path, then: Callable[[Path], None], words: str
) -> None:
    log = out.with_name("log")
    told = failed(["--data", str(scenes), "--out", str(out), *TINY], log, 3, then, out)
    assert told.startswith(f"oddetr train: {out} {words}")
    for path in (out, *out.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    assert find_state(out, pytest.fail) == out / "last" / "resume.ckpt"
    assert steps_done(out / "last" / "resume.ckpt") == 3
    assert not (out / "last.new").exists()
    go_on(out, log, whole)


@pytest.mark.parametrize("checkpoints", [1.4, 1.85], ids=["the second state", "the second weights"])
def test_train_when_a_small_disk_is_full_then_says_so_and_goes_on_later(
    scenes: Path, out: Path, whole: Path, checkpoints: float
) -> None:
    """A real one, where it may be mounted. A state is two thirds of a checkpoint, and is written before the weights."""
    out.mkdir()
    size = int(checkpoints * sum(file.stat().st_size for file in (whole / "last").iterdir()))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(out)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        log = out.with_name("log")
        told = failed(["--data", str(scenes), "--out", str(out), *TINY], log, 0, print)
        assert told.startswith(f"oddetr train: {out} cannot be written: No space left on device. ")
        assert "MB are free there. Make room on that disk." in told
        state = find_state(out, pytest.fail)
        assert state == out / "last" / "resume.ckpt"
        assert not (out / "last.new").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        go_on(out, log, whole)
    finally:
        subprocess.run(["umount", "--lazy", str(out)], check=True)


def test_train_when_the_folder_cannot_be_made_then_says_so_before_training(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = failed(["--data", str(scenes), "--out", str(tmp_path / "file" / "run"), *TINY], tmp_path / "log", 0, print)
    assert told.startswith(f"oddetr train: {tmp_path}/file/run cannot be written: Not a directory. Give another folder")


def test_train_when_its_folder_is_removed_meanwhile_then_says_so(scenes: Path, out: Path) -> None:
    told = failed(["--data", str(scenes), "--out", str(out), *TINY], out.with_name("log"), 3, shutil.rmtree, out)
    assert told == (
        f"oddetr train: {out} cannot be written: No such file or directory. The folder is gone: it was removed, or its "
        "disk was taken away."
    )
    assert not out.exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_train_when_its_data_vanish_then_says_so_and_goes_on_later(
    scenes: Path, out: Path, whole: Path, workers: str
) -> None:
    data, away, log = out.with_name("data"), out.with_name("away"), out.with_name("log")
    shutil.copytree(scenes, data)
    words = ["--data", str(data), "--out", str(out), "--workers", workers, *TINY]
    told = failed(words, log, 1, data.rename, away)
    assert told.startswith(f"oddetr train: Cannot read the image {data}/")
    assert told.endswith(f": there is no {data}. Bring it back.")
    away.rename(data)
    go_on(out, log, whole, "--workers", workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_loading_processes_too_saves_and_says_how_to_resume(
    scenes: Path, out: Path, number: signal.Signals
) -> None:
    """As a terminal or a batch system does it: to the whole process group."""
    log = out.with_name("log")
    words = ["train", "--data", str(scenes), "--out", str(out), "--workers", "2", *TINY, "--epochs", "1000"]
    saved = out.with_name("children")
    process = start(command, words, log, 6, tell_children, saved)
    _wait(saved.exists)
    os.killpg(process.pid, number)
    assert ended(process) == 130, log.read_text()
    told = log.read_text()
    assert "Go on after this step: oddetr train --out" in told
    assert "Traceback" not in told
    assert steps_done(out / "last" / "resume.ckpt") >= 6


def test_train_when_killed_then_leaves_no_loading_process_behind(scenes: Path, out: Path) -> None:
    told = out.with_name("children")
    words = ["train", "--data", str(scenes), "--out", str(out), "--workers", "2", *TINY, "--epochs", "1000"]
    process = start(command, words, out.with_name("log"), 6, tell_children, told)
    _wait(told.exists)
    children = [int(number) for number in told.read_text().split()]
    assert len(children) >= 2
    assert all(running(child) for child in children)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    _wait(lambda: not any(running(child) for child in children))


def _wait(until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.05)
