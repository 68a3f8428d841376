"""Boxes of COCO's segmentations: polygons, and masks as run lengths, plain or compressed."""

import math
from typing import Any

import numpy as np

from oddetr.data.formats.format import LONGEST_SIDE


def box_of(segmentation: Any) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) in pixels of what a segmentation covers; None if it covers nothing or is malformed.

    A list of polygons holds x1, y1, x2, y2, ... each. A mask is `size` (height, width) and `counts`, the lengths of its
    runs down the columns, the first of zeros: a list, or COCO's text.
    """
    if isinstance(segmentation, dict):
        return _box_of_mask(segmentation.get("size"), segmentation.get("counts"))
    polygons = segmentation if isinstance(segmentation, list) else []
    polygons = [polygon for polygon in polygons if isinstance(polygon, list) and len(polygon) >= 6]
    values = [value for polygon in polygons for value in polygon[: len(polygon) // 2 * 2]]
    if not values or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return None
    xs = [float(value) for polygon in polygons for value in polygon[: len(polygon) // 2 * 2 : 2]]
    ys = [float(value) for polygon in polygons for value in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _box_of_mask(size: Any, counts: Any) -> tuple[float, float, float, float] | None:
    sides = size if isinstance(size, list) and len(size) == 2 else [0, 0]
    if not all(type(side) is int and 0 < side <= LONGEST_SIDE for side in sides):
        return None
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    height, width = sides
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    starts, ends = ends[:-1:2], ends[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not len(starts) or ends[-1] > height * width:
        return None
    first, last = starts // height, (ends - 1) // height
    crosses = first < last
    top = np.where(crosses, 0, starts % height).min()
    bottom = np.where(crosses, height - 1, (ends - 1) % height).max()
    return float(first.min()), float(top), float(last.max() + 1), float(bottom + 1)


def _decompressed(text: str) -> list[int] | None:
    """Run lengths from COCO's text; None if it is malformed.

    A character has 5 bits, and a sixth that says that more follow; from the fourth run on, the numbers are differences
    to the run before the last.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs if not shift else None
