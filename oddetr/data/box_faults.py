"""Clean the boxes of a split: each is kept, clipped or left out, and those that are not kept as they are are faults."""

import numpy as np
from jaxtyping import Bool, Float64

from oddetr.data.dataset import Annotations
from oddetr.data.fault_kinds import AT_LEAST
from oddetr.data.faults import Fault
from oddetr.data.formats.format import LONGEST_SIDE, Layout, RawSplit

TOLERANCE = 0.5
"""Pixels by which a box may reach out of its image without a warning: coordinates are rounded."""
_FITS, _SUSPICIOUS = 0.95, 0.1
"""Share of the boxes that fit under another reading, and do not fit under the given one, for the other to be named."""

_OF_FEW, _MOST_OF_FEW = 3, 0.3
"""The same of small sets: so many boxes, and so large a share of them."""

Boxes = Float64[np.ndarray, "objects 4"]


def clean(raw: RawSplit) -> tuple[Annotations, list[Fault]]:
    """Boxes in pixels that lie inside their images and have an area, and a fault for each that did not.

    A box that is not four numbers, has its corners swapped or lies entirely outside is left out, and so is one without
    area, and one of the same class as an equal one before; one that reaches out by more than `TOLERANCE` is clipped. An
    image whose boxes all have no area is a fault, too. If most boxes fit under another reading alone, that is the only
    fault. Sizes must be known.
    """
    written = raw.objects["box"]
    shares = _looks_relative(raw)
    if shares.any():
        message = f"{shares.sum():,} of {len(written):,} boxes of {raw.name} lie within the first pixel of their images"
        fault = Fault("relative-coordinates", raw.label_files[raw.objects["image"][0]], message)
        return _annotations(raw, np.zeros(len(written), dtype=bool), written), [fault]

    first_pixel = raw.first_pixel * np.array([1.0, 1.0, 0.0, 0.0])
    edges = _edges(raw)
    boxes = written * edges if raw.relative else written - first_pixel
    clipped = np.clip(boxes, 0, edges).astype(np.float32)
    with np.errstate(over="ignore"):
        stored = boxes.astype(np.float32)
    unknown = ~np.isfinite(written).all(axis=1)
    inverted = ~unknown & (written[:, 2:] < written[:, :2]).any(axis=1)
    flat = (written[:, 2:] == written[:, :2]) | (stored[:, 2:] == stored[:, :2])
    flat = ~(unknown | inverted) & flat.any(axis=1)
    outside = ~(unknown | inverted | flat) & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    repeated = ~(unknown | inverted | flat | outside) & _repeated(raw, boxes, "label", "crowd")
    kept = ~(unknown | inverted | flat | outside | repeated)
    conflicting = kept & _repeated(raw, boxes)
    moved = kept & (np.abs(clipped - boxes) > TOLERANCE + first_pixel).any(axis=1)

    kinds = {
        "not-a-number": unknown,
        "inverted-box": inverted,
        "zero-area-box": flat,
        "box-outside": outside,
        "clipped-box": moved,
        "repeated-object": repeated,
        "conflicting-objects": conflicting,
    }
    faults = [
        raw.fault(kind, int(row), _described(raw, int(row), (boxes if raw.relative else written)[row]))
        for kind, found in kinds.items()
        for row in np.flatnonzero(found)
    ]
    faults += _emptied(raw, flat)
    other = _other_layout(raw, unknown | inverted | flat | outside | moved)
    return _annotations(raw, kept, clipped), other or faults


def _other_layout(raw: RawSplit, wrong: Bool[np.ndarray, " objects"]) -> list[Fault]:
    """A fault if many boxes do not fit into their images, or none into its area, but would under another reading."""
    if not len(wrong):
        return []
    file = raw.label_files[raw.objects["image"][0]]
    many = wrong.sum() >= AT_LEAST and wrong.mean() >= _SUSPICIOUS
    many |= wrong.sum() >= _OF_FEW and wrong.mean() >= _MOST_OF_FEW
    if many and (reading := _likely_reading(raw)) is not None:
        share = f"{wrong.mean():.0%} of the boxes of {raw.name} ({wrong.sum():,} of {len(wrong):,})"
        return [Fault("other-layout", file, f"{share} do not fit into their images; nearly all fit if read {reading}")]
    if raw.written == "corner":
        x, y, width, height = _as_written(raw).T
        given = raw.objects["area"]
        as_corners = np.isclose(given, (width - x) * (height - y), rtol=0.01) & (given > 0)
        if (
            as_corners.sum() >= AT_LEAST
            and as_corners.mean() >= _FITS
            and np.isclose(given, width * height, rtol=0.01).mean() < 1 - _FITS
        ):
            message = f"the areas of {raw.name} are those of boxes read as corners (x0, y0, x1, y1)"
            return [Fault("other-layout", file, message)]
    return []


def _edges(raw: RawSplit) -> Boxes:
    """(width, height, width, height) of the image of each object."""
    return np.tile(raw.sizes[raw.objects["image"]][:, ::-1], 2).astype(np.float64)


def _repeated(raw: RawSplit, boxes: np.ndarray, *more: str) -> Bool[np.ndarray, " objects"]:
    """Whether an object before it in the same image has the same box, to a hundredth of a pixel, and these fields."""
    rounded = np.round(np.clip(np.nan_to_num(boxes), -LONGEST_SIDE, LONGEST_SIDE), 2)
    keys = np.column_stack([raw.objects["image"], *(raw.objects[name] for name in more), rounded])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)] != np.arange(len(keys))


def _emptied(raw: RawSplit, flat: Bool[np.ndarray, " objects"]) -> list[Fault]:
    """The images all of whose objects have no area."""
    images = raw.objects["image"]
    counts, lost = (np.bincount(images[rows], minlength=len(raw.files)) for rows in (flat | True, flat))
    emptied = np.flatnonzero((counts > 0) & (counts == lost))
    return [Fault("emptied-image", raw.files[image], f"lost all {counts[image]:,} objects") for image in emptied]


def _likely_reading(raw: RawSplit) -> str | None:
    """Another reading of the boxes under which nearly all fit into their images, in words; None if there is none."""
    edges, numbers = _edges(raw), _as_written(raw)
    scale = edges if raw.relative else np.ones_like(edges)
    layouts: dict[Layout, str] = {
        "corners": "as corners (x0, y0, x1, y1)",
        "corner": "as (x0, y0, width, height)",
        "centre": "as (centre x, centre y, width, height)",
    }
    candidates = [
        (words, _corners(layout, numbers * scale), edges) for layout, words in layouts.items() if layout != raw.written
    ]
    boxes = _corners(raw.written, numbers)
    if raw.relative:
        candidates.append(("in pixels, not as shares of the image's size", boxes, edges))
    else:
        candidates.append(("as shares of the image's size, not in pixels", boxes * edges, edges))
    boxes = boxes * scale
    turned = "with x and y swapped, or on images before EXIF turned them by 90 degrees (--ignore-exif true)"
    candidates.append((turned, boxes[:, [1, 0, 3, 2]], edges))
    largest = np.nanmax(boxes[:, 2:] / edges[:, 2:], axis=0, initial=0)
    times = np.ceil(largest.max() - 0.02)
    if 2 <= times <= 10 and largest.min() > times - 0.5:
        candidates.append((f"on images {times:.0f} times as large", boxes, edges * times))
    return next((words for words, found, limits in candidates if _fitting(found, limits) >= _FITS), None)


def _as_written(raw: RawSplit) -> Boxes:
    """The four numbers of each box as they stand in the files."""
    x0, y0, x1, y1 = raw.objects["box"].T
    if raw.written == "corners":
        return raw.objects["box"]
    corner = (x0, y0) if raw.written == "corner" else ((x0 + x1) / 2, (y0 + y1) / 2)
    return np.column_stack([*corner, x1 - x0, y1 - y0])


def _corners(layout: Layout, numbers: Boxes) -> Boxes:
    if layout == "corners":
        return numbers
    first, sides = numbers[:, :2], numbers[:, 2:]
    first = first if layout == "corner" else first - sides / 2
    return np.concatenate([first, first + sides], axis=1)


def _fitting(boxes: Boxes, edges: Boxes) -> float:
    """The share of boxes that lie in their images and are larger than a point."""
    inside = (boxes >= -TOLERANCE - 1).all(axis=1) & (boxes <= edges + TOLERANCE + 1).all(axis=1)
    return float((inside & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)).mean())


def _looks_relative(raw: RawSplit) -> Bool[np.ndarray, " objects"]:
    """Which boxes are shares of the image's size where pixels belong: all four numbers lie in 0..1, and are not all
    whole. None, if fewer than `AT_LEAST` of several boxes are."""
    numbers = _as_written(raw)
    tiny = (numbers >= 0).all(axis=1) & (numbers <= 1).all(axis=1) & (numbers != np.round(numbers)).any(axis=1)
    tiny &= not raw.relative
    return tiny if tiny.sum() >= min(AT_LEAST, len(tiny)) else np.zeros(len(tiny), dtype=bool)


def _described(raw: RawSplit, row: int, box: Float64[np.ndarray, " 4"]) -> str:
    image = raw.objects["image"][row]
    height, width = raw.sizes[image]
    left, top, right, bottom = (f"{value:.7g}" for value in box)
    return f"left {left}, top {top}, right {right}, bottom {bottom} in {raw.files[image]} of {width}x{height} pixels"


def _annotations(raw: RawSplit, kept: Bool[np.ndarray, " objects"], boxes: np.ndarray) -> Annotations:
    objects, boxes = raw.objects[kept], boxes[kept].astype(np.float32)
    counts = np.bincount(objects["image"], minlength=len(raw.files))
    is_given = (objects["area"] > 0) & (objects["area"] <= raw.sizes.prod(axis=1)[objects["image"]])
    of_boxes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Annotations(
        image_ids=raw.image_ids,
        sizes=raw.sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=objects["label"].copy(),
        areas=np.where(is_given, objects["area"], of_boxes).astype(np.float32),
        crowd=objects["crowd"].copy(),
        annotation_ids=objects["place"].copy(),
    )
