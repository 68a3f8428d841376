import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from oddetr.losses import LossWeights, assigned_boxes, detection_loss, focal_loss, one_hot_targets
from oddetr.matching import MatchingWeights, hungarian, matching_cost
from oddetr.structures import GroundTruth, Predictions
from tests.test_matching import random_case


def assign(predictions: Predictions, truth: GroundTruth) -> torch.Tensor:
    return hungarian(matching_cost(predictions, truth, MatchingWeights()), counts=truth.counts)[0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_focal_loss_when_targets_are_hard_then_is_torchvisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, generator=generator) * 4
    targets = (torch.rand(40, generator=generator) < 0.5).float()
    torch.testing.assert_close(focal_loss(logits, targets), sigmoid_focal_loss(logits, targets))


def test_detection_loss_when_computed_by_hand_then_agrees() -> None:
    """Two queries, one object of class 1 at (.5 .5 .4 .4); query 0 has it, predicts (.5 .5 .2 .2): L1 0.4, GIoU 1/4.

    All logits are 0, p = 1/2: focal = .25 * .25 * ln 2 at the object's class, .75 * .25 * ln 2 at the other three.
    """
    truth = GroundTruth.stack([torch.tensor([1])], [torch.tensor([[0.5, 0.5, 0.4, 0.4]])])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]).view(1, 1, 2, 4)
    predictions = Predictions(torch.zeros(1, 1, 2, 2), boxes, torch.zeros(1, 1, 2, 1))
    loss = detection_loss(predictions, truth, torch.tensor([[[0, -1]]]), objects=1.0)
    assert loss.classes.item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * math.log(2))
    assert loss.l1.item() == pytest.approx(0.4)
    assert loss.giou.item() == pytest.approx(0.75)
    assert loss.weighted(LossWeights()).item() == pytest.approx(2 * loss.classes.item() + 5 * 0.4 + 2 * 0.75)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_detection_loss_when_queries_are_permuted_then_is_the_same(seed: int) -> None:
    predictions, truth = random_case(seed, (3, 0, 2))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    permuted = Predictions(predictions.logits[:, :, order], predictions.boxes[:, :, order], predictions.content)
    for part in ("classes", "l1", "giou"):
        first, second = (
            getattr(detection_loss(each, truth, assign(each, truth), 5.0), part) for each in (predictions, permuted)
        )
        torch.testing.assert_close(first, second)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.integers(1, 4))
def test_detection_loss_when_objects_are_padded_further_then_is_the_same(seed: int, more: int) -> None:
    predictions, truth = random_case(seed, (2, 1))
    padded = GroundTruth(
        torch.nn.functional.pad(truth.labels, (0, more), value=-1),
        torch.nn.functional.pad(truth.boxes, (0, 0, 0, more)),
        truth.counts,
    )
    first, second = (detection_loss(predictions, t, assign(predictions, t), 3.0) for t in (truth, padded))
    assert first.classes.equal(second.classes)
    assert first.l1.equal(second.l1)
    assert first.giou.equal(second.giou)


def test_detection_loss_when_nothing_is_there_then_only_background_is_learned() -> None:
    predictions, truth = random_case(0, (0, 0))
    logits, boxes = predictions.logits.requires_grad_(), predictions.boxes.requires_grad_()
    loss = detection_loss(Predictions(logits, boxes, predictions.content), truth, assign(predictions, truth), 1.0)
    loss.weighted(LossWeights()).backward()
    assert loss.l1.tolist() == loss.giou.tolist() == [0, 0]
    assert (logits.grad > 0).all()
    assert boxes.grad.count_nonzero() == 0


def test_targets_when_assigned_then_hold_class_and_box_of_each_querys_object() -> None:
    truth = GroundTruth.stack(
        [torch.tensor([2, 0]), torch.tensor([], dtype=torch.int64)], [torch.rand(2, 4), torch.zeros(0, 4)]
    )
    assignment = torch.tensor([[[1, -1, 0], [-1, -1, -1]]])
    targets = one_hot_targets(assignment, truth, 3)
    assert targets[0, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert targets[0, 1].count_nonzero() == 0
    boxes = assigned_boxes(assignment, truth)
    assert boxes[0, 0, 0].equal(truth.boxes[0, 1])
    assert boxes[0, 0, 2].equal(truth.boxes[0, 0])


def test_targets_when_a_label_is_too_large_then_raises() -> None:
    truth = GroundTruth.stack([torch.tensor([7])], [torch.rand(1, 4)])
    with pytest.raises(RuntimeError):
        one_hot_targets(torch.tensor([[[0]]]), truth, 3)
