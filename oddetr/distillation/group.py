"""A group of queries that the student decodes, and what supervises its predictions.

Every training trick of DETRs is such a group: the detector's own queries, the teacher's, an auxiliary group, denoising,
the further groups of Group DETR and H-DETR. `DistillationTask.forward` decodes all groups in one pass, solves all
matchings together, and sums the terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from oddetr.losses.detection import Classification, DetectionLoss, LossConfig, assigned_loss, detection_loss
from oddetr.losses.matching import MatchingWeights, matching_cost
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries


@dataclass(frozen=True)
class Solution:
    """Assignments of a step.

    Attributes:
        own: of the predictions that are supervised; None if nothing was to be matched.
        teacher: of the teacher's predictions for its own queries; None if no lesson is taught.
    """

    own: Int64[Tensor, "layers batch queries"] | None
    teacher: Int64[Tensor, "teacher_layers batch teacher_queries"] | None


class Supervision:
    """What the predictions of a group should be.

    Attributes:
        repeats: how many queries are to find each object.
    """

    repeats: int = 1

    def cost(
        self, found: Predictions, weights: MatchingWeights
    ) -> Float[Tensor, "layers batch queries objects"] | None:
        """The cost of the matching that the loss needs; None if it needs none."""
        return None

    def loss(
        self, found: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The loss of the predictions.

        Args:
            solution: `own` solves `cost`.
            objects: the divisor, see `objects_per_process`.
        """
        raise NotImplementedError

    def log(self, solution: Solution) -> dict[str, Float[Tensor, ""]]:
        """What else the log tells."""
        return {}


@dataclass(frozen=True)
class Matched(Supervision):
    """The objects that Hungarian matching assigns to the predictions.

    Attributes:
        truth: the objects.
        repeats: queries of each object: 1, or H-DETR's K.
        taught: turns the teacher's assignment into a second one of the group's queries, from which they learn, too:
            L = (1 - w) L_det(s) + w L_det(s and t), with s their own and t the second assignment.
        weight: w, in [0, 1].
    """

    truth: GroundTruth
    repeats: int = 1
    taught: Callable[[Int64[Tensor, "layers batch _"]], Int64[Tensor, "layers batch queries"]] | None = None
    weight: float = 1.0

    def cost(self, found: Predictions, weights: MatchingWeights) -> Float[Tensor, "layers batch queries objects"]:
        """The matching cost of every query and object."""
        return matching_cost(found, self.truth, weights)

    def loss(
        self, found: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The detection loss, under both assignments if there are two."""
        own, divisor = solution.own, objects * self.repeats
        assert own is not None
        if self.taught is None or solution.teacher is None:
            return detection_loss(found, self.truth, (own,), divisor, classification)
        both = detection_loss(found, self.truth, (own, self.taught(solution.teacher)), divisor, classification)
        if self.weight == 1:
            return both
        return detection_loss(found, self.truth, (own,), divisor, classification).mixed(both, self.weight)

    def log(self, solution: Solution) -> dict[str, Float[Tensor, ""]]:
        """How far the student's and the teacher's assignment agree."""
        if self.taught is None or solution.own is None or solution.teacher is None:
            return {}
        return agreement(solution.own, self.taught(solution.teacher), solution.teacher)


@dataclass(frozen=True)
class Assigned(Supervision):
    """The objects that the construction of the group assigns, the same in all layers.

    Attributes:
        truth: the objects.
        group: the queries, their objects, and how many queries find each.
    """

    truth: GroundTruth
    group: AssignedQueries

    def loss(
        self, found: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The detection loss under the known assignment."""
        return assigned_loss(found, self.truth, self.group, objects, classification)


@dataclass(frozen=True)
class Term:
    """One term of the loss.

    Attributes:
        name: its prefix in the log.
        weight: its weight at this point of the run.
        config: the classification loss, and the weights of the loss's parts.
        supervision: what the predictions should be.
    """

    name: str
    weight: float
    config: LossConfig
    supervision: Supervision


@dataclass(frozen=True)
class Group:
    """A named set of queries that the student decodes, blind to other groups, with the terms of the loss on them.

    Attributes:
        queries: what the student decodes; None: `predictions` exist already.
        terms: the losses on the predictions.
        predictions: the encoder's proposals.
    """

    name: str
    queries: Queries | None
    terms: tuple[Term, ...]
    predictions: Predictions | None = None


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
