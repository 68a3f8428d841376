"""The real data sets beside the repository: read as their README counts them, and sound but for their known faults."""

from pathlib import Path

import pytest

from oddetr.data.doctor.check import CheckReport, check

COUNTS = {
    "bccd": ("Pascal VOC", 3, {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}),
    "cards": ("Pascal VOC", 6, {"train": (252, 446), "val": (44, 81), "test": (67, 143)}),
    "tiny_coco": ("COCO", 80, {"train": (50, 470), "val": (50, 382)}),
    "coco128": ("YOLO", 80, {"train": (128, 929), "val": (128, 898)}),
}
KNOWN = {"zero-area-box", "label-without-image", "image-without-label"}


@pytest.fixture(scope="module", params=COUNTS)
def named_report(request: pytest.FixtureRequest, real_data: Path) -> tuple[str, CheckReport]:
    return request.param, check(real_data / request.param)


def test_real_data_when_checked_then_has_no_errors_and_the_known_numbers(named_report: tuple[str, CheckReport]) -> None:
    name, report = named_report
    assert report.ok, report.errors
    assert report.folder is not None
    splits = {split: (numbers.images, numbers.objects + numbers.crowd) for split, numbers in report.statistics.items()}
    assert (report.folder.format, len(report.folder.classes), splits) == COUNTS[name]


def test_real_data_when_checked_then_its_known_faults_are_found(named_report: tuple[str, CheckReport]) -> None:
    name, report = named_report
    faults = {(fault.kind, fault.where) for fault in report.faults if fault.kind in KNOWN}
    assert (
        faults
        == {
            "bccd": {
                ("zero-area-box", "Annotations/BloodImage_00338.xml object 13"),
                ("zero-area-box", "Annotations/BloodImage_00343.xml object 4"),
            },
            "cards": set(),
            "tiny_coco": set(),
            "coco128": {
                ("label-without-image", "labels/train2017/000000000656.txt"),
                ("label-without-image", "labels/train2017/000000000659.txt"),
                ("image-without-label", "images/train2017/000000000250.jpg"),
                ("image-without-label", "images/train2017/000000000508.jpg"),
            },
        }[name]
    )
    assert {fault.kind for fault in report.faults} <= KNOWN | {"no-examples", "few-examples"}


def test_tiny_coco_when_read_then_has_its_crowds_and_empty_images(real_data: Path) -> None:
    report = check(real_data / "tiny_coco")

    assert sum(numbers.crowd for numbers in report.statistics.values()) == 10
    assert sum(numbers.empty_images for numbers in report.statistics.values()) == 3
    assert report.folder is not None
    assert max(report.folder.classes.ids) == 90
    areas = report.folder.splits["train"].truth.areas
    boxes = report.folder.splits["train"].truth.boxes
    assert (areas <= (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * 1.01).all()
