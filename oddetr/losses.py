"""Losses: pure functions of predictions, ground truth and assignments, written once over all layers.

Every loss is a masked sum over tensors of known shape: nothing is skipped for an image or a batch without objects.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from oddetr.boxes import generalized_iou
from oddetr.structures import GroundTruth, Predictions


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss's parts; the defaults are Deformable-DETR's."""

    classes: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class DetectionLoss:
    """The parts of the loss of each layer, not weighted."""

    classes: Float[Tensor, " layers"]
    l1: Float[Tensor, " layers"]
    giou: Float[Tensor, " layers"]

    def weighted(self, weights: LossWeights) -> Float[Tensor, ""]:
        """The weighted sum over parts and layers."""
        return (weights.classes * self.classes + weights.l1 * self.l1 + weights.giou * self.giou).sum()


def focal_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*any"]:
    """Sigmoid focal loss, element by element (Lin et al., arXiv 1708.02002), in float32.

    FL(p, y) = a_t (1 - p_t)^gamma BCE(p, y)

    p_t = p and a_t = alpha where y = 1;  p_t = 1 - p and a_t = 1 - alpha where y = 0.
    """
    logits = logits.float()
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probabilities + targets - 2 * probabilities * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * cross_entropy * miss**gamma


def one_hot_targets(
    assignment: Int64[Tensor, "layers batch queries"], truth: GroundTruth, num_classes: int
) -> Float[Tensor, "layers batch queries classes"]:
    """1 at the class of each query's object, 0 elsewhere; all 0 for queries without an object.

    Raises:
        IndexError, RuntimeError: a label that is not in 0 .. num_classes - 1.
    """
    labels = truth.labels.expand(assignment.shape[0], -1, -1).gather(-1, assignment.clamp(min=0))
    labels = torch.where(assignment >= 0, labels, num_classes)
    return F.one_hot(labels, num_classes + 1)[..., :-1].float()


def assigned_boxes(
    assignment: Int64[Tensor, "layers batch queries"], truth: GroundTruth
) -> Float[Tensor, "layers batch queries 4"]:
    """The box of each query's object; that of the image's first object (or padding) for queries without one."""
    boxes = truth.boxes.expand(assignment.shape[0], -1, -1, -1)
    return boxes.gather(2, assignment.clamp(min=0)[..., None].expand(-1, -1, -1, 4))


def detection_loss(
    predictions: Predictions,
    truth: GroundTruth,
    assignment: Int64[Tensor, "layers batch queries"],
    objects: Float[Tensor, ""] | float,
) -> DetectionLoss:
    """The baseline's loss: focal over all queries and classes; L1 and 1 - GIoU over the queries with an object.

    Args:
        objects: what the sums are divided by: the number of objects that the step learns from.
    """
    targets = one_hot_targets(assignment, truth, predictions.logits.shape[-1])
    boxes = assigned_boxes(assignment, truth)
    matched = (assignment >= 0).float()
    predicted = predictions.boxes.float()
    l1 = (predicted - boxes).abs().sum(dim=-1) * matched
    giou = (1 - generalized_iou(predicted, boxes)) * matched
    return DetectionLoss(
        classes=focal_loss(predictions.logits, targets).sum(dim=(1, 2, 3)) / objects,
        l1=l1.sum(dim=(1, 2)) / objects,
        giou=giou.sum(dim=(1, 2)) / objects,
    )
