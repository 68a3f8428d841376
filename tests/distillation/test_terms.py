"""Every term of OD-DETR's loss against the same, written out by hand with nothing at its default."""

import dataclasses

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.auxiliary import auxiliary_group
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.distillation.group import agreement
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.distillation.imitation import imitation_loss
from oddetr.distillation.own_queries import carried_over
from oddetr.distillation.teacher import TeacherView
from oddetr.losses.detection import DetectionLoss, LossConfig, assigned_loss, detection_loss
from oddetr.losses.matching import MatchingWeights, hungarian, matching_cost, solve
from oddetr.structures import Batch, GroundTruth, InitialQueries, Predictions
from tests.models.helpers import VARIANTS, small_batch, small_detector

LOSS = LossConfig("mal", classes=1.5, l1=4.0, giou=3.0)
DISTILLED = LossConfig("quality_focal", l1=4.0, giou=3.0)
COST = MatchingWeights(classes=1.0, l1=3.0, giou=4.0, position_modulated=True)
OBJECTS = torch.tensor(9.0)
PARTS = ("classes", "l1", "giou")
WEIGHTED = {
    "matching": MatchingConfig(weight=0.5),
    "prediction": PredictionConfig(weight=0.5, fade_until=1.0),  # 0.25 halfway through the run
    "auxiliary": AuxiliaryConfig(weight=2.0, candidates=1, rivals=2),
}
SHARE = 1 / 3
"""Of the own and two further one-to-one groups."""


def task_of(variant: str, memory: str, queries: str = "shared") -> DistillationTask:
    """A teacher that differs from its student, halfway through the run: far enough to match otherwise, and near enough
    to choose some of the same tokens."""
    distance = 0.02 if variant in ("two_stage", "dino") and queries == "teacher" else 0.2
    config = DistillationConfig(memory=memory, queries=queries, **WEIGHTED)
    groups = GroupsConfig(2, one_to_many=12, repeats=3)
    task = DistillationTask(small_detector(variant), 10, config, LOSS, COST, groups)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * distance)
    task.teacher.steps = 5
    return task


def matched(found: Predictions, truth: GroundTruth, repeats: int = 1) -> DetectionLoss:
    (assignment,) = solve([matching_cost(found, truth, COST)], truth.counts, [repeats]).assignments
    return detection_loss(found, truth, (assignment,), OBJECTS * repeats, "mal")


def by_hand(task: DistillationTask, batch: Batch) -> tuple[dict[str, tuple[float, DetectionLoss, LossConfig]], dict]:
    """Weight, parts and configuration of each term by its name in the log; and how far teacher and student agree.

    The batch has 7 of its step's 9 objects.
    """
    student, teacher, truth, config = task.student, task.teacher.detector, batch.truth, task.distillation
    memory = student.encode(batch.images, batch.padding_mask)
    initial: dict[str, InitialQueries] = {"own": student.initial_queries(memory)}
    initial |= {name: task.extra.sources[name](memory) for name in ("one_to_one_0", "one_to_one_1", "one_to_many")}
    assert [each.queries.content.shape[1] for each in initial.values()] == [6, 6, 6, 12]
    read = memory if config.memory == "student" else teacher.encode(batch.images, batch.padding_mask)
    shared = config.queries == "shared"
    queries = initial["own"].queries if shared and initial["own"].proposals else teacher.initial_queries(read).queries
    answers = teacher.decode(read, {"own": queries})["own"]
    cost = matching_cost(answers, truth, COST)
    view = TeacherView(queries, answers, cost)
    auxiliary = auxiliary_group(teacher, view, truth, config.auxiliary, DISTILLED, 2.0)
    groups = {name: each.queries for name, each in initial.items()}
    groups |= {"auxiliary": auxiliary.queries} | ({} if shared else {"teacher": queries})
    denoising = student.denoising and student.denoising(truth)
    if denoising:
        groups["denoising"] = denoising.queries
    found = student.decode(memory, groups)

    (theirs,) = hungarian(cost, counts=truth.counts)
    (own,) = hungarian(matching_cost(found["own"], truth, COST), counts=truth.counts)
    taught = theirs if shared else carried_over(theirs, queries.identity, initial["own"].queries.identity)
    alone = detection_loss(found["own"], truth, (own,), OBJECTS, "mal")
    both = detection_loss(found["own"], truth, (own, taught), OBJECTS, "mal")
    terms = {"": (SHARE, alone.mixed(both, 0.5), LOSS)}
    imitated = found["own" if shared else "teacher"]
    assigned = auxiliary.terms[0].supervision.group
    terms |= {
        "prediction_": (SHARE * 0.25, imitation_loss(imitated, answers, OBJECTS), DISTILLED),
        "auxiliary_": (
            SHARE * 2.0,
            assigned_loss(found["auxiliary"], truth, assigned, OBJECTS, "quality_focal"),
            DISTILLED,
        ),
    }
    for name, each in initial.items():
        repeats, share = (3, 1.0) if name == "one_to_many" else (1, SHARE)
        if name != "own":
            terms[f"{name}_"] = (share, matched(found[name], truth, repeats), LOSS)
        if each.proposals:
            labels = truth.labels.clamp(max=0) if each.class_agnostic else truth.labels
            sought = dataclasses.replace(truth, labels=labels)
            prefix = "proposal_" if name == "own" else f"{name}_proposal_"
            terms[prefix] = (share, matched(each.proposals, sought, repeats), LOSS)
    if denoising:
        terms["denoising_"] = (1.0, assigned_loss(found["denoising"], truth, denoising, OBJECTS, "mal"), LOSS)
    return terms, agreement(own, taught, theirs)


@pytest.mark.parametrize(("memory", "queries"), [("student", "shared"), ("teacher", "teacher")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_term_agrees_with_the_step_by_hand(variant: str, memory: str, queries: str) -> None:
    task = task_of(variant, memory, queries)
    batch = dataclasses.replace(small_batch((4, 3)), step_objects=9)
    torch.manual_seed(1)
    found = task(batch)
    torch.manual_seed(1)
    terms, agrees = by_hand(task, batch)
    assert len(terms) == {"two_stage": 10, "dino": 11}.get(variant, 6)
    expected = {f"loss_{name}{part}": getattr(loss, part) for name, (_, loss, _) in terms.items() for part in PARTS}
    assert found.keys() == {"loss"} | expected.keys() | agrees.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach().sum())
        assert not found[name].requires_grad
    for name, value in agrees.items():
        assert found[name].equal(value)
    assert found["matching_disagreement"] > 0
    if queries == "shared" or variant not in ("two_stage", "dino"):
        assert found["matching_carried"].item() == pytest.approx(1.0)
    else:
        assert 0 < found["matching_carried"] < 1
    whole = sum(weight * loss.weighted(config) for weight, loss, config in terms.values())
    torch.testing.assert_close(found["loss"], whole)


@pytest.mark.parametrize("rivals", [0, 2])
@pytest.mark.parametrize("variant", ["refine", "two_stage", "dino"])
def test_all_tensors_are_made_on_the_device_of_the_batch(variant: str, rivals: int) -> None:
    """What a step makes without saying where would be on "meta", which mixes with nothing: so on GPUs, too."""
    task, batch = task_of(variant, "teacher"), small_batch((4, 3))
    task.distillation = DistillationConfig(**WEIGHTED | {"auxiliary": AuxiliaryConfig(candidates=2, rivals=rivals)})
    with torch.device("meta"):
        found = task(batch)
        found["loss"].backward()
        task.update_teacher()
    assert all(value.device == batch.images.device and value.isfinite() for value in found.values())
