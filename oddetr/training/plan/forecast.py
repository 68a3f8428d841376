"""Estimate how long a run will take, from a few steps before it starts."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.optim import AdamW

from oddetr.data.batches import AccumulatedLoader
from oddetr.data.dataset import Source
from oddetr.distillation.task import DistillationTask
from oddetr.evaluation.validation import Validation
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Weights
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.module import parameter_groups
from oddetr.training.plan.choice import limited
from oddetr.training.precision import computing_in

WARM = 2
"""Warm-up batches."""
LEAST = 100
"""Batches from which on a run has a forecast and a report."""


@dataclass(frozen=True)
class Timed:
    """The timed batches, and the seconds after which a measurement ends, of training and of validation."""

    batches: int = 8
    seconds: float = 20.0


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch, of a validation, and of the checkpoints of an epoch."""

    batch: float
    validation: float
    saving: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """Seconds of a batch and of a validation, and their numbers."""

    batch: float
    batches: int
    validation: float
    validations: int

    def __str__(self) -> str:
        minutes = (self.batch * self.batches + self.validation * self.validations) / 60
        about = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        return (
            f"about {about}: {self.batches:,} batches of {self.batch:.2g} s, {self.validations} validations of "
            f"{self.validation:.2g} s"
        )


def is_long(config: TrainConfig, training: AccumulatedLoader) -> bool:
    """Return whether the run is long enough for a forecast and a report."""
    return limited(len(training), config.trainer, "train") * chosen(config.epochs) >= LEAST


@dataclass(frozen=True)
class TimedRun:
    """A run that is about to start, to be timed.

    Attributes:
        task, config: the run's.
        source: the validation data.
        training, validation: the run's loaders.
        device: the run's.
    """

    task: DistillationTask
    config: TrainConfig
    source: Source
    training: AccumulatedLoader
    validation: AccumulatedLoader
    device: torch.device


def forecast(run: TimedRun) -> Forecast:
    """Forecast the time of a run from a few batches.

    A term that fades makes the run a little faster than the forecast.
    """
    epochs = chosen(run.config.epochs)
    batches = limited(len(run.training), run.config.trainer, "train") * epochs
    pace = measure(run)
    return Forecast(pace.batch, batches, pace.validation, math.ceil(epochs / chosen(run.config.validate_every)))


def measure(run: TimedRun, timed: Timed = Timed()) -> Pace:
    """Time batches with a copy of the task, at the start of its run. The run is not changed: all its randomness is
    keyed."""
    config, device = run.config, run.device
    copy = deepcopy(run.task).to(device).train()
    copy.steps = sys.maxsize
    optimizer = AdamW(parameter_groups(copy, config.optimizer), fused=config.precision != "fp16")

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with computing_in(chosen(config.precision), device):
            loss = copy(batch.to(device, non_blocking=True))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_((parameter for _, parameter in copy.learned()), 0.1)
        optimizer.step()
        copy.update_teacher()

    each, _ = _seconds(run.training, device, step, timed)
    detectors: dict[Weights, Detector] = {"teacher": copy.teacher.detector, "student": copy.student}
    copy.eval()
    validator = Validation(run.source, detectors, run.task.matching)
    validator.start()

    @torch.inference_mode()
    def validate(batch: Batch) -> None:
        with computing_in(chosen(config.precision), device):
            validator.add(batch.to(device, non_blocking=True))

    batch, count = _seconds(run.validation, device, validate, timed)
    start = _now(device)
    validator.finish(processes=1)
    scoring = (_now(device) - start) / count
    return Pace(each, (batch + scoring) * limited(len(run.validation), config.trainer, "val"))


def _seconds(
    loader: Iterable[Batch], device: torch.device, work: Callable[[Batch], None], timed: Timed
) -> tuple[float, int]:
    """Return the mean seconds of some batches, of loading and `work` together, and the number of batches."""
    times = [_now(device)]
    for batch in islice(loader, WARM + timed.batches):
        work(batch)
        times.append(_now(device))
        if len(times) > WARM + 1 and times[-1] - times[0] > timed.seconds:
            break
    first = min(WARM, len(times) - 2)
    return (times[-1] - times[first]) / (len(times) - 1 - first), len(times) - 1


def _now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
