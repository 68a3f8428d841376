"""The groups of the detector's own queries and proposals, and matching distillation on the own queries."""

from dataclasses import replace
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
    """The detector's own queries, supervised by Hungarian matching, with matching distillation if `teacher` is given.

    Args:
        initial: the detector's queries.
        truth: the objects.
        loss: classification loss and loss weights.
        share: weight of the term; below 1 beside Group DETR's groups.
        teacher: the queries that the teacher decoded, whose assignment is carried over; None: no matching distillation.
        weight: w_m, in [0, 1].
    """
    taught = partial(carried_over, teacher=teacher.identity, student=initial.queries.identity) if teacher else None
    return Group("own", initial.queries, (Term("", share, loss, Matched(truth, taught=taught, weight=weight)),))


def proposal_group(
    name: str, initial: InitialQueries, truth: GroundTruth, loss: LossConfig, share: float, repeats: int = 1
) -> Group:
    """The encoder's proposals of a two-stage detector, supervised by Hungarian matching.

    Class-agnostic proposals learn all objects as class 0.

    Args:
        name: of the group.
        initial: the queries and proposals.
        truth: the objects.
        loss: classification loss and loss weights.
        share: weight of the term.
        repeats: proposals per object.
    """
    if initial.class_agnostic:
        truth = replace(truth, labels=truth.labels.clamp(max=0))
    return Group(name, None, (Term(f"{name}_", share, loss, Matched(truth, repeats)),), initial.proposals)


def carried_over(
    assignment: Int64[Tensor, "layers batch teacher_queries"],
    teacher: Int64[Tensor, "batch teacher_queries"],
    student: Int64[Tensor, "batch queries"],
) -> Int64[Tensor, "layers batch queries"]:
    """Carry the teacher's assignment over to the student's queries (ours).

    A query of the student gets the object of the teacher's query with the same identity (slot or encoder token), and -1
    if the teacher has no such query.

    Args:
        assignment: the teacher's.
        teacher: identities of the teacher's queries.
        student: identities of the student's queries.
    """

    same = student[:, :, None] == teacher[:, None, :]
    places = same.int().argmax(dim=-1).expand(assignment.shape[0], -1, -1)
    return torch.where(same.any(dim=-1), assignment.gather(-1, places), -1)
