"""One training step, free of any engine: a batch in, a loss with its parts out.

task = DistillationTask(detector, steps=len(loader))
optimizer = torch.optim.AdamW(task.student.parameters(), lr=2e-4)
for batch in loader:
    optimizer.zero_grad()
    task(batch)["loss"].backward()
    optimizer.step()
    task.update_teacher()
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from oddetr.distillation.auxiliary import auxiliary_group
from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.matching import agreement, carried_over, own_loss
from oddetr.distillation.normalisation import objects_per_process, step_total
from oddetr.distillation.prediction import prediction_loss
from oddetr.distillation.teacher import AUTO_HORIZON, NonFiniteStudentError, Teacher, all_finite, all_values
from oddetr.groups import ONE_TO_MANY, ExtraGroups, GroupsConfig, one_to_many_assignment
from oddetr.losses import DetectionLoss, LossConfig, assigned_loss, detection_loss
from oddetr.matching import MatchingWeights, NonFiniteCostError, hungarian, matching_cost
from oddetr.models.detector import Detector
from oddetr.structures import AssignedQueries, Batch, GroundTruth, InitialQueries, Memory, Predictions, Queries


@dataclass(frozen=True)
class Term:
    """A term of the loss: its name in the log, its weight now, its parts and their weights."""

    name: str
    weight: float
    loss: DetectionLoss
    config: LossConfig

    def weighted(self) -> Float[Tensor, ""]:
        """What it adds to the loss."""
        return self.weight * self.loss.weighted(self.config)

    def parts(self) -> dict[str, Float[Tensor, ""]]:
        """For the log: its parts, unweighted, summed over layers."""
        parts = (("classes", self.loss.classes), ("l1", self.loss.l1), ("giou", self.loss.giou))
        return {f"loss_{self.name}{part}": value.detach().sum() for part, value in parts}


@dataclass(frozen=True)
class TeacherView:
    """What the teacher makes of a batch, without gradient."""

    queries: Queries
    predictions: Predictions
    cost: Float[Tensor, "layers batch queries objects"]


class DistillationTask(nn.Module):
    """A detector that learns, the teacher that it becomes and that teaches it, and the loss:

    L = L_own + w_p L_pred + w_a L_aux (+ L_det of two-stage proposals and of denoising, which are not distilled)

    Attributes:
        student: the detector that the optimizer trains.
        teacher: its average, which `update_teacher` moves on after each optimizer step; no gradient reaches it.
        extra: queries of further groups, which the optimizer trains too; None without any.
        steps: optimizer steps of the run: what fading weights and the default horizon are fractions of.

    Args:
        distillation: what is distilled; `DistillationConfig(enabled=False)` is the baseline.
        loss: classification loss and weights; the method's own groups always learn by quality focal loss.
        matching: weights of the matching cost.
        groups: further groups of queries in training; default: none.
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
        own_weight = self.loss.classes if self.loss.classification == "quality_focal" else None
        self.group_loss = replace(self.loss, classification="quality_focal", classes=own_weight)
        self.matching = matching or MatchingWeights()
        self.groups = groups or GroupsConfig()
        self.extra = ExtraGroups(student, self.groups) if self.groups.one_to_one or self.groups.one_to_many else None

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer trains, by name."""
        yield from self.student.named_parameters()
        if self.extra:
            yield from self.extra.named_parameters()

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return min(1.0, self.teacher.steps / max(self.steps, 1))

    def update_teacher(self, finite: bool | None = None) -> None:
        """To be called after each optimizer step.

        Args:
            finite: whether the student's values are known to be finite; None: they are looked at here, which waits for
                the device.

        Raises:
            NonFiniteStudentError: they are not; the teacher stays as it was.
        """
        if finite is None:
            finite = bool(all_finite([value for value in all_values(self.student) if value.is_floating_point()]))
        if not finite:
            raise NonFiniteStudentError(self.student)
        horizon = self.distillation.horizon or max(1.0, AUTO_HORIZON * self.steps)
        self.teacher.update(self.student, horizon)

    def leave_out_step(self) -> None:
        """In the place of `update_teacher` where the optimizer has left its step out: what fades by the run goes on."""
        self.teacher.steps += 1

    def view(self, batch: Batch, memory: Memory | None = None) -> TeacherView:
        """What the teacher makes of a batch, over its own memory, or that of the student if it is given."""
        with torch.no_grad():
            teacher = self.teacher.detector
            memory = teacher.encode(batch.images, batch.padding_mask) if memory is None else memory
            queries = teacher.initial_queries(memory).queries
            predictions = teacher.decode(memory, {"own": queries})["own"]
            return TeacherView(queries, predictions, matching_cost(predictions, batch.truth, self.matching))

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss to minimise, `loss`, and for the log its unweighted parts summed over layers.

        Raises:
            NonFiniteCostError: the student, or its teacher, predicts NaN or infinity; it has the loss all the same.
        """
        w_matching, w_prediction, w_auxiliary = self.distillation.weights(self.progress)
        memory = self.student.encode(batch.images, batch.padding_mask)
        initial = self.student.initial_queries(memory)
        read = memory if self.distillation.memory == "student" else None
        view = self.view(batch, read) if w_matching or w_prediction or w_auxiliary else None
        auxiliary = self.auxiliary(view, batch.truth) if view and w_auxiliary else None
        groups = {"own": initial.queries}
        if view and w_prediction:
            groups["teacher"] = view.queries
        if auxiliary:
            groups["auxiliary"] = auxiliary.queries
        denoising: AssignedQueries | None = self.student.denoising and self.student.denoising(batch.truth)
        if denoising:
            groups["denoising"] = denoising.queries
        extra: dict[str, Queries] = self.extra(memory) if self.extra else {}
        predictions = self.student.decode(memory, groups | extra)

        truth, objects, own, bad = batch.truth, objects_per_process(batch), predictions["own"], set[int]()
        further = {name: predictions[name] for name in extra}
        with torch.autocast(batch.images.device.type, enabled=False):
            assigned, many = self.assignments({"own": own} | further, initial, view, truth, bad)
            first, log = self.own_term(own, truth, assigned, objects, initial, view, w_matching)
            terms = [first, *self.extra_terms(further, assigned, many, truth, objects, bad)]
            if initial.proposals:
                proposed = self.detection(initial.proposals, _sought(initial, truth), assigned["proposals"], objects)
                terms.append(Term("proposal_", 1.0, proposed, self.loss))
            if denoising:
                found = assigned_loss(predictions["denoising"], truth, denoising, objects, self.loss.classification)
                terms.append(Term("denoising_", 1.0, found, self.loss.for_denoising))
            if view and w_prediction:
                config, total = self.distillation.prediction, partial(step_total, batch=batch)
                answers = prediction_loss(predictions["teacher"], view.predictions, objects, config, total)
                terms.append(Term("prediction_", w_prediction, answers, self.group_loss))
            if auxiliary:
                found = assigned_loss(predictions["auxiliary"], truth, auxiliary, objects, "quality_focal")
                terms.append(Term("auxiliary_", w_auxiliary, found, self.group_loss))
            loss = torch.stack([term.weighted() for term in terms]).sum()
        for term in terms:
            log |= term.parts()
        if bad:
            raise NonFiniteCostError(tuple(sorted(bad)), {"loss": loss * torch.nan, **log})
        return {"loss": loss, **log}

    def assignments(
        self,
        found: Mapping[str, Predictions],
        initial: InitialQueries,
        view: TeacherView | None,
        truth: GroundTruth,
        bad: set[int],
    ) -> tuple[dict[str, Int64[Tensor, "layers batch _"]], Float[Tensor, "layers batch queries objects"] | None]:
        """Who has which object, of the own and further groups, proposals and the teacher, solved together; and the cost
        of the one-to-many group, which is matched otherwise. The teacher's is solved without matching distillation,
        too: that finds a teacher that predicts NaN. `bad` takes the images with a cost that is not finite."""
        costs = {name: matching_cost(each, truth, self.matching) for name, each in found.items()}
        many = costs.pop(ONE_TO_MANY, None)
        if initial.proposals:
            costs["proposals"] = matching_cost(initial.proposals, _sought(initial, truth), self.matching)
        if view:
            costs["teacher"] = view.cost
        return dict(zip(costs, hungarian(*costs.values(), counts=truth.counts, bad=bad), strict=True)), many

    def own_term(
        self,
        own: Predictions,
        truth: GroundTruth,
        assigned: Mapping[str, Int64[Tensor, "layers batch _"]],
        objects: Float[Tensor, ""],
        initial: InitialQueries,
        view: TeacherView | None,
        w_matching: float,
    ) -> tuple[Term, dict[str, Tensor]]:
        """L_own, with matching distillation while its weight is above 0; and how far teacher and student agree."""
        if not (view and w_matching):
            return Term("", self.groups.share, self.detection(own, truth, assigned["own"], objects), self.loss), {}
        taught = self.taught(assigned["teacher"], view.queries, initial.queries)
        config = self.distillation.matching
        mixed = own_loss(own, truth, assigned["own"], taught, objects, self.loss, config, w_matching)
        return Term("", self.groups.share, mixed, self.loss), agreement(assigned["own"], taught, assigned["teacher"])

    def extra_terms(
        self,
        found: Mapping[str, Predictions],
        assigned: Mapping[str, Int64[Tensor, "layers batch _"]],
        many: Float[Tensor, "layers batch queries objects"] | None,
        truth: GroundTruth,
        objects: Float[Tensor, ""],
        bad: set[int],
    ) -> list[Term]:
        """Of further groups. A one-to-one group's loss is as the own group's; `many`: the one-to-many group's cost."""
        terms: list[Term] = []
        for name, predictions in found.items():
            if name != ONE_TO_MANY:
                each = self.detection(predictions, truth, assigned[name], objects)
                terms.append(Term(f"{name}_", self.groups.share, each, self.loss))
        if many is not None:
            assignment = one_to_many_assignment(many, truth, self.groups.repeats, bad)
            each = self.detection(found[ONE_TO_MANY], truth, assignment, objects * self.groups.repeats)
            terms.append(Term(f"{ONE_TO_MANY}_", 1.0, each, self.loss))
        return terms

    def taught(
        self, assignment: Int64[Tensor, "layers batch _"], teacher: Queries, student: Queries
    ) -> Int64[Tensor, "layers batch queries"]:
        """The teacher's assignment for the student's queries."""
        if self.distillation.matching.layers == "last":
            assignment = assignment[-1:].expand_as(assignment)
        if self.distillation.matching.carry_by == "slot":
            return assignment
        return carried_over(assignment, teacher.identity, student.identity)

    def auxiliary(self, view: TeacherView, truth: GroundTruth) -> AssignedQueries:
        """The auxiliary group of the teacher's best queries."""
        config = self.distillation.auxiliary
        return auxiliary_group(self.teacher.detector, view.queries, view.predictions, view.cost, truth, config)

    def detection(
        self, found: Predictions, truth: GroundTruth, assignment: Int64[Tensor, "layers batch _"], objects: Tensor
    ) -> DetectionLoss:
        """The baseline's loss."""
        return detection_loss(found, truth, (assignment,), objects, self.loss.classification)


def _sought(initial: InitialQueries, truth: GroundTruth) -> GroundTruth:
    """What proposals are to find: where they know no classes, objects of any."""
    return GroundTruth(truth.labels.clamp(max=0), truth.boxes, truth.counts) if initial.class_agnostic else truth
