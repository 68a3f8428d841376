"""From what the files say to annotations that can be trusted: boxes are judged, clipped or left out, all of it told."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.data.doctor.faults import Fault

TOLERANCE = 0.5
"""Pixels by which a box may reach out of its image before it is worth a warning: coordinates are rounded."""
LONGEST_SIDE = 2**24
"""Pixels of an image's side that a reader takes as told: whole numbers beyond are not exact in single precision."""


@dataclass(frozen=True)
class RawSplit:
    """One split as its files give it: rows of images and rows of objects. Labels are known to be valid, boxes are not.

    Attributes:
        name: "train", "val" or "test".
        files: the images, relative to the data folder.
        label_files: where each image's objects stand, relative to the data folder.
        image_ids: unique.
        sizes: (height, width) in pixels; 0 where the files do not tell.
        image: the object's row in the images' arrays.
        boxes: (x0, y0, x1, y1) as written; not finite where there are no four numbers.
        labels: 0..K-1.
        areas: in square pixels; where they are not in (0, the image's area], the boxes' count.
        crowd: True on regions to ignore.
        annotation_ids: unique.
        numbers: by which a message names an object: see `Fault.annotation`.
        relative: whether boxes are shares of the image's size.
        first_pixel: 1 where pixels are counted from 1 and x1, y1 name the last pixel inside (Pascal VOC), else 0.
    """

    name: str
    files: list[str]
    label_files: list[str]
    image_ids: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, "images 2"]
    image: Int64[np.ndarray, " objects"]
    boxes: Float64[np.ndarray, "objects 4"]
    labels: Int64[np.ndarray, " objects"]
    areas: Float64[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]
    annotation_ids: Int64[np.ndarray, " objects"]
    numbers: Int64[np.ndarray, " objects"]
    relative: bool = False
    first_pixel: int = 0

    def take(self, images: Int64[np.ndarray, " taken"]) -> "RawSplit":
        """The images of these rows, in that order, with their objects, which are sorted by image and number."""
        rows = np.full(len(self.files), -1, dtype=np.int64)
        rows[images] = np.arange(len(images))
        image = rows[self.image]
        kept = np.flatnonzero(image >= 0)
        kept = kept[np.lexsort((self.numbers[kept], image[kept]))]
        taken = replace(
            self,
            files=[self.files[index] for index in images],
            label_files=[self.label_files[index] for index in images],
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            image=image,
        )
        return taken.take_objects(kept)

    def take_objects(self, rows: Int64[np.ndarray, " taken"]) -> "RawSplit":
        """The same images with only the objects of these rows."""
        return replace(
            self,
            image=self.image[rows],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            crowd=self.crowd[rows],
            annotation_ids=self.annotation_ids[rows],
            numbers=self.numbers[rows],
        )

    def fault(self, kind: str, row: int, message: str) -> Fault:
        """A fault of one object."""
        return Fault(kind, self.label_files[self.image[row]], message, int(self.numbers[row]))


@dataclass
class RawFolder:
    """A data set as its files give it, and what a reader already found.

    Attributes:
        format: the layout's name.
        classes: the class table of all splits.
        class_file: where the classes are named, for messages; relative to the data folder.
        defined: the names of the splits that the files define, readable or not.
        splits: those that could be read.
        faults: what was found on the way.
        notes: what the reader decided, in whole sentences.
    """

    format: str
    classes: ClassTable
    class_file: str
    defined: tuple[str, ...]
    splits: list[RawSplit]
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def clean(raw: RawSplit) -> tuple[Annotations, list[Fault]]:
    """Boxes in pixels that lie inside their images and have an area, and a fault for each that did not.

    A box that is not four numbers, has its corners swapped or lies entirely outside is left out as an error; one
    without area is left out with a warning; one that reaches out by more than `TOLERANCE` is clipped with a warning.
    Sizes must be known.
    """
    if _looks_relative(raw):
        first = raw.image[0]
        message = f"all {len(raw.boxes):,} boxes of {raw.name} lie within the first pixel of their images"
        empty = raw.take_objects(np.zeros(0, dtype=np.int64))
        return _annotations(empty, empty.boxes), [Fault("relative-coordinates", raw.label_files[first], message)]

    written = raw.boxes
    first_pixel = raw.first_pixel * np.array([1.0, 1.0, 0.0, 0.0])
    edges = np.tile(raw.sizes[raw.image][:, ::-1], 2).astype(np.float64)
    boxes = written * edges if raw.relative else written - first_pixel
    clipped = np.clip(boxes, 0, edges).astype(np.float32)
    with np.errstate(over="ignore"):
        stored = boxes.astype(np.float32)
    unknown = ~np.isfinite(written).all(axis=1)
    inverted = ~unknown & (written[:, 2:] < written[:, :2]).any(axis=1)
    flat = (written[:, 2:] == written[:, :2]) | (stored[:, 2:] == stored[:, :2])
    flat = ~(unknown | inverted) & flat.any(axis=1)
    gone = ~(unknown | inverted | flat) & (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    kept = ~(unknown | inverted | flat | gone)
    moved = kept & (np.abs(clipped - boxes) > TOLERANCE + first_pixel).any(axis=1)

    kinds = {"not-a-number": unknown, "inverted-box": inverted, "zero-area-box": flat, "box-outside": gone}
    faults = [
        raw.fault(kind, int(row), _describe(raw, int(row), (boxes if raw.relative else written)[row]))
        for kind, found in (kinds | {"clipped-box": moved}).items()
        for row in np.flatnonzero(found)
    ]
    return _annotations(raw.take_objects(np.flatnonzero(kept)), clipped[kept]), faults


def _looks_relative(raw: RawSplit) -> bool:
    boxes = raw.boxes[(raw.boxes[:, 2:] > raw.boxes[:, :2]).all(axis=1)]
    return not raw.relative and len(boxes) > 0 and bool(((boxes >= 0) & (boxes <= 1)).all())


def _describe(raw: RawSplit, row: int, box: Float64[np.ndarray, " 4"]) -> str:
    image = raw.image[row]
    height, width = raw.sizes[image]
    left, top, right, bottom = (f"{value:.7g}" for value in box)
    return f"left {left}, top {top}, right {right}, bottom {bottom} in {raw.files[image]} of {width}x{height} pixels"


def _annotations(raw: RawSplit, boxes: np.ndarray) -> Annotations:
    boxes = boxes.astype(np.float32)
    counts = np.bincount(raw.image, minlength=len(raw.files))
    told = (raw.areas > 0) & (raw.areas <= raw.sizes.prod(axis=1)[raw.image])
    of_boxes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Annotations(
        image_ids=raw.image_ids,
        sizes=raw.sizes,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=raw.labels,
        areas=np.where(told, raw.areas, of_boxes).astype(np.float32),
        crowd=raw.crowd,
        annotation_ids=raw.annotation_ids,
    )
