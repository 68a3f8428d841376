import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from oddetr.losses.detection import (
    Classification,
    LossConfig,
    assigned_boxes,
    assigned_loss,
    box_shares,
    class_targets,
    classification_loss,
    detection_loss,
    focal_loss,
    matchability_aware_loss,
    one_hot_targets,
    position_supervised_loss,
    quality_focal_loss,
)
from oddetr.losses.matching import MatchingWeights
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries
from tests.losses.helpers import assign, padded, parts_of, predicted, random_case, truth_of


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_focal_losses_of_hard_targets_equal_torchvisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, generator=generator) * 4
    targets = (torch.rand(40, generator=generator) < 0.5).float()
    torch.testing.assert_close(focal_loss(logits, targets), sigmoid_focal_loss(logits, targets))
    torch.testing.assert_close(quality_focal_loss(logits, targets), sigmoid_focal_loss(logits, targets, alpha=-1))


def test_detection_loss_by_hand() -> None:
    """Two queries, one object of class 1 at (.5 .5 .4 .4); query 0 has it, predicts (.5 .5 .2 .2): L1 0.4, GIoU 1/4.

    All logits are 0, p = 1/2: focal = .25 * .25 * ln 2 at the object's class, .75 * .25 * ln 2 at the other three.
    """
    truth = truth_of([1], [[0.5, 0.5, 0.4, 0.4]])
    predictions = predicted([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]], classes=2)
    loss = detection_loss(predictions, truth, (torch.tensor([[[0, -1]]]),), 1.0, "focal")
    classes = (0.25 + 3 * 0.75) * 0.25 * math.log(2)
    assert parts_of(loss).flatten().tolist() == pytest.approx([classes, 0.4, 0.75])
    assert loss.weighted(LossConfig("focal")).item() == pytest.approx(2 * classes + 5 * 0.4 + 2 * 0.75)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classification=st.sampled_from(["focal", "quality_focal"]))
def test_detection_loss_ignores_the_order_of_queries(seed: int, classification: str) -> None:
    predictions, truth = random_case(seed, (3, 0, 2))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    permuted = Predictions(predictions.logits[:, :, order], predictions.boxes[:, :, order], predictions.content)
    first, second = (
        parts_of(detection_loss(each, truth, (assign(each, truth),), 5.0, classification))
        for each in (predictions, permuted)
    )
    torch.testing.assert_close(first, second)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.integers(1, 4), classification=st.sampled_from(["focal", "quality_focal"]))
def test_detection_loss_ignores_padded_objects(seed: int, more: int, classification: str) -> None:
    predictions, truth = random_case(seed, (2, 1))
    first, second = (
        parts_of(detection_loss(predictions, t, (assign(predictions, t),), 3.0, classification))
        for t in (truth, padded(truth, more))
    )
    assert first.equal(second)


def test_detection_loss_without_objects_trains_only_background() -> None:
    predictions, truth = random_case(0, (0, 0))
    logits, boxes = predictions.logits.requires_grad_(), predictions.boxes.requires_grad_()
    found = Predictions(logits, boxes, predictions.content)
    loss = detection_loss(found, truth, (assign(predictions, truth),), 1.0, "focal")
    loss.weighted(LossConfig("focal")).backward()
    assert loss.l1.tolist() == loss.giou.tolist() == [0, 0]
    assert (logits.grad > 0).all()
    assert boxes.grad.count_nonzero() == 0


def test_targets_are_class_and_box_of_the_assigned_object() -> None:
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


def test_label_that_is_too_large_raises() -> None:
    truth = GroundTruth.stack([torch.tensor([7])], [torch.rand(1, 4)])
    with pytest.raises(RuntimeError):
        one_hot_targets(torch.tensor([[[0]]]), truth, 3)


def test_detection_loss_of_two_assignments_by_hand() -> None:
    """Objects A: class 0, (.5 .5 .4 .4), and B: class 1, (.5 .5 .2 .2). Query 0 predicts A's box: IoU 1 with A, 1/4
    with B; query 1 predicts (.1 .1 .1 .1): IoU 0 with both. All logits 0: BCE = ln 2. Student: 0 -> A, 1 -> B; teacher:
    the other way round.

    Classes: targets of query 0 are (1, 1/4), of query 1 (0, 0): (1/4 + 1/16 + 1/4 + 1/4) ln 2.
    Boxes: query 0 learns A by 4/5 and B by 1/5: L1 0.4 / 5, 1 - GIoU 0.75 / 5. Query 1 learns both by half:
    L1 (1.4 + 1.0) / 2, 1 - GIoU (1 + .2525/.4225 + 1 + .2525/.3025) / 2.
    """
    truth = truth_of([0, 1], [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]])
    predictions = predicted([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]], classes=2)
    both = (torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0]]]))
    loss = detection_loss(predictions, truth, both, 1.0, "quality_focal")
    far = (2 + 0.2525 / 0.4225 + 0.2525 / 0.3025) / 2
    assert parts_of(loss).flatten().tolist() == pytest.approx([0.8125 * math.log(2), 0.08 + 1.2, 0.15 + far])
    focal, _ = class_targets(predictions, truth, both, "focal")
    assert focal.tolist() == [[[[1, 1], [1, 1]]]]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_class_target_of_two_objects_of_a_class_is_the_better(order: tuple[int, int]) -> None:
    """The query's box is object 0's; object 1 is of the same class, IoU 1/4. Either assignment may give either."""
    boxes = [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]]
    assignments = [torch.tensor([[[each]]]) for each in order]
    targets, _ = class_targets(predicted(boxes[:1], classes=2), truth_of([1, 1], boxes), assignments, "quality_focal")
    assert targets.flatten().tolist() == pytest.approx([0, 1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), classification=st.sampled_from(["focal", "quality_focal"]))
def test_an_empty_or_equal_second_assignment_changes_nothing(seed: int, classification: str) -> None:
    """An equal one not even a bit."""
    predictions, truth = random_case(seed, (3, 0, 2))
    own = assign(predictions, truth)
    none = torch.full_like(own, -1)
    once, twice, before, after = (
        parts_of(detection_loss(predictions, truth, assignments, 5.0, classification))
        for assignments in ((own,), (own, own), (own, none), (none, own))
    )
    assert once.equal(twice)
    torch.testing.assert_close(before, once)
    torch.testing.assert_close(after, once)


def test_padding_queries_learn_nothing() -> None:
    predictions, truth = random_case(0, (2, 1))
    logits = predictions.logits.requires_grad_()
    padding = torch.tensor([[False, False, True, False, True], [True] * 5])
    assignment = torch.full((2, 2, 5), -1)
    found = Predictions(logits, predictions.boxes, predictions.content)
    detection_loss(found, truth, (assignment,), 3.0, "quality_focal", padding=padding).classes.sum().backward()
    learned = logits.grad.abs().sum(dim=(0, 3)) > 0
    assert learned.equal(~padding)


def test_default_class_weight_depends_on_the_loss() -> None:
    psl = "position_supervised"
    configs = [LossConfig("focal"), LossConfig(), LossConfig(classes=0.5), LossConfig(psl), LossConfig(psl, 3.0)]
    assert [config.class_weight for config in configs] == [2, 1, 0.5, 6, 3]
    assert [config.for_denoising.class_weight for config in configs] == [2, 1, 0.5, 1, 3]


@pytest.mark.parametrize(("config", "room"), [(LossConfig, "loss"), (MatchingWeights, "matching")])
@pytest.mark.parametrize("name", ["classes", "l1", "giou"])
def test_negative_weight_is_named(name: str, config: type, room: str) -> None:
    assert getattr(config(**{name: 0.0}), name) == 0
    for wrong in (-0.5, math.nan):
        with pytest.raises(ValueError, match=rf"^{room}\.{name} is {wrong}; it must be at least 0\.$"):
            config(**{name: wrong})


def test_unknown_classification_loss_is_named() -> None:
    config = LossConfig()
    object.__setattr__(config, "classification", "cross_entropy")  # as without the type checks of these tests
    with pytest.raises(ValueError, match=r"loss\.classification is 'cross_entropy'; it must be one of focal, quality"):
        config.__post_init__()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("focal", lambda logits, targets, positive: focal_loss(logits, targets)),
        ("quality_focal", lambda logits, targets, positive: quality_focal_loss(logits, targets)),
        ("mal", matchability_aware_loss),
        ("position_supervised", position_supervised_loss),
    ],
)
def test_classification_loss_is_the_named_one_in_float32(name: Classification, loss: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, positive = torch.randn(2, 2, 3, 4, generator=generator).bfloat16(), torch.zeros(2, 2, 3, 4)
    positive[..., 0, 1] = 1
    targets = positive * torch.rand(2, 2, 3, 4, generator=generator)
    found = classification_loss(logits, targets, positive, name)
    assert found.dtype == torch.float32
    assert found.equal(loss(logits.float(), targets, positive))


def test_focal_losses_use_their_constants() -> None:
    """p = 3/4 and y = 1: BCE = ln 4/3; alpha 0.1 and gamma 3: 0.1 (1/4)^3; beta 3: (1/4)^3. Of quality 1/2, positive:
    matchability-aware, gamma 3: BCE(3/4, 1/8). Position-supervised, alpha 0.1, gamma 3: the best match has target 1."""
    logit, one, half = torch.tensor([math.log(3)]), torch.ones(1), torch.full((1,), 0.5)
    ln = math.log(4 / 3)
    assert focal_loss(logit, one, alpha=0.1, gamma=3.0).item() == pytest.approx(0.1 / 64 * ln, rel=1e-4)
    assert quality_focal_loss(logit, one, beta=3.0).item() == pytest.approx(ln / 64, rel=1e-4)
    assert quality_focal_loss(torch.logit(half), half).item() == 0
    expected = ln / 8 + 7 / 8 * math.log(4)
    assert matchability_aware_loss(logit, half, one, gamma=3.0).item() == pytest.approx(expected, rel=1e-4)
    four = (each.view(1, 1, 1, 1) for each in (logit, half, one))
    assert position_supervised_loss(*four, alpha=0.1, gamma=3.0).item() == pytest.approx(0.1 / 64 * ln, rel=1e-4)


def test_detection_loss_adds_up_over_layers_and_images() -> None:
    """Layer by layer and image by image, the parts add up; the objects divide all three."""
    predictions, truth = random_case(5, (3, 1))
    own = assign(predictions, truth)
    padding = torch.tensor([[False] * 4 + [True], [True] + [False] * 4])
    whole = parts_of(detection_loss(predictions, truth, (own,), 4.0, "quality_focal", padding=padding))
    total = torch.zeros(3, 2)
    for layer, (image, count) in product(range(2), enumerate(truth.counts)):
        here = (slice(layer, layer + 1), slice(image, image + 1))
        alone = Predictions(predictions.logits[here], predictions.boxes[here], predictions.content[here])
        objects = GroundTruth.stack([truth.labels[image, :count]], [truth.boxes[image, :count]])
        found = detection_loss(alone, objects, (own[here],), 1.0, "quality_focal", padding=padding[here[1]])
        total[:, layer] += parts_of(found)[:, 0]
    torch.testing.assert_close(whole, total / 4, rtol=1e-4, atol=0)


@pytest.mark.parametrize("classification", ["focal", "quality_focal", "mal", "position_supervised"])
def test_assigned_loss_is_divided_by_repeats(classification: Classification) -> None:
    """The same assignment in all layers; padding learns nothing."""
    predictions, truth = random_case(1, (2, 1), queries=4)
    assignment = torch.tensor([[0, 1, 0, 1], [0, -1, 0, -1]])
    padding = torch.tensor([[False] * 4, [False, True, False, True]])
    queries = Queries(torch.zeros(2, 4, 1), torch.zeros(2, 4, 2), None, assignment, padding)
    found = assigned_loss(predictions, truth, AssignedQueries(queries, assignment, 2), 3.0, classification)
    everywhere = (assignment.expand(2, -1, -1),)
    expected = detection_loss(predictions, truth, everywhere, 6.0, classification, padding=padding)
    torch.testing.assert_close(parts_of(found), parts_of(expected))


def test_box_shares_by_hand() -> None:
    """The query's box is (.5 .5 .4 .4): IoU 1 with A and 1/4 with B of half its sides, 0 with C. A and B: 4/5 and 1/5.
    C and no object: C alone. C twice: halves. None at all: nothing."""
    objects = [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]
    predictions = predicted(objects[:1] * 5, classes=1)
    predictions.boxes.requires_grad_()
    first, second = torch.tensor([[[0, 2, 2, -1, -1]]]), torch.tensor([[[1, -1, 2, 0, -1]]])
    shares = box_shares(predictions, truth_of([0, 0, 0], objects), (first, second))
    assert shares[0].flatten().tolist() == pytest.approx([0.8, 1, 0.5, 0, 0], rel=1e-4)
    assert shares[1].flatten().tolist() == pytest.approx([0.2, 0, 0.5, 1, 0], rel=1e-4)
    assert not shares[0].requires_grad


def test_background_weight_of_matchability_aware_loss_is_detached() -> None:
    logits = torch.tensor([1.0], requires_grad=True)
    matchability_aware_loss(logits, torch.zeros(1), torch.zeros(1)).sum().backward()
    p = torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(logits.grad, (p**1.5 * p)[None])


def test_position_supervised_loss_by_hand() -> None:
    """One layer, two images of two queries, one class, logits 0. Image 0: IoUs 1/2 and 1/4, squared 1/4 and 1/16, over
    the image's best: targets 1 and 1/4; alpha (t - 1/2)^2 ln 2. Image 1: background: (1 - alpha) (1/2)^2 ln 2, and a
    missed object: alpha (1/2)^2 ln 2."""
    targets = torch.tensor([[[0.5], [0.25]], [[0.0], [0.0]]])[None]
    positive = torch.tensor([[[1.0], [1.0]], [[0.0], [1.0]]])[None]
    found = position_supervised_loss(torch.zeros(1, 2, 2, 1), targets, positive).flatten().tolist()
    expected = [0.25 * 0.25, 0.25 * 0.0625, 0.75 * 0.25, 0.25 * 0.25]
    assert found == pytest.approx([each * 0.6931472 for each in expected])


def test_matchability_aware_loss_number_by_number() -> None:
    """Of objects, one of which is missed wholly (q = 0) and still counts fully, and of background."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(12, generator=generator), torch.rand(12, generator=generator)
    targets[0] = 0.0
    positive = (torch.arange(12) % 3 == 0).float()
    found = matchability_aware_loss(logits, targets * positive, positive).tolist()
    for x, q, is_object, value in zip(logits.tolist(), targets.tolist(), positive.tolist(), found, strict=True):
        p = 1 / (1 + math.exp(-x))
        expected = (
            -(q**1.5 * math.log(p) + (1 - q**1.5) * math.log(1 - p)) if is_object else -(p**1.5) * math.log(1 - p)
        )
        assert value == pytest.approx(expected, rel=1e-4)


def test_position_supervised_loss_scales_by_image_and_layer() -> None:
    """As if each image of each layer were alone."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = (torch.rand(2, 3, 4, 2, generator=generator) for _ in range(2))
    positive = (torch.rand(2, 3, 4, 2, generator=generator) < 0.5).float()
    whole = position_supervised_loss(logits, targets * positive, positive)
    for layer in range(2):
        for image in range(3):
            here = (slice(layer, layer + 1), slice(image, image + 1))
            alone = position_supervised_loss(logits[here], (targets * positive)[here], positive[here])
            torch.testing.assert_close(whole[here], alone)


def test_position_supervised_target_of_a_bad_best_match() -> None:
    """q = 1e-4: t = 1e-8 / (1e-8 + 1e-8) = 1/2, which a score of 1/2 meets. Nothing overlaps: t = 0."""
    one = torch.ones(1, 1, 1, 1)
    assert position_supervised_loss(0 * one, 1e-4 * one, one).item() == pytest.approx(0, abs=1e-9)
    assert position_supervised_loss(0 * one, 0 * one, one).item() == pytest.approx(0.25 * 0.25 * math.log(2))


def test_missed_object_is_positive() -> None:
    truth = truth_of([1], [[0.2, 0.2, 0.1, 0.1]])
    predictions = predicted([[0.8, 0.8, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]], classes=2)
    targets, positive = class_targets(predictions, truth, (torch.tensor([[[0, -1]]]),), "mal")
    assert targets.flatten().tolist() == [0, 0, 0, 0]
    assert positive.flatten().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("classification", ["mal", "position_supervised"])
def test_every_classification_loss_learns_from_both_assignments(classification: str) -> None:
    truth = truth_of([0], [[0.5, 0.5, 0.4, 0.4]])
    predictions = predicted([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.3, 0.3]], classes=1)
    logits = predictions.logits.requires_grad_()
    one, two = torch.tensor([[[0, -1]]]), torch.tensor([[[-1, 0]]])
    alone, both = (
        torch.autograd.grad(detection_loss(predictions, truth, each, 1.0, classification).classes.sum(), logits)[0]
        for each in ((one,), (one, two))
    )
    assert alone[0, 0, 1] > 0
    assert both[0, 0, 1] < alone[0, 0, 1]
