"""Prediction distillation: the student answers the teacher's initial queries as the teacher does."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.boxes import generalized_iou
from oddetr.distillation.config import PredictionConfig
from oddetr.losses import DetectionLoss, quality_focal_loss
from oddetr.structures import Predictions


def prediction_loss(
    student: Predictions,
    teacher: Predictions,
    objects: Float[Tensor, ""],
    config: PredictionConfig,
    total: Callable[[Float[Tensor, " layers"]], Float[Tensor, " layers"]],
) -> DetectionLoss:
    """Query i of the student learns from query i of the teacher, layer by layer (the formula is ours):

    classes = sum_i sum_c QFL(p_ic, p'_ic) / objects;  l1 = sum_i w_i |box_i - box'_i|_1 / W;
    giou = sum_i w_i (1 - GIoU(box_i, box'_i)) / W;  W = objects, or sum_i w_i (`config.divide_by`)

    w_i = (max_c p'_ic)^power is the teacher's confidence, 0 for queries below `config.min_confidence`, which do not
    count in the classes either; primes are the teacher's.

    Args:
        total: a sum over this batch -> what to divide this batch's sums by, so that gradients are as if one process
            held the whole step (`normalisation.step_total`).
    """
    targets = teacher.logits.float().sigmoid()
    confidence = targets.amax(dim=-1)
    counted = (confidence >= config.min_confidence).float()
    weights = counted * confidence**config.confidence_power
    classes = quality_focal_loss(student.logits, targets).sum(dim=-1) * counted
    l1 = (student.boxes.float() - teacher.boxes.float()).abs().sum(dim=-1)
    giou = 1 - generalized_iou(student.boxes, teacher.boxes)
    divisor = objects
    if config.divide_by == "confidence":
        divisor = total(weights.sum(dim=(1, 2))).clamp(min=torch.finfo(weights.dtype).eps)
    return DetectionLoss(
        classes=classes.sum(dim=(1, 2)) / objects,
        l1=(weights * l1).sum(dim=(1, 2)) / divisor,
        giou=(weights * giou).sum(dim=(1, 2)) / divisor,
    )
