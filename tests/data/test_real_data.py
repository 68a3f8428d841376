"""The real data sets beside the repository are read as their README counts them, and have only their known faults."""

from pathlib import Path

import pytest

from oddetr.data.doctor.check import check

COUNTS = {
    "bccd": ("Pascal VOC", 3, {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}),
    "cards": ("Pascal VOC", 6, {"train": (252, 446), "val": (44, 81), "test": (67, 143)}),
    "tiny_coco": ("COCO", 80, {"train": (50, 470), "val": (50, 382)}),
    "coco128": ("YOLO", 80, {"train": (128, 929), "val": (128, 898)}),
}
FAULTS = {
    "bccd": {
        ("zero-area-box", "Annotations/BloodImage_00338.xml object 13"),
        ("zero-area-box", "Annotations/BloodImage_00343.xml object 4"),
    },
    "coco128": {
        ("label-without-image", "labels/train2017/000000000656.txt"),
        ("label-without-image", "labels/train2017/000000000659.txt"),
        ("image-without-label", "images/train2017/000000000250.jpg"),
        ("image-without-label", "images/train2017/000000000508.jpg"),
    },
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_real_data_set_has_its_known_numbers_and_faults(name: str, real_data: Path) -> None:
    report = check(real_data / name)

    assert report.ok, report.errors
    assert report.folder is not None
    splits = {split: (numbers.images, numbers.objects + numbers.crowd) for split, numbers in report.statistics.items()}
    assert (report.folder.format, len(report.folder.classes), splits) == COUNTS[name]
    rare = ("no-examples", "few-examples")
    faults = {(fault.kind, fault.where) for fault in report.faults if fault.kind not in rare}
    assert faults == FAULTS.get(name, set())
    if name == "tiny_coco":
        assert sum(numbers.crowd for numbers in report.statistics.values()) == 10
        assert sum(numbers.empty_images for numbers in report.statistics.values()) == 3
        assert max(report.folder.classes.ids) == 90
        truth = report.folder.splits["train"].truth
        assert (truth.areas <= (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1) * 1.01).all()
