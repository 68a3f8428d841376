"""The built-in data set: frozen, with honest boxes and limited occlusion, and a pure function of its key."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.data.dataset import Sample
from oddetr.data.digits import FIXED_LENGTH, DigitScenes, Split, compose, digit_bank
from oddetr.data.digits_painting import MAX_COVERED, Dice, Scene
from oddetr.data.sources import DigitsConfig

FROZEN = {
    ("val", 500): "73f78749d08b3154a94bdec6040adbb99561cab0940867f7b31f0f0a26d13a58",
    ("test", 500): "a33686acbca4bc0ac88e55590d78211b40b8f2d2146c2f9f47ec53906d869e6b",
    ("val", 60): "de3d68ecf3440334bec1559edfc883e01e5b972b04c2fb74dce2848695bebeda",
    ("test", 60): "fdfcffa9a236a6eaf3197c6151dc33900ffaa032264428f2207cf395701fdc3b",
}
"""Of so many first scenes."""


def digest(samples: list[Sample]) -> str:
    """The SHA-256 of images, boxes (float32) and labels (int64), little-endian, scene by scene."""
    sha = hashlib.sha256()
    for sample in samples:
        sha.update(sample.image.tobytes())
        sha.update(sample.boxes.astype("<f4").tobytes())
        sha.update(sample.labels.astype("<i8").tobytes())
    return sha.hexdigest()


def same(one: Sample, other: Sample) -> bool:
    return digest([one]) == digest([other])


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose(Dice((7, 0), (index, 0)), "train", 128) for index in range(60)]


@pytest.mark.parametrize(
    ("split", "count"), [pytest.param(*key, marks=[pytest.mark.slow] if key[1] > 60 else []) for key in FROZEN]
)
def test_val_and_test_are_frozen(split: Split, count: int) -> None:
    source = DigitScenes(split, seed=3)
    assert len(source) == FIXED_LENGTH == 500
    samples = [source.sample(index) for index in range(count)]
    assert digest(samples) == FROZEN[split, count], f"the {split} scenes changed: all published results become void"
    counts = [len(sample.labels) for sample in samples]
    assert (min(counts), max(counts)) == (1, 12)
    assert min(np.bincount(np.concatenate([sample.labels for sample in samples]), minlength=10)) > 0.4 * count


def test_annotations_are_those_of_the_samples() -> None:
    source = DigitScenes("train", 20)
    truth = source.annotations()
    assert truth is source.annotations()
    for index in range(20):
        sample = source.sample(index)
        np.testing.assert_array_equal(truth.boxes[truth.rows(index)], sample.boxes)
        np.testing.assert_array_equal(truth.labels[truth.rows(index)], sample.labels)
        assert truth.image_ids[index] == sample.image_id == index
    assert source.classes.names == tuple("0123456789")
    assert source.classes.ids == tuple(range(10))
    assert not source.flippable


def test_splits_share_no_digit_and_are_alike() -> None:
    bank = digit_bank()
    parts = [bank.splits[split] for split in ("train", "val", "test")]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    assert [round(len(part) / 1797, 1) for part in parts] == [0.6, 0.2, 0.2]
    for part in parts:
        shares = np.bincount(bank.labels[part]) / len(part)
        np.testing.assert_allclose(shares, np.bincount(bank.labels) / 1797, atol=0.005)
    train, val, test = ({ink.tobytes() for ink in bank.ink[part]} for part in parts)
    assert not (train & val | train & test | val & test)


def test_occlusion_stays_below_the_limit(scenes: list[Scene]) -> None:
    covered = [share for scene in scenes for share in np.array(scene.covered) / np.array(scene.ink)]
    assert 0.1 < max(covered) <= MAX_COVERED
    for scene in scenes:
        visible = np.bincount(scene.owner.reshape(-1), minlength=len(scene.ink) + 1)[1:]
        np.testing.assert_array_equal(visible, np.array(scene.ink) - np.array(scene.covered))


def test_boxes_are_tight_inside_and_of_the_stated_sizes(scenes: list[Scene]) -> None:
    uncovered = 0
    for scene in scenes:
        for index, box in enumerate(scene.boxes):
            rows, columns = np.nonzero(scene.owner == index + 1)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert all(0 <= low <= side for low, side in zip(box[:2], found[:2], strict=True))
            assert all(side <= high <= 128 for high, side in zip(box[2:], found[2:], strict=True))
            if scene.covered[index] == 0:
                uncovered += 1
                assert found == box
    assert uncovered > 100
    counts = [len(scene.boxes) for scene in scenes]
    heights = [box[3] - box[1] for scene in scenes for box in scene.boxes]
    assert 1 <= min(counts) < 10 <= max(counts) <= 12
    assert 8 <= min(heights) < np.quantile(heights, 0.1) < 15
    assert 40 < np.quantile(heights, 0.9) < max(heights) <= 75


def test_digits_stand_out(scenes: list[Scene]) -> None:
    contrasts = []
    for scene in scenes:
        image = scene.photograph().astype(np.float64).mean(axis=2)
        for index, (x0, y0, x1, y1) in enumerate(scene.boxes):
            inside, crop = scene.owner[y0:y1, x0:x1], image[y0:y1, x0:x1]
            if (inside == 0).any():
                contrasts.append(abs(crop[inside == index + 1].mean() - crop[inside == 0].mean()))
    assert np.quantile(contrasts, 0.02) > 20


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 99), epoch=st.integers(0, 1000), fresh=st.booleans())
def test_a_sample_depends_on_its_key_alone(seed: int, index: int, epoch: int, fresh: bool) -> None:
    one = DigitScenes("train", length=100, seed=seed, fresh=fresh)
    other = DigitScenes("train", length=200, seed=seed, fresh=fresh)
    other.sample((index + 1) % 100, epoch)
    first, second = one.sample(index, epoch), other.sample(index, epoch)
    assert same(first, second)
    assert (first.image_id, first.name) == (index, f"digits-train-{index:06d}")
    assert same(first, one.sample(index, epoch + 1)) != fresh


def test_samples_with_other_keys_differ() -> None:
    train = DigitScenes("train", length=10)
    keys = [train.sample(0), train.sample(1), DigitScenes("train", length=10, seed=1).sample(0)]
    keys += [DigitScenes("val").sample(0), DigitScenes("test").sample(0)]
    assert len({digest([each]) for each in keys}) == len(keys)


@pytest.mark.parametrize("size", [64, 200])
def test_scenes_have_the_given_size(size: int) -> None:
    source = DigitScenes("train", length=10, size=size)
    for sample in map(source.sample, range(10)):
        assert sample.image.shape == (size, size, 3)
        assert len(sample.labels) >= 1
        assert 0 <= sample.boxes.min() < sample.boxes.max() <= size
        assert not sample.crowd.any()


def test_scenes_have_the_given_numbers_and_heights_of_digits() -> None:
    """16 to 20 digits, of which some may find no place, 8 to 16 pixels high before they are turned."""
    source = DigitScenes("train", 12, objects=(16, 20), heights=(8.0, 16.0))
    samples = [source.sample(index) for index in range(12)]
    counts, boxes = [len(each.labels) for each in samples], np.concatenate([each.boxes for each in samples])
    assert 14 <= min(counts) < 18 < max(counts) <= 20
    heights = boxes[:, 3] - boxes[:, 1]
    assert 6 <= heights.min() < 10 < 14 < heights.max() < 20
    assert same(DigitScenes("val").sample(3), DigitScenes("val", objects=(1, 12), heights=(10.0, 60.0)).sample(3))
    half, taller, less = (DigitScenes("train", 1, heights=(10.0, most)) for most in (64.0, 500.0, 50.0))
    assert same(half.sample(0), taller.sample(0)), "the tallest digit is half the scene"
    assert not same(half.sample(0), less.sample(0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "val", "length": 100},
        {"split": "test", "fresh": True},
        {"size": 32},
        {"length": 0},
        {"seed": -1},
        {"objects": (4, 3)},
        {"heights": (3.0, 20.0)},
        {"heights": (65.0, 80.0)},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"fixed|Need"):
        DigitScenes(**arguments)


def test_missing_scenes_are_refused() -> None:
    for index in (-1, 10):
        with pytest.raises(IndexError, match="of 10 train scenes"):
            DigitScenes("train", length=10).sample(index)
    with pytest.raises(ValueError, match="train_images is 0; it must be at least 1"):
        DigitsConfig(train_images=0)
