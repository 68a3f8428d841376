"""Large images in overlapping square tiles, in which small objects are as large as the detector needs them.

`predict --slice` detects in the same tiles that `train --slice` learns from.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int64

from oddetr.data.dataset import Annotations, ClassTable, Sample, Source
from oddetr.data.transforms import KEPT_SHARE

OVERLAP = 0.2
"""Minimum overlap of neighbouring tiles, as a share of their side."""

Tile = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels of the image."""


def tiles(height: int, width: int, side: int) -> list[Tile]:
    """Return tiles of an image in pixels, row by row: the fewest that overlap by `OVERLAP`, evenly spaced, each `side`
    wide and high, or as the image where that is smaller."""
    rows, columns = _starts(height, side), _starts(width, side)
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


@dataclass(frozen=True)
class TiledSource:
    """The tiles of a source's images, and whole images where an object lies whole in no tile; a `Source`.

    An object counts in a tile that shows `KEPT_SHARE` of its box, with the part that it shows; where less is shown, the
    part is a region to ignore, like a crowd.

    Attributes:
        whole: the images.
        side: of a tile, in pixels.
        balanced: of the tiles without an object keep only as many as there are others, evenly spaced; for training.
    """

    whole: Source
    side: int
    balanced: bool = False

    @property
    def classes(self) -> ClassTable:
        """The class table."""
        return self.whole.classes

    @property
    def flippable(self) -> bool:
        """See `Source`."""
        return self.whole.flippable

    def __len__(self) -> int:
        return len(self._places)

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        """Tile `index` (0 <= index < tiles) and its objects; see `Source`."""
        image, tile = self._places[index]
        truth, rows = self.annotations(), self.annotations().rows(index)
        height, width = truth.sizes[index].tolist()
        full = self.whole.annotations().sizes[image]
        if shorter is not None:
            shorter = math.ceil(shorter * full.min() / min(height, width))
        sample = self.whole.sample(image, epoch, shorter)
        scale = np.divide(sample.image.shape[:2], full)[[1, 0, 1, 0]]
        x0, y0, x1, y1 = np.round(np.array(tile) * scale).astype(int)
        pixels = sample.image[y0:y1, x0:x1]
        return Sample(
            image=pixels,
            boxes=truth.boxes[rows] * np.divide(pixels.shape[:2], (height, width), dtype=np.float32)[[1, 0, 1, 0]],
            labels=truth.labels[rows].copy(),
            crowd=truth.crowd[rows].copy(),
            image_id=index,
            name=f"{sample.name} [{', '.join(map(str, tile))}]",
            full_size=(height, width),
        )

    def annotations(self) -> Annotations:
        """The ground truth of all tiles; their ids are their indices."""
        return self._truth

    @property
    def cut(self) -> Int64[np.ndarray, " objects"]:
        """The rows of the whole images' objects that lie whole in no tile."""
        truth = self.whole.annotations()
        lost = [self._rows(image)[~self._inside(image).any(axis=0)] for image in range(len(truth))]
        return np.concatenate([np.zeros(0, np.int64), *lost])

    @cached_property
    def _places(self) -> list[tuple[int, Tile]]:
        """The image's index and the window of each example."""
        places = [(image, tile) for image in range(len(self.whole)) for tile in self._windows(image)]
        if not self.balanced:
            return places
        shown = np.array([bool((self._shares(image, [tile]) >= KEPT_SHARE).any()) for image, tile in places])
        empty = np.flatnonzero(~shown)
        kept = empty[np.linspace(0, len(empty) - 1, min(len(empty), int(shown.sum()))).astype(int)]
        return [places[index] for index in np.sort(np.concatenate([np.flatnonzero(shown), kept]))]

    @cached_property
    def _truth(self) -> Annotations:
        truth = self.whole.annotations()
        found = [(self._rows(image), self._shares(image, [tile])[0]) for image, tile in self._places]
        found = [(rows[shares > 0], shares[shares > 0]) for rows, shares in found]
        counts = [len(rows) for rows, _ in found]
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in found)])
        shares = np.concatenate([np.zeros(0, np.float32), *(shares for _, shares in found)])
        windows = np.array([tile for _, tile in self._places], np.int64).reshape(-1, 4)
        low, high = (np.tile(np.repeat(corner, counts, axis=0), 2) for corner in (windows[:, :2], windows[:, 2:]))
        return Annotations(
            image_ids=np.arange(len(windows)),
            sizes=windows[:, [3, 2]] - windows[:, [1, 0]],
            offsets=np.cumsum([0, *counts]),
            boxes=(np.clip(truth.boxes[rows], low, high) - low).astype(np.float32),
            labels=truth.labels[rows],
            areas=(truth.areas[rows] * shares).astype(np.float32),
            crowd=truth.crowd[rows] | (shares < KEPT_SHARE),
            annotation_ids=truth.annotation_ids[rows],
        )

    def _windows(self, image: int) -> list[Tile]:
        """The tiles of an image, and the whole where an object needs it."""
        height, width = self.whole.annotations().sizes[image].tolist()
        parts = tiles(height, width, self.side)
        return parts if self._inside(image).any(axis=0).all() else [*parts, (0, 0, width, height)]

    def _rows(self, image: int) -> Int64[np.ndarray, " objects"]:
        rows = self.whole.annotations().rows(image)
        return np.arange(rows.start, rows.stop)

    def _shares(self, image: int, places: list[Tile]) -> Float32[np.ndarray, "tiles objects"]:
        """The share of each object's box that each tile shows."""
        boxes = self.whole.annotations().boxes[self._rows(image)]
        windows = np.array(places, np.float32)[:, None]
        sides = np.minimum(boxes[:, 2:], windows[..., 2:]) - np.maximum(boxes[:, :2], windows[..., :2])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return (sides.clip(0).prod(axis=2) / areas.clip(1e-9)).astype(np.float32)

    def _inside(self, image: int) -> Bool[np.ndarray, "tiles objects"]:
        """Whether each tile but the whole image holds each object whole."""
        height, width = self.whole.annotations().sizes[image].tolist()
        boxes = self.whole.annotations().boxes[self._rows(image)]
        windows = np.array(tiles(height, width, self.side))[:, None]
        return np.asarray(((boxes[:, :2] >= windows[..., :2]) & (boxes[:, 2:] <= windows[..., 2:])).all(axis=2))


def tiled(sources: dict[str, Source], side: int) -> tuple[dict[str, Source], str]:
    """Return training and validation images as tiles, other splits as they are, and a sentence on what that makes."""
    train, val = TiledSource(sources["train"], side, balanced=True), TiledSource(sources["val"], side)
    note = (
        f"{len(sources['train'])} training images make {len(train)} tiles of {side} px; "
        f"{len(sources['val'])} validation images make {len(val)}, on which the run is validated."
    )
    if count := len(train.cut):
        note += (
            f" {count} of {len(sources['train'].annotations().labels)} training objects lie whole in no tile, since "
            f"neighbours overlap by {round(OVERLAP * side)} px: their whole images are among the tiles."
        )
    return sources | {"train": train, "val": val}, note


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    return np.linspace(0, length - side, count).round().astype(int).tolist()
