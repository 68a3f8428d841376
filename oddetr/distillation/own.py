"""The detector's own queries, matched to the objects; and matching distillation: the teacher's assignment beside it."""

from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from oddetr.distillation.group import Group, Matched, Term
from oddetr.losses.detection import LossConfig
from oddetr.structures import GroundTruth, InitialQueries, Queries


def own_group(
    initial: InitialQueries, truth: GroundTruth, loss: LossConfig, share: float, teacher: Queries | None, weight: float
) -> Group:
    """The detector's own queries.

    Args:
        share: the weight of the term, below 1 beside Group DETR's groups.
        teacher: the teacher's initial queries, whose assignment is carried over; None: no matching distillation.
        weight: w_m, in [0, 1].
    """
    taught = partial(carried_over, teacher=teacher.identity, student=initial.queries.identity) if teacher else None
    return Group("own", initial.queries, (Term("", share, loss, Matched(truth, taught=taught, weight=weight)),))


def proposal_group(
    name: str, initial: InitialQueries, truth: GroundTruth, loss: LossConfig, share: float, repeats: int = 1
) -> Group:
    """The encoder's proposals of two-stage detectors; they find objects of any class where they know no classes.

    Args:
        share: the weight of the term.
        repeats: proposals that are to find each object.
    """
    sought = GroundTruth(truth.labels.clamp(max=0), truth.boxes, truth.counts) if initial.class_agnostic else truth
    return Group(name, None, (Term(f"{name}_", share, loss, Matched(sought, repeats)),), initial.proposals)


def carried_over(
    assignment: Int64[Tensor, "layers batch teacher_queries"],
    teacher: Int64[Tensor, "batch teacher_queries"],
    student: Int64[Tensor, "batch queries"],
) -> Int64[Tensor, "layers batch queries"]:
    """The teacher's assignment for the student's queries: each takes the object of the teacher's query of the same
    identity (slot or encoder token), -1 where the teacher has no such query (ours).

    Args:
        teacher, student: the identities of their queries.
    """
    same = student[:, :, None] == teacher[:, None, :]
    places = same.int().argmax(dim=-1).expand(assignment.shape[0], -1, -1)
    return torch.where(same.any(dim=-1), assignment.gather(-1, places), -1)
