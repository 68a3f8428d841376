"""Annotations and detections written by hand."""

import numpy as np

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.detections import Detections

CLASSES = ClassTable(names=("cell", "worm", "dust"), ids=(7, 1, 4))
CELL, WORM, DUST = range(3)
Box = tuple[float, ...]


def annotations(
    *images: tuple[int, list[tuple[int, Box]]], areas: list[float] | None = None, crowd: int = 0
) -> Annotations:
    """Images as (image id, [(label, xyxy box), ...]); the last `crowd` objects are regions to ignore."""
    objects = [one for _, image in images for one in image]
    boxes = np.array([box for _, box in objects], dtype=np.float32).reshape(-1, 4)
    return Annotations(
        image_ids=np.array([image_id for image_id, _ in images]),
        sizes=np.full((len(images), 2), 300),
        offsets=np.cumsum([0, *(len(image) for _, image in images)]),
        boxes=boxes,
        labels=np.array([label for label, _ in objects], dtype=np.int64),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if areas is None else np.array(areas, dtype=np.float32),
        crowd=np.arange(len(objects)) >= len(objects) - crowd,
        annotation_ids=np.arange(len(objects)),
    )


def found(*rows: tuple[int, Box, float]) -> Detections:
    """Detections as (label, xyxy box, score)."""
    return Detections(
        boxes=np.array([box for _, box, _ in rows], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in rows], dtype=np.float32),
        labels=np.array([label for label, *_ in rows], dtype=np.int64),
    )
