"""Matching distillation: the student's queries also learn what the teacher's matching says of them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from oddetr.distillation.config import MatchingConfig
from oddetr.losses import DetectionLoss, LossConfig, detection_loss
from oddetr.structures import GroundTruth, Predictions


def carried_over(
    assignment: Int64[Tensor, "layers batch teacher_queries"],
    teacher_identity: Int64[Tensor, "batch teacher_queries"],
    identity: Int64[Tensor, "batch queries"],
) -> Int64[Tensor, "layers batch queries"]:
    """The teacher's assignment for the student's queries: each takes the object of the teacher's query of the same
    identity (slot or encoder token), -1 where the teacher has no such query (ours)."""
    same = identity[:, :, None] == teacher_identity[:, None, :]
    places = same.int().argmax(dim=-1).expand(assignment.shape[0], -1, -1)
    return torch.where(same.any(dim=-1), assignment.gather(-1, places), -1)


def own_loss(
    predictions: Predictions,
    truth: GroundTruth,
    own: Int64[Tensor, "layers batch queries"],
    taught: Int64[Tensor, "layers batch queries"],
    objects: Float[Tensor, ""],
    loss: LossConfig,
    config: MatchingConfig,
    weight: float,
) -> DetectionLoss:
    """L_own = (1 - w) L_det(s) + w L_det(s and t), with s the `own` and t the `taught` assignment, w the `weight`."""
    power = config.box_power if config.boxes == "both" else None
    both = detection_loss(predictions, truth, (own, taught), objects, loss.classification, power)
    if weight == 1:
        return both
    alone = detection_loss(predictions, truth, (own,), objects, loss.classification)
    return alone.mixed(both, weight)


def agreement(
    own: Int64[Tensor, "layers batch queries"],
    taught: Int64[Tensor, "layers batch queries"],
    teacher: Int64[Tensor, "layers batch teacher_queries"],
) -> dict[str, Float[Tensor, ""]]:
    """For the log, of all layers, as shares of the objects of this process for which the teacher has a query:
    `matching_carried`, those whose query the student has too (1 where there is no object); `matching_disagreement`,
    those that so have two positive queries."""
    has = taught >= 0
    objects = (teacher >= 0).sum()
    disagreement = (has & (taught != own)).sum() / objects.clamp(min=1)
    return {
        "matching_carried": torch.where(objects > 0, has.sum() / objects, 1.0),
        "matching_disagreement": disagreement,
    }
