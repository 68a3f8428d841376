"""Images of rare classes are seen more often, in epochs of one length."""

from collections import Counter

import numpy as np
import pytest
import torch

from oddetr.data.batches import EpochSampler, TransformedDataset
from oddetr.data.dataset import Annotations
from oddetr.data.digits import DigitScenes
from oddetr.data.repeats import drawn, epoch_length, repeat_factors
from oddetr.data.transforms import TrainTransform

FACTORS = np.array([1.0, 1.0, 1.5, 1.0, 2.25, 1.0, 3.25])


def test_factors_are_those_of_the_rarest_class_of_an_image() -> None:
    """Class 0 is on four of eight images, class 1 on one, twice; class 2 is only a crowd, on one. Two are empty."""
    owners, labels = np.array([0, 1, 2, 3, 3, 3, 4]), np.array([0, 0, 0, 0, 1, 1, 2])
    truth = Annotations(
        image_ids=np.arange(8),
        sizes=np.full((8, 2), 100),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=8))]),
        boxes=np.zeros((7, 4), np.float32),
        labels=labels,
        areas=np.ones(7, np.float32),
        crowd=labels == 2,
        annotation_ids=np.arange(7),
    )
    expected = [1, 1, 1, np.sqrt(0.25 / 0.125), 1, 1, 1, 1]
    assert repeat_factors(truth, 0.25) == pytest.approx(expected, abs=1e-6)
    assert repeat_factors(truth, 1.0)[:5] == pytest.approx([np.sqrt(2)] * 3 + [np.sqrt(8), 1], abs=1e-6)
    assert (repeat_factors(truth, 0.1) == 1).all()


def test_every_epoch_has_one_length_and_images_come_as_often_as_their_factors_say() -> None:
    images, epochs = len(FACTORS), 400
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        examples = drawn(FACTORS, torch.Generator().manual_seed(epoch))
        assert len({*examples}) == len(examples) == epoch_length(FACTORS) == 11
        counts = Counter(example % images for example in examples)
        assert all(counts[image] <= np.ceil(factor) for image, factor in enumerate(FACTORS))
        seen += counts
    means = np.array([seen[image] for image in range(images)]) / epochs
    assert means == pytest.approx(FACTORS, abs=0.15)


def test_processes_share_the_repeats_and_a_resumed_epoch_goes_on_with_its_rest() -> None:
    whole = list(EpochSampler(7, 3, factors=FACTORS))
    ranks = [EpochSampler(7, 3, True, rank, 2, 2, FACTORS) for rank in range(2)]
    parts = [list(sampler) for sampler in ranks]
    assert parts == [whole[::2], whole[1::2]]
    assert [len(part) for part in parts] == [len(sampler) for sampler in ranks]
    ranks[1].skip(3)
    assert list(ranks[1]) == parts[1][3:]


def test_repeats_of_an_image_vary_apart() -> None:
    transform = TrainTransform(64, (0.5,) * 3, (0.25,) * 3, True)
    examples = TransformedDataset(DigitScenes("train", length=3, size=64), transform)
    first, again = examples[0, 1], examples[0, 4]
    assert first.image_id == again.image_id
    assert first.image.shape != again.image.shape or not first.image.equal(again.image)
