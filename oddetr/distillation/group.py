"""Query groups: queries that the student decodes, with the loss terms on their predictions.

Every training technique is a group: the detector's own queries, the teacher's queries, the auxiliary group, denoising,
the extra groups of Group DETR and H-DETR. `DistillationTask.forward` decodes all groups in one pass, solves all
Hungarian assignments together, and sums the terms.
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
    """The assignments that one term of the loss needs.

    Attributes:
        own: the assignment of the supervised predictions; None if the term has no matching cost.
        teacher: the assignment of the teacher's predictions for the queries it decodes; None without distillation.
    """

    own: Int64[Tensor, "layers batch queries"] | None
    teacher: Int64[Tensor, "teacher_layers batch teacher_queries"] | None


class Supervision:
    """What a group's predictions are trained towards.

    Attributes:
        repeats: queries that the matcher assigns to each object.
    """

    repeats: int = 1

    def cost(
        self, predictions: Predictions, weights: MatchingWeights
    ) -> Float[Tensor, "layers batch queries objects"] | None:
        """The matching cost whose solution the loss needs; None if it needs no matching."""
        return None

    def loss(
        self, predictions: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The loss of the predictions.

        Args:
            predictions: the group's predictions.
            solution: `own` is the assignment that solves `cost`.
            objects: the normaliser (`ObjectCount.per_process`).
            classification: the classification loss.
        """
        raise NotImplementedError

    def log(self, solution: Solution) -> dict[str, Float[Tensor, ""]]:
        """Further values to log."""
        return {}


@dataclass(frozen=True)
class Matched(Supervision):
    """Supervision by the objects that Hungarian matching assigns, optionally with matching distillation.

    L = (1 - w) L_det(s) + w L_det(s, t),  s: the predictions' own assignment,  t: the one derived from the teacher's

    Attributes:
        truth: the objects.
        repeats: queries per object: 1, or K of H-DETR.
        taught: maps the teacher's assignment to an assignment t of the group's queries; None: L = L_det(s).
        weight: w, in [0, 1].
    """

    truth: GroundTruth
    repeats: int = 1
    taught: Callable[[Int64[Tensor, "layers batch _"]], Int64[Tensor, "layers batch queries"]] | None = None
    weight: float = 1.0

    def cost(self, predictions: Predictions, weights: MatchingWeights) -> Float[Tensor, "layers batch queries objects"]:
        """See `matching_cost`."""
        return matching_cost(predictions, self.truth, weights)

    def loss(
        self, predictions: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The detection loss under the own assignment, or under both."""
        own, divisor = solution.own, objects * self.repeats
        assert own is not None
        if self.taught is None or solution.teacher is None:
            return detection_loss(predictions, self.truth, (own,), divisor, classification)
        both = detection_loss(predictions, self.truth, (own, self.taught(solution.teacher)), divisor, classification)
        if self.weight == 1:
            return both
        return detection_loss(predictions, self.truth, (own,), divisor, classification).mixed(both, self.weight)

    def log(self, solution: Solution) -> dict[str, Float[Tensor, ""]]:
        """See `agreement`; empty without matching distillation."""
        if self.taught is None or solution.own is None or solution.teacher is None:
            return {}
        return agreement(solution.own, self.taught(solution.teacher), solution.teacher)


@dataclass(frozen=True)
class Assigned(Supervision):
    """Supervision by an assignment known by construction, the same in all layers.

    Attributes:
        truth: the objects.
        group: the queries and their assignment.
    """

    truth: GroundTruth
    group: AssignedQueries

    def loss(
        self, predictions: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """See `assigned_loss`."""
        return assigned_loss(predictions, self.truth, self.group, objects, classification)


@dataclass(frozen=True)
class Term:
    """One weighted term of the loss.

    Attributes:
        name: prefix in the log.
        weight: weight at this point of the run.
        config: the classification loss and the weights of the loss components.
        supervision: what the predictions are trained towards.
    """

    name: str
    weight: float
    config: LossConfig
    supervision: Supervision


@dataclass(frozen=True)
class Group:
    """A named group of queries and the loss terms on their predictions.

    Groups share one decoder pass but do not attend to one another, except as `Queries.attends_to` says.

    Attributes:
        name: unique within the step.
        queries: the queries to decode; None where `predictions` are given.
        terms: the loss terms.
        predictions: predictions that need no decoding: the encoder's proposals.
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
    """How far the student's and the teacher's assignments agree, over all layers and images of this process.

    Returns:
        Shares of the objects that the teacher matches: `matching_carried`, of those whose query the student has as well
        (1 without objects); `matching_disagreement`, of those among them that the student matches to another query.
    """

    has = taught >= 0
    objects = (teacher >= 0).sum()
    disagreement = (has & (taught != own)).sum() / objects.clamp(min=1)
    return {
        "matching_carried": torch.where(objects > 0, has.sum() / objects, 1.0),
        "matching_disagreement": disagreement,
    }
