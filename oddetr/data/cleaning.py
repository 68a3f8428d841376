"""Clean the boxes of a split: each is kept, clipped or left out, and those that are not kept as they are are faults."""

import numpy as np
from jaxtyping import Bool, Float64

from oddetr.data.dataset import Annotations
from oddetr.data.faults import Fault
from oddetr.data.formats.raw import RawSplit

TOLERANCE = 0.5
"""Pixels by which a box may reach out of its image without a warning: coordinates are rounded."""


def clean(raw: RawSplit) -> tuple[Annotations, list[Fault]]:
    """Boxes in pixels that lie inside their images and have an area, and a fault for each that did not.

    A box that is not four numbers, has its corners swapped or lies entirely outside is left out, and so is one without
    area; one that reaches out by more than `TOLERANCE` is clipped. Sizes must be known.
    """
    written = raw.objects["box"]
    if _looks_relative(raw):
        message = f"all {len(written):,} boxes of {raw.name} lie within the first pixel of their images"
        fault = Fault("relative-coordinates", raw.label_files[raw.objects["image"][0]], message)
        return _annotations(raw, np.zeros(len(written), dtype=bool), written), [fault]

    first_pixel = raw.first_pixel * np.array([1.0, 1.0, 0.0, 0.0])
    edges = np.tile(raw.sizes[raw.objects["image"]][:, ::-1], 2).astype(np.float64)
    boxes = written * edges if raw.relative else written - first_pixel
    clipped = np.clip(boxes, 0, edges).astype(np.float32)
    with np.errstate(over="ignore"):
        stored = boxes.astype(np.float32)
    unknown = ~np.isfinite(written).all(axis=1)
    inverted = ~unknown & (written[:, 2:] < written[:, :2]).any(axis=1)
    flat = (written[:, 2:] == written[:, :2]) | (stored[:, 2:] == stored[:, :2])
    flat = ~(unknown | inverted) & flat.any(axis=1)
    outside = ~(unknown | inverted | flat) & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    kept = ~(unknown | inverted | flat | outside)
    moved = kept & (np.abs(clipped - boxes) > TOLERANCE + first_pixel).any(axis=1)

    kinds = {
        "not-a-number": unknown,
        "inverted-box": inverted,
        "zero-area-box": flat,
        "box-outside": outside,
        "clipped-box": moved,
    }
    faults = [
        raw.fault(kind, int(row), _described(raw, int(row), (boxes if raw.relative else written)[row]))
        for kind, found in kinds.items()
        for row in np.flatnonzero(found)
    ]
    return _annotations(raw, kept, clipped), faults


def _looks_relative(raw: RawSplit) -> bool:
    boxes = raw.objects["box"]
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    return not raw.relative and len(boxes) > 0 and bool(((boxes >= 0) & (boxes <= 1)).all())


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
