"""A step shared by two processes, each with one of its images; tests/training/test_several.py starts real processes."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import distributed

from oddetr.distillation import DistillationConfig
from oddetr.distillation.config import PredictionConfig
from oddetr.distillation.group_detr import GroupsConfig
from tests.distillation.test_baseline import gradients, one_image
from tests.distillation.test_task import apart
from tests.models.helpers import small_batch


def add(others: int, value: torch.Tensor, async_op: bool) -> None:
    """In the place of `all_reduce`: adds the other process's objects at once, so that nothing is left to wait for."""
    value.add_(others)


@pytest.mark.parametrize(("variant", "counts"), [("refine", (3, 1)), ("two_stage", (2, 0))])
def test_averaged_gradients_are_those_of_one_process(
    variant: str, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes have different numbers of objects, or one of them none."""
    batch = small_batch(counts, size=96)
    batch = dataclasses.replace(batch, padding_mask=torch.zeros_like(batch.padding_mask))
    config = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    task = apart(variant, config, groups=GroupsConfig(one_to_one=1, one_to_many=8, repeats=2))
    expected = gradients(task, [batch])
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    parts: list[dict[str, torch.Tensor]] = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "all_reduce", partial(add, counts[1 - rank]))
        mine = dataclasses.replace(one_image(batch, rank, counts[rank]), step_objects=None)
        parts.append(gradients(task, [mine]))
    assert parts[0].keys() == parts[1].keys() == expected.keys()
    for name, value in expected.items():
        found = sum(part[name] for part in parts) / 2
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5 * max(1.0, value.abs().max().item()))
