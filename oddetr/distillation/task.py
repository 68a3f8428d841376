"""One training step, independent of any training framework: batch in, loss out.

task = DistillationTask(detector, steps=len(loader))
optimizer = torch.optim.AdamW(task.student.parameters(), lr=2e-4)
for batch in loader:
    optimizer.zero_grad()
    task(batch)["loss"].backward()
    optimizer.step()
    task.update_teacher()
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.distillation.auxiliary import auxiliary_group
from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.denoising import denoising_group
from oddetr.distillation.group import Group, Solution, Term
from oddetr.distillation.group_detr import ExtraGroups, GroupsConfig
from oddetr.distillation.imitation import Imitated
from oddetr.distillation.normalisation import ObjectCount
from oddetr.distillation.own_queries import carrying, own_group, proposal_group
from oddetr.distillation.teacher import (
    AUTO_HORIZON,
    NonFiniteStudentError,
    Teacher,
    TeacherView,
    all_finite,
    all_values,
)
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import MatchingWeights, NonFiniteCostError, matching_cost, solve
from oddetr.models.detector import Detector
from oddetr.structures import Batch, GroundTruth, InitialQueries, Memory, Predictions


class DistillationTask(nn.Module):
    """Student, EMA teacher and loss of OD-DETR:

    L = L_own + w_p L_pred + w_a L_aux (+ L_det of two-stage proposals, denoising and extra groups, not distilled)

    L_own is the detection loss of the student's own queries, with matching distillation (`Matched`).

    Attributes:
        student: the detector that the optimizer trains.
        teacher: its exponential moving average, without gradient; call `update_teacher` after each optimizer step.
        extra: parameters of extra groups, which the optimizer trains as well.
        steps: optimizer steps of the run, to which fading weights and the default horizon relate.

    Args:
        student: the detector.
        steps: optimizer steps of the run.
        distillation: what to distil; `DistillationConfig(enabled=False)` is the baseline.
        loss: classification loss and loss weights; prediction distillation and the auxiliary group always use quality
            focal loss.
        matching: weights of the matching cost.
        groups: extra query groups during training; default: none.
    """

    def __init__(
        self,
        student: Detector,
        steps: int,
        distillation: DistillationConfig | None = None,
        loss: LossConfig | None = None,
        matching: MatchingWeights | None = None,
        groups: GroupsConfig | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = Teacher(student)
        self.steps = steps
        self.distillation = distillation or DistillationConfig()
        self.loss = loss or LossConfig()
        # A weight that was given for another loss does not suit quality focal loss.
        weight = self.loss.classes if self.loss.classification == "quality_focal" else None
        self.distilled_loss = replace(self.loss, classification="quality_focal", classes=weight)
        self.matching = matching or MatchingWeights()
        self.extra = ExtraGroups(student, groups or GroupsConfig())

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters to optimise, by name."""
        yield from self.student.named_parameters()
        yield from self.extra.named_parameters()

    @property
    def progress(self) -> float:
        """The completed fraction of the run, in [0, 1]."""
        return min(1.0, self.teacher.steps / max(self.steps, 1))

    def update_teacher(self, finite: bool | None = None) -> None:
        """Move the teacher towards the student; call this after each optimizer step.

        Args:
            finite: whether all of the student's values are finite, if known; None checks them, which synchronises with
                the device.

        Raises:
            NonFiniteStudentError: some are not; the teacher is unchanged.
        """
        if finite is None:
            finite = bool(all_finite([value for value in all_values(self.student) if value.is_floating_point()]))
        if not finite:
            raise NonFiniteStudentError(self.student)
        horizon = self.distillation.horizon or max(1.0, AUTO_HORIZON * self.steps)
        self.teacher.update(self.student, horizon)

    def skip_step(self) -> None:
        """Advance the schedule without updating the teacher; call this where the optimizer skipped its step."""
        self.teacher.steps += 1

    def view(self, batch: Batch, memory: Memory, initial: InitialQueries) -> TeacherView:
        """Run the teacher on a batch, given the student's memory and initial queries.

        `DistillationConfig.memory` and `queries` say what it takes from the student. Learned queries share the
        student's slots, but the teacher keeps its own embeddings, which move less.
        """
        with torch.no_grad():
            teacher = self.teacher.detector
            if self.distillation.memory == "teacher":
                memory = teacher.encode(batch.images, batch.padding_mask)
            shared = self.distillation.queries == "shared" and initial.proposals is not None
            queries = initial.queries if shared else teacher.initial_queries(memory).queries
            predictions = teacher.decode(memory, {"own": queries})["own"]
            return TeacherView(queries, predictions, matching_cost(predictions, batch.truth, self.matching))

    def groups(self, batch: Batch, memory: Memory) -> tuple[list[Group], TeacherView | None]:
        """The query groups of this step, and the teacher's predictions if some distillation weight is not 0."""
        truth, loss, share = batch.truth, self.loss, self.extra.config.share
        w_matching, w_prediction, w_auxiliary = self.distillation.weights(self.progress)
        initial = self.student.initial_queries(memory)
        view = self.view(batch, memory, initial) if w_matching or w_prediction or w_auxiliary else None
        taught = carrying(view.queries, initial) if view and w_matching else None
        own = own_group(initial, truth, loss, share, taught, w_matching)
        own_terms = [*own.terms, *self.extra.own_terms(self.student, truth, loss)]
        distilled: list[Group] = []
        if view and w_prediction:
            imitation = Term("prediction_", w_prediction * share, self.distilled_loss, Imitated(view.predictions))
            if self.distillation.queries == "shared":
                own_terms.append(imitation)
            else:
                distilled.append(Group("teacher", view.queries, (imitation,)))
        if view and w_auxiliary:
            config, teacher, weight = self.distillation.auxiliary, self.teacher.detector, w_auxiliary * share
            distilled.append(auxiliary_group(teacher, view, truth, config, self.distilled_loss, weight))
        groups = [replace(own, terms=tuple(own_terms)), *self.extra(memory, truth, loss)]
        if initial.proposals:
            groups.append(proposal_group("proposal", initial, truth, loss, share))
        if self.student.denoising:
            groups.append(denoising_group(self.student.denoising(truth), truth, loss))
        return groups + distilled, view

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Compute the loss of a batch.

        Returns:
            `loss`, to minimise, and values to log: the unweighted loss components of each term, summed over layers.

        Raises:
            NonFiniteCostError: the student or the teacher predicts NaN or infinity; its `found` has the same values.
        """
        count = ObjectCount(batch)
        memory = self.student.encode(batch.images, batch.padding_mask)
        groups, view = self.groups(batch, memory)
        decoded = self.student.decode(memory, {group.name: group.queries for group in groups if group.queries})
        with torch.autocast(batch.images.device.type, enabled=False):
            terms = [(term, group.predictions or decoded[group.name]) for group in groups for term in group.terms]
            solutions, bad = self.solutions(terms, view, batch.truth)
            objects = count.per_process()
            weighted: list[Tensor] = []
            log: dict[str, Tensor] = {}
            for (term, predictions), solution in zip(terms, solutions, strict=True):
                parts = term.supervision.loss(predictions, solution, objects, term.config.classification)
                weighted.append(term.weight * parts.weighted(term.config))
                log |= parts.log(term.name) | term.supervision.log(solution)
            loss = torch.stack(weighted).sum()
        if bad:
            raise NonFiniteCostError(bad, {"loss": loss * torch.nan, **log})
        return {"loss": loss, **log}

    def solutions(
        self, terms: Sequence[tuple[Term, Predictions]], view: TeacherView | None, truth: GroundTruth
    ) -> tuple[list[Solution], tuple[int, ...]]:
        """Solve all Hungarian assignments (own, extra groups, proposals, teacher) in one transfer to the host.

        The teacher's assignment is solved even without matching distillation, to detect a teacher that predicts NaN.

        Returns:
            The assignments of each term, and the indices of images with a non-finite cost.
        """

        costs = [term.supervision.cost(predictions, self.matching) for term, predictions in terms]
        known = [
            (cost, term.supervision.repeats) for cost, (term, _) in zip(costs, terms, strict=True) if cost is not None
        ]
        known += [(view.cost, 1)] if view else []
        solved = solve([cost for cost, _ in known], truth.counts, [repeats for _, repeats in known])
        assignments = iter(solved.assignments)
        own = [None if cost is None else next(assignments) for cost in costs]
        teacher = next(assignments, None)
        return [Solution(assignment, teacher) for assignment in own], solved.bad
