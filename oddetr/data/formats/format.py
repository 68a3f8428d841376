"""A data set as its files give it, before its boxes are judged: what a format reads, and what a format is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Int64

from oddetr.data.dataset import ClassTable
from oddetr.data.faults import Fault
from oddetr.data.formats.files import Files

OBJECT = np.dtype(
    [
        ("image", np.int64),
        ("place", np.int64),
        ("label", np.int64),
        ("box", np.float64, 4),
        ("area", np.float64),
        ("crowd", np.bool_),
    ]
)
"""An object: the row of its image, its `Fault.place`, its label (0..K-1, known to be valid), (x0, y0, x1, y1) as
written (not finite where there are no four numbers), its area in square pixels (the box's is taken unless it is in
(0, the image's area]), and whether it is a region to ignore."""

Layout = Literal["corners", "corner", "centre"]

LONGEST_SIDE = 2**24
"""Pixels of the longest side of an image that a reader believes: single precision does not hold all larger numbers."""


@dataclass(frozen=True)
class RawSplit:
    """One split as its files give it: rows of images and rows of objects.

    Attributes:
        name: "train", "val" or "test".
        files: the images, relative to the data folder.
        label_files: where each image's objects are written, relative to the data folder.
        image_ids: unique.
        sizes: (height, width) in pixels; 0 where the files do not give it.
        objects: of dtype `OBJECT`.
        relative: whether boxes are shares of the image's size.
        written: how a box stands in the files: as "corners" (x0, y0, x1, y1), or as a "corner" (x0, y0) or "centre"
            with width and height.
        first_pixel: 1 if pixels are counted from 1 and x1, y1 name the last pixel inside (Pascal VOC), else 0.
    """

    name: str
    files: list[str]
    label_files: list[str]
    image_ids: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, "images 2"]
    objects: np.ndarray
    relative: bool = False
    written: Layout = "corners"
    first_pixel: int = 0

    def take(self, images: Int64[np.ndarray, " taken"]) -> "RawSplit":
        """The images of these rows, in that order, with their objects, which are sorted by image and place."""
        rows = np.full(len(self.files), -1, dtype=np.int64)
        rows[images] = np.arange(len(images))
        objects = self.objects.copy()
        objects["image"] = rows[objects["image"]]
        objects = objects[objects["image"] >= 0]
        return replace(
            self,
            files=[self.files[index] for index in images],
            label_files=[self.label_files[index] for index in images],
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            objects=objects[np.lexsort((objects["place"], objects["image"]))],
        )

    def fault(self, kind: str, row: int, message: str) -> Fault:
        """A fault of one object."""
        image = self.objects["image"][row]
        return Fault(kind, self.label_files[image], message, int(self.objects["place"][row]), self.files[image])


def joined(splits: Sequence[RawSplit]) -> RawSplit:
    """Splits of the same name and layout as one, whose image ids may occur more than once."""
    starts = np.cumsum([0] + [len(split.files) for split in splits])
    objects = [split.objects.copy() for split in splits]
    for start, part in zip(starts, objects, strict=False):
        part["image"] += start
    return replace(
        splits[0],
        files=[file for split in splits for file in split.files],
        label_files=[file for split in splits for file in split.label_files],
        image_ids=np.concatenate([split.image_ids for split in splits]),
        sizes=np.concatenate([split.sizes for split in splits]),
        objects=np.concatenate(objects),
    )


@dataclass(frozen=True)
class RawFolder:
    """A data set as its files give it.

    Attributes:
        classes: the class table of all splits.
        class_file: where the classes are named, for messages; relative to the data folder.
        defined: the names of the splits that the files define, readable or not.
        splits: those that could be read.
    """

    classes: ClassTable
    class_file: str
    defined: tuple[str, ...]
    splits: list[RawSplit]


Found = TypeVar("Found")


@dataclass(frozen=True)
class Format(Generic[Found]):
    """A format of annotations.

    Attributes:
        name: for messages.
        layouts: the understood layouts of files and folders, in words.
        find: finds the annotations in a folder; None if it has another format.
        read: reads what `find` found. It raises `DataError` if nothing can be read, or the classes are no class table;
            other faults are added to the files'.
    """

    name: str
    layouts: tuple[str, ...]
    find: Callable[[Files], Found | None]
    read: Callable[[Files, Found], RawFolder]


AnyFormat = Format[Any]
