"""The groups of the detector's own queries and proposals, and matching distillation on the own queries."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from oddetr.distillation.group import Group, Matched, Term
from oddetr.losses.detection import LossConfig
from oddetr.structures import GroundTruth, InitialQueries, Queries

Carry = Callable[[Int64[Tensor, "layers batch _"]], Int64[Tensor, "layers batch queries"]]
"""From an assignment of the teacher's queries to one of the student's."""


def own_group(
    initial: InitialQueries, truth: GroundTruth, loss: LossConfig, share: float, taught: Carry | None, weight: float
) -> Group:
    """The detector's own queries, supervised by Hungarian matching, with matching distillation if `taught` is given.

    Args:
        initial: the detector's queries.
        truth: the objects.
        loss: classification loss and loss weights.
        share: weight of the term; below 1 beside Group DETR's groups.
        taught: the function from `carrying` that maps the teacher's assignment to these queries; None: no matching
            distillation.
        weight: w_m, in [0, 1].
    """
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


def carrying(teacher: Queries, initial: InitialQueries) -> Carry:
    """What an assignment of the queries that the teacher decoded means for the student's.

    Where both decode the same queries, or each its own embeddings in the same learned slots, it is the same assignment;
    else see `carried_over`.
    """
    if teacher is initial.queries or initial.proposals is None:
        return _unchanged
    return partial(carried_over, teacher=teacher.identity, student=initial.queries.identity)


def _unchanged(assignment: Int64[Tensor, "layers batch queries"]) -> Int64[Tensor, "layers batch queries"]:
    return assignment


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
