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
from oddetr.distillation.task import DistillationTask
from oddetr.evaluation.validation import Validation
from oddetr.models.detector import Detector
from oddetr.structures import Batch, Weights
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.module import parameter_groups
from oddetr.training.plan.choice import limited
from oddetr.training.plan.preparation import Prepared
from oddetr.training.precision import computing_in

WARM = 2
"""Warm-up batches."""
LEAST = 100
"""Batches from which on a run has a forecast and a report."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch, of a validation, and of the checkpoints of an epoch."""

    batch: float
    validation: float
    saving: float = 0.0


def is_long(config: TrainConfig, batches: int) -> bool:
    """Whether a run whose epochs have so many batches is long enough for a forecast and a report."""
    return _batches(config, batches) >= LEAST


def forecast(pace: Pace, config: TrainConfig, batches: int) -> str:
    """Forecast the time of a run whose epochs have so many batches; a term that fades makes it a little faster."""
    epochs = chosen(config.epochs)
    batches, validations = _batches(config, batches), math.ceil(epochs / chosen(config.validate_every))
    minutes = (pace.batch * batches + pace.validation * validations) / 60
    about = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
    return (
        f"about {about}: {batches:,} batches of {pace.batch:.2g} s, {validations} validations of "
        f"{pace.validation:.2g} s"
    )


def measure(
    prepared: Prepared,
    task: DistillationTask,
    training: AccumulatedLoader,
    validation: AccumulatedLoader,
    device: torch.device,
    batches: int = 8,
    seconds: float = 20.0,
) -> Pace:
    """Time a run with a copy of its task, at its start. The run is not changed: all its randomness is keyed.

    Args:
        training, validation: the run's loaders.
        batches, seconds: after which of them the training and the validation are timed well enough, each.
    """
    config = prepared.config
    copy = deepcopy(task).to(device).train()
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

    each, _ = _seconds(training, device, step, batches, seconds)
    detectors: dict[Weights, Detector] = {"teacher": copy.teacher.detector, "student": copy.student}
    copy.eval()
    validator = Validation(prepared.sources["val"], detectors, task.matching)
    validator.start()

    @torch.inference_mode()
    def validate(batch: Batch) -> None:
        with computing_in(chosen(config.precision), device):
            validator.add(batch.to(device, non_blocking=True))

    batch, count = _seconds(validation, device, validate, batches, seconds)
    start = _now(device)
    validator.finish(processes=1)
    scoring = (_now(device) - start) / count
    return Pace(each, (batch + scoring) * limited(len(validation), config.trainer, "val"))


def _seconds(
    loader: Iterable[Batch], device: torch.device, work: Callable[[Batch], None], batches: int, seconds: float
) -> tuple[float, int]:
    """Return the mean seconds of some batches, of loading and `work` together, and the number of batches."""
    times = [_now(device)]
    for batch in islice(loader, WARM + batches):
        work(batch)
        times.append(_now(device))
        if len(times) > WARM + 1 and times[-1] - times[0] > seconds:
            break
    first = min(WARM, len(times) - 2)
    return (times[-1] - times[first]) / (len(times) - 1 - first), len(times) - 1


def _batches(config: TrainConfig, batches: int) -> int:
    """The batches of the whole run."""
    return limited(batches, config.trainer, "train") * chosen(config.epochs)


def _now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
