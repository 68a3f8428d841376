"""The built-in yardstick: frozen, honest about occlusion, and a pure function of its key."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.data.dataset import Sample
from oddetr.data.digits import FIXED_LENGTH, DigitScenes, Split, compose, digit_bank
from oddetr.data.painting import MAX_COVERED, Dice, Scene
from oddetr.data.sources import DigitsConfig

FROZEN = {
    "val": "73f78749d08b3154a94bdec6040adbb99561cab0940867f7b31f0f0a26d13a58",
    "test": "a33686acbca4bc0ac88e55590d78211b40b8f2d2146c2f9f47ec53906d869e6b",
}


def digest(samples: list[Sample]) -> str:
    """The SHA-256 of images, boxes (float32) and labels (int64), little-endian, scene by scene."""
    sha = hashlib.sha256()
    for sample in samples:
        sha.update(sample.image.tobytes())
        sha.update(sample.boxes.astype("<f4").tobytes())
        sha.update(sample.labels.astype("<i8").tobytes())
    return sha.hexdigest()


def same(one: Sample, other: Sample) -> bool:
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.labels, other.labels)
    )


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose(Dice((7, 0), (index, 0)), "train", 128) for index in range(60)]


@pytest.mark.parametrize("split", ["val", "test"])
def test_scenes_when_val_or_test_then_frozen(split: Split) -> None:
    source = DigitScenes(split, seed=3)
    assert len(source) == FIXED_LENGTH == 500
    samples = [source.sample(index) for index in range(FIXED_LENGTH)]
    assert digest(samples) == FROZEN[split], f"the {split} scenes changed: all published results become void"

    truth = source.annotations()
    assert truth is source.annotations()
    np.testing.assert_array_equal(truth.boxes, np.concatenate([sample.boxes for sample in samples]))
    np.testing.assert_array_equal(truth.labels, np.concatenate([sample.labels for sample in samples]))
    np.testing.assert_array_equal(np.diff(truth.offsets), [len(sample.labels) for sample in samples])
    assert 1 <= np.diff(truth.offsets).min() <= np.diff(truth.offsets).max() == 12
    np.testing.assert_array_equal(truth.image_ids, [sample.image_id for sample in samples])
    assert set(np.bincount(truth.labels, minlength=10) > 200) == {True}


def test_digits_when_split_then_disjoint_and_alike() -> None:
    bank = digit_bank()
    parts = [bank.splits[split] for split in ("train", "val", "test")]
    together = np.concatenate(parts)
    assert len(together) == len(bank.labels) == 1797
    assert len(np.unique(together)) == 1797
    assert [round(len(part) / 1797, 1) for part in parts] == [0.6, 0.2, 0.2]
    for part in parts:
        shares = np.bincount(bank.labels[part]) / len(part)
        np.testing.assert_allclose(shares, np.bincount(bank.labels) / 1797, atol=0.005)


def test_digits_when_split_then_no_picture_is_shared() -> None:
    bank = digit_bank()
    pictures = {split: {ink.tobytes() for ink in bank.ink[part]} for split, part in bank.splits.items()}
    assert not pictures["train"] & (pictures["val"] | pictures["test"])
    assert not pictures["val"] & pictures["test"]


def test_scenes_when_composed_then_occlusion_stays_below_the_limit(scenes: list[Scene]) -> None:
    covered = [share for scene in scenes for share in np.array(scene.covered) / np.array(scene.ink)]
    assert max(covered) <= MAX_COVERED
    assert max(covered) > 0.1
    for scene in scenes:
        visible = np.bincount(scene.owner.reshape(-1), minlength=len(scene.ink) + 1)[1:]
        np.testing.assert_array_equal(visible, np.array(scene.ink) - np.array(scene.covered))


def test_scenes_when_composed_then_boxes_are_tight_and_inside(scenes: list[Scene]) -> None:
    whole = 0
    for scene in scenes:
        for index, (x0, y0, x1, y1) in enumerate(scene.boxes):
            assert 0 <= x0 < x1 <= 128
            assert 0 <= y0 < y1 <= 128
            rows, columns = np.nonzero(scene.owner == index + 1)
            assert columns.min() >= x0
            assert columns.max() < x1
            assert rows.min() >= y0
            assert rows.max() < y1
            if scene.covered[index] == 0:
                whole += 1
                assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
    assert whole > 100


def test_scenes_when_composed_then_hold_1_to_12_digits_of_10_to_60_pixels(scenes: list[Scene]) -> None:
    counts = [len(scene.boxes) for scene in scenes]
    heights = [box[3] - box[1] for scene in scenes for box in scene.boxes]
    assert min(counts) >= 1
    assert max(counts) <= 12
    assert max(counts) >= 10
    assert min(heights) >= 8
    assert max(heights) <= 75
    assert np.quantile(heights, 0.1) < 15
    assert np.quantile(heights, 0.9) > 40


def test_scenes_when_composed_then_digits_stand_out(scenes: list[Scene]) -> None:
    contrasts = []
    for scene in scenes:
        image = scene.photograph().astype(np.float64).mean(axis=2)
        for index, (x0, y0, x1, y1) in enumerate(scene.boxes):
            inside = scene.owner[y0:y1, x0:x1]
            ink, ground = image[y0:y1, x0:x1][inside == index + 1], image[y0:y1, x0:x1][inside == 0]
            if len(ground):
                contrasts.append(abs(ink.mean() - ground.mean()))
    assert np.quantile(contrasts, 0.02) > 20


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 99), epoch=st.integers(0, 1000), fresh=st.booleans())
def test_sample_when_drawn_again_elsewhere_then_the_same(seed: int, index: int, epoch: int, fresh: bool) -> None:
    one = DigitScenes("train", length=100, seed=seed, fresh=fresh)
    other = DigitScenes("train", length=200, seed=seed, fresh=fresh)
    other.sample((index + 1) % 100, epoch)
    first, second = one.sample(index, epoch), other.sample(index, epoch)
    assert same(first, second)
    assert (first.image_id, first.name) == (index, f"digits-train-{index:06d}")
    assert same(first, one.sample(index, epoch + 1)) != fresh


def test_sample_when_key_differs_then_another_scene() -> None:
    base = DigitScenes("train", length=10).sample(0)
    assert not same(base, DigitScenes("train", length=10).sample(1))
    assert not same(base, DigitScenes("train", length=10, seed=1).sample(0))
    assert not same(base, DigitScenes("val").sample(0))
    assert not same(DigitScenes("val").sample(0), DigitScenes("test").sample(0))


@pytest.mark.parametrize("size", [64, 200])
def test_sample_when_other_size_then_fits(size: int) -> None:
    source = DigitScenes("train", length=20, size=size)
    for index in range(20):
        sample = source.sample(index)
        assert sample.image.shape == (size, size, 3)
        assert len(sample.labels) >= 1
        assert sample.boxes.min() >= 0
        assert sample.boxes.max() <= size
        assert not sample.crowd.any()


def test_scenes_when_objects_and_heights_are_given_then_are_of_these() -> None:
    """16 to 20 digits, of which some may find no place, 8 to 16 pixels high before they are turned."""
    source = DigitScenes("train", 12, objects=(16, 20), heights=(8.0, 16.0))
    samples = [source.sample(index) for index in range(12)]
    counts, boxes = [len(each.labels) for each in samples], np.concatenate([each.boxes for each in samples])
    assert 14 <= min(counts) < 18 < max(counts) <= 20
    heights = boxes[:, 3] - boxes[:, 1]
    assert 6 <= heights.min() < 10 < 14 < heights.max() < 20
    three = DigitScenes("val", objects=(3, 3), heights=(4.0, 4.0))
    assert {len(three.sample(index).labels) for index in range(8)} == {3}


def test_scenes_when_objects_and_heights_are_the_defaults_or_too_tall_then_are_the_usual_ones() -> None:
    """The tallest digit is half the scene, whatever more is asked for."""
    usual, same_as_usual = DigitScenes("val"), DigitScenes("val", objects=(1, 12), heights=(10.0, 60.0))
    assert same(usual.sample(3), same_as_usual.sample(3))
    half, taller, less = (DigitScenes("train", 1, heights=(10.0, most)) for most in (64.0, 500.0, 50.0))
    assert same(half.sample(0), taller.sample(0))
    assert not same(half.sample(0), less.sample(0))


def test_source_when_asked_then_tells_classes() -> None:
    source = DigitScenes()
    assert source.classes.names == tuple("0123456789")
    assert source.classes.ids == tuple(range(10))
    assert not source.flippable


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "val", "length": 100},
        {"split": "test", "fresh": True},
        {"size": 32},
        {"length": 0},
        {"seed": -1},
        {"objects": (0, 3)},
        {"objects": (4, 3)},
        {"heights": (3.0, 20.0)},
        {"heights": (20.0, 10.0)},
        {"heights": (65.0, 80.0)},
    ],
    ids=str,
)
def test_source_when_arguments_are_wrong_then_says_so(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"fixed|Need"):
        DigitScenes(**arguments)


@pytest.mark.parametrize("index", [-1, 10])
def test_sample_when_there_is_none_then_index_error(index: int) -> None:
    with pytest.raises(IndexError, match="of 10 train scenes"):
        DigitScenes("train", length=10).sample(index)


def test_config_when_there_are_no_training_images_then_says_so() -> None:
    assert DigitsConfig(train_images=1).train_images == 1
    with pytest.raises(ValueError, match="train_images is 0; it must be at least 1"):
        DigitsConfig(train_images=0)
