"""A split in numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddetr.data.dataset import DetectionData
from oddetr.data.image_sizes import native_sizes

SMALL, LARGE = 32.0**2, 96.0**2
"""Square pixels below which COCO calls an object small, and from which on it calls it large."""


@dataclass(frozen=True)
class Range:
    """Smallest, middle (median or mean, as the field says) and largest value; all 0 if there is none."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Statistics:
    """What a split holds. Regions to ignore count as crowd only, never as objects.

    Attributes:
        empty_images: how many images have neither object nor crowd region.
        crowd: regions to ignore.
        per_class: objects of each class, in the order of the class table.
        widths, heights: of the images in pixels, with the median.
        native: the `--image-size` at which images keep their own pixels, with the median; more than the shorter side of
            long strips.
        objects_per_image: with the mean.
        small, medium, large: objects of less than 32 x 32 square pixels, the others, and of at least 96 x 96.
    """

    images: int
    empty_images: int
    objects: int
    crowd: int
    per_class: tuple[int, ...]
    widths: Range
    heights: Range
    native: Range
    objects_per_image: Range
    small: int
    medium: int
    large: int


def statistics(data: DetectionData) -> Statistics:
    """The numbers of one split."""
    truth = data.truth
    is_object = ~truth.crowd
    areas = truth.areas[is_object]
    small, large = int((areas < SMALL).sum()), int((areas >= LARGE).sum())
    return Statistics(
        images=len(truth),
        empty_images=int((np.diff(truth.offsets) == 0).sum()),
        objects=len(areas),
        crowd=int(truth.crowd.sum()),
        per_class=tuple(np.bincount(truth.labels[is_object], minlength=len(data.classes)).tolist()),
        widths=_range(truth.sizes[:, 1], np.median),
        heights=_range(truth.sizes[:, 0], np.median),
        native=_range(native_sizes(truth.sizes), np.median),
        objects_per_image=_range(np.bincount(truth.owners[is_object], minlength=len(truth)), np.mean),
        small=small,
        medium=len(areas) - small - large,
        large=large,
    )


def _range(values: np.ndarray, middle: Callable[[np.ndarray], Any]) -> Range:
    if not len(values):
        return Range(0.0, 0.0, 0.0)
    return Range(float(values.min()), float(middle(values)), float(values.max()))
