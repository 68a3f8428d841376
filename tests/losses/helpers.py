"""Predictions and ground truth for tests."""

import torch
from torch import Tensor
from torch.nn import functional as F

from oddetr.losses.detection import DetectionLoss
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost
from oddetr.structures import GroundTruth, Predictions


def truth_of(labels: list[int], boxes: list[list[float]]) -> GroundTruth:
    """The objects of one image."""
    return GroundTruth.stack([torch.tensor(labels)], [torch.tensor(boxes)])


def predicted(boxes: list[list[float]], classes: int) -> Predictions:
    """Of one layer and one image; all logits are 0, so that each class has probability 1/2."""
    shape = (1, 1, len(boxes))
    return Predictions(torch.zeros(*shape, classes), torch.tensor(boxes)[None, None], torch.zeros(*shape, 1))


def random_case(
    seed: int, counts: tuple[int, ...], queries: int = 5, layers: int = 2
) -> tuple[Predictions, GroundTruth]:
    generator = torch.Generator().manual_seed(seed)
    truth = GroundTruth.stack(
        [torch.randint(4, (count,), generator=generator) for count in counts],
        [torch.rand(count, 4, generator=generator) * 0.4 + 0.1 for count in counts],
    )
    shape = (layers, len(counts), queries)
    predictions = Predictions(
        torch.randn(*shape, 4, generator=generator),
        torch.rand(*shape, 4, generator=generator) * 0.4 + 0.1,
        torch.zeros(*shape, 1),
    )
    return predictions, truth


def padded(truth: GroundTruth, more: int) -> GroundTruth:
    """The same objects, with more padding."""
    labels, boxes = F.pad(truth.labels, (0, more), value=-1), F.pad(truth.boxes, (0, 0, 0, more))
    return GroundTruth(labels, boxes, truth.counts)


def assign(predictions: Predictions, truth: GroundTruth) -> Tensor:
    """The Hungarian assignment."""
    return hungarian(matching_cost(predictions, truth, MatchingWeights()), counts=truth.counts)[0]


def parts_of(loss: DetectionLoss) -> Tensor:
    """The components classes, L1 and GIoU of each layer: [3, layers]."""
    return torch.stack([loss.classes, loss.l1, loss.giou])
