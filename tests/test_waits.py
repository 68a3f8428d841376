"""How often a step and a validation batch wait for a GPU, on a pretended one; and that the host has little to do while
it waits."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from oddetr.data.digits import DigitScenes
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.distillation.task import DistillationTask
from oddetr.evaluation.validation import Validation
from oddetr.models.detector import Detector
from oddetr.structures import Batch, GroundTruth
from oddetr.training.safety.nonfinite import Place, StepWatch
from tests.models.helpers import small_batch, small_detector
from tests.waits import DEVICE, pretended_gpu

MATCHING, FINITE = "oddetr/common/transfer.py", "oddetr/training/safety/nonfinite.py"
"""The costs of all matchings go to the host together; the step's end is read once."""
OVERFLOW = "if not torch.isfinite(hidden_states).all():"
"""In training, each layer of transformers' encoders looks for overflow."""


class Training:
    """A task on the pretended GPU, trained and validated on one batch."""

    def __init__(self, detector: Detector, groups: GroupsConfig | None = None) -> None:
        self.task = DistillationTask(detector, 10, groups=groups).train().to(DEVICE)
        self.batch = small_batch((2, 1)).to(DEVICE, non_blocking=True)
        self.optimizer = torch.optim.AdamW([each for _, each in self.task.learned()], foreach=True)
        self.watch = StepWatch(self.task)
        self.watch.start()
        detectors = {"teacher": self.task.teacher.detector, "student": self.task.student}
        self.validation = Validation(DigitScenes("val"), detectors, self.task.matching)
        self.validation.start()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.watch.start_batch(self.batch, Place(0, 0, 0, 0, seed=5))
        self.watch.loss(self.task(self.batch)).backward()
        self.watch.clip_gradient(self.optimizer, 0.1, scaled=True)  # without `found_inf`, which only fused ones know
        self.optimizer.step()
        assert self.watch.end_step()
        self.task.update_teacher(finite=True)

    def validate(self) -> None:
        self.task.eval()
        with torch.no_grad():
            self.validation.add(self.batch)
        self.task.train()


def detector_of(name: str) -> Detector:
    if name in ("refine", "dino"):
        return small_detector(name)
    pytest.importorskip("transformers", minversion="5.23")
    from tests.models.test_huggingface import adapted

    return adapted(name)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("refine", 0),
        ("dino", 0),
        ("RT-DETR v2", 1),
        ("deformable refine", 2),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("RT-DETR", "D-FINE", "DEIMv2")),
    ],
)
def test_a_step_waits_for_matching_and_its_end_and_a_validation_batch_once(name: str, layers: int) -> None:
    with pretended_gpu() as waits:
        training = Training(detector_of(name))
        training.step()  # fills the caches of this image size
        waits.clear()
        training.step()
        step = waits.copy()
        waits.clear()
        training.validate()
    assert [OVERFLOW in wait for wait in step] == [True] * layers + [False, False], step
    assert MATCHING in step[-2], step
    assert FINITE in step[-1], step
    assert len(waits) == 1, waits
    assert MATCHING in waits[0]


def test_every_kind_of_wait_is_seen() -> None:
    """What the test above relies on; each line waits once, but for the last three."""
    with pretended_gpu() as waits:
        values = torch.arange(4.0).to(DEVICE)
        torch.tensor([1.0, 2.0], device=DEVICE)
        values[[1, 0]]
        values[values > 1]
        values.nonzero()
        values[0].item()
        bool(values.sum() > 1)
        values.cpu()
        values.tolist()
        assert len(waits) == 9, waits
        values.to(DEVICE)
        values.sin().max(dim=0)
        torch.arange(3).to(DEVICE, non_blocking=True)
        with pytest.raises(RuntimeError, match="host and of the device"):
            values + torch.ones(4)
    assert len(waits) == 9, waits


def test_ground_truth_of_tensors_on_the_device_waits_for_nothing() -> None:
    truth = small_batch((2, 0, 1)).truth
    with pretended_gpu() as waits:
        labels, boxes = truth.labels.to(DEVICE), truth.boxes.to(DEVICE)
        waits.clear()
        found = GroundTruth.stack(
            [each[:count] for each, count in zip(labels, truth.counts, strict=True)],
            [each[:count] for each, count in zip(boxes, truth.counts, strict=True)],
        )
        assert not waits
        assert found.labels.cpu().equal(truth.labels)
        assert found.boxes.cpu().equal(truth.boxes)


def test_all_of_a_batch_that_goes_to_the_device_is_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.data_ptr()) or self)
    batch: Batch = pin_memory(replace(small_batch((2, 1)), step_objects=3))
    sent = (batch.images, batch.padding_mask, batch.truth.labels, batch.truth.boxes)
    assert pinned == [each.data_ptr() for each in sent]
    assert batch.step_objects == 3
