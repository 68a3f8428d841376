"""Tiles of large images: their objects are where the pixels show them, and none is lost."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from oddetr.data.dataset import Annotations, ClassTable, Sample, Source
from oddetr.data.tiles import OVERLAP, TiledSource, tiled, tiles

SIDE = 100
CLASSES = ClassTable(("bolt", "nut"), (1, 2))


@pytest.mark.parametrize("size", [(640, 1000), (333, 64), (101, 100)])
def test_tiles_cover_the_image_and_overlap_by_a_fifth(size: tuple[int, int]) -> None:
    height, width = size
    places = tiles(height, width, SIDE)
    covered = np.zeros(size, int)
    for x0, y0, x1, y1 in places:
        assert (y1 - y0, x1 - x0) == (min(SIDE, height), min(SIDE, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() == 1
    for axis, length in ((1, height), (0, width)):
        starts = sorted({place[axis] for place in places})
        assert (starts[0], starts[-1]) == (0, max(0, length - SIDE))
        assert all(after - before <= 80 for before, after in pairwise(starts))


@dataclass(frozen=True)
class Painted:
    """Black images with an object each of its own grey; a `Source` that reads at half size where it may."""

    truth: Annotations
    classes: ClassTable = CLASSES
    flippable: bool = True

    def __len__(self) -> int:
        return len(self.truth)

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        rows, (height, width) = self.truth.rows(index), self.truth.sizes[index].tolist()
        image = np.zeros((height, width, 3), np.uint8)
        for row in range(rows.start, rows.stop):
            x0, y0, x1, y1 = self.truth.boxes[row].astype(int)
            image[y0:y1, x0:x1] = 10 + row
        step = 2 if shorter is not None and 2 * shorter <= min(height, width) else 1
        boxes = self.truth.boxes[rows] / step
        parts = (self.truth.labels[rows], self.truth.crowd[rows], index, "painted", (height, width))
        return Sample(image[::step, ::step], boxes, *parts)

    def annotations(self) -> Annotations:
        return self.truth


def painted(*images: list[tuple[int, int, int, int]], size: tuple[int, int] = (200, 260)) -> Painted:
    """An image for each list of boxes."""
    boxes = np.array([box for image in images for box in image], np.float32).reshape(-1, 4)
    count = len(boxes)
    return Painted(
        Annotations(
            image_ids=np.arange(len(images)) + 70,
            sizes=np.array([size] * len(images)),
            offsets=np.cumsum([0, *map(len, images)]),
            boxes=boxes,
            labels=np.arange(count) % 2,
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
            crowd=np.zeros(count, bool),
            annotation_ids=np.arange(count),
        )
    )


SOURCE = painted([(4, 6, 30, 20), (90, 70, 106, 130), (60, 100, 240, 140)], [])


@pytest.mark.parametrize("shorter", [None, 50])
def test_boxes_are_where_the_pixels_show_the_objects(shorter: int | None) -> None:
    source = TiledSource(SOURCE, SIDE)
    assert isinstance(source, Source)
    seen = set()
    for index in range(len(source)):
        sample, rows = source.sample(index, shorter=shorter), source.annotations().rows(index)
        step = round(sample.size[0] / sample.image.shape[0])
        for row, box, crowd in zip(range(rows.start, rows.stop), sample.boxes, sample.crowd, strict=True):
            own = int(source.annotations().annotation_ids[row])
            shown = np.argwhere(sample.image[..., 0] == 10 + own)
            if not crowd and own != 1:  # object 2 is painted over object 1
                found = [*shown.min(axis=0)[::-1], *(shown.max(axis=0)[::-1] + 1)]
                assert np.abs(box - found).max() <= (0 if shorter is None else step)
                seen.add(own)
    assert seen == {0, 2}


def test_a_part_that_shows_too_little_of_an_object_is_to_be_ignored() -> None:
    source = TiledSource(painted([(10, 10, 18, 18), (70, 10, 118, 20)], size=(100, 180)), SIDE)
    truth = source.annotations()
    (left, right, whole) = (truth.rows(index) for index in range(3))
    assert truth.boxes[right].tolist() == [[0, 10, 38, 20]]
    assert truth.crowd[left].tolist() == [False, False]
    assert truth.crowd[right].tolist() == [False]
    assert truth.boxes[whole].tolist() == [[10, 10, 18, 18], [70, 10, 118, 20]]
    sliver = TiledSource(painted([(62, 10, 84, 20)], size=(100, 180)), SIDE).annotations()
    assert sliver.crowd.tolist() == [False, True], "the second tile begins at 80, and no whole image is needed"


def test_every_object_lies_whole_in_a_tile_or_is_listed() -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 150, (40, 2))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, generator.integers(4, 50, (40, 2)), strict=True)]
    source = TiledSource(painted([*map(tuple, np.array(boxes).tolist())]), SIDE)
    inside = {
        row
        for row, box in enumerate(boxes)
        if any(t[0] <= box[0] and t[1] <= box[1] and t[2] >= box[2] and t[3] >= box[3] for t in tiles(200, 260, SIDE))
    }
    assert sorted({*range(40)} - inside) == source.cut.tolist() != []
    small = [row for row, box in enumerate(boxes) if max(box[2] - box[0], box[3] - box[1]) <= OVERLAP * SIDE]
    assert not {*small} & {*source.cut.tolist()}
    _, note = tiled({"train": source.whole, "val": source.whole}, SIDE)
    assert f"{len(source.cut)} of 40 training objects lie whole in no tile" in note


def test_training_keeps_as_many_tiles_without_objects_as_with() -> None:
    everything, train = TiledSource(SOURCE, SIDE), TiledSource(SOURCE, SIDE, balanced=True)
    counts = np.diff(train.annotations().offsets)
    assert len(everything) == 2 * len(tiles(200, 260, SIDE)) + 1, "one image has an object that fits into no tile"
    assert (counts == 0).sum() == min((counts > 0).sum(), (np.diff(everything.annotations().offsets) == 0).sum())
    alone = TiledSource(painted([], []), SIDE, balanced=True)
    assert len(alone) == len(alone.annotations().boxes) == 0
    small = replace(everything, side=300)
    assert [small.sample(index).image.shape for index in range(2)] == [(200, 260, 3)] * 2
