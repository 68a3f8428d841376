"""Contrastive denoising: what is disturbed, by how much, and who sees whom."""

from dataclasses import replace

import pytest
import torch

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.losses.detection import assigned_loss
from oddetr.models.denoising import ContrastiveDenoising
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries
from tests.models.helpers import small_batch, small_detector


def truth_of(*counts: int, seed: int = 0) -> GroundTruth:
    return small_batch(counts, seed=seed).truth


def made(truth: GroundTruth, seed: int = 0, **options: float) -> AssignedQueries:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(3, 32, **{"queries": 12} | options)
    torch.manual_seed(seed)
    return denoising(truth)


def test_near_queries_have_their_object_and_far_ones_none() -> None:
    """At most 2 objects, 12 near queries: 6 groups of 2 near and 2 far; the second image has 1 object, so that each
    second query is padding."""
    group = made(truth_of(2, 1))
    assert group.repeats == 6
    assert group.assignment.tolist() == [[0, 1, -1, -1] * 6, [0, -1, -1, -1] * 6]
    assert group.queries.padding.tolist() == [[False] * 24, [False, True] * 12]


def test_many_or_no_objects_make_one_group() -> None:
    for counts in ((20, 3), (0, 0)):
        group = made(truth_of(*counts))
        assert group.repeats == 1
        assert group.queries.content.shape[1] == 2 * max(1, *counts)
    assert group.queries.padding.all()


def test_corners_move_within_the_box_noise() -> None:
    """Near: by less than 0.4 of half a side; far: by 0.4 to 0.8 of it, unless the image's edge stops them."""
    truth = GroundTruth.stack([torch.zeros(4, dtype=torch.int64)], [torch.tensor([[0.5, 0.5, 0.2, 0.3]] * 4)])
    group = made(truth, queries=4000, box_noise=0.4)
    moved = cxcywh_to_xyxy(group.queries.anchors[0].view(1000, 2, 4, 4)) - cxcywh_to_xyxy(truth.boxes[0])
    share = (moved / torch.tensor([0.1, 0.15, 0.1, 0.15])).abs()
    near, far = share[:, 0], share[:, 1]
    assert near.max() < 0.4 + 1e-5
    assert near.mean().item() == pytest.approx(0.2, abs=0.01)
    assert far.min() > 0.4 - 1e-5
    assert far.max() < 0.8 + 1e-5
    assert (moved > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_noised_boxes_stay_in_the_image() -> None:
    truth = GroundTruth.stack([torch.zeros(1, dtype=torch.int64)], [torch.tensor([[0.02, 0.97, 0.04, 0.06]])])
    corners = cxcywh_to_xyxy(made(truth, queries=500, box_noise=1.0).queries.anchors)
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6


def test_half_of_the_label_noise_becomes_a_random_class() -> None:
    truth = GroundTruth.stack([torch.full((4,), 2)], [torch.rand(4, 4)])
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(3, 32, 4000, label_noise=0.6)
    content = denoising(truth).queries.content[0]
    same = (content == denoising.labels.weight[2]).all(dim=-1).float().mean().item()
    assert same == pytest.approx(1 - 0.3 * 2 / 3, abs=0.02)


def test_noise_follows_the_seed() -> None:
    first, again, other = (made(truth_of(2, 1), seed) for seed in (0, 0, 1))
    assert first.queries.anchors.equal(again.queries.anchors)
    assert not first.queries.anchors.equal(other.queries.anchors)


@pytest.mark.parametrize("variant", ["dab", "dino"])
def test_denoising_groups_attend_to_themselves_and_own_queries(variant: str) -> None:
    """Each group decoded alone beside the own queries gives the same; the own queries do not notice them."""
    detector, batch = small_detector(variant, denoising=4).eval(), small_batch((2, 1))
    memory = detector.encode(batch.images, batch.padding_mask)
    own = detector.initial_queries(memory).queries
    group = detector.denoising(batch.truth)
    found = detector.decode(memory, {"own": own, "denoising": group.queries})
    alone = detector.decode(memory, {"own": own})["own"]
    torch.testing.assert_close(found["own"].logits, alone.logits, atol=1e-6, rtol=1e-6)
    assert group.repeats == 2
    for part in (slice(0, 4), slice(4, 8)):
        q = group.queries
        one = Queries(
            q.content[:, part], q.anchors[:, part], None, q.identity[:, part], q.padding[:, part], None, ("own",)
        )
        expected = detector.decode(memory, {"own": own, "one": one})["one"]
        torch.testing.assert_close(found["denoising"].logits[:, :, part], expected.logits, atol=1e-6, rtol=1e-6)
    blind = detector.decode(memory, {"own": own, "denoising": replace(group.queries, attends_to=())})["denoising"]
    assert not blind.logits.allclose(found["denoising"].logits, atol=1e-4)


def test_denoising_loss_equals_a_calculation_by_hand() -> None:
    """One object (.5 .5 .4 .4), 3 groups: boxes (.5 .5 .2 .2) have L1 0.4, 1 - GIoU 3/4; QFL at logits 0: near
    (1/4)^2 ln 2, far (1/2)^2 ln 2."""
    truth = GroundTruth.stack([torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.4, 0.4]])])
    group = made(truth, queries=3)
    found = Predictions(
        torch.zeros(2, 1, 6, 1), torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 6, 4), torch.zeros(2, 1, 6, 1)
    )
    loss = assigned_loss(found, truth, group, torch.tensor(1.0), "quality_focal")
    assert loss.l1.tolist() == pytest.approx([0.4] * 2)
    assert loss.giou.tolist() == pytest.approx([0.75] * 2)
    assert loss.classes.tolist() == pytest.approx([(0.0625 + 0.25) * 0.6931472] * 2)
