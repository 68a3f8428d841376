from itertools import product

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.teacher import NonFiniteStudentError, Teacher, all_finite, all_values, horizon_at
from tests.models.helpers import small_batch, small_detector
from tests.operations import Operations


def constant(value: float) -> torch.nn.Module:
    """A detector whose parameters are all `value`."""
    detector = small_detector()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.fill_(value)
    return detector


def test_horizon_grows_to_its_cap() -> None:
    """(10 + 0) / 9, (10 + 8) / 9 = 2, (10 + 26) / 9 = 4, and no further than the cap."""
    assert [horizon_at(step, 3.0) for step in (0, 8, 26)] == pytest.approx([10 / 9, 2.0, 3.0])
    assert horizon_at(26, 100.0) == 4.0


def test_update_by_hand() -> None:
    """Teacher 0, student 1: the first update takes 9/10 of the student; the second, horizon 11/9, 9/11 of the rest."""
    teacher = Teacher(constant(0.0))
    student = constant(1.0)
    value = 0.0
    for weight in (9 / 10, 9 / 11):
        teacher.update(student, 100.0)
        value += weight * (1 - value)
        for parameter in teacher.detector.parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, value))
    assert teacher.steps == 2


def test_student_with_other_parameters_is_refused() -> None:
    student = small_detector()
    teacher = Teacher(student)
    student.register_parameter("new", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="argument"):
        teacher.update(student, 100.0)


def test_teacher_of_a_short_run_is_the_student() -> None:
    """4 % of ten steps are less than one: h = 1, a = 0."""
    task = DistillationTask(small_detector(), steps=10)
    with torch.no_grad():
        for parameter in task.student.parameters():
            parameter.add_(1.0)
    task.update_teacher()
    for mine, theirs in zip(task.student.parameters(), task.teacher.detector.parameters(), strict=True):
        assert mine.equal(theirs)


def test_float_buffers_are_averaged_and_integers_copied() -> None:
    student = small_detector()
    student.register_buffer("level", torch.zeros(2))
    student.register_buffer("count", torch.tensor(0))
    teacher = Teacher(student)
    student.level.fill_(1.0)
    student.count.fill_(7)
    teacher.update(student, 100.0)
    assert teacher.detector.level.tolist() == pytest.approx([0.9, 0.9])
    assert teacher.detector.count.item() == 7


def test_new_teacher_is_a_copy_without_gradient() -> None:
    task = DistillationTask(small_detector("refine", dropout=0.5), 10).train()
    for (name, ours), theirs in zip(task.student.named_parameters(), task.teacher.detector.parameters(), strict=True):
        assert ours.equal(theirs), name
        assert ours.data_ptr() != theirs.data_ptr(), name
    assert task.student.training
    assert not any(module.training for module in task.teacher.modules())
    task(small_batch((2, 1)))["loss"].backward()
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())


def test_state_dict_holds_teacher_and_steps() -> None:
    task, batch = DistillationTask(small_detector(), 10), small_batch((2, 1))
    optimizer = torch.optim.SGD(task.student.parameters(), lr=0.1)
    for _ in range(3):
        task(batch)["loss"].backward()
        optimizer.step()
        task.update_teacher()
    other = DistillationTask(small_detector(seed=1), 10)
    other.load_state_dict(task.state_dict())
    assert other.teacher.steps == 3
    assert other.progress == pytest.approx(0.3)
    assert other(batch)["loss"].equal(task(batch)["loss"])


def test_default_horizon_on_coco_is_dinos() -> None:
    """4 % of 12 epochs of 118,287 images at 16 a step are 3,549 steps: decay 0.9997, as DINO's."""
    task = DistillationTask(small_detector(), steps=12 * 118_287 // 16, distillation=DistillationConfig())
    task.teacher.steps = 10**6
    before = next(task.teacher.parameters()).clone()
    with torch.no_grad():
        next(task.student.parameters()).add_(1.0)
    task.update_teacher()
    moved = (next(task.teacher.parameters()) - before).mean().item()
    assert 1 - moved == pytest.approx(0.9997, abs=5e-5)


@pytest.mark.parametrize(
    ("part", "value"),
    [*product(("parameter", "buffer"), (float("nan"), float("inf"))), ("parameter", 1e30)],
)
def test_non_finite_student_leaves_the_teacher_unchanged(part: str, value: float) -> None:
    """Nor is it moved towards values so large that their norm overflows."""
    student = small_detector()
    student.register_buffer("level", torch.zeros(2))
    task = DistillationTask(student, 10)
    before = {name: each.clone() for name, each in task.teacher.detector.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        name, tensor = ("level", student.level) if part == "buffer" else next(student.named_parameters())
        tensor.flatten()[-1] = value
    found = "values so large that the sum of their squares is infinite" if value == 1e30 else name
    words = rf"NaN or infinity: {found}\. Its teacher stays as it was\. The training has diverged: .* or float32\.$"
    with pytest.raises(NonFiniteStudentError, match=words):
        task.update_teacher()
    assert all(each.equal(before[name]) for name, each in task.teacher.detector.state_dict().items())
    assert task.teacher.steps == 0


def test_skipped_step_advances_the_run_but_not_the_teacher() -> None:
    task = DistillationTask(small_detector(), 10)
    task.update_teacher()
    before = {name: each.clone() for name, each in task.teacher.detector.state_dict().items()}
    with torch.no_grad():
        next(task.student.parameters()).add_(1.0)
    task.skip_step()
    task.skip_step()
    assert task.teacher.steps == 3
    assert task.progress == 0.3
    assert all(each.equal(before[name]) for name, each in task.teacher.detector.state_dict().items())


def test_parameters_are_found_finite_by_two_norms() -> None:
    """One of all tensors at once, one of these."""
    values = [value for value in all_values(small_detector()) if value.is_floating_point()]
    with Operations() as operations:
        assert all_finite(values)
    assert {name: count for name, count in operations.names.items() if "norm" in name} == {
        "_foreach_norm": 1,
        "linalg_vector_norm": 1,
    }


def test_update_finds_values_that_were_replaced_since_the_last_one() -> None:
    """As `.to(device)` does; and a part that is frozen later stays."""
    teacher, student = Teacher(constant(0.0)), constant(1.0)
    teacher.update(student, 1.0)
    for detector, value in ((teacher.detector, 0.0), (student, 2.0)):
        for module in detector.modules():
            for name, old in [*module.named_parameters(recurse=False)]:
                setattr(module, name, torch.nn.Parameter(torch.full_like(old, value), requires_grad=False))
    teacher.update(student, 1.0)
    assert all(bool((each == 2).all()) for each in teacher.detector.parameters())
    student.freeze("backbone")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(3.0)
    teacher.update(student, 1.0)
    assert {float(each.flatten()[0]) for each in teacher.detector.backbone.parameters()} == {2.0}
    assert {float(each.flatten()[0]) for each in teacher.detector.pyramid.parameters()} == {3.0}
