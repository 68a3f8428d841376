import dataclasses

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oddetr.structures import Batch, GroundTruth, Memory, Predictions, Queries


def truth_of(*counts: int) -> GroundTruth:
    """Images with that many objects; object k of an image has label k and box (k, k, k, k) / 10."""
    labels = [torch.arange(count) for count in counts]
    return GroundTruth.stack(labels, [one[:, None].expand(-1, 4) / 10 for one in labels])


def batch_of(truth: GroundTruth) -> Batch:
    size = len(truth.counts)
    return Batch(
        images=torch.zeros(size, 3, 8, 6),
        padding_mask=torch.zeros(size, 8, 6, dtype=torch.bool),
        truth=truth,
        image_ids=tuple(range(size)),
        original_sizes=torch.full((size, 2), 100),
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_stack_when_images_differ_in_objects_then_padded_with_minus_one_and_zero(counts: list[int]) -> None:
    truth = truth_of(*counts)
    assert truth.counts == tuple(counts)
    assert truth.total == sum(counts) == int(truth.valid.sum())
    assert truth.labels.shape == (len(counts), max(1, *counts))
    for labels, boxes, count in zip(truth.labels, truth.boxes, counts, strict=True):
        assert labels[:count].tolist() == list(range(count))
        assert torch.equal(boxes[:count], torch.arange(count)[:, None].expand(-1, 4) / 10)
        assert (labels[count:] == -1).all()
        assert (boxes[count:] == 0).all()


def test_stack_when_lists_differ_in_length_then_raises() -> None:
    with pytest.raises(ValueError, match="zip"):
        GroundTruth.stack([torch.zeros(1, dtype=torch.int64)], [])


def test_to_when_moved_then_all_tensors_but_the_sizes_move() -> None:
    batch = dataclasses.replace(batch_of(truth_of(2, 0)), step_objects=5)
    moved = batch.to("meta")
    assert {one.device.type for one in (moved.images, moved.padding_mask, moved.truth.labels, moved.truth.boxes)} == {
        "meta"
    }
    assert moved.original_sizes is batch.original_sizes
    assert (moved.truth.counts, moved.image_ids, moved.step_objects) == ((2, 0), (0, 1), 5)
    assert batch.images.device.type == "cpu"


def test_structures_when_assigned_to_then_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        truth_of(1).counts = (3,)


MASK = torch.zeros(2, 5, dtype=torch.bool)
WRONG = {
    "boxes of five numbers": lambda: GroundTruth(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 5), (3, 3)),
    "labels and boxes that differ": lambda: GroundTruth(
        torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, 4), (3, 3)
    ),
    "labels as floats": lambda: GroundTruth(torch.zeros(2, 3), torch.zeros(2, 3, 4), (3, 3)),
    "images of one channel": lambda: dataclasses.replace(batch_of(truth_of(1, 1)), images=torch.zeros(2, 1, 8, 6)),
    "a mask of another size": lambda: dataclasses.replace(
        batch_of(truth_of(1, 1)), padding_mask=torch.zeros(2, 8, 7, dtype=torch.bool)
    ),
    "tokens and mask that differ": lambda: Memory(torch.zeros(2, 6, 8), MASK, ((5, 1),), torch.ones(2, 1, 2)),
    "positions of another width": lambda: Queries(
        torch.zeros(2, 5, 8), torch.zeros(2, 5, 4), torch.zeros(2, 5, 9), torch.zeros(2, 5, dtype=torch.int64)
    ),
    "boxes of three numbers": lambda: GroundTruth.stack([torch.zeros(1, dtype=torch.int64)], [torch.zeros(1, 3)]),
    "predictions without layers": lambda: Predictions(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4), torch.zeros(2, 5, 8)),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_structures_when_shapes_are_wrong_then_rejected_in_tests(make) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        make()
