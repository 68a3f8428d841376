"""The same seed gives the same run: elsewhere, with loading processes, on a disk that lists files otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oddetr.data.reader import read_data
from oddetr.data.transforms import STRONG, AugmentConfig
from oddetr.training.config import TrainConfig
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.data.builders import coco, coco_image, voc, yolo
from tests.training import listing
from tests.training.helpers import assert_same_weights, events_without_times, quiet

NAMES = [f"{name}.jpg" for name in ("b", "A", "c10", "c9", "ä", "d", "_e", "f")]
LABELS = ("0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.5\n", "1 0.6 0.5 0.5 0.3\n")


def coco_data(folder: Path, names: list[str]) -> Path:
    return coco(folder, images=[coco_image(1 + sorted(names).index(name), name) for name in names])


def voc_data(folder: Path, names: list[str]) -> Path:
    return voc(folder, {split: [Path(name).stem for name in names] for split in ("train", "val")})


def yolo_data(folder: Path, names: list[str]) -> Path:
    """Images of noise, written in this order, with labels that depend on the name."""
    labels = {f"{split}/{name}": LABELS[len(name) % 2] for split in ("train", "val") for name in names}
    return yolo(folder, labels)


def test_a_run_is_the_same_to_the_bit_elsewhere(tmp_path: Path) -> None:
    """Another process, another folder, files written in another order and listed in another, loading processes, another
    seed of Python's hashes. Strong augmentation ends between the two epochs."""
    augment = AugmentConfig(**dict.fromkeys(STRONG, 0.5), strong_until=0.5, rotate=True)
    arguments = tiny_arguments(yolo_data(tmp_path / "here", NAMES), tmp_path / "first")
    arguments |= {"epochs": 2, "augment": vars(augment)}
    first = run(TrainConfig.from_plain(arguments), quiet())

    second, there = tmp_path / "second", yolo_data(tmp_path / "there", NAMES[::-1])
    arguments |= {"out": str(second), "data": str(there), "workers": 2}
    subprocess.run(
        [sys.executable, listing.__file__, json.dumps(arguments)],
        env=os.environ | {"PYTHONHASHSEED": "2"},
        capture_output=True,
        check=True,
    )
    assert_same_weights(first, second)
    events = events_without_times(first)
    assert any("teacher" in event for event in events)
    assert events == events_without_times(second)


@pytest.mark.parametrize("layout", [coco_data, voc_data, yolo_data])
def test_data_does_not_depend_on_the_order_of_files(layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
