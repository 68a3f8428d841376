"""Detection losses: pure functions of predictions, ground truth and assignments, over all decoder layers at once.

Every loss is a masked sum over tensors of known shape, so images and batches without objects need no special case.
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
    """The classification loss and the weights of the loss components.

    Attributes:
        classification: `focal`: the official detectors' loss (target 1). `quality_focal` (target: IoU of the predicted
            box), the default because it is the better baseline in docs/results.md. `mal`: DEIM's matchability-aware
            loss. `position_supervised`: Stable-DINO's loss. OD-DETR's prediction distillation and auxiliary group
            always use quality focal loss.
        classes: weight of the classification loss. The default depends on the loss alone, not on the detector:
            Deformable-DETR's 2 for focal (the official DAB-DETR and DINO use 1); Stable-DINO's 6 for
            position-supervised, and 1 for its denoising queries; 1 for the others, which have no factor alpha.
        l1: weight of the L1 loss of boxes; the default is Deformable-DETR's.
        giou: weight of the GIoU loss of boxes; the default is Deformable-DETR's.

    Raises:
        ValueError: the loss is unknown, or a weight is negative.
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
        """The weight of the classification loss: `classes`, or its default."""
        if self.classes is not None:
            return self.classes
        return {"focal": 2.0, "position_supervised": 6.0}.get(self.classification, 1.0)

    @property
    def for_denoising(self) -> "LossConfig":
        """The configuration for denoising queries, for which Stable-DINO weighs its position-supervised loss by 1."""
        unchanged = self.classes is not None or self.classification != "position_supervised"
        return self if unchanged else replace(self, classes=1.0)


@dataclass(frozen=True)
class DetectionLoss:
    """The unweighted loss components of each decoder layer."""

    classes: Float[Tensor, " layers"]
    l1: Float[Tensor, " layers"]
    giou: Float[Tensor, " layers"]

    def weighted(self, config: LossConfig) -> Float[Tensor, ""]:
        """The weighted sum over components and layers."""
        return (config.class_weight * self.classes + config.l1 * self.l1 + config.giou * self.giou).sum()

    def log(self, name: str) -> dict[str, Float[Tensor, ""]]:
        """The unweighted components, summed over layers, under their names in the log: loss_{name}classes and so on."""
        parts = (("classes", self.classes), ("l1", self.l1), ("giou", self.giou))
        return {f"loss_{name}{part}": value.detach().sum() for part, value in parts}

    def mixed(self, other: "DetectionLoss", weight: float) -> "DetectionLoss":
        """Interpolate linearly: (1 - weight) * self + weight * other."""
        pairs = ((self.classes, other.classes), (self.l1, other.l1), (self.giou, other.giou))
        return DetectionLoss(*((1 - weight) * mine + weight * yours for mine, yours in pairs))


def focal_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*any"]:
    """Elementwise sigmoid focal loss (Lin et al., arXiv 1708.02002), in float32.

    FL(p, y) = a_t (1 - p_t)^gamma BCE(p, y),  p = sigmoid(logit)
    p_t = p,      a_t = alpha      where y = 1
    p_t = 1 - p,  a_t = 1 - alpha  where y = 0
    """
    logits = logits.float()
    probabilities = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    error = probabilities + targets - 2 * probabilities * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * cross_entropy * error**gamma


def quality_focal_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], beta: float = 2.0
) -> Float[Tensor, "*any"]:
    """Elementwise quality focal loss (Generalized Focal Loss, Li et al., arXiv 2006.04388, eq. 2), in float32.

    QFL(p, y) = |y - p|^beta BCE(p, y),  p = sigmoid(logit),  y in [0, 1]
    """
    logits = logits.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** beta * cross_entropy


def matchability_aware_loss(
    logits: Float[Tensor, "*any"], targets: Float[Tensor, "*any"], positive: Float[Tensor, "*any"], gamma: float = 1.5
) -> Float[Tensor, "*any"]:
    """Elementwise matchability-aware loss (DEIM, arXiv 2412.04234), in float32.

    MAL(p, q) = BCE(p, q^gamma)     at the class of the query's object
              = p^gamma BCE(p, 0)   elsewhere;  the factor p^gamma is detached

    Args:
        targets: q, the IoU of the predicted box and its object; 0 elsewhere.
        positive: 1 at the class of the query's object, even where q is 0; 0 elsewhere.
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
    """Elementwise position-supervised loss (Stable-DINO, arXiv 2304.04742; formula of the authors' code), in float32.

    PSL(p, t) = alpha |t - p|^gamma BCE(p, t)       at the class of the query's object
              = (1 - alpha) p^gamma BCE(p, 0)       elsewhere
    t = q^2 / max(q^2 over the queries of the image and layer), so the best match of an image has target 1

    Args:
        targets: q, the IoU of the predicted box and its object; 0 elsewhere.
        positive: 1 at the class of the query's object, even where q is 0; 0 elsewhere.
    """
    logits = logits.float()
    quality = targets**2
    quality = quality / (quality.amax(dim=(-2, -1), keepdim=True) + 1e-8).clamp(max=1)
    balance = alpha * positive + (1 - alpha) * (1 - positive)
    return balance * quality_focal_loss(logits, quality, gamma)


def one_hot_targets(
    assignment: Int64[Tensor, "layers batch queries"], truth: GroundTruth, num_classes: int
) -> Float[Tensor, "layers batch queries classes"]:
    """One-hot class of each query's object; all zeros for queries without an object.

    Raises:
        IndexError, RuntimeError: a label lies outside 0 .. num_classes - 1.
    """
    labels = truth.labels.expand(assignment.shape[0], -1, -1).gather(-1, assignment.clamp(min=0))
    labels = torch.where(assignment >= 0, labels, num_classes)
    return F.one_hot(labels, num_classes + 1)[..., :-1].float()


def assigned_boxes(
    assignment: Int64[Tensor, "layers batch queries"], truth: GroundTruth
) -> Float[Tensor, "layers batch queries 4"]:
    """The box of each query's object. Queries without an object get the image's first box, which must be masked."""
    boxes = truth.boxes.expand(assignment.shape[0], -1, -1, -1)
    return boxes.gather(2, assignment.clamp(min=0)[..., None].expand(-1, -1, -1, 4))


def class_targets(
    predictions: Predictions,
    truth: GroundTruth,
    assignments: Sequence[Int64[Tensor, "layers batch queries"]],
    classification: Classification,
) -> tuple[Float[Tensor, "layers batch queries classes"], Float[Tensor, "layers batch queries classes"]]:
    """The class targets y, before any power or scale that a loss applies, and the positive mask of queries under one or
    several assignments.

    y_ic = max { q_i(a) : assignment a gives query i an object of class c },  0 if there is none
    q_i(a) = IoU(box_i, object a_i), detached;  1 for focal loss

    Quality focal loss of these targets is our multi-target quality focal loss.

    Returns:
        y, and the mask that is 1 where some assignment gives query i an object of class c, even one of IoU 0.
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
    """The elementwise loss that `classification` names, of the targets and mask from `class_targets`."""
    if classification == "focal":
        return focal_loss(logits, targets)
    if classification == "quality_focal":
        return quality_focal_loss(logits, targets)
    if classification == "mal":
        return matchability_aware_loss(logits, targets, positive)
    if classification == "position_supervised":
        return position_supervised_loss(logits, targets, positive)
    raise ValueError(f"There is no classification loss {classification!r}.")


def box_shares(
    predictions: Predictions,
    truth: GroundTruth,
    assignments: Sequence[Int64[Tensor, "layers batch queries"]],
) -> list[Float[Tensor, "layers batch queries"]]:
    """The weights with which a query regresses to its object under each assignment (ours).

    share_i(a) = q_i(a) / sum over assignments b of q_i(b),  q_i(a) = IoU(box_i, object a_i), detached

    The closer object weighs more. Where all IoUs are 0 the shares are equal. An assignment that gives the query no
    object has share 0; the shares of a query with an object sum to 1.
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
    """Classification loss of all queries, and box losses of the queries with an object, for each layer.

    classes = sum_i sum_c loss(logit_ic, y_ic) / objects           (y: `class_targets`)
    l1      = sum_a sum_i share_i(a) |box_i - object a_i|_1 / objects     (share: `box_shares`)
    giou    = sum_a sum_i share_i(a) (1 - GIoU(box_i, object a_i)) / objects

    Args:
        assignments: one, or several for the same queries.
        objects: the normaliser, usually the number of objects in the optimizer step.
        padding: True for queries to leave out.
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
    """`detection_loss` of a group whose assignment is known by construction; also divided by its `repeats`."""

    assignment = group.assignment.expand(len(predictions.logits), -1, -1)
    divisor, padding = objects * group.repeats, group.queries.padding
    whole = replace(predictions, logits=predictions.logits.contiguous(), boxes=predictions.boxes.contiguous())
    return detection_loss(whole, truth, (assignment,), divisor, classification, padding=padding)
