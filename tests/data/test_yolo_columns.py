"""What the numbers of YOLO's label lines mean: decided from all lines of a data set."""

from pathlib import Path

import numpy as np
import pytest

from oddetr.data.doctor.check import check
from oddetr.data.formats.yolo_columns import Numbers, decide
from tests.data.builders import found, yolo

BOXES = np.random.default_rng(0).uniform(0.3, 0.7, (40, 2))
SIZES = np.random.default_rng(1).uniform(0.05, 0.25, (40, 2))
"""Centres and sizes of 40 boxes that lie in their images."""
CORNERS = np.concatenate([BOXES - SIZES / 2, BOXES + SIZES / 2], axis=1)


def lines(*more: object) -> list[Numbers]:
    """Each box, and what follows it: a column of 40 rows, or a number."""
    columns = [np.broadcast_to(np.asarray(part, dtype=float).reshape(-1, 1), (40, 1)) for part in more]
    return [tuple(row) for row in np.concatenate([BOXES, SIZES, *columns], axis=1).tolist()]


def points(count: int, size: int) -> list[np.ndarray]:
    """The columns of keypoints in the boxes; the first is not seen."""
    shares = np.random.default_rng(2).uniform(-0.5, 0.5, (count, 2))
    columns: list[np.ndarray] = []
    for index, share in enumerate(shares):
        place = BOXES + share * SIZES if index else np.zeros_like(BOXES)
        columns += [place[:, 0], place[:, 1], *([np.full(40, 2.0 * bool(index))] if size == 3 else [])]
    return columns


def polygons(corners: int) -> list[Numbers]:
    """Polygons around the boxes' centres, which touch all four sides of their boxes."""
    angles = np.arange(corners) * 2 * np.pi / corners
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circle = (circle - circle.min(axis=0)) / (circle.max(axis=0) - circle.min(axis=0)) - 0.5
    return [tuple((centre + circle * size).ravel().tolist()) for centre, size in zip(BOXES, SIZES, strict=True)]


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (lines(), ""),
        (lines(np.linspace(0.2, 0.9, 40)), "are scores"),
        (lines(np.arange(40)), "are track ids"),
        (lines(np.arange(3, 43)), "are track ids"),
        (lines(np.arange(40) % 2), "0 or 1, scores or track ids"),
        (lines(np.linspace(0.2, 0.9, 40), np.arange(40)), "a box, a score and a track id"),
        (lines(1, np.arange(40) % 3), "a box, a score and a track id"),
        (lines(*points(5, 3)), "keypoints of a pose: all their points lie in their boxes"),
        (lines(*points(17, 3)), "keypoints of a pose"),
        (lines(*points(6, 2)), "keypoints of a pose"),
        (polygons(3), "corners of polygons"),
        (polygons(4), "four corners, as of oriented boxes"),
        (polygons(5), "corners of polygons"),
        (polygons(12), "corners of polygons"),
        ([*polygons(5)[:20], *polygons(9)[20:]], "corners of polygons"),
        ([*polygons(7)[:20], *lines()[20:]], "20 lines of 4 numbers as boxes"),
        ([*lines()[:20], *lines(7)[20:]], "20 lines with 5 numbers after the class are track ids"),
    ],
)
def test_boxes_are_read_from_every_kind_of_line(found: list[Numbers], note: str) -> None:
    columns = decide(found)

    boxes = [columns.corners(numbers) for numbers in found]
    assert np.allclose(boxes, CORNERS)  # pyright: ignore[reportArgumentType]
    assert note in " ".join(columns.notes)


@pytest.mark.parametrize(("keypoints", "size"), [(2, 2), (8, 2), (4, 3)])
def test_kpt_shape_says_that_lines_are_poses(keypoints: int, size: int) -> None:
    anywhere = np.random.default_rng(3).uniform(0, 1, (keypoints * size, 40))
    found = lines(*anywhere)

    columns = decide(found, (keypoints, size))

    assert np.allclose([columns.corners(numbers) for numbers in found], CORNERS)  # pyright: ignore[reportArgumentType]


def test_a_line_that_does_not_fit_the_others_has_no_meaning() -> None:
    columns = decide([*lines(*points(5, 3)), lines()[0] + (0.5, 0.5, 0.5)])

    assert columns.corners(lines()[0] + (0.5, 0.5, 0.5)) is None
    assert decide([*lines(np.linspace(0, 1, 40)), (0.5, 0.5, 0.1, 0.1, 1.9)]).corners((0.5, 0.5, 0.1, 0.1, 1.9)) is None


def test_angles_are_refused_with_the_cure(tmp_path: Path) -> None:
    angles = "".join(f"0 0.5 0.5 0.2 0.{tenth} -{tenth}.57\n" for tenth in range(1, 10))

    report = check(yolo(tmp_path, {"train/a.jpg": angles, "val/c.jpg": "0 0.5 0.5 0.5 0.5"}))

    assert len(found(report, "malformed-record")) == 9
    assert report.folder is not None
    assert any("export oriented boxes as four corners" in note for note in report.folder.notes)
