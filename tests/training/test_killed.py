"""One of two processes fails: the other does not wait for it, and the run can be resumed from the last checkpoint."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from oddetr.checkpoints.checkpoint import load_checkpoint
from tests.training.several import write_data

pytestmark = pytest.mark.slow

LIMIT = 600
"""Seconds after which a command hangs. (Imports take most of them, where others use the machine.)"""
LIGHTNING = [sys.executable, "-m"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
LAUNCHERS = {"lightning": LIGHTNING, "torchrun": TORCHRUN}
EPOCHS = 3


def arguments(data: Path, out: Path) -> list[str]:
    """Of a run of 12 steps."""
    words = ["--data", data, "--out", out, "--epochs", EPOCHS, "--image-size", 64, "--batch-size", 2, "--workers", 1]
    words += ["--detector.backbone", "test_efficientnet", "--detector.pretrained", "false", "--detector.width", 64]
    words += ["--detector.num-queries", 12, "--optimizer.learning-rate", 1e-3, "--trainer.accelerator", "cpu"]
    return ["train", *map(str, words)]


def started(launcher: list[str], module: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs two processes; `torchrun` needs no flag for that."""
    two = ["--trainer.devices", "2"] if launcher == LIGHTNING else []
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, module, *words, *two]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=settings, check=False)


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{process}/stat").exists() and " Z " in Path(f"/proc/{process}/stat").read_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("killed")) / "learning"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run to which nothing happens."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = started(LIGHTNING, "oddetr.cli", arguments(data, out))
    assert done.returncode == 0, done.stderr
    return out


CASES = [
    ("lightning", 0, "training", ""),
    ("lightning", 1, "validation", ""),
    ("lightning", 1, "nan", "images with the ids"),
    ("lightning", 1, "image", "Cannot read the image"),
    ("torchrun", 0, "validation", ""),
]


def fails(launcher: list[str], rank: int, what: str, told: str, data: Path, folder: Path) -> None:
    """It ends with an error, and leaves no process, and the checkpoint of the first epoch."""
    words = arguments(data, folder / "run")
    failed = started(launcher, "tests.training.doomed", [str(rank), what, str(folder), *words])
    assert (folder / "happened").exists(), failed.stderr
    print(f"{what} on process {rank}: over after {time.time() - (folder / 'happened').stat().st_mtime:.1f} s")
    assert failed.returncode != 0
    assert told in failed.stderr, failed.stderr
    processes = [int((folder / f"process{each}").read_text()) for each in range(2)]
    deadline = time.monotonic() + 60
    while not all(ended(process) for process in processes):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.2)
    assert torch.load(folder / "run" / "last" / "resume.ckpt", weights_only=True)["global_step"] == 4
    load_checkpoint(folder / "run" / "last", "student")


@pytest.mark.parametrize(("launcher", "rank", "what", "told"), CASES)
def test_all_processes_end_when_one_fails_and_a_checkpoint_is_left(
    launcher: str, rank: int, what: str, told: str, data: Path, tmp_path: Path
) -> None:
    fails(LAUNCHERS[launcher], rank, what, told, shutil.copytree(data, tmp_path / "data"), tmp_path)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_resumes_after_one_of_two_processes_was_killed(
    launcher: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    fails(LAUNCHERS[launcher], 1, "training", "", data, tmp_path)
    done = started(LAUNCHERS[launcher], "oddetr.cli", [*arguments(data, tmp_path / "run"), "--resume"])
    assert done.returncode == 0, done.stderr
    for file in ("student.safetensors", "model.safetensors"):
        expected, found = (load_file(out / "last" / file) for out in (whole, tmp_path / "run"))
        assert all(value.equal(found[name]) for name, value in expected.items()), file


def test_ctrl_c_on_two_processes_saves_and_says_how_to_resume(data: Path, tmp_path: Path) -> None:
    """As a terminal does it: to the whole process group."""
    words = [*arguments(data, tmp_path / "run"), "--trainer.devices", "2"]
    command = [*LIGHTNING, "oddetr.cli", *words, "--epochs", "1000", "--validate-every", "1000"]
    told = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            told += line
            if line.startswith("epoch 2/"):
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130, told
    assert "Go on after this step: oddetr train --out" in told
    assert "Traceback" not in told
    assert torch.load(tmp_path / "run" / "last" / "resume.ckpt", weights_only=True)["global_step"] % 4 == 0
