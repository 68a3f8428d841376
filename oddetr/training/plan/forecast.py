"""Estimate how long a run will take, from a few steps before it starts."""

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

    Attributes:
        cost: time of a distilled step over the baseline's on the same images, median of a few pairs; None without
            distillation.
        cost_low, cost_high: its quartiles.
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
    validation_loader: AccumulatedLoader,
    device: torch.device,
) -> Forecast:
    """Time a few batches with a copy of the task. The run is not changed: all its randomness is keyed.

    Distilled and baseline steps are timed in turns, for the cost of distillation. A term that fades makes the run a
    little faster than the forecast.

    Args:
        source: the validation data.
        training, validation_loader: the run's.
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

    each = _seconds(training, device, step).sum(1).mean()
    cost: list[float] = []
    if task.distillation.enabled:
        _, distilled, baseline = _seconds(training, device, step, baseline_step).T
        cost = np.quantile(distilled / baseline, [0.5, 0.25, 0.75]).tolist()
    detectors: dict[Weights, Detector] = {"teacher": copy.teacher.detector, "student": copy.student}
    copy.eval()
    validator = Validation(source, detectors, task.matching)
    validator.start()

    @torch.inference_mode()
    def validate(batch: Batch) -> None:
        with computing_in(config.precision, device):
            validator.add(batch.to(device))

    validation = _seconds(validation_loader, device, validate).sum(1).mean() * limited(
        len(validation_loader), flags, "val"
    )
    times = math.ceil(epochs / chosen(config.validate_every))
    return Forecast(float(each), batches, float(validation), times, *cost)


def _seconds(loader: Iterable[Batch], device: torch.device, *works: Callable[[Batch], None]) -> np.ndarray:
    """Return for some batches the seconds of loading it, and of each of `works`, which take turns at being the first.

    Returns:
        [batches, 1 + works]
    """
    rows: list[list[float]] = []
    started = mark = _now(device)
    for number, batch in enumerate(islice(loader, WARM + TIMED)):
        row = [_now(device) - mark, *(0.0 for _ in works)]
        for index in range(len(works)) if number % 2 else reversed(range(len(works))):
            start = _now(device)
            works[index](batch)
            row[1 + index] = _now(device) - start
        rows.append(row)
        mark = _now(device)
        if len(rows) > WARM and mark - started > SECONDS:
            break
    return np.array(rows[min(WARM, len(rows) - 1) :])


def _now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
