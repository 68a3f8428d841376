"""OD-DETR's step as a whole."""

import warnings
from itertools import product
from typing import Literal

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import NonFiniteCostError
from tests.distillation.test_baseline import gradients, one_image
from tests.models.helpers import VARIANTS, ap50_of_two_scenes, small_batch, small_detector


def apart(
    variant: str,
    config: DistillationConfig | None = None,
    distance: float = 0.02,
    groups: GroupsConfig | None = None,
    **changes: object,
) -> DistillationTask:
    """A task whose teacher differs from its student, and far enough away matches otherwise."""
    task = DistillationTask(small_detector(variant, **changes), 10, config, groups=groups)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * distance)
    return task


def test_training_overfits_two_scenes() -> None:
    """70 steps of a plain PyTorch loop: the teacher detects all objects."""
    torch.manual_seed(0)
    task = DistillationTask(small_detector("refine", num_classes=10, num_queries=12), steps=70)
    assert ap50_of_two_scenes(task, 4e-3) > 0.8
    assert task.progress == 1.0


COUNTS = [(2, 1), (2, 0), (0, 0), (9, 1), (1, 1)]
"""Objects of each image: few, none, more than queries."""
CONFIGS = [
    DistillationConfig(),
    DistillationConfig(memory="teacher", queries="teacher"),
    DistillationConfig(enabled=False),
]


@pytest.mark.parametrize(("variant", "counts"), [*product(VARIANTS, COUNTS)], ids=str)
def test_every_parameter_has_a_finite_gradient(variant: str, counts: tuple[int, ...]) -> None:
    """Every process has the same graph, whatever its objects; the configurations take turns."""
    config = CONFIGS[(VARIANTS.index(variant) + COUNTS.index(counts)) % len(CONFIGS)]
    task = apart(variant, config)
    found = task(small_batch(counts))
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    for name, parameter in task.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_step_with_one_query_and_one_object() -> None:
    task = DistillationTask(small_detector("refine", num_queries=1), 10)
    found = task(small_batch((1, 1)))
    found["loss"].backward()
    assert found["loss_auxiliary_l1"].item() > 0
    assert found["matching_carried"].item() == pytest.approx(1.0)
    assert found["matching_disagreement"].item() == 0


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_teacher_equal_to_the_student_changes_nothing(variant: str) -> None:
    task, batch = DistillationTask(small_detector(variant), 10), small_batch((2, 1))
    found = task(batch)
    plain = DistillationTask(small_detector(variant), 10, DistillationConfig(enabled=False))(batch)
    for part in ("classes", "l1", "giou"):
        assert found[f"loss_prediction_{part}"].item() == pytest.approx(0, abs=1e-4)
        torch.testing.assert_close(found[f"loss_{part}"], plain[f"loss_{part}"], atol=1e-5, rtol=1e-5)
    assert found["matching_disagreement"].item() == 0
    assert found["matching_carried"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("variant", ["plain", "refine"])
def test_loss_ignores_the_order_of_slots(variant: str) -> None:
    task, batch = apart(variant), small_batch((2, 1))
    expected = task(batch)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for detector in (task.student, task.teacher.detector):
        embedding = detector.query_source.embedding
        with torch.no_grad():
            embedding.weight.copy_(embedding.weight[order].clone())
    for name, value in task(batch).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to wait for")
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_on_a_gpu_synchronises_twice(
    variant: str,
) -> None:
    batch = small_batch().to(torch.device("cuda"))
    task = DistillationTask(small_detector(variant).cuda(), 10)
    optimizer = torch.optim.AdamW([each for _, each in task.learned()], fused=True)

    def step() -> None:
        optimizer.zero_grad()
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_([each for _, each in task.learned()], 0.1)
        optimizer.step()
        task.update_teacher()

    step()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "called a synchronizing CUDA operation" in str(wait.message)]) == 2


@pytest.mark.parametrize(("queries", "more"), [("shared", ()), ("teacher", ("teacher",))])
def test_faded_terms_cost_nothing(queries: str, more: tuple[str, ...]) -> None:
    """Without any term the teacher is not asked either."""
    config = DistillationConfig(
        queries=queries,
        matching=MatchingConfig(fade_until=0.8),
        prediction=PredictionConfig(fade_until=0.4),
        auxiliary=AuxiliaryConfig(fade_until=0.6),
    )
    task, batch = apart("refine", config), small_batch((2, 1))
    memory = task.student.encode(batch.images, batch.padding_mask)
    for steps, names in ((0, ["own", *more, "auxiliary"]), (5, ["own", "auxiliary"]), (7, ["own"]), (9, ["own"])):
        task.teacher.steps = steps
        groups, view = task.groups(batch, memory)
        assert [group.name for group in groups] == names
        assert (view is None) is (steps == 9)


def test_distilled_student_has_the_baselines_parameters() -> None:
    plain, task = small_detector("refine"), DistillationTask(small_detector("refine"), 10)
    ours, theirs = task.student.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(value.equal(theirs[name]) for name, value in ours.items())
    learned = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert learned == {f"student.{name}" for name, parameter in plain.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_teacher_does_not_encode_where_it_reads_the_students_memory(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it predicts from there: test_terms.py."""
    task, batch = apart(variant), small_batch((3, 2))
    monkeypatch.setattr(task.teacher.detector, "encode", None)
    task(batch)["loss"].backward()
    memory = task.student.encode(batch.images, batch.padding_mask)
    assert not task.view(batch, memory, task.student.initial_queries(memory)).predictions.logits.requires_grad


def test_no_agreement_is_logged_without_matching_distillation() -> None:
    config = DistillationConfig(matching=MatchingConfig(weight=0.0))
    found = apart("refine", config)(small_batch((2, 1)))
    terms = ("", "prediction_", "auxiliary_")
    assert found.keys() == {"loss"} | {f"loss_{name}{part}" for name in terms for part in ("classes", "l1", "giou")}


@pytest.mark.parametrize("memory", ["student", "teacher"])
def test_costs_and_losses_are_computed_outside_of_autocast(
    memory: Literal["student", "teacher"], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = apart("refine", DistillationConfig(memory=memory)), small_batch((2, 1))
    solutions, inside = task.solutions, []

    def solving(*arguments: object) -> object:
        inside.append(torch.is_autocast_enabled("cpu"))
        return solutions(*arguments)

    monkeypatch.setattr(task, "solutions", solving)
    exact = task(batch)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = task(batch)["loss"]
    assert inside == [False, False]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.1)


@pytest.mark.parametrize("variant", ["refine", "two_stage", "dino"])
def test_gradients_of_accumulated_parts_are_those_of_the_whole_batch(variant: str) -> None:
    groups = GroupsConfig(one_to_one=1, one_to_many=8, repeats=2)
    task, batch = apart(variant, groups=groups, denoising=0), small_batch((3, 1), size=128)
    whole = gradients(task, [batch])
    parts = gradients(task, [one_image(batch, index, batch.truth.total) for index in (0, 1)])
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("part", ["matching", "prediction", "auxiliary"])
def test_nan_of_the_teacher_raises(part: str) -> None:
    kinds = {"matching": MatchingConfig, "prediction": PredictionConfig, "auxiliary": AuxiliaryConfig}
    parts = {name: kind() if name == part else kind(weight=0.0) for name, kind in kinds.items()}
    task = apart("refine", DistillationConfig(**parts))
    task.teacher.detector.decoder.heads[0].classes.bias[:] = float("nan")
    with pytest.raises(NonFiniteCostError):
        task(small_batch((1, 1)))


def test_class_weight_of_the_distillation_groups() -> None:
    weights = [
        DistillationTask(small_detector(), 10, loss=loss).distilled_loss.class_weight
        for loss in (LossConfig(), LossConfig(classes=3.0), LossConfig("focal"), LossConfig("focal", classes=3.0))
    ]
    assert weights == [1.0, 3.0, 1.0, 1.0]
