"""Contrastive denoising: what is noised, by how much, and which queries attend to which."""

from dataclasses import replace

import pytest
import torch

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.detector import Detector
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries
from tests.models.helpers import assert_predictions_close, part_of, small_batch, small_detector


def truth_of(*counts: int, seed: int = 0) -> GroundTruth:
    return small_batch(counts, seed=seed).truth


def made(truth: GroundTruth, seed: int = 0, **options: float) -> AssignedQueries:
    torch.manual_seed(0)
    denoising = ContrastiveDenoising(3, 32, **{"queries": 12} | options)
    torch.manual_seed(seed)
    return denoising(truth)


def test_positive_queries_have_their_object_and_negative_ones_none() -> None:
    """At most 2 objects, 12 positive queries: 6 groups of 2 positive and 2 negative; the second image has 1 object, so
    that each second query is padding."""
    group = made(truth_of(2, 1))
    assert group.repeats == 6
    assert group.assignment.tolist() == [[0, 1, -1, -1] * 6, [0, -1, -1, -1] * 6]
    assert group.queries.padding.tolist() == [[False] * 24, [False, True] * 12]
    again, other = made(truth_of(2, 1)), made(truth_of(2, 1), seed=1)
    assert group.queries.anchors.equal(again.queries.anchors)
    assert not group.queries.anchors.equal(other.queries.anchors)
    for counts in ((20, 3), (0, 0)):
        group = made(truth_of(*counts))
        assert group.repeats == 1
        assert group.queries.content.shape[1] == 2 * max(1, *counts)
    assert group.queries.padding.all()


def test_corners_move_within_the_box_noise() -> None:
    """Positive: by less than 0.4 of half a side; negative: by 0.4 to 0.8 of it, unless the image's edge stops them."""
    truth = GroundTruth.stack([torch.zeros(4, dtype=torch.int64)], [torch.tensor([[0.5, 0.5, 0.2, 0.3]] * 4)])
    group = made(truth, queries=4000, box_noise=0.4)
    moved = cxcywh_to_xyxy(group.queries.anchors[0].view(1000, 2, 4, 4)) - cxcywh_to_xyxy(truth.boxes[0])
    share = (moved / torch.tensor([0.1, 0.15, 0.1, 0.15])).abs()
    positive, negative = share[:, 0], share[:, 1]
    assert positive.max() < 0.4 + 1e-5
    assert positive.mean().item() == pytest.approx(0.2, abs=0.01)
    assert 0.4 - 1e-5 < negative.min() < negative.max() < 0.8 + 1e-5
    assert (moved > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
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


def assert_groups_attend_to_themselves_and_own_queries(detector: Detector, tolerance: float) -> None:
    """Each group of noised objects decoded alone beside the own queries gives the same, and does not change these."""
    batch = small_batch((2, 1))
    memory = detector.encode(batch.images, torch.zeros_like(batch.padding_mask))
    own, group = detector.initial_queries(memory).queries, detector.denoising(batch.truth)

    def decoded(queries: Queries) -> dict[str, Predictions]:
        return detector.decode(memory, {"own": own, "denoising": queries})

    found = decoded(group.queries)
    assert_predictions_close(found["own"], detector.decode(memory, {"own": own})["own"], tolerance)
    assert group.repeats == 2
    for start, stop in ((0, 4), (4, 8)):
        one = part_of(group.queries, start, stop)
        logits, expected = found["denoising"].logits[:, :, start:stop], decoded(one)["denoising"].logits
        torch.testing.assert_close(logits[:, ~one.padding], expected[:, ~one.padding], atol=tolerance, rtol=tolerance)
    for changes in ({"attends_to": ()}, {"attention_mask": None}):
        other = decoded(replace(group.queries, **changes))["denoising"]
        assert not other.logits.allclose(found["denoising"].logits, atol=1e-4)


@pytest.mark.parametrize("variant", ["dab", "dino"])
def test_denoising_groups_attend_to_themselves_and_own_queries(variant: str) -> None:
    assert_groups_attend_to_themselves_and_own_queries(small_detector(variant, denoising=4).eval(), 1e-6)
