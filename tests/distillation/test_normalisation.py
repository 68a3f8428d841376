import dataclasses

import pytest
import torch
from torch import distributed

from oddetr.distillation.normalisation import objects_per_process
from oddetr.structures import Batch
from tests.models.helpers import small_batch


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process, which adds 5 to all that is summed."""
    monkeypatch.setattr(distributed, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.add_(5))


def part_of(objects: int | None, counts: tuple[int, ...] = (2, 1)) -> Batch:
    return dataclasses.replace(small_batch(counts), step_objects=objects)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(part_of(None), 3.0), (part_of(7), 7.0), (part_of(0, (0, 0)), 1.0), (part_of(None, (0,)), 1.0)],
    ids=["whole step", "part of a step", "nothing in the step", "nothing in the batch"],
)
def test_objects_of_one_process(batch: Batch, expected: float) -> None:
    found = objects_per_process(batch)
    assert found.dtype == torch.float32
    assert found.item() == expected


@pytest.mark.usefixtures("another_process")
def test_objects_of_two_processes_are_averaged() -> None:
    """3 here and 5 there: 4 for each. None here, 5 there: 2.5."""
    assert objects_per_process(part_of(None)).item() == 4
    assert objects_per_process(part_of(0)).item() == 2.5


@pytest.mark.usefixtures("another_process")
def test_objects_of_empty_processes_count_one_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda value: None)
    assert objects_per_process(part_of(None, (0, 0))).item() == 0.5


@pytest.mark.parametrize(("available", "initialized"), [(False, True), (True, False)])
def test_nothing_is_reduced_without_processes(
    available: bool, initialized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_available", lambda: available)
    monkeypatch.setattr(distributed, "is_initialized", lambda: initialized)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: pytest.fail("there is nobody to sum with"))
    assert objects_per_process(part_of(None)).item() == 3
