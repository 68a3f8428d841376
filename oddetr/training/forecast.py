"""How long a run will take, measured in a few steps before it begins."""

import math
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import nn
from torch.optim import AdamW

from oddetr.checkpoint import Weights
from oddetr.data.batches import AccumulatedLoader
from oddetr.data.dataset import Source
from oddetr.distillation.task import DistillationTask
from oddetr.models.detector import Detector
from oddetr.structures import Batch
from oddetr.training.choice import limited
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.module import parameter_groups
from oddetr.training.precision import computing_in
from oddetr.training.validation import Validation

WARM, TIMED, SECONDS = 2, 8, 20.0
"""Batches that are not timed, batches that are, and the time after which no further one is."""
LEAST = 100
"""Batches of a run that is worth a forecast, and a report of its own accord."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of a batch and of a validation, and how many there will be; `baseline_batch`: of a batch without
    distillation, None where that is off."""

    batch: float
    batches: int
    validation: float
    validations: int
    baseline_batch: float | None = None

    @property
    def seconds(self) -> float:
        """Of the run."""
        return self.batch * self.batches + self.validation * self.validations

    def __str__(self) -> str:
        minutes = self.seconds / 60
        about = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        return (
            f"about {about}: {self.batches:,} batches of {self.batch:.2g} s, {self.validations} validations of "
            f"{self.validation:.2g} s"
        )


def is_long(config: TrainConfig, training: AccumulatedLoader) -> bool:
    """Whether the run is worth it, and a report of its own accord."""
    return limited(len(training), config.trainer, "train") * chosen(config.epochs) >= LEAST


def forecast(
    task: DistillationTask,
    config: TrainConfig,
    source: Source,
    training: AccumulatedLoader,
    validation: AccumulatedLoader,
    device: torch.device,
) -> Forecast:
    """Times a few batches with a copy of the task, which changes nothing in the run: its randomness has keys.

    What fades over the run makes it a little faster than it begins. The baseline's step is timed likewise, so that a
    report can say what distillation cost.

    Args:
        source: what is validated on.
        training, validation: the run's loaders.
        device: the run's.
    """
    epochs, flags = chosen(config.epochs), config.trainer
    batches = limited(len(training), flags, "train") * epochs
    copy = deepcopy(task).to(device).train()
    copy.steps = max(1, batches // config.accumulate)
    optimizer = AdamW(parameter_groups(copy.learned(), config.optimizer), fused=config.precision != "fp16")

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with computing_in(config.precision, device):
            loss = copy(batch.to(device))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_((parameter for _, parameter in copy.learned()), 0.1)
        optimizer.step()
        copy.update_teacher()

    each = _timed(training, step, device)
    baseline = None
    if config.distillation.enabled:
        copy.distillation = replace(config.distillation, enabled=False)
        baseline = _timed(training, step, device)
    detectors: dict[Weights, Detector] = {"teacher": copy.teacher.detector, "student": copy.student}
    copy.eval()
    trial = Validation(source, detectors, task.matching)
    trial.begin()

    @torch.inference_mode()
    def look(batch: Batch) -> None:
        with computing_in(config.precision, device):
            trial.add(batch.to(device))

    validated = limited(len(validation), flags, "val")
    times = math.ceil(epochs / chosen(config.validate_every))
    return Forecast(each, batches, _timed(validation, look, device) * validated, times, baseline)


def _timed(loader: Iterable[Batch], work: Callable[[Batch], None], device: torch.device) -> float:
    """Seconds of a batch, loading included."""
    marks = [time.perf_counter()]
    for batch in islice(loader, WARM + TIMED):
        work(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
        if len(marks) > WARM + 1 and marks[-1] - marks[0] > SECONDS:
            break
    warm = min(WARM, len(marks) - 2)
    return (marks[-1] - marks[warm]) / (len(marks) - 1 - warm)
