"""Two nodes, each a network namespace of its own, that only a pair of virtual network cards connects."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from oddetr import cli
from tests.training.several import write_beginning, write_data

LIMIT = 600
"""Seconds after which a command hangs."""
ADDRESSES = ("10.213.77.1", "10.213.77.2")
CARDS = ("oddetr-v0", "oddetr-v1")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Names of two namespaces."""
    if not shutil.which("ip"):
        pytest.skip("there is no program `ip` (iproute2) to make network namespaces with")
    names = (f"oddetr-a-{os.getpid()}", f"oddetr-b-{os.getpid()}")
    made: list[str] = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("-n", names[0], "link", "add", CARDS[0], "type", "veth", "peer", "name", CARDS[1], "netns", names[1])
        for name, card, address in zip(names, CARDS, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            for each in (card, "lo"):
                ip("-n", name, "link", "set", each, "up")
    except OSError as error:
        for name in made:
            ip("netns", "delete", name)
        pytest.skip(f"no network namespaces here: {error}")
    yield names
    for name in names:
        ip("netns", "delete", name)


def arguments(data: Path, out: Path, batch_size: int) -> list[str]:
    """Of a run that does not depend on how its images are shared out."""
    words = ["--data", data, "--out", out, "--init", data / "beginning", "--epochs", 2, "--image-size", 96]
    words += ["--batch-size", batch_size, "--workers", 0, "--augment.min-scale", 1, "--augment.crop", "false"]
    words += ["--optimizer.learning-rate", 3e-5, "--distillation.prediction.weight", 0, "--trainer.accelerator", "cpu"]
    return ["train", *map(str, words)]


def agent(node: int, words: list[str]) -> list[str]:
    """The command that starts the one process of a node."""
    meet = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1"]
    meet += ["--master-addr", ADDRESSES[0], "--master-port", "29517"]
    return [sys.executable, "-m", "torch.distributed.run", *meet, "-m", "oddetr.cli", *words]


@pytest.mark.slow
def test_run_when_two_nodes_share_the_images_then_weights_are_those_of_one_process(
    nodes: tuple[str, str], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data")
    write_beginning(data / "beginning")
    words = arguments(data, tmp_path / "two", batch_size=2)
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *agent(node, words)],
            env=os.environ | {"GLOO_SOCKET_IFNAME": CARDS[node], "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node, name in enumerate(nodes)
    ]
    try:
        told = [process.communicate(timeout=LIMIT)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], told
    assert "best teacher AP" in told[0]
    assert "best teacher AP" not in told[1]

    assert cli.main(arguments(data, tmp_path / "one", batch_size=4)) == 0
    for file in ("student.safetensors", "model.safetensors"):
        expected, found = (load_file(tmp_path / name / "last" / file) for name in ("one", "two"))
        begin = load_file(data / "beginning" / "model.safetensors")
        assert max((expected[key] - value).abs().max().item() for key, value in begin.items()) > 5e-5
        difference = max((value - found[key]).abs().max().item() for key, value in expected.items())
        print(f"{file} differs by at most {difference:.1e}")
        assert difference < 1e-5
