"""Estimate how long a run will take from a few steps before it begins."""

import math
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
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

WARM, TIMED, SECONDS = 2, 8, 20.0
"""Warm-up batches, timed batches, and the seconds after which a measurement ends."""
LEAST = 100
"""Batches from which on a run has a forecast and a report."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of a batch and of a validation, and their numbers.

    `cost`: time of a distilled step over the baseline's on the same images, median of a few pairs; `cost_low` and
    `cost_high`: quartiles. None if distillation is off.
    """

    batch: float
    batches: int
    validation: float
    validations: int
    cost: float | None = None
    cost_low: float | None = None
    cost_high: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of the run."""
        return self.batch * self.batches + self.validation * self.validations

    def __str__(self) -> str:
        minutes = self.seconds / 60
        about = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        return (
            f"about {about}: {self.batches:,} batches of {self.batch:.2g} s, {self.validations} validations of "
            f"{self.validation:.2g} s"
        )


def is_long(config: TrainConfig, training: AccumulatedLoader) -> bool:
    """Return whether the run is long enough for a forecast and a report."""
    return limited(len(training), config.trainer, "train") * chosen(config.epochs) >= LEAST


def forecast(
    task: DistillationTask,
    config: TrainConfig,
    source: Source,
    training: AccumulatedLoader,
    validation: AccumulatedLoader,
    device: torch.device,
) -> Forecast:
    """Time a few batches with a copy of the task. The run is not changed: all its randomness is keyed.

    Distilled and baseline steps are timed in turns, for the cost of distillation. A lesson that fades makes the run a
    little faster than the forecast.

    Args:
        source: the validation data.
        training, validation: the run's loaders.
        device: the run's.
    """
    epochs, flags = chosen(config.epochs), config.trainer
    batches = limited(len(training), flags, "train") * epochs
    copy = deepcopy(task).to(device).train()
    copy.steps = max(1, batches // config.accumulate)
    optimizer = AdamW(parameter_groups(copy, config.optimizer), fused=config.precision != "fp16")

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with computing_in(config.precision, device):
            loss = copy(batch.to(device))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_((parameter for _, parameter in copy.learned()), 0.1)
        optimizer.step()
        copy.update_teacher()

    def baseline_step(batch: Batch) -> None:
        copy.distillation = replace(task.distillation, enabled=False)
        step(batch)
        copy.distillation = task.distillation

    each = _timed(training, step, device)
    ratios = _ratios(training, step, baseline_step, device) if task.distillation.enabled else []
    cost = [float(value) for value in np.quantile(ratios, [0.5, 0.25, 0.75])] if ratios else []
    detectors: dict[Weights, Detector] = {"teacher": copy.teacher.detector, "student": copy.student}
    copy.eval()
    trial = Validation(source, detectors, task.matching)
    trial.start()

    @torch.inference_mode()
    def look(batch: Batch) -> None:
        with computing_in(config.precision, device):
            trial.add(batch.to(device))

    validated = limited(len(validation), flags, "val")
    times = math.ceil(epochs / chosen(config.validate_every))
    return Forecast(each, batches, _timed(validation, look, device) * validated, times, *cost)


def _timed(loader: Iterable[Batch], work: Callable[[Batch], None], device: torch.device) -> float:
    """Return the seconds per batch, including loading."""
    marks = [_now(device)]
    for batch in islice(loader, WARM + TIMED):
        work(batch)
        marks.append(_now(device))
        if len(marks) > WARM + 1 and marks[-1] - marks[0] > SECONDS:
            break
    warm = min(WARM, len(marks) - 2)
    return (marks[-1] - marks[warm]) / (len(marks) - 1 - warm)


def _ratios(
    loader: Iterable[Batch], work: Callable[[Batch], None], other: Callable[[Batch], None], device: torch.device
) -> list[float]:
    """Return the time of `work` over that of `other` on the same batches, without loading; they take turns."""
    ratios: list[float] = []
    begun = _now(device)
    for number, batch in enumerate(islice(loader, WARM + TIMED)):
        seconds: dict[Callable[[Batch], None], float] = {}
        for timed in (work, other) if number % 2 else (other, work):
            start = _now(device)
            timed(batch)
            seconds[timed] = _now(device) - start
        ratios.append(seconds[work] / seconds[other])
        if len(ratios) > WARM and _now(device) - begun > SECONDS:
            break
    return ratios[min(WARM, len(ratios) - 1) :]


def _now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
