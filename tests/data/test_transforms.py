"""A bright rectangle stays framed by its box, whatever the augmentation does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.data.dataset import Sample
from oddetr.data.image_sizes import LONGEST, resized_shape
from oddetr.data.transforms import (
    KEPT_SHARE,
    AugmentConfig,
    EvalTransform,
    Example,
    TrainTransform,
    View,
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
    """Records the size of the window that it cuts out."""

    window: tuple[int, int] | None = None

    def _cut(self, view: View) -> View:
        view = super()._cut(view)
        self.window = view.shape
        return view

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


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.floats(0.1, 0.6), st.floats(0.1, 0.6)),
)
def test_the_box_frames_the_rectangle_whatever_is_drawn(
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


def test_photometric_changes_alter_pixels_and_not_boxes() -> None:
    sample = sample_with((10, 20, 50, 70), (60, 10, 100, 30))
    sample.image[:] = sample.image // 2 + np.array([90, 60, 30], dtype=np.uint8)
    plain, distorted = (
        TrainTransform(64, **PLAIN, flippable=True, augment=AugmentConfig(False, 1.0, False, photometric))(sample)
        for photometric in (False, True)
    )
    assert torch.equal(plain.boxes, distorted.boxes)
    assert torch.equal(plain.labels, distorted.labels)
    assert 0.01 < (plain.image - distorted.image).abs().mean() < 0.3
    evaluation = EvalTransform(64, **PLAIN)(sample)
    assert torch.equal(plain.image, evaluation.image), "with everything off it is that of evaluation"
    assert torch.equal(plain.boxes, evaluation.boxes)


def test_crops_keep_just_what_shows_a_quarter() -> None:
    """Crops of a 100×300 picture are 100 high, so columns that show an object tell which share of it is in view."""
    sample = sample_with((0, 0, 60, 100), (240, 0, 300, 100), height=100, width=300)
    sample.image[:, :100, 1:] = 0
    sample.image[:, 200:, 0] = 0
    config = AugmentConfig(min_scale=1.0, photometric=False)
    transform = TrainTransform(100, **PLAIN, flippable=False, augment=config)
    kept = set()
    for seed in range(120):
        torch.manual_seed(seed)
        example = transform(sample)
        boxes = pixel_boxes(example)
        assert ((boxes >= -1e-3) & (boxes <= torch.tensor(example.image.shape[1:]).flip(0).repeat(2) + 1e-3)).all()
        columns = (example.image > 0.5).any(dim=1).sum(dim=1) * (100 / example.image.shape[1]) / 60
        for label, channel in ((0, 0), (1, 1)):
            share = float(columns[channel])
            if abs(share - KEPT_SHARE) > 0.03:
                assert (label in example.labels.tolist()) == (share > KEPT_SHARE)
        kept.add(tuple(example.labels.tolist()))
    assert kept == {(), (0,), (1,), (0, 1)}


def test_half_are_mirrored_where_flip_is_on() -> None:
    sample = sample_with((0, 0, 20, 20), height=100, width=100)
    for flip, flippable, expected in (
        ("auto", True, {True, False}),
        ("auto", False, {False}),
        (True, False, {True, False}),
    ):
        transform = TrainTransform(96, **PLAIN, flippable=flippable, augment=AugmentConfig(flip=flip, crop=False))
        torch.manual_seed(0)
        sides = [bool(transform(sample).boxes[0, 0] > 0.5) for _ in range(40)]
        assert set(sides) == expected
        assert len(expected) == 1 or 10 <= sum(sides) <= 30
    assert not TrainTransform(96, **PLAIN, flippable=True, augment=AugmentConfig(flip=False)).flip


def test_all_training_sizes_occur() -> None:
    sample = sample_with((10, 20, 50, 70))
    transform = TrainTransform(160, **PLAIN, flippable=True, augment=AugmentConfig(crop=False))
    torch.manual_seed(0)
    shorter = {min(transform(sample).image.shape[1:]) for _ in range(100)}
    assert shorter == set(training_sizes(160, 0.6))
    assert (min(shorter), max(shorter)) == (96, 160)


@pytest.mark.parametrize("transform", [EvalTransform(64, **PLAIN), TrainTransform(64, **PLAIN, flippable=True)])
def test_crowds_are_no_objects_and_images_may_have_none(transform: EvalTransform) -> None:
    example = transform(sample_with((0, 0, 140, 100), (0, 0, 140, 100), crowd=(True, False)))
    assert example.labels.tolist() == [1]
    assert example.boxes.shape == (1, 4)
    example = transform(sample_with())
    assert (example.boxes.shape, example.labels.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("shape", [(1, 1), (300, 1), (1, 4000)])
def test_tiny_and_thin_images_are_transformed(shape: tuple[int, int]) -> None:
    height, width = shape
    sample = sample_with((0, 0, width, height), height=height, width=width)
    for seed in range(5):
        torch.manual_seed(seed)
        example = TrainTransform(64, **PLAIN, flippable=True)(sample)
        assert max(example.image.shape[1:]) <= round(64 * LONGEST)
        torch.testing.assert_close(example.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    example = EvalTransform(64, **PLAIN)(sample)
    torch.testing.assert_close(example.boxes, torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    assert example.original_size == (height, width)


def test_boxes_end_at_the_border_of_the_image() -> None:
    sample = sample_with((-20, 10, 40, 50), (200, 10, 240, 50))
    evaluated = EvalTransform(100, **PLAIN)(sample)
    torch.testing.assert_close(pixel_boxes(evaluated)[0], torch.tensor([0.0, 10.0, 40.0, 50.0]))
    trained = TrainTransform(100, **PLAIN, flippable=False, augment=AugmentConfig(crop=False))(sample)
    assert trained.labels.tolist() == [0]


def test_evaluation_normalises_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    example = EvalTransform(50, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))(sample_with((0, 0, 140, 100)))
    assert torch.equal(torch.get_rng_state(), state)
    assert example.image.shape == (3, 50, 70)
    torch.testing.assert_close(example.image.mean(dim=(1, 2)), torch.tensor([1.0, 3.0, 0.5]))
    assert example.image_id == 42
    assert type(example.image) is type(example.boxes) is torch.Tensor


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    shorter=st.integers(8, 1000),
    min_scale=st.floats(0.05, 1.0),
)
def test_sizes_respect_both_sides_and_rise_to_that_of_evaluation(
    height: int, width: int, shorter: int, min_scale: float
) -> None:
    low, high = sorted(resized_shape(height, width, shorter))
    longest = max(1, round(shorter * LONGEST))
    assert 1 <= low <= shorter
    assert high <= longest
    assert low == shorter or high == longest
    sizes = training_sizes(shorter, min_scale)
    assert sizes == sorted(sizes)
    assert (len(sizes), sizes[-1]) == (11, shorter)
    assert all(size % 8 == 0 or size == shorter for size in sizes)


def test_a_scale_out_of_range_is_refused() -> None:
    for min_scale in (0.0, 1.1):
        with pytest.raises(ValueError, match="min_scale"):
            AugmentConfig(min_scale=min_scale)
