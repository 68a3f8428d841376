"""Choose the length of a run from the hours that it may take (`TrainConfig.hours`)."""

import math
import time
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from oddetr.checkpoints.checkpoint import RESUME, save_of_run
from oddetr.common.durable import writing
from oddetr.distillation.task import DistillationTask
from oddetr.models.detector import Detector
from oddetr.structures import Weights
from oddetr.training.config import TrainConfig
from oddetr.training.plan.choice import validation_period
from oddetr.training.plan.forecast import Pace, Timed
from oddetr.training.plan.preparation import Prepared
from oddetr.training.trainer import StateFile

VALIDATING = 0.2
"""Largest share of the time that validations take where their number is chosen, but for the last one."""
CLOSE = 0.02
"""Whole epochs are trained where they come this close to the time; else every epoch leaves out a few images."""


def timed_for(hours: float) -> Timed:
    """How long training and validation are timed before the start, each: 3 % of the run, within 5 and 120 s."""
    return Timed(1_000_000, min(max(0.03 * 3600 * hours, 5.0), 120.0))


def with_saving(pace: Pace, task: DistillationTask, prepared: Prepared) -> Pace:
    """Add the time of checkpoints, which are written into the run's folder and removed: of `last` to each epoch, of
    `best` to each validation."""
    detectors: dict[Weights, Detector] = {"teacher": task.teacher.detector, "student": task.student}
    moments = [value.detach().clone() for _, value in task.learned() for _ in range(2)]
    with writing(prepared.out):
        prepared.out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="timing", dir=prepared.out) as name:
            start, state = time.perf_counter(), Path(name) / RESUME
            StateFile().save_checkpoint({"task": task.state_dict(), "moments": moments}, state)
            saved = time.perf_counter()
            save_of_run(Path(name) / "last", detectors, prepared.describe(0, {}), state)
            end = time.perf_counter()
    return replace(pace, validation=pace.validation + end - saved, saving=end - start)


def with_length(config: TrainConfig, pace: Pace, batches: int, seconds: float) -> tuple[TrainConfig, str]:
    """Return `config` with as many epochs and batches as take `seconds`, and the reason.

    The plan becomes part of the run's configuration, in place of `hours`: a resumed run has the same length, and the
    schedule, a function of the steps, ends with it.

    Args:
        config: with `hours`; `validate_every` may be open.
        batches: of an epoch with all images.
        seconds: that are left of the hours.

    Raises:
        ValueError: not even one step and a validation fit.
    """

    def period(epochs: int) -> int:
        rare = math.ceil(epochs * pace.validation / (VALIDATING * max(seconds, 1.0)))
        return config.validate_every or min(epochs, max(validation_period(epochs), rare))

    def fitting(epochs: int) -> float:
        """The batches that fit between the validations and checkpoints of so many epochs."""
        others = pace.saving * epochs + pace.validation * math.ceil(epochs / period(epochs))
        return (seconds - others) / pace.batch

    if fitting(1) < config.accumulate:
        raise ValueError(
            f"hours is {config.hours}: of that {max(seconds, 0):.0f} s are left to train, but a step takes "
            f"{pace.batch * config.accumulate:.2g} s and a validation with its checkpoint "
            f"{pace.validation + pace.saving:.2g} s. Give more hours, or train smaller images (--image-size)."
        )
    most = int(seconds / (pace.batch * batches)) + 1
    epochs = bisect_left(range(1, most + 1), True, key=lambda epochs: fitting(epochs) < epochs * batches)
    if epochs == 0 or fitting(epochs) > epochs * batches * (1 + CLOSE):
        epochs += 1
    each = batches
    if fitting(epochs) < epochs * batches * (1 - CLOSE):
        each = max(1, round(fitting(epochs) / epochs))
    trainer = config.trainer if each == batches else config.trainer | {"limit_train_batches": each}
    of = "" if each == batches else f" of {batches:,}, other ones in each epoch"
    every = period(epochs)
    reason = (
        f"{config.hours:g} hours: {epochs:,} epochs of {each:,} batches{of}, {pace.batch:.2g} s each; "
        f"{math.ceil(epochs / every):,} validations of {pace.validation:.2g} s"
    )
    return replace(config, hours=None, epochs=epochs, validate_every=every, trainer=trainer), reason
