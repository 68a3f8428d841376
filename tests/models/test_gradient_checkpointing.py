"""Parts that are computed again in the backward pass: the same numbers, less memory."""

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oddetr.distillation import DistillationTask
from oddetr.models.detector import Detector
from oddetr.models.families.build import build_detector
from oddetr.models.gradient_checkpointing import recompute
from oddetr.models.kernels import choice
from oddetr.structures import Batch
from tests.models.helpers import SMALL, small_batch, small_detector


def made(variant: str, pretrained: bool) -> Detector:
    """With dropout; without ImageNet weights its batch norms learn."""
    changes = {"variant": variant, "pretrained": pretrained, "dropout": 0.1, "backbone": "test_efficientnet"}
    return build_detector(SMALL.override(changes | ({"denoising": 10} if variant == "dino" else {})), 3)


def step(detector: Detector, batch: Batch, bf16: bool = False) -> dict[str, Tensor]:
    """The loss, all gradients, all buffers, and the next random number."""
    task = DistillationTask(detector, 10).train()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
        loss = task(batch)["loss"]
    loss.backward()
    gradients = {name: each.grad for name, each in task.learned() if each.grad is not None}
    return {"loss": loss.detach(), "random": torch.rand(1)} | gradients | dict(task.student.named_buffers())


def assert_the_same(make: Callable[[], Detector], batch: Batch, bf16: bool = False) -> None:
    steps: list[dict[str, Tensor]] = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        detector = make()
        if checkpointed:
            detector.checkpoint_gradients()
        steps.append(step(detector, batch, bf16))
    assert steps[0].keys() == steps[1].keys()
    assert not [name for name, value in steps[0].items() if not value.equal(steps[1][name])]


@pytest.mark.parametrize(
    ("variant", "pretrained", "bf16"),
    [("refine", False, False), ("dino", False, True), ("two_stage", True, False)],
)
def test_loss_gradients_statistics_and_random_numbers_are_the_same_bits(
    variant: str, pretrained: bool, bf16: bool
) -> None:
    assert_the_same(lambda: made(variant, pretrained), small_batch((2, 1)), bf16)


@pytest.mark.parametrize("name", ["deformable refine", "RT-DETR", "D-FINE", "DEIMv2"])
def test_detectors_of_transformers_learn_the_same_bits(name: str) -> None:
    """Their hybrid encoders have batch norms that learn."""
    pytest.importorskip("transformers", minversion="5.23")
    from tests.models.test_huggingface import adapted, batch_of

    assert_the_same(lambda: adapted(name).train(), batch_of(2, 1))


def test_students_layers_run_twice_in_a_step_and_the_teachers_and_those_of_copies_once() -> None:
    detector = small_detector("refine", encoder_layers=2)
    detector.checkpoint_gradients()
    task = DistillationTask(detector, 10).train()
    calls: Counter[str] = Counter()
    for name, module in copy.deepcopy(task).named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([f"copy of {name}"]))
    for name, module in task.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    task(small_batch((2, 1)))["loss"].backward()
    layers = [f"encoder.layers.{index}.linear1" for index in range(2)]
    layers += [f"decoder.layers.{index}.linear1" for index in range(2)]
    assert [calls[f"student.{name}"] for name in layers] == [2] * 4
    assert [calls[f"teacher.detector.{name}"] for name in layers] == [0, 0, 1, 1]  # it reads the student's memory
    assert not [name for name in calls if name.startswith("copy")]


def test_less_is_kept_for_the_backward_pass() -> None:
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    found: list[int] = []
    for checkpointed in (False, True):
        detector = made("refine", pretrained=False)
        if checkpointed:
            detector.checkpoint_gradients()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = DistillationTask(detector, 10).train()(small_batch((2, 1)))["loss"]
        found.append(sum(kept.values()))
        loss.backward()
    assert found[1] < 0.5 * found[0]


def test_a_kernel_that_is_first_tried_within_a_recomputed_layer_is_taken(recwarn: pytest.WarningsRecorder) -> None:
    """The trial has a backward pass of its own."""
    choice.compiled_kernel.cache_clear()
    detector = small_detector("refine")
    detector.checkpoint_gradients()
    step(detector, small_batch((2, 1)))
    assert choice.compiled_kernel.cache_info().currsize == 1
    assert not [each for each in recwarn if "cannot be compiled" in str(each.message)]


def test_a_second_backward_pass_counts_no_batch_either() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plain = copy.deepcopy(norm)
    recompute(norm)
    images = torch.rand(2, 3, 8, 8)
    for module in (norm, plain):
        loss = module(images).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert all(value.equal(norm.state_dict()[name]) for name, value in plain.state_dict().items())
    assert all(each.grad.equal(other.grad) for each, other in zip(norm.parameters(), plain.parameters(), strict=True))
