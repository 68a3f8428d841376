"""One typed data set for all formats: a class table and flat arrays.

`DetectionData` holds the annotations of one split as arrays: no Python object per annotation, so that 10^6 of them take
megabytes and worker processes share them. `Sample` is one image with its objects, as a transform receives it. `Source`
is what training, evaluation and prediction read from: a folder of files or the generated digit scenes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from oddetr.data.images import ImageError, read_reduced
from oddetr.data.reading_config import AS_USUAL, ReadingConfig

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class ClassTable:
    """The classes: label k (0 <= k < K) inside is `names[k]` with original id `ids[k]` outside.

    Raises:
        ValueError: there is no class, or an id or a name is repeated or of another type.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.ids):
            found = f"{len(self.names)} names, {len(self.ids)} ids"
            raise ValueError(f"A class table needs as many ids as names, and at least one: {found}.")
        for what, values, kind in (("name", self.names, str), ("id", self.ids, int)):
            if any(type(value) is not kind for value in values):
                raise ValueError(f"A class {what} is no {'text' if kind is str else 'whole number'}.")
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(
                    f"The class {what} {twice[0]!r} stands twice in the class table. Give every class its own {what}."
                )

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One image and its objects.

    Attributes:
        image: RGB, EXIF orientation applied.
        boxes: (x0, y0, x1, y1) in pixels; the left edge of the left-most pixel is 0.
        labels: 0..K-1.
        crowd: True on regions that evaluation ignores and training does not learn (COCO crowds, VOC difficult objects).
        image_id: the original id.
        name: for messages: a file's name, or what the image was made from.
        full_size: (height, width) of the original in pixels, where `image` is reduced.
    """

    image: UInt8[np.ndarray, "height width 3"]
    boxes: Float32[np.ndarray, "objects 4"]
    labels: Int64[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]
    image_id: int
    name: str
    full_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of the original."""
        return self.full_size or (self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True)
class Annotations:
    """The annotations of a split: what evaluation compares with.

    Objects of image i are rows `offsets[i]:offsets[i + 1]` of `boxes`, `labels`, `areas`, `crowd`, `annotation_ids`.

    Attributes:
        image_ids: original ids, unique.
        sizes: (height, width) in pixels.
        offsets: the first row of each image's objects, and at the end the number of objects.
        boxes: (x0, y0, x1, y1) in pixels.
        labels: 0..K-1.
        areas: in square pixels, for evaluation by size (COCO: the segment's area).
        crowd: True on regions to ignore.
        annotation_ids: COCO's ids; else the place of an object in the file of its image.
    """

    image_ids: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, "images 2"]
    offsets: Int64[np.ndarray, " images_plus_1"]
    boxes: Float32[np.ndarray, "objects 4"]
    labels: Int64[np.ndarray, " objects"]
    areas: Float32[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]
    annotation_ids: Int64[np.ndarray, " objects"]

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows of image `index` (0 <= index < images) in the objects' arrays."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    @property
    def owners(self) -> Int64[np.ndarray, " objects"]:
        """The index of the image of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, images: Int64[np.ndarray, " taken"]) -> "Annotations":
        """The annotations of the images with these indices, in that order."""
        counts = np.diff(self.offsets)[images]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        of_objects = (self.boxes, self.labels, self.areas, self.crowd, self.annotation_ids)
        return Annotations(self.image_ids[images], self.sizes[images], offsets, *(each[rows] for each in of_objects))


@runtime_checkable
class Source(Protocol):
    """Images with objects, by index. Reading an index twice in the same epoch gives the same sample."""

    @property
    def classes(self) -> ClassTable:
        """The class table."""
        ...

    @property
    def flippable(self) -> bool:
        """Whether a mirrored image still shows the same classes."""
        ...

    def __len__(self) -> int: ...

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        """Image `index`; generated sources may show another one in every `epoch`, files do not.

        It may come at reduced size where its shorter side keeps `shorter` pixels.
        """
        ...

    def annotations(self) -> Annotations:
        """The ground truth of all images (epoch 0)."""
        ...


def mirrored_alike(names: Sequence[str]) -> bool:
    """Whether a mirrored object still belongs to its class, judged by the classes' names.

    It does not where a name contains the word "left" or "right", nor where all names are single letters or numbers.
    """
    words = {word.lower() for name in names for word in _WORD.findall(name)}
    characters = all(len(name) == 1 or name.isdigit() for name in names)
    return not characters and not words & {"left", "right"}


@dataclass(frozen=True)
class DetectionData:
    """One split of a folder of files; a `Source`. `files` are the images of `truth`, relative to `root`."""

    root: Path
    split: str
    files: Sequence[str]
    classes: ClassTable
    truth: Annotations
    reading: ReadingConfig = AS_USUAL

    @property
    def flippable(self) -> bool:
        """Whether a mirrored image still shows the same classes: see `mirrored_alike`."""
        return mirrored_alike(self.classes.names)

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        """Image `index` (0 <= index < images) and its objects; every epoch shows the same. See `read_reduced`.

        Raises:
            ImageError: the file is missing, cannot be read, or has another size than in its annotations.
        """
        rows = self.truth.rows(index)
        image, size = read_reduced(self.root / self.files[index], shorter, self.reading)
        height, width = self.truth.sizes[index].tolist()
        if size != (height, width):
            raise ImageError(
                f"The image {self.root / self.files[index]} has {size[1]}x{size[0]} pixels, but its annotations say "
                f"{width}x{height}: its boxes would be wrong. Run `oddetr check {self.root}` for the full report."
            )
        scale = np.divide(image.shape[:2], size, dtype=np.float32)[[1, 0, 1, 0]]
        return Sample(
            image=image,
            boxes=self.truth.boxes[rows] * scale,
            labels=self.truth.labels[rows].copy(),
            crowd=self.truth.crowd[rows].copy(),
            image_id=int(self.truth.image_ids[index]),
            name=self.files[index],
            full_size=size,
        )

    def annotations(self) -> Annotations:
        """The ground truth."""
        return self.truth

    def take(self, images: Int64[np.ndarray, " taken"], split: str | None = None) -> "DetectionData":
        """The images with these indices, in that order, as the split `split`."""
        files = tuple(self.files[int(index)] for index in images)
        return replace(self, split=split or self.split, files=files, truth=self.truth.take(images))
