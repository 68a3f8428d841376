"""OD-DETR's step as a whole."""

import warnings
from itertools import count, product
from typing import Literal

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import AuxiliaryConfig, MatchingConfig, PredictionConfig
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.distillation.task import TeacherView
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import NonFiniteCostError, hungarian
from oddetr.structures import Memory, Queries
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
def test_faded_terms_cost_nothing(queries: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    config = DistillationConfig(
        queries=queries,
        matching=MatchingConfig(fade_until=0.8),
        prediction=PredictionConfig(fade_until=0.4),
        auxiliary=AuxiliaryConfig(fade_until=0.6),
    )
    task, batch = apart("refine", config), small_batch((2, 1))
    seen: list[tuple[bool, set[str]]] = []
    decode, views = task.student.decode, count()
    view = task.view

    def decoding(memory: object, groups: dict[str, Queries]) -> object:
        seen.append((next(views) > 0, set(groups)))
        return decode(memory, groups)

    def viewing(*arguments: object) -> object:
        next(views)
        return view(*arguments)

    monkeypatch.setattr(task.student, "decode", decoding)
    monkeypatch.setattr(task, "view", viewing)
    for steps in (0, 5, 7, 9):
        task.teacher.steps, views = steps, count()
        task(batch)
    assert seen == [
        (True, {"own", *more, "auxiliary"}),
        (True, {"own", "auxiliary"}),
        (True, {"own"}),
        (False, {"own"}),
    ]


def test_distilled_student_has_the_baselines_parameters() -> None:
    plain = small_detector("refine")
    task = DistillationTask(small_detector("refine"), 10)
    assert {n: v.shape for n, v in task.student.state_dict().items()} == {
        n: v.shape for n, v in plain.state_dict().items()
    }
    assert {n.removeprefix("student.") for n, p in task.named_parameters() if p.requires_grad} == {
        n for n, p in plain.named_parameters() if p.requires_grad
    }
    batch = small_batch((2, 1))
    with torch.no_grad():
        ours, theirs = (each.eval()(batch.images, batch.padding_mask) for each in (task.student, plain))
    assert ours.logits.equal(theirs.logits)
    assert ours.boxes.equal(theirs.boxes)


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_teacher_decodes_over_the_students_memory(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = apart(variant, distance=0.2), small_batch((3, 2))
    seen: list[Memory] = []
    decode = task.teacher.detector.decode

    def decoding(memory: Memory, groups: dict[str, Queries]) -> object:
        seen.append(memory)
        return decode(memory, groups)

    monkeypatch.setattr(task.teacher.detector, "encode", None)
    monkeypatch.setattr(task.teacher.detector, "decode", decoding)
    task(batch)["loss"].backward()
    with torch.no_grad():
        expected = task.student.encode(batch.images, batch.padding_mask)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].tokens.detach(), expected.tokens)
    assert not task.view(batch, seen[0], task.student.initial_queries(seen[0])).predictions.logits.requires_grad


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_teacher_with_its_own_memory_predicts_as_if_alone(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DistillationConfig(memory="teacher", queries="teacher")
    task, batch = apart(variant, config, distance=0.2), small_batch((3, 2))
    views: list[TeacherView] = []
    view = task.view
    monkeypatch.setattr(task, "view", lambda *arguments: views.append(view(*arguments)) or views[-1])
    task(batch)["loss"].backward()
    alone = task.teacher.detector(batch.images, batch.padding_mask)
    torch.testing.assert_close(views[0].predictions.logits, alone.logits)


def test_two_stage_matching_is_carried_over_by_token() -> None:
    """The student is near enough to its teacher to choose some of its tokens, but not all, in other places."""
    config = DistillationConfig(
        queries="teacher",
        matching=MatchingConfig(),
        prediction=PredictionConfig(weight=0.0),
        auxiliary=AuxiliaryConfig(weight=0.0),
    )
    task, batch = DistillationTask(small_detector("two_stage", num_queries=20), 10, config), small_batch((9, 9))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        weight = task.student.query_source.head.classes.weight
        weight.add_(torch.randn(weight.shape, generator=generator) * weight.std())
    memory = task.student.encode(batch.images, batch.padding_mask)
    initial = task.student.initial_queries(memory)
    view, queries = task.view(batch, memory, initial), initial.queries
    assert not queries.identity.equal(view.queries.identity)
    shared = {
        (image, token)
        for image, tokens in enumerate(view.queries.identity.tolist())
        for token in tokens
        if token in queries.identity[image].tolist()
    }
    (assignment,) = hungarian(view.cost, counts=batch.truth.counts)
    matched = {
        (image, view.queries.identity[image, query].item()) for _, image, query in (assignment >= 0).nonzero().tolist()
    }
    assert 0 < len(matched & shared) < len(matched)
    expected = sum(
        (image, view.queries.identity[image, query].item()) in shared
        for _, image, query in (assignment >= 0).nonzero().tolist()
    )
    found = task(batch)["matching_carried"].item() * assignment.shape[0] * batch.truth.total
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("variant", ["refine", "dab", "two_stage", "dino"])
def test_shared_queries_correspond_one_to_one(variant: str) -> None:
    """Learned queries are the teacher's, which the optimizer does not move; proposed ones are the student's choice."""
    task, batch = apart(variant, distance=0.2), small_batch((3, 2))
    memory = task.student.encode(batch.images, batch.padding_mask)
    student, teacher = (each.initial_queries(memory) for each in (task.student, task.teacher.detector))
    view = task.view(batch, memory, student)
    assert view.queries.identity.equal(student.queries.identity)
    expected = student if student.proposals else teacher
    assert view.queries.content.equal(expected.queries.content)
    assert view.queries.anchors.equal(expected.queries.anchors)
    assert not student.queries.anchors.equal(teacher.queries.anchors)
    assert task(batch)["matching_carried"].item() == pytest.approx(1.0)


def test_fading_matching_weight_interpolates_the_own_loss() -> None:
    def loss(fade_until: float | None, steps: int) -> float:
        matching = MatchingConfig(fade_until=fade_until)
        config = DistillationConfig(
            matching=matching, prediction=PredictionConfig(weight=0.0), auxiliary=AuxiliaryConfig(weight=0.0)
        )
        task = apart("plain", config, distance=0.2)
        task.teacher.steps = steps
        return task(small_batch((3, 2)))["loss"].item()

    both, own = loss(None, 0), loss(0.5, 9)
    assert both != pytest.approx(own, rel=1e-4)
    assert loss(0.5, 2) == pytest.approx(0.6 * both + 0.4 * own, rel=1e-5)


def test_no_agreement_is_logged_without_matching_distillation() -> None:
    config = DistillationConfig(matching=MatchingConfig(weight=0.0))
    found = apart("refine", config)(small_batch((2, 1)))
    terms = ("", "prediction_", "auxiliary_")
    assert found.keys() == {"loss"} | {f"loss_{name}{part}" for name in terms for part in ("classes", "l1", "giou")}


def test_costs_and_losses_are_computed_outside_of_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, inside = apart("refine"), []
    solutions = task.solutions

    def solving(*arguments: object) -> object:
        inside.append(torch.is_autocast_enabled("cpu"))
        return solutions(*arguments)

    monkeypatch.setattr(task, "solutions", solving)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        task(small_batch((2, 1)))
    task(small_batch((2, 1)))
    assert inside == [False, False]


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


@pytest.mark.parametrize("memory", ["student", "teacher"])
def test_loss_in_bfloat16_is_float32_and_close(memory: Literal["student", "teacher"]) -> None:
    task, batch = apart("refine", DistillationConfig(memory=memory)), small_batch((2, 1))
    exact = task(batch)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = task(batch)["loss"]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.1)


def test_class_weight_of_the_distillation_groups() -> None:
    weights = [
        DistillationTask(small_detector(), 10, loss=loss).distilled_loss.class_weight
        for loss in (LossConfig(), LossConfig(classes=3.0), LossConfig("focal"), LossConfig("focal", classes=3.0))
    ]
    assert weights == [1.0, 3.0, 1.0, 1.0]


def test_distillation_groups_use_quality_focal_loss_beside_focal() -> None:
    task = DistillationTask(small_detector("refine"), 10, loss=LossConfig("focal"))
    other = DistillationTask(small_detector("refine"), 10)
    focal, quality = (each(small_batch((2, 1))) for each in (task, other))
    assert focal["loss_auxiliary_classes"].equal(quality["loss_auxiliary_classes"])
    assert not focal["loss_classes"].equal(quality["loss_classes"])
