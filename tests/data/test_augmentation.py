"""Boxes and labels stay right under strong augmentation, which depends on an item's key alone and ends in time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from oddetr.data.augmentation import StrongTransform, fitted, mixup, training_data
from oddetr.data.batches import EpochSampler, TransformedDataset, make_loader
from oddetr.data.dataset import ClassTable, DetectionData, Sample
from oddetr.data.digits import DigitScenes
from oddetr.data.images import ImageError
from oddetr.data.transforms import KEPT_SHARE, STRONG, AugmentConfig, Example, TrainTransform, View
from oddetr.data.writer import write_coco
from tests.data.test_transforms import PLAIN, pixel_boxes, sample_with

COLOURS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
"""Of the object of class k, on black."""
MILD = {"photometric": False, "crop": False}
ALL = dict.fromkeys(STRONG, 0.5)


def coloured(label: int, dice: np.random.Generator) -> Sample:
    """A black image with one rectangle, in the colour of its class."""
    height, width = dice.integers(60, 160, 2).tolist()
    size = [int(side * dice.uniform(0.2, 0.6)) for side in (height, width)]
    top, left = int(dice.integers(height - size[0])), int(dice.integers(width - size[1]))
    sample = sample_with((left, top, left + size[1], top + size[0]), height=height, width=width)
    sample.image[:] = sample.image * np.array(COLOURS[label], dtype=np.uint8)
    sample.labels[:] = label
    return sample


def made(augment: AugmentConfig, seed: int) -> Example:
    """An example of up to four images, each of another class."""
    dice = np.random.default_rng(seed)
    samples = iter([coloured(label, dice) for label in range(4)])
    torch.manual_seed(seed)
    transform = StrongTransform(128, **PLAIN, flippable=True, augment=augment)
    return transform(next(samples), lambda: next(samples))


def shown(example: Example, label: int) -> torch.Tensor | None:
    """The box of the pixels of a class's colour."""
    is_on = example.image > 0.4
    pixels = (is_on == torch.tensor(COLOURS[label], dtype=torch.bool)[:, None, None]).all(dim=0)
    if not pixels.any():
        return None
    rows, columns = pixels.any(dim=1).nonzero().flatten(), pixels.any(dim=0).nonzero().flatten()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@pytest.mark.parametrize("name", ["rotate", "zoom_out", "iou_crop", "mosaic", "zoom_out and iou_crop"])
def test_boxes_frame_the_coloured_pixels(name: str) -> None:
    values = {part: True if part == "rotate" else 1.0 for part in name.split(" and ")}
    found = 0
    for seed in range(40):
        example = made(AugmentConfig(**MILD, **values), seed)
        boxes = dict(zip(example.labels.tolist(), pixel_boxes(example), strict=True))
        assert len(boxes) == len(example.boxes), "an object stands twice"
        for label in range(4):
            pixels = shown(example, label)
            if label in boxes:
                assert pixels is not None
                torch.testing.assert_close(boxes[label], pixels, atol=2.0, rtol=0)
                found += 1
            elif pixels is not None:
                # What has no box is a sliver: all of the object would be over 1 / KEPT_SHARE times as large.
                area = float((pixels[2:] - pixels[:2]).sub(2).clamp(min=0).prod())
                assert area < KEPT_SHARE * example.image.shape[1] * example.image.shape[2]
    assert found > 25


def test_objects_are_dropped_by_the_share_that_all_cuts_leave() -> None:
    view = View.of(sample_with((0, 0, 40, 40), (100, 0, 140, 40)))
    half = view.crop(0, 20, 100, 120).resize(50, 60)
    assert half.shares.tolist() == [0.5, 1.0]
    quarter = half.crop(0, 5, 50, 55)
    assert quarter.shares.tolist() == [0.25, 1.0]
    assert quarter.recognisable().labels.tolist() == [0, 1]
    less = quarter.crop(0, 1, 50, 54).recognisable()
    assert less.labels.tolist() == [1]
    torch.testing.assert_close(less.boxes.as_subclass(torch.Tensor), torch.tensor([[34.0, 0, 54, 20]]))
    assert half.recognisable(least=15.0).labels.tolist() == [1], "the first is 10 pixels wide"


def test_an_object_of_less_than_a_pixel_is_no_object() -> None:
    """A zoom-out by up to 4 at 64 px, of an object of 2 of 100 px."""
    labels, sizes = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        augment = AugmentConfig(**MILD, min_scale=1.0, zoom_out=1.0)
        transform = StrongTransform(64, **PLAIN, flippable=False, augment=augment)
        example = transform(sample_with((50, 50, 52, 52), (10, 10, 90, 90), height=100, width=100))
        labels.append(tuple(example.labels.tolist()))
        sizes.append(float((pixel_boxes(example)[:, 2:] - pixel_boxes(example)[:, :2]).min()))
    assert {*labels} == {(0, 1), (1,)}
    assert min(sizes) > 1.0


def test_mixup_shows_both_images_and_has_the_objects_of_both() -> None:
    dice = np.random.default_rng(0)
    first, second = (View.of(coloured(label, dice)) for label in (0, 1))
    second = second.resize(*first.shape)
    mixed = mixup(first, second, 0.45)
    assert mixed.labels.tolist() == [0, 1]
    assert torch.equal(mixed.boxes[0], first.boxes[0])
    torch.testing.assert_close(mixed.boxes[1].as_subclass(torch.Tensor), second.boxes[0].as_subclass(torch.Tensor))
    expected = 0.45 * first.image.float() + 0.55 * second.image.float()
    assert (mixed.image.float() - expected).abs().max() <= 0.5


def test_windows_keep_the_aspect_of_what_they_show() -> None:
    """A square that is wholly in view stays one, in tiles of any shape."""
    view, seen = View.of(sample_with((55, 40, 75, 60), height=100, width=140)), 0
    torch.manual_seed(0)
    for height, width in [(40, 90), (90, 40), (50, 70), (1, 1)] * 5:
        tile = fitted(view, height, width)
        assert tile.shape == (height, width)
        if tile.shares == 1 and height > 1:
            wide, high = (tile.boxes[0, 2:] - tile.boxes[0, :2]).tolist()
            assert wide == pytest.approx(high, rel=0.05)
            seen += 1
    assert seen > 5


def test_crowds_never_become_objects_and_images_may_have_none() -> None:
    crowded = sample_with((0, 0, 140, 100), (20, 20, 80, 80), crowd=(True, False))
    empty, hidden = sample_with(), sample_with((0, 0, 140, 100), crowd=(True,))
    for augment in (
        AugmentConfig(**ALL),
        AugmentConfig(mosaic=1.0, mixup=1.0),
        AugmentConfig(zoom_out=1.0, iou_crop=1.0),
    ):
        transform = StrongTransform(64, **PLAIN, flippable=True, augment=augment)
        found = set()
        for seed in range(6):
            torch.manual_seed(seed)
            found |= {*transform(crowded, lambda: crowded).labels.tolist(), *transform(empty, lambda: crowded).labels}
            for own, other in ((empty, empty), (hidden, empty), (empty, hidden)):
                example = transform(own, lambda other=other: other)
                assert (example.boxes.shape, example.labels.shape) == ((0, 4), (0,))
        assert {int(label) for label in found} == {1}


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (300, 1), (1, 4000)])
def test_tiny_and_thin_images_are_augmented(shape: tuple[int, int]) -> None:
    sample = sample_with((0, 0, shape[1], shape[0]), height=shape[0], width=shape[1])
    transform = StrongTransform(64, **PLAIN, flippable=True, augment=AugmentConfig(**ALL, rotate=True))
    for seed in range(20):
        torch.manual_seed(seed)
        example = transform(sample, lambda: sample)
        assert example.boxes.isfinite().all()
        assert ((example.boxes >= 0) & (example.boxes <= 1)).all()


def test_distortion_changes_colours_and_no_boxes() -> None:
    plain, distorted = (made(AugmentConfig(**MILD, zoom_out=0.5, distort=distort), 3) for distort in (0.0, 1.0))
    assert torch.equal(plain.boxes, distorted.boxes)
    assert 0.001 < (plain.image - distorted.image).abs().mean() < 0.5


def test_rotation_has_four_turns_and_with_flip_all_eight_orientations() -> None:
    sample = sample_with((5, 20, 15, 50), height=60, width=90)
    for flippable, expected in ((False, 4), (True, 8)):
        augment = AugmentConfig(**MILD, min_scale=1.0, rotate=True)
        transform = TrainTransform(60, **PLAIN, flippable=flippable, augment=augment)
        torch.manual_seed(0)
        seen = {tuple(transform(sample).boxes[0].mul(90).round().tolist()) for _ in range(60)}
        assert len(seen) == expected


def digits(augment: AugmentConfig, epochs: int = 4, length: int = 6) -> TransformedDataset:
    source = DigitScenes("train", length=length, size=64, fresh=True)
    return training_data(source, 64, **PLAIN, augment=augment, epochs=epochs, seed=5)


def same(one: Example, other: Example) -> bool:
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("image", "boxes", "labels"))


def test_examples_depend_on_their_key_alone_and_the_last_epochs_are_mild() -> None:
    data, again = digits(AugmentConfig(**ALL, strong_until=0.5)), digits(AugmentConfig(**ALL, strong_until=0.5))
    mild = digits(AugmentConfig())
    keys = [(epoch, index) for epoch in range(4) for index in range(6)]
    examples = {key: data[key] for key in keys}
    torch.rand(3)
    assert all(same(again[key], examples[key]) for key in reversed(keys))
    for epoch, strong in enumerate((True, True, False, False)):
        equal = [same(mild[epoch, index], examples[epoch, index]) for index in range(6)]
        assert all(equal) is not strong


def test_loading_processes_that_live_on_notice_the_end_of_strong_augmentation() -> None:
    augment = AugmentConfig(**ALL, strong_until=0.5)
    alone, helped = (make_loader(digits(augment, 2), EpochSampler(6), 3, workers) for workers in (0, 2))
    mild = make_loader(digits(AugmentConfig(), 2), EpochSampler(6), 3)
    for epoch in range(2):
        batches = []
        for loader in (alone, helped, mild):
            loader.set_epoch(epoch)
            batches.append([(batch.images, batch.truth.boxes) for batch in loader])
        for one, other in zip(batches[0], batches[1], strict=True):
            assert all(torch.equal(*parts) for parts in zip(one, other, strict=True))
        unlike = [not one[1].equal(other[1]) for one, other in zip(batches[1], batches[2], strict=True)]
        assert any(unlike) is (epoch == 0)


def test_a_data_set_of_one_image_is_its_own_partner() -> None:
    data = digits(AugmentConfig(**MILD, mosaic=1.0, mixup=1.0), length=1)
    whole = digits(AugmentConfig(**MILD), length=1)[0, 0]
    counts = {len(data[0, 0].labels) for _ in range(3)}
    assert counts <= set(range(4 * len(whole.labels) + 1))
    assert {*data[0, 0].labels.tolist()} <= {*whole.labels.tolist()}


def test_an_unreadable_partner_is_named(tmp_path: Path) -> None:
    folder = write_coco(DigitScenes("train", 2), tmp_path, "train")
    files = sorted(path.name for path in folder.iterdir())
    (folder / files[1]).write_bytes((folder / files[1]).read_bytes()[:200])
    one = DigitScenes("train", 2).annotations()
    source = DetectionData(folder, "train", files, ClassTable(tuple("0123456789"), tuple(range(10))), one)
    data = training_data(source, 64, **PLAIN, augment=AugmentConfig(mosaic=1.0), epochs=2, seed=0)
    error = data.__getitems__([(0, 0)])
    assert isinstance(error, ImageError)
    assert files[1] in str(error)


@pytest.mark.parametrize(
    ("until", "epochs", "strong"), [(0.9, 10, 9), (0.9, 5, 4), (0.29, 100, 29), (1.0, 3, 3), (0.5, 1, 0), (0.0, 9, 0)]
)
def test_strong_augmentation_ends_with_the_last_whole_epoch(until: float, epochs: int, strong: int) -> None:
    assert AugmentConfig(mixup=0.1, strong_until=until).strong_epochs(epochs) == strong
    assert AugmentConfig(strong_until=until).strong_epochs(epochs) == 0


@pytest.mark.parametrize("name", [*STRONG, "strong_until"])
def test_a_value_that_is_no_share_is_refused(name: str) -> None:
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"augment\.{name} is .*, in \[0, 1\]"):
            AugmentConfig(**{name: value})
