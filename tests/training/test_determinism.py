"""The same seed gives the same run: elsewhere, with loading processes, on a disk that lists files otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oddetr.data.formats.reader import read_data
from oddetr.training.records.log import read_events
from tests.conftest import tiny_arguments
from tests.data.builders import coco, coco_image, voc, yolo
from tests.training import listing
from tests.training.test_run import weights, without_times

NAMES = [f"{name}.jpg" for name in ("b", "A", "c10", "c9", "ä", "d", "_e", "f")]
LABELS = ("0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.5\n", "1 0.6 0.5 0.5 0.3\n")


def yolo_data(folder: Path, names: list[str]) -> Path:
    """Images of noise, written in this order; what they are labelled is a function of the name."""
    labels = {f"{split}/{name}": LABELS[len(name) % 2] for split in ("train", "val") for name in names}
    return yolo(folder, labels)


def trained(arguments: dict, out: Path, data: Path, workers: int, hash_seed: str, order: str) -> Path:
    """A run in a process of its own."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    given |= {"out": str(out), "data": str(data), "workers": workers, "epochs": 2}
    command = [sys.executable, str(Path(listing.__file__)), json.dumps(given), order]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_is_the_same_to_the_bit_elsewhere(
    tmp_path: Path,
) -> None:
    """Another process, another folder, files written in another order and listed in another, loading processes, another
    seed of Python's hashes."""
    arguments = tiny_arguments(tmp_path, tmp_path)
    here, there = yolo_data(tmp_path / "here", NAMES), yolo_data(tmp_path / "there", NAMES[::-1])
    first = trained(arguments, tmp_path / "first", here, 0, "1", "forwards")
    second = trained(arguments, tmp_path / "second", there, 2, "2", "backwards")
    for file in ("model.safetensors", "student.safetensors"):
        before, after = weights(first, file), weights(second, file)
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before)
    events = read_events(first)
    assert any("teacher" in event for event in events)
    assert without_times(events) == without_times(read_events(second))


def coco_data(folder: Path, names: list[str]) -> Path:
    return coco(folder, images=[coco_image(1 + sorted(names).index(name), name) for name in names])


def voc_data(folder: Path, names: list[str]) -> Path:
    return voc(folder, {split: [Path(name).stem for name in names] for split in ("train", "val")})


@pytest.mark.parametrize("layout", [coco_data, voc_data, yolo_data])
def test_data_when_written_and_listed_in_another_order_then_is_the_same(
    layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_data(layout(tmp_path / "here", NAMES))
    monkeypatch.setattr(os, "scandir", listing.Backwards)
    monkeypatch.setattr(os, "listdir", listing.listed_backwards)
    after = read_data(layout(tmp_path / "there", NAMES[::-1]))
    assert before.splits.keys() == after.splits.keys()
    for split, data in before.splits.items():
        other = after.splits[split]
        assert (data.files, data.classes) == (other.files, other.classes)
        theirs = other.annotations()
        for name, value in vars(data.annotations()).items():
            assert (value == getattr(theirs, name)).all() if hasattr(value, "shape") else value == getattr(theirs, name)
