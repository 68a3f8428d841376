"""Boxes follow the picture: a bright rectangle stays framed by its box, whatever the augmentation does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.data.dataset import Sample
from oddetr.data.transforms import (
    KEPT_SHARE,
    LONGEST,
    AugmentConfig,
    EvalTransform,
    Example,
    TrainTransform,
    resized_shape,
    training_sizes,
)

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def sample_with(
    *boxes: tuple[float, float, float, float],
    height: int = 100,
    width: int = 140,
    crowd: tuple[bool, ...] | None = None,
) -> Sample:
    """A black image with white rectangles; label = position in the list."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[max(0, int(y0)) : int(y1), max(0, int(x0)) : int(x1)] = 255
    return Sample(
        image=image,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes)),
        crowd=np.array(crowd if crowd is not None else [False] * len(boxes), dtype=np.bool_),
        image_id=42,
        name="synthetic",
    )


def pixel_boxes(example: Example) -> torch.Tensor:
    height, width = example.image.shape[1:]
    return cxcywh_to_xyxy(example.boxes) * torch.tensor([width, height, width, height])


def bright_box(example: Example) -> torch.Tensor | None:
    bright = example.image.mean(dim=0) > 0.35
    if not bright.any():
        return None
    rows, columns = bright.any(dim=1).nonzero().flatten(), bright.any(dim=0).nonzero().flatten()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


class WatchedTransform(TrainTransform):
    """Remembers the size of the window that it cuts out."""

    window: tuple[int, int] | None = None

    def _cut(self, image: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image, boxes = super()._cut(image, boxes)
        self.window = (image.shape[-2], image.shape[-1])
        return image, boxes

    def shares(
        self, example: Example, found: torch.Tensor | None, shape: tuple[int, int], area: int
    ) -> tuple[float, float]:
        """The share of an object of this area (in pixels of the original) that is in view, by its bright pixels.

        Least and most: resizing blurs the object's edges by up to a pixel at each side.
        """
        if found is None:
            return 0.0, 0.0
        height, width = self.window or shape
        scale = example.image.shape[1] / height * example.image.shape[2] / width
        sides = found[2:] - found[:2]
        least, most = (float((sides + blur).clamp(min=0).prod()) / scale / area for blur in (-2.0, 2.0))
        return least, most


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.floats(0.1, 0.6), st.floats(0.1, 0.6)),
)
def test_train_transform_when_anything_happens_then_the_box_frames_the_rectangle(
    seed: int, shape: tuple[int, int], corner: tuple[float, float], extent: tuple[float, float]
) -> None:
    (height, width), size = shape, [max(6, int(share * side)) for share, side in zip(extent, shape, strict=True)]
    top, left = (int(at * (side - length)) for at, side, length in zip(corner, shape, size, strict=True))
    sample = sample_with((left, top, left + size[1], top + size[0]), height=height, width=width)
    torch.manual_seed(seed)
    transform = WatchedTransform(128, **PLAIN, flippable=True)
    example = transform(sample)
    found = bright_box(example)
    least, most = transform.shares(example, found, shape, size[0] * size[1])
    if len(example.boxes):
        assert found is not None
        assert example.boxes.min() >= 0
        assert pixel_boxes(example).min() >= -1e-3
        torch.testing.assert_close(pixel_boxes(example)[0], found, atol=2.0, rtol=0)
        assert example.labels.tolist() == [0]
        assert most >= KEPT_SHARE
    else:
        assert least < KEPT_SHARE


def test_train_transform_when_photometric_then_changes_pixels_and_not_boxes() -> None:
    sample = sample_with((10, 20, 50, 70))
    sample.image[:] = sample.image // 2 + np.array([90, 60, 30], dtype=np.uint8)
    plain, distorted = (
        TrainTransform(64, **PLAIN, flippable=False, augment=AugmentConfig(False, 1.0, False, photometric))(sample)
        for photometric in (False, True)
    )
    assert torch.equal(plain.boxes, distorted.boxes)
    assert torch.equal(plain.labels, distorted.labels)
    change = (plain.image - distorted.image).abs()
    assert 0.01 < change.mean() < 0.3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_train_transform_when_it_crops_then_clips_and_drops_by_visible_share(seed: int) -> None:
    grid = [(x, y, x + 20, y + 20) for y in range(0, 100, 20) for x in range(0, 140, 20)]
    sample = sample_with(*grid)
    torch.manual_seed(seed)
    transform = TrainTransform(100, **PLAIN, flippable=False, augment=AugmentConfig(min_scale=1.0, photometric=False))
    example = transform(sample)
    boxes = pixel_boxes(example)
    assert boxes.min() >= -1e-3
    assert (boxes[:, 2] <= example.image.shape[2] + 1e-3).all()
    assert (boxes[:, 3] <= example.image.shape[1] + 1e-3).all()
    shown = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    largest = shown.max()
    assert (shown >= KEPT_SHARE * largest * 0.9).all()
    total = example.image.shape[1] * example.image.shape[2]
    assert shown.sum() > 0.5 * total


def test_train_transform_when_it_crops_then_keeps_just_what_shows_a_quarter() -> None:
    """Crops of a 100×300 picture are 100 high, so columns that show an object tell which share of it is in view."""
    sample = sample_with((0, 0, 60, 100), (240, 0, 300, 100), height=100, width=300)
    sample.image[:, :100, 1:] = 0
    sample.image[:, 200:, 0] = 0
    config = AugmentConfig(min_scale=1.0, photometric=False)
    transform = TrainTransform(100, **PLAIN, flippable=False, augment=config)
    kept = set()
    for seed in range(200):
        torch.manual_seed(seed)
        example = transform(sample)
        columns = (example.image > 0.5).any(dim=1).sum(dim=1) * (100 / example.image.shape[1]) / 60
        for label, channel in ((0, 0), (1, 1)):
            share = float(columns[channel])
            if abs(share - KEPT_SHARE) > 0.03:
                assert (label in example.labels.tolist()) == (share > KEPT_SHARE)
        kept.add(tuple(example.labels.tolist()))
    assert kept == {(), (0,), (1,), (0, 1)}


def test_train_transform_when_flip_is_on_then_half_are_mirrored() -> None:
    sample = sample_with((0, 0, 20, 20), height=100, width=100)
    config = AugmentConfig(flip="auto", crop=False)
    for flippable, expected in ((True, {True, False}), (False, {False})):
        transform = TrainTransform(96, **PLAIN, flippable=flippable, augment=config)
        torch.manual_seed(0)
        sides = [bool(transform(sample).boxes[0, 0] > 0.5) for _ in range(60)]
        assert set(sides) == expected
        if flippable:
            assert 15 <= sum(sides) <= 45
    assert TrainTransform(96, **PLAIN, flippable=False, augment=AugmentConfig(flip=True)).flip
    assert not TrainTransform(96, **PLAIN, flippable=True, augment=AugmentConfig(flip=False)).flip


def test_train_transform_when_everything_is_off_then_equals_evaluation() -> None:
    sample = sample_with((10, 20, 50, 70), (60, 10, 100, 30))
    config = AugmentConfig(flip=False, min_scale=1.0, crop=False, photometric=False)
    train = TrainTransform(64, **PLAIN, flippable=True, augment=config)(sample)
    evaluation = EvalTransform(64, **PLAIN)(sample)
    assert torch.equal(train.image, evaluation.image)
    assert torch.equal(train.boxes, evaluation.boxes)


def test_train_transform_when_scales_vary_then_all_sizes_occur() -> None:
    sample = sample_with((10, 20, 50, 70))
    transform = TrainTransform(160, **PLAIN, flippable=True, augment=AugmentConfig(crop=False))
    torch.manual_seed(0)
    shorter = {min(transform(sample).image.shape[1:]) for _ in range(150)}
    assert shorter == set(training_sizes(160, 0.6))
    assert min(shorter) == 96
    assert max(shorter) == 160


@pytest.mark.parametrize("transform", [EvalTransform(64, **PLAIN), TrainTransform(64, **PLAIN, flippable=True)])
def test_transform_when_crowd_then_not_among_the_objects(transform: EvalTransform) -> None:
    sample = sample_with((0, 0, 140, 100), (0, 0, 140, 100), crowd=(True, False))
    example = transform(sample)
    assert example.labels.tolist() == [1]
    assert example.boxes.shape == (1, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (1, 2), (1, 4000)])
def test_transform_when_the_image_is_tiny_or_thin_then_works(shape: tuple[int, int]) -> None:
    height, width = shape
    sample = sample_with((0, 0, width, height), height=height, width=width)
    for seed in range(10):
        torch.manual_seed(seed)
        example = TrainTransform(64, **PLAIN, flippable=True)(sample)
        assert max(example.image.shape[1:]) <= round(64 * LONGEST)
        torch.testing.assert_close(example.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    example = EvalTransform(64, **PLAIN)(sample)
    torch.testing.assert_close(example.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    assert example.original_size == (height, width)


def test_transform_when_there_is_no_object_then_gives_none() -> None:
    for transform in (EvalTransform(64, **PLAIN), TrainTransform(64, **PLAIN, flippable=True)):
        example = transform(sample_with())
        assert example.boxes.shape == (0, 4)
        assert example.labels.shape == (0,)


def test_transform_when_a_box_leaves_the_image_then_ends_at_the_border() -> None:
    sample = sample_with((-20, 10, 40, 50), (200, 10, 240, 50))
    evaluated = EvalTransform(100, **PLAIN)(sample)
    torch.testing.assert_close(pixel_boxes(evaluated)[0], torch.tensor([0.0, 10.0, 40.0, 50.0]))
    trained = TrainTransform(100, **PLAIN, flippable=False, augment=AugmentConfig(crop=False))(sample)
    assert trained.labels.tolist() == [0]


def test_eval_transform_when_called_then_normalises_and_leaves_the_generator_alone() -> None:
    sample = sample_with((0, 0, 140, 100))
    state = torch.get_rng_state()
    example = EvalTransform(50, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))(sample)
    assert torch.equal(torch.get_rng_state(), state)
    assert example.image.shape == (3, 50, 70)
    torch.testing.assert_close(example.image.mean(dim=(1, 2)), torch.tensor([1.0, 3.0, 0.5]))
    assert example.image_id == 42
    assert type(example.image) is torch.Tensor
    assert type(example.boxes) is torch.Tensor


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), shorter=st.integers(1, 1000))
def test_resized_shape_when_asked_then_respects_both_sides(height: int, width: int, shorter: int) -> None:
    rows, columns = resized_shape(height, width, shorter)
    assert min(rows, columns) >= 1
    assert min(rows, columns) <= shorter
    assert max(rows, columns) <= round(shorter * LONGEST)
    assert min(rows, columns) == shorter or max(rows, columns) == max(1, round(shorter * LONGEST))


@given(image_size=st.integers(8, 1000), min_scale=st.floats(0.05, 1.0))
def test_training_sizes_when_listed_then_rise_to_the_evaluation_size(image_size: int, min_scale: float) -> None:
    sizes = training_sizes(image_size, min_scale)
    assert len(sizes) == 11
    assert sizes == sorted(sizes)
    assert sizes[-1] == image_size
    assert all(size % 8 == 0 or size == image_size for size in sizes)


@pytest.mark.parametrize("min_scale", [0.0, -1.0, 1.1])
def test_augment_config_when_out_of_range_then_says_so(min_scale: float) -> None:
    with pytest.raises(ValueError, match="min_scale"):
        AugmentConfig(min_scale=min_scale)
