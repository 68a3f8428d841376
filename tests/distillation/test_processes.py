"""A step that several processes share, each with some of its images."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.config import PredictionConfig
from oddetr.distillation.extra import GroupsConfig
from oddetr.structures import Batch
from tests.distillation.test_baseline import gradients, one_image
from tests.distillation.test_task import apart
from tests.models.helpers import small_batch

CASES = [("refine", (3, 1)), ("two_stage", (2, 0))]
"""A detector, and the objects of each image."""


def batch_of(counts: tuple[int, ...]) -> Batch:
    """Images without padding, whichever process has them."""
    batch = small_batch(counts, size=96)
    return dataclasses.replace(batch, padding_mask=torch.zeros_like(batch.padding_mask))


def mine(counts: tuple[int, ...], rank: int) -> Batch:
    part = one_image(batch_of(counts), rank, counts[rank])
    return dataclasses.replace(part, step_objects=None, step_images=None)


def task_of(variant: str) -> DistillationTask:
    config = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    return apart(variant, config, groups=GroupsConfig(one_to_one=1, one_to_many=8, repeats=2))


def gradients_of_one(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for variant, counts in CASES:
        torch.save(gradients(task_of(variant), [mine(counts, rank)]), f"{folder}/{variant}_{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, one pair of them for all cases."""
    folder = tmp_path_factory.mktemp("averaged")
    multiprocessing.spawn(gradients_of_one, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize(("variant", "counts"), CASES)
def test_averaged_gradients_are_those_of_one_process(variant: str, counts: tuple[int, ...], averaged: Path) -> None:
    """With different numbers of objects, and without any on one of them."""
    expected = gradients(task_of(variant), [batch_of(counts)])
    parts = [torch.load(averaged / f"{variant}_{rank}.pt") for rank in range(2)]
    assert parts[0].keys() == parts[1].keys() == expected.keys()
    for name, value in expected.items():
        found = sum(part[name] for part in parts) / 2
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5 * max(1.0, value.abs().max().item()))
