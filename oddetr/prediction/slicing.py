"""Large images in slices: small objects are seen at the size that they are learned at.

SAHI's way (Akyon et al. 2022, arXiv:2202.06934): overlapping slices and the whole image are looked at, and doubles
removed. The loop is our own: SAHI's package needs opencv-python (which may not stand beside opencv-python-headless),
shapely and fire, looks at one slice at a time by default, and hides a machine's GPUs from the whole process where it is
told `cpu`. Who uses SAHI has `oddetr.integrations.sahi`.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor

OVERLAP = 0.2
"""The share of a slice's side that neighbours have in common, at least."""
_BORDER = 0.02
"""The share of a slice's side, from its edge, within which a box counts as cut."""
_COVERED = 0.7
"""A cut box of which a larger one covers this share is a part of it, whatever its class: half an 8 looks like a 0."""
_DOUBLE = 0.5
"""Of two boxes of a class with a greater IoU the better stays."""

Slice = tuple[int, int, int, int]


def slices(height: int, width: int, side: int) -> list[Slice]:
    """(x0, y0, x1, y1) in pixels of the slices of an image, row by row: as few as leave `OVERLAP`, evenly spread, each
    `side` wide and high, or as the image where that is smaller."""
    rows, columns = _starts(height, side), _starts(width, side)
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()


def detect_sliced(
    predictor: Predictor,
    image: UInt8[np.ndarray, "height width 3"],
    side: int,
    threshold: float,
    labels: Sequence[int] | None = None,
    batch_size: int = 8,
) -> Detections:
    """Detections of an RGB image that is looked at in slices, and as a whole for what is larger than a slice.

    Best first, in pixels of the image, none twice; up to `Detector.top_k` of each slice.

    Args:
        side: of a slice, in pixels; the detector sees a slice as it sees a whole image, resized to its image size.
        threshold: the least score, in [0, 1].
        labels: the classes to look for; default: all.
        batch_size: slices in a batch.
    """
    height, width = image.shape[:2]
    places = slices(height, width, side)
    looks = [(0, 0, width, height)] if len(places) > 1 else []
    found: list[Detections] = []
    cut: list[Bool[np.ndarray, " _"]] = []
    for group in (looks, *(places[start : start + batch_size] for start in range(0, len(places), batch_size))):
        parts = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in group]
        for (x0, y0, x1, y1), part in zip(group, predictor.detect(parts, labels=labels), strict=True):
            part = part.above(threshold).clipped(y1 - y0, x1 - x0)
            part = Detections(part.boxes + np.array([x0, y0, x0, y0], np.float32), part.scores, part.labels)
            found.append(part)
            cut.append(_is_cut(part, (x0, y0, x1, y1), (height, width), _BORDER * side))
    together = Detections(
        *(np.concatenate(parts) for parts in zip(*((d.boxes, d.scores, d.labels) for d in found), strict=True))
    )
    return without_doubles(together, np.concatenate(cut))


def _is_cut(
    detections: Detections, place: Slice, size: tuple[int, int], border: float
) -> Bool[np.ndarray, " detections"]:
    """Whether a box ends at an edge of its slice where the image goes on."""
    (x0, y0, x1, y1), (height, width) = place, size
    left, top, right, bottom = detections.boxes.T
    return (
        ((x0 > 0) & (left < x0 + border))
        | ((y0 > 0) & (top < y0 + border))
        | ((x1 < width) & (right > x1 - border))
        | ((y1 < height) & (bottom > y1 - border))
    )


def without_doubles(detections: Detections, cut: Bool[np.ndarray, " detections"]) -> Detections:
    """Those that remain, best first: no cut box that a larger one covers for the most part, and of boxes of a class
    that overlap the best.

    Args:
        cut: whether a box ends at its slice's edge, so that more of the object may lie beyond.
    """
    boxes = detections.boxes.astype(np.float64)
    areas = _areas(boxes)
    part = cut.copy()
    for row in np.flatnonzero(cut):
        larger = np.flatnonzero(areas > areas[row])
        shared = np.concatenate(
            [np.maximum(boxes[larger, :2], boxes[row, :2]), np.minimum(boxes[larger, 2:], boxes[row, 2:])], axis=1
        )
        part[row] = (_areas(shared) > _COVERED * areas[row]).any()
    return detections.take(~part).without_duplicates(_DOUBLE)


def _areas(boxes: Float64[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, " boxes"]:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
