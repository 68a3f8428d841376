"""Every term of OD-DETR's loss against the same, written out by hand with nothing at its default."""

import dataclasses

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.auxiliary import auxiliary_group
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.distillation.matching import agreement, carried_over
from oddetr.distillation.prediction import prediction_loss
from oddetr.losses import DetectionLoss, LossConfig, assigned_loss, detection_loss
from oddetr.matching import MatchingWeights, hungarian, matching_cost
from oddetr.structures import Batch
from tests.models.helpers import small_batch, small_detector

LOSS = LossConfig("mal", classes=1.5, l1=4.0, giou=3.0)
GROUPS = LossConfig("quality_focal", l1=4.0, giou=3.0)
COST = MatchingWeights(classes=1.0, l1=3.0, giou=4.0, position_modulated=True)
OBJECTS = torch.tensor(9.0)
PARTS = ("classes", "l1", "giou")
LESSONS = {
    "matching": MatchingConfig(weight=0.5, layers="last", box_power=2.0),
    "prediction": PredictionConfig(weight=0.25, divide_by="confidence", confidence_power=2.0),
    "auxiliary": AuxiliaryConfig(weight=2.0, candidates=3, apart=True),
}


def task_of(variant: str, memory: str) -> DistillationTask:
    """A teacher that differs from its student, halfway through the run: far enough to match otherwise, and near enough
    to choose some of the same tokens."""
    distance = 0.2 if variant == "refine" else 0.02
    config = DistillationConfig(memory=memory, **LESSONS)
    task = DistillationTask(small_detector(variant), 10, config, LOSS, COST)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * distance)
    task.teacher.steps = 5
    return task


def by_hand(task: DistillationTask, batch: Batch) -> tuple[dict[str, tuple[float, DetectionLoss, LossConfig]], dict]:
    """Weight, parts and configuration of each term by its name in the log; and how far teacher and student agree.

    The batch is half of its step's images and has 7 of its 9 objects.
    """
    student, teacher, truth, config = task.student, task.teacher.detector, batch.truth, task.distillation
    memory = student.encode(batch.images, batch.padding_mask)
    initial = student.initial_queries(memory)
    read = memory if config.memory == "student" else teacher.encode(batch.images, batch.padding_mask)
    queries = teacher.initial_queries(read).queries
    answers = teacher.decode(read, {"own": queries})["own"]
    cost = matching_cost(answers, truth, COST)
    auxiliary = auxiliary_group(teacher, queries, answers, cost, truth, config.auxiliary)
    groups = {"own": initial.queries, "teacher": queries, "auxiliary": auxiliary.queries}
    denoising = student.denoising and student.denoising(truth)
    if denoising:
        groups["denoising"] = denoising.queries
    found = student.decode(memory, groups)

    (own,) = hungarian(matching_cost(found["own"], truth, COST), counts=truth.counts)
    (theirs,) = hungarian(cost, counts=truth.counts)
    taught = carried_over(theirs[-1:].expand_as(theirs), queries.identity, initial.queries.identity)
    alone = detection_loss(found["own"], truth, (own,), OBJECTS, "mal")
    both = detection_loss(found["own"], truth, (own, taught), OBJECTS, "mal", box_power=2.0)
    terms = {
        "": (1.0, alone.mixed(both, 0.5), LOSS),
        "prediction_": (
            0.25,
            prediction_loss(found["teacher"], answers, OBJECTS, config.prediction, lambda total: 2 * total),
            GROUPS,
        ),
        "auxiliary_": (2.0, assigned_loss(found["auxiliary"], truth, auxiliary, OBJECTS, "quality_focal"), GROUPS),
    }
    if initial.proposals:
        sought = dataclasses.replace(truth, labels=truth.labels.clamp(max=0)) if initial.class_agnostic else truth
        (proposed,) = hungarian(matching_cost(initial.proposals, sought, COST), counts=truth.counts)
        terms["proposal_"] = (1.0, detection_loss(initial.proposals, sought, (proposed,), OBJECTS, "mal"), LOSS)
    if denoising:
        terms["denoising_"] = (1.0, assigned_loss(found["denoising"], truth, denoising, OBJECTS, "mal"), LOSS)
    return terms, agreement(own, taught, theirs)


@pytest.mark.parametrize(
    ("variant", "memory"), [("refine", "teacher"), ("refine", "student"), ("two_stage", "student"), ("dino", "teacher")]
)
def test_step_when_written_out_by_hand_then_agrees_in_every_term(variant: str, memory: str) -> None:
    task = task_of(variant, memory)
    batch = dataclasses.replace(small_batch((4, 3)), step_objects=9, step_images=4)
    torch.manual_seed(1)
    found = task(batch)
    torch.manual_seed(1)
    terms, agrees = by_hand(task, batch)
    expected = {f"loss_{name}{part}": getattr(loss, part) for name, (_, loss, _) in terms.items() for part in PARTS}
    assert found.keys() == {"loss"} | expected.keys() | agrees.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach().sum())
        assert not found[name].requires_grad
    for name, value in agrees.items():
        assert found[name].equal(value)
    assert found["matching_disagreement"] > 0
    whole = sum(weight * loss.weighted(config) for weight, loss, config in terms.values())
    torch.testing.assert_close(found["loss"], whole)


@pytest.mark.parametrize("pool", ["layers", "per_layer"])
@pytest.mark.parametrize("variant", ["refine", "two_stage", "dino"])
def test_step_when_the_default_device_is_another_then_all_is_made_where_the_batch_is(variant: str, pool: str) -> None:
    """What a step makes without saying where would be on "meta", which mixes with nothing: so on GPUs, too."""
    task, batch = task_of(variant, "teacher"), small_batch((4, 3))
    lessons = LESSONS | {"auxiliary": AuxiliaryConfig(candidates=2, apart=True, pool=pool)}
    task.distillation = DistillationConfig(**lessons)
    with torch.device("meta"):
        found = task(batch)
        found["loss"].backward()
        task.update_teacher()
    assert all(value.device == batch.images.device and value.isfinite() for value in found.values())
