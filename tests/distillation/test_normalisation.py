import dataclasses

import pytest
import torch
from torch import Tensor, distributed

from oddetr.distillation.normalisation import ObjectCount
from oddetr.distillation.task import DistillationTask
from oddetr.structures import Batch
from tests.models.helpers import small_batch, small_detector


class AnotherProcess:
    """A second process, which adds `objects` to what is summed, when the sum is waited for.

    Attributes:
        order: what happened, in order.
    """

    def __init__(self) -> None:
        self.objects = 5
        self.order: list[str] = []

    def all_reduce(self, value: Tensor, async_op: bool) -> "AnotherProcess":
        self.order.append("start")
        self.value = value
        return self

    def wait(self) -> None:
        self.order.append("wait")
        self.value.add_(self.objects)


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> AnotherProcess:
    another = AnotherProcess()
    monkeypatch.setattr(distributed, "is_available", lambda: True)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", another.all_reduce)
    return another


def part_of(objects: int | None, counts: tuple[int, ...] = (2, 1)) -> Batch:
    return dataclasses.replace(small_batch(counts), step_objects=objects)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(part_of(None), 3.0), (part_of(7), 7.0), (part_of(0, (0, 0)), 1.0), (part_of(None, (0,)), 1.0)],
    ids=["whole step", "part of a step", "nothing in the step", "nothing in the batch"],
)
def test_objects_of_one_process(batch: Batch, expected: float) -> None:
    found = ObjectCount(batch).per_process()
    assert found.dtype == torch.float32
    assert found.item() == expected


@pytest.mark.parametrize(
    ("batch", "others", "expected"), [(part_of(None), 5, 4.0), (part_of(0), 5, 2.5), (part_of(None, (0, 0)), 0, 0.5)]
)
def test_objects_of_two_processes_are_averaged(
    another_process: AnotherProcess, batch: Batch, others: int, expected: float
) -> None:
    """3 here and 5 there: 4 for each. None here: 2.5. None anywhere count as one."""
    another_process.objects = others
    assert ObjectCount(batch).per_process().item() == expected


@pytest.mark.parametrize(("available", "initialized"), [(False, True), (True, False)])
def test_nothing_is_reduced_without_processes(
    available: bool, initialized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_available", lambda: available)
    monkeypatch.setattr(distributed, "is_initialized", lambda: initialized)
    monkeypatch.setattr(distributed, "all_reduce", lambda *_, **__: pytest.fail("there is nobody to sum with"))
    assert ObjectCount(part_of(None)).per_process().item() == 3


def test_the_sum_over_processes_runs_while_the_detector_computes(
    another_process: AnotherProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = DistillationTask(small_detector("refine"), 10)
    for name in ("encode", "decode"):
        work = getattr(task.student, name)
        monkeypatch.setattr(
            task.student, name, lambda *args, name=name, work=work: another_process.order.append(name) or work(*args)
        )
    task(small_batch((2, 1)))
    assert another_process.order == ["start", "encode", "decode", "wait"]
