"""What the numbers of YOLO's label lines mean, decided once for the whole data set from all of its lines.

After the class, a line holds a box (centre x, centre y, width, height), which a score, a track id or the keypoints of a
pose may follow; or the corners of a polygon. All are shares of the image's size.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Numbers = tuple[float, ...]
"""The finite numbers of a line after the class."""
Corners = tuple[float, float, float, float]

_MOST = 0.95
"""Share of the lines, or of their points, from which on a meaning fits all: the others are mistakes."""


@dataclass(frozen=True)
class Columns:
    """How to read the lines of a data set.

    Attributes:
        notes: what was decided, in whole sentences.
        meaning: of lines with so many numbers after the class.
    """

    notes: tuple[str, ...]
    meaning: dict[int, Callable[[Numbers], Corners | None]]

    def corners(self, numbers: Numbers) -> Corners | None:
        """(x0, y0, x1, y1); None if such a line has no meaning here."""
        read = self.meaning.get(len(numbers))
        return None if read is None else read(numbers)


def decide(lines: Sequence[Numbers], keypoints: tuple[int, int | None] | None = None) -> Columns:
    """The meaning of all lines.

    Lines of 4 numbers are boxes; of 5, boxes with scores or track ids; of 6, boxes with both, or triangles, as their
    last numbers are whole or not. Longer lines of one length are poses if their points lie in their boxes, else
    polygons; of several lengths, polygons.

    Args:
        lines: of all splits.
        keypoints: of data.yaml: how many a pose has, and the numbers of each, 2 or 3; None if these are not known.
    """
    counts = Counter(map(len, lines))
    meaning: dict[int, Callable[[Numbers], Corners | None]] = {4: _box}
    notes: list[str] = []
    if 5 in counts:
        read, note = _extra([numbers for numbers in lines if len(numbers) == 5])
        meaning[5] = read
        notes.append(note)
    lengths = {length: count for length, count in counts.items() if length >= 6}
    if not lengths:
        return Columns(tuple(notes), meaning)
    common = max(lengths, key=lambda length: lengths[length])
    one_length = lengths[common] >= _MOST * sum(lengths.values())
    rows = np.array([numbers for numbers in lines if len(numbers) == common], dtype=np.float64)
    pose = _pose_length(rows, keypoints) if one_length else None
    if pose is not None:
        meaning |= {pose: _box, pose + 1: _box}
        given = " (kpt_shape)" if keypoints else ": all their points lie in their boxes"
        notes.append(f"{common} numbers after the class are a box and the keypoints of a pose{given}; boxes are read.")
    elif one_length and common == 6 and _ends_in_score_and_id(rows):
        meaning[6] = _box
        notes.append("6 numbers after the class are a box, a score and a track id; boxes are read.")
    elif keypoints is not None:
        held = f"{keypoints[0]} keypoints" + (f" of {keypoints[1]} numbers" if keypoints[1] else "")
        notes.append(f"data.yaml says that poses have {held}, but lines hold {common} numbers after the class.")
    elif not any(length % 2 == 0 for length in lengths):
        notes.append(
            f"{common} numbers after the class are no box, polygon or pose that is known. If they are a pose, "
            "data.yaml needs kpt_shape: [keypoints, 2 or 3]. If a score or a track id follows a polygon, leave it out."
        )
    else:
        meaning |= {length: _polygon for length in lengths if length % 2 == 0}
        four = one_length and common == 8
        what = "four corners, as of oriented boxes" if four else "the corners of polygons"
        boxes = f", {counts[4]:,} lines of 4 numbers as boxes" if counts[4] else ""
        total = sum(count for length, count in lengths.items() if length % 2 == 0)
        notes.append(f"{total:,} lines are read as {what}, whose bounding boxes are taken{boxes}.")
    return Columns(tuple(notes), meaning)


def _box(numbers: Numbers) -> Corners:
    x, y, width, height = numbers[:4]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _polygon(numbers: Numbers) -> Corners:
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _extra(lines: Sequence[Numbers]) -> tuple[Callable[[Numbers], Corners | None], str]:
    """What follows the boxes of lines with 5 numbers: scores, track ids, or what has no meaning here."""
    last = np.array([numbers[4] for numbers in lines])
    is_score, is_id = (last >= 0) & (last <= 1), (last >= 0) & (last == np.round(last))
    where = f"of {len(lines):,} lines with 5 numbers after the class"
    if is_id.mean() >= _MOST and last.max() > 1:
        return (lambda numbers: _box(numbers) if numbers[4].is_integer() else None), (
            f"The last {where} are track ids (whole numbers); they are ignored."
        )
    if is_score.mean() >= _MOST:
        what = "scores, as a detector writes them: its boxes are taken for the truth"
        what = "0 or 1, scores or track ids" if is_id.all() else what
        return (lambda numbers: _box(numbers) if 0 <= numbers[4] <= 1 else None), f"The last {where} are {what}."
    return lambda _: None, (
        f"The last {where} are neither scores (0 to 1) nor track ids (whole numbers). If they are angles, export "
        "oriented boxes as four corners."
    )


def _pose_length(rows: Float64[np.ndarray, "lines numbers"], keypoints: tuple[int, int | None] | None) -> int | None:
    """How many numbers a pose has, without a track id or score at its end; None if the lines are no poses.

    Points at (0, 0) are those that the annotator did not see. Four pairs of numbers are the corners of oriented boxes
    if they are those of parallelograms.
    """
    length = rows.shape[1]
    if keypoints is not None:
        sizes = (keypoints[1],) if keypoints[1] else (3, 2)
        expected = [4 + keypoints[0] * size for size in sizes]
        return next((number for number in expected if length in (number, number + 1)), None)
    for size in (3, 2):
        if (length - 4) % size or (length == 8 and _are_parallelograms(rows)):
            continue
        points = rows[:, 4:].reshape(len(rows), -1, size)
        if size == 3 and not np.isin(points[:, :, 2], (0, 1, 2)).all():
            continue
        centres, sides = rows[:, None, :2], rows[:, None, 2:4]
        seen = np.abs(points[:, :, :2]).max(axis=-1) > 0
        inside = (np.abs(points[:, :, :2] - centres) - sides / 2).max(axis=-1) <= 0.01
        if seen.any() and np.mean(inside[seen]) >= _MOST and _are_boxes(rows):
            return length
    return None


def _ends_in_score_and_id(rows: Float64[np.ndarray, "lines 6"]) -> bool:
    score, track = rows[:, 4], rows[:, 5]
    fits = (score >= 0) & (score <= 1) & (track >= 0) & (track == np.round(track))
    return bool(fits.mean() >= _MOST) and _are_boxes(rows)


def _are_boxes(rows: Float64[np.ndarray, "lines numbers"]) -> bool:
    """Whether the first four numbers of nearly all lines are boxes inside their images."""
    return bool((np.abs(rows[:, :2] - 0.5) + rows[:, 2:4] / 2 <= 0.51).all(axis=1).mean() >= _MOST)


def _are_parallelograms(rows: Float64[np.ndarray, "lines 8"]) -> bool:
    """Whether the diagonals of four corners halve each other, in a twentieth of the lines or more."""
    off = np.abs(rows[:, 0:2] + rows[:, 4:6] - rows[:, 2:4] - rows[:, 6:8]).max(axis=1)
    return bool((off < 0.005).mean() > 1 - _MOST)
