"""A step that several processes share, each with some of its images."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from oddetr.distillation import DistillationConfig
from oddetr.distillation.config import PredictionConfig
from oddetr.structures import Batch
from tests.distillation.test_baseline import gradients, one_image
from tests.distillation.test_task import apart
from tests.models.helpers import small_batch

DIVISORS = ("objects", "confidence")


def batch_of(counts: tuple[int, ...]) -> Batch:
    """Images without padding, whichever process has them."""
    batch = small_batch(counts, size=96)
    return dataclasses.replace(batch, padding_mask=torch.zeros_like(batch.padding_mask))


def mine(counts: tuple[int, ...], rank: int) -> Batch:
    part = one_image(batch_of(counts), rank, counts[rank])
    return dataclasses.replace(part, step_objects=None, step_images=None)


def task_of(variant: str, divide_by: str):
    return apart(variant, DistillationConfig(prediction=PredictionConfig(weight=1.0, divide_by=divide_by)))


def gradients_of_one(rank: int, folder: str, variant: str, counts: tuple[int, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(counts))
    for divide_by in DIVISORS:
        torch.save(gradients(task_of(variant, divide_by), [mine(counts, rank)]), f"{folder}/{divide_by}{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize(("variant", "counts"), [("refine", (3, 1)), ("two_stage", (2, 0))])
def test_gradients_when_processes_average_them_then_are_as_of_one_process(
    variant: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    """With different numbers of objects, and without any on one of them."""
    multiprocessing.spawn(gradients_of_one, (str(tmp_path), variant, counts), nprocs=len(counts))
    for divide_by in DIVISORS:
        expected = gradients(task_of(variant, divide_by), [batch_of(counts)])
        parts = [torch.load(tmp_path / f"{divide_by}{rank}.pt") for rank in range(len(counts))]
        assert parts[0].keys() == parts[1].keys() == expected.keys()
        for name, value in expected.items():
            found = sum(part[name] for part in parts) / len(counts)
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5 * max(1.0, value.abs().max().item()))
