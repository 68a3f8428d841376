"""Losses: pure functions of predictions, ground truth and assignments, written once over all layers.

Every loss is a masked sum over tensors of known shape: nothing is skipped for an image or a batch without objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from oddetr.boxes import generalized_iou, iou
from oddetr.structures import AssignedQueries, GroundTruth, Predictions

Classification = Literal["focal", "quality_focal", "mal", "position_supervised"]


@dataclass(frozen=True)
class LossConfig:
    """Which classification loss is used, and the weights of the loss's parts.

    Attributes:
        classification: `focal`, the official detectors' (target 1); `quality_focal` (target: the box's IoU), the
            default, since it is the better baseline in docs/results.md; `mal`: DEIM's matchability-aware loss;
            `position_supervised`: Stable-DINO's.
        classes: weight of the classification loss; default, whatever the detector: Deformable-DETR's 2 for focal (the
            official DAB-DETR and DINO: 1); Stable-DINO's 6 for position-supervised, 1 for its denoising; 1 for the
            others, which have no factor alpha.
        l1, giou: weights of the box losses; Deformable-DETR's.

    Raises:
        ValueError: an unknown loss, or a negative weight.
    """

    classification: Classification = "quality_focal"
    classes: float | None = None
    l1: float = 5.0
    giou: float = 2.0

    def __post_init__(self) -> None:
        if self.classification not in get_args(Classification):
            known = ", ".join(get_args(Classification))
            raise ValueError(f"loss.classification is {self.classification!r}; it must be one of {known}.")
        for name in ("classes", "l1", "giou"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"loss.{name} is {getattr(self, name)}; it must be at least 0.")

    @property
    def class_weight(self) -> float:
        """`classes`, or its default."""
        if self.classes is not None:
            return self.classes
        return {"focal": 2.0, "position_supervised": 6.0}.get(self.classification, 1.0)

    @property
    def for_denoising(self) -> "LossConfig":
        """The same with the weights of denoising queries."""
        own = self.classes is not None or self.classification != "position_supervised"
        return self if own else replace(self, classes=1.0)


@dataclass(frozen=True)
class DetectionLoss:
    """The parts of the loss of each layer, not weighted."""

    classes: Float[Tensor, " layers"]
    l1: Float[Tensor, " layers"]
    giou: Float[Tensor, " layers"]

    def weighted(self, config: LossConfig) -> Float[Tensor, ""]:
        """The weighted sum over parts and layers."""
        return (config.class_weight * self.classes + config.l1 * self.l1 + config.giou * self.giou).sum()

    def log(self, name: str) -> dict[str, Float[Tensor, ""]]:
        """The parts, not weighted, summed over layers, as the log names them; `name` is the term's prefix."""
        parts = (("classes", self.classes), ("l1", self.l1), ("giou", self.giou))
        return {f"loss_{name}{part}": value.detach().sum() for part, value in parts}

    def mixed(self, other: "DetectionLoss", weight: float) -> "DetectionLoss":
        """(1 - weight) of this and `weight` of the other."""
        pairs = ((self.classes, other.classes), (self.l1, other.l1), (self.giou, other.giou))
        return DetectionLoss(*((1 - weight) * mine + weight * yours for mine, yours in pairs))


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


def quality_focal_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], beta: float = 2.0
) -> Float[Tensor, "*any"]:
    """Quality focal loss, element by element (Generalized Focal Loss, Li et al., arXiv 2006.04388, eq. 2), in float32.

    QFL(p, y) = |y - p|^beta BCE(p, y),  y in [0, 1]
    """
    logits = logits.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** beta * cross_entropy


def matchability_aware_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], positive: Float[Tensor, "*any"], gamma: float = 1.5
) -> Float[Tensor, "*any"]:
    """Matchability-aware loss (DEIM, arXiv 2412.04234), element by element, in float32.

    MAL(p, q) = BCE(p, q^gamma) at the object's class, p^gamma BCE(p, 0) elsewhere, p^gamma without gradient

    Args:
        positive: 1 at the class of the query's object, of whatever quality.
    """
    logits = logits.float()
    weight = positive + (1 - positive) * logits.detach().sigmoid() ** gamma
    return weight * F.binary_cross_entropy_with_logits(logits, targets**gamma, reduction="none")


def position_supervised_loss(
    logits: Float[Tensor, "layers batch queries classes"],
    targets: Float[Tensor, "layers batch queries classes"],
    positive: Float[Tensor, "layers batch queries classes"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Tensor, "layers batch queries classes"]:
    """Position-supervised loss (Stable-DINO, arXiv 2304.04742; the formula is that of the authors' code), in float32.

    alpha |t - p|^gamma BCE(p, t) at the object's class, (1 - alpha) p^gamma BCE(p, 0) elsewhere;
    t = q^2 / max(q^2 in the image and layer): its best match has target 1

    Args:
        targets: q, the IoU of box and object.
        positive: 1 at the class of the query's object, of whatever quality.
    """
    logits = logits.float()
    quality = targets**2
    quality = quality / (quality.amax(dim=(-2, -1), keepdim=True) + 1e-8).clamp(max=1)
    balance = alpha * positive + (1 - alpha) * (1 - positive)
    return balance * quality_focal_loss(logits, quality, gamma)


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


def class_targets(
    predictions: Predictions,
    truth: GroundTruth,
    assignments: Sequence[Int64[Tensor, "layers batch queries"]],
    classification: Classification,
) -> tuple[Float[Tensor, "layers batch queries classes"], Float[Tensor, "layers batch queries classes"]]:
    """What class scores learn under one or several assignments of the same queries, and where they have an object.

    y_ic = max over assignments a with label(a_i) = c of q_i,  q_i = IoU(box_i, object a_i) without gradient, but 1 for
    focal loss;  0 where there is none. (Several: multi-target quality focal loss, ours.)
    """
    positives = [one_hot_targets(assignment, truth, predictions.logits.shape[-1]) for assignment in assignments]
    positive = reduce(torch.maximum, positives)
    if classification == "focal":
        return positive, positive
    boxes = predictions.boxes.detach()
    targets = [
        each * iou(boxes, assigned_boxes(assignment, truth))[..., None]
        for each, assignment in zip(positives, assignments, strict=True)
    ]
    return reduce(torch.maximum, targets), positive


def classification_loss(
    logits: Float[Tensor, "layers batch queries classes"],
    targets: Float[Tensor, "layers batch queries classes"],
    positive: Float[Tensor, "layers batch queries classes"],
    classification: Classification,
) -> Float[Tensor, "layers batch queries classes"]:
    """The loss of that name, element by element; `targets` and `positive` as `class_targets` gives them."""
    if classification == "focal":
        return focal_loss(logits, targets)
    if classification == "quality_focal":
        return quality_focal_loss(logits, targets)
    if classification == "mal":
        return matchability_aware_loss(logits, targets, positive)
    return position_supervised_loss(logits, targets, positive)


def box_shares(
    predictions: Predictions,
    truth: GroundTruth,
    assignments: Sequence[Int64[Tensor, "layers batch queries"]],
) -> list[Float[Tensor, "layers batch queries"]]:
    """The weights, summing to 1, with which a query regresses to its object under each assignment (ours).

    In proportion to IoU(box_i, object a_i), without gradient, so that the nearer object draws more; in equal shares
    where all are 0; 0 for an assignment that gives the query no object.
    """
    exists = torch.stack([(assignment >= 0).float() for assignment in assignments])
    if len(assignments) == 1:
        return [exists[0]]
    boxes = predictions.boxes.detach()
    overlaps = torch.stack([iou(boxes, assigned_boxes(assignment, truth)) for assignment in assignments])
    quality = exists * overlaps
    quality = torch.where(quality.sum(dim=0) > 0, quality, exists)
    return list(quality / quality.sum(dim=0).clamp(min=torch.finfo(quality.dtype).tiny))


def detection_loss(
    predictions: Predictions,
    truth: GroundTruth,
    assignments: Sequence[Int64[Tensor, "layers batch queries"]],
    objects: Float[Tensor, ""] | float,
    classification: Classification,
    padding: Bool[Tensor, "batch queries"] | None = None,
) -> DetectionLoss:
    """Classification over all queries (but for `padding`) and classes; L1 and 1 - GIoU over the queries with an object.

    Args:
        assignments: one, or several at the same time (`class_targets`, `box_shares`).
        objects: what the sums are divided by: the number of objects that the step learns from.
    """
    targets, positive = class_targets(predictions, truth, assignments, classification)
    classes = classification_loss(predictions.logits, targets, positive, classification).sum(dim=-1)
    if padding is not None:
        classes = classes * ~padding
    predicted = predictions.boxes.float()
    l1 = giou = torch.zeros_like(predicted[..., 0])
    for assignment, share in zip(assignments, box_shares(predictions, truth, assignments), strict=True):
        boxes = assigned_boxes(assignment, truth)
        l1 = l1 + (predicted - boxes).abs().sum(dim=-1) * share
        giou = giou + (1 - generalized_iou(predicted, boxes)) * share
    return DetectionLoss(
        classes=classes.sum(dim=(1, 2)) / objects,
        l1=l1.sum(dim=(1, 2)) / objects,
        giou=giou.sum(dim=(1, 2)) / objects,
    )


def assigned_loss(
    predictions: Predictions,
    truth: GroundTruth,
    group: AssignedQueries,
    objects: Float[Tensor, ""] | float,
    classification: Classification,
) -> DetectionLoss:
    """`detection_loss` of a group whose objects are known by construction, divided by its `repeats` too."""
    assignment = group.assignment.expand(len(predictions.logits), -1, -1)
    divisor, padding = objects * group.repeats, group.queries.padding
    whole = replace(predictions, logits=predictions.logits.contiguous(), boxes=predictions.boxes.contiguous())
    return detection_loss(whole, truth, (assignment,), divisor, classification, padding=padding)
