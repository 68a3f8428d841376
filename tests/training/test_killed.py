"""One of two processes fails: the other does not wait for it, and what was saved is there to go on from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from oddetr.checkpoints.checkpoint import load_checkpoint
from tests.training.helpers import assert_same_weights
from tests.training.killing import running, wait
from tests.training.several import write_data

LIMIT = 600
"""Seconds after which a command hangs. (Imports take most of them, where others use the machine.)"""
LIGHTNING = [sys.executable, "-m"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
LAUNCHERS = {"lightning": LIGHTNING, "torchrun": TORCHRUN}
SETTINGS = os.environ | {"OMP_NUM_THREADS": "1"}


def arguments(data: Path, out: Path, launcher: list[str] = TORCHRUN) -> list[str]:
    """Of a run of 12 steps by two processes; torchrun needs no flag for these."""
    words = ["--data", data, "--out", out, "--epochs", 3, "--image-size", 64, "--batch-size", 2, "--workers", 1]
    words += ["--detector.backbone", "test_efficientnet", "--detector.pretrained", "false", "--detector.width", 64]
    words += ["--detector.num-queries", 12, "--optimizer.learning-rate", 1e-3, "--trainer.accelerator", "cpu"]
    words += ["--trainer.devices", 2] if launcher == LIGHTNING else []
    return ["train", *map(str, words)]


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=SETTINGS, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("killed")) / "learning"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens."""
    whole = tmp_path_factory.mktemp("whole") / "run"
    done = started([*LIGHTNING, "oddetr.cli", *arguments(data, whole, LIGHTNING)])
    assert done.returncode == 0, done.stderr

    return whole


def fails(launcher: list[str], rank: int, what: str, message: str, data: Path, folder: Path) -> None:
    """Run two processes, one of which fails: both end, with an error, and leave the checkpoint of the first epoch."""
    words = arguments(data, folder / "run", launcher)
    failed = started([*launcher, "tests.training.doomed", str(rank), what, str(folder), *words])
    assert (folder / "happened").exists(), failed.stderr
    assert failed.returncode != 0
    assert message in failed.stderr, failed.stderr
    processes = [int((folder / f"process{each}").read_text()) for each in range(2)]
    wait(lambda: not any(running(process) for process in processes))
    assert torch.load(folder / "run" / "last" / "resume.ckpt", weights_only=True)["global_step"] == 4
    load_checkpoint(folder / "run" / "last", "student")


def test_the_other_process_ends_when_one_is_killed_and_a_checkpoint_is_left(data: Path, tmp_path: Path) -> None:
    fails(LIGHTNING, 1, "killed", "", data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "rank", "what", "message"),
    [
        ("lightning", 0, "failed", "the disk has failed"),
        ("lightning", 1, "failed", "the disk has failed"),
        ("torchrun", 0, "killed", ""),
    ],
)
def test_a_run_resumes_after_one_of_two_processes_failed(
    launcher: str, rank: int, what: str, message: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    command = LAUNCHERS[launcher]
    fails(command, rank, what, message, data, tmp_path)
    done = started([*command, "oddetr.cli", *arguments(data, tmp_path / "run", command), "--resume"])
    assert done.returncode == 0, done.stderr
    assert_same_weights(whole, tmp_path / "run")


@pytest.mark.slow
def test_two_nodes_train_what_two_processes_of_one_do(data: Path, whole: Path, tmp_path: Path) -> None:
    """Two agents of torchrun, with a process each; the first node writes and prints."""
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", "29517"]
    nodes = [
        subprocess.Popen(
            [*TORCHRUN[:3], *meet, "--node-rank", node, "-m", "oddetr.cli", *arguments(data, tmp_path / "run")],
            env=SETTINGS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in ("0", "1")
    ]  # fmt: skip
    try:
        printed = [node.communicate(timeout=LIMIT)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert ["best teacher AP" in text for text in printed] == [True, False]
    assert_same_weights(whole, tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_on_two_processes_saves_and_prints_how_to_resume(data: Path, tmp_path: Path) -> None:
    """As a terminal does it: to the whole process group."""
    words = [*arguments(data, tmp_path / "run", LIGHTNING), "--epochs", "1000", "--validate-every", "1000"]
    printed = ""
    with subprocess.Popen(
        [*LIGHTNING, "oddetr.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            printed += line
            if line.startswith("epoch 2/"):
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130, printed
    assert "Go on after this step: oddetr train --out" in printed
    assert "Traceback" not in printed
    assert torch.load(tmp_path / "run" / "last" / "resume.ckpt", weights_only=True)["global_step"] % 4 == 0
