"""A step that several processes share, each with some of its images."""

import dataclasses
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import PredictionConfig
from oddetr.distillation.extra import GroupsConfig
from oddetr.structures import Batch
from tests.distillation.test_baseline import gradients, one_image
from tests.distillation.test_task import apart
from tests.models.helpers import small_batch

VARIANT, COUNTS = "two_stage", (2, 0)
"""The detector, and the objects of each image: different numbers, and none on one process."""


def batch_of(counts: tuple[int, ...]) -> Batch:
    """Images without padding, whichever process has them."""
    batch = small_batch(counts, size=96)
    return dataclasses.replace(batch, padding_mask=torch.zeros_like(batch.padding_mask))


def mine(counts: tuple[int, ...], rank: int) -> Batch:
    part = one_image(batch_of(counts), rank, counts[rank])
    return dataclasses.replace(part, step_objects=None, step_images=None)


def task_of() -> DistillationTask:
    config = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    return apart(VARIANT, config, groups=GroupsConfig(one_to_one=1, one_to_many=8, repeats=2))


def gradients_of_one(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gradients(task_of(), [mine(COUNTS, rank)]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_averaged_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(gradients_of_one, (str(tmp_path),), nprocs=2)
    expected = gradients(task_of(), [batch_of(COUNTS)])
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert parts[0].keys() == parts[1].keys() == expected.keys()
    for name, value in expected.items():
        found = sum(part[name] for part in parts) / 2
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5 * max(1.0, value.abs().max().item()))
