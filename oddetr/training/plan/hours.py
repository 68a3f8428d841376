"""Choose the length of a run from the hours that it may take (`TrainConfig.hours`), and keep to them."""

import math
import time
from bisect import bisect_left
from collections import deque
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.checkpoints.checkpoint import RESUME, save_of_run
from oddetr.common.durable import writing
from oddetr.distillation.task import DistillationTask
from oddetr.models.detector import Detector
from oddetr.structures import Weights
from oddetr.training.config import TrainConfig
from oddetr.training.module import TrainingModule
from oddetr.training.plan.choice import validation_period
from oddetr.training.plan.forecast import Pace
from oddetr.training.plan.preparation import Prepared
from oddetr.training.trainer import StateFile

VALIDATING = 0.2
"""Largest share of the time that validations take where their number is chosen, but for the last one."""
CLOSE = 0.02
"""Whole epochs are trained where they come this close to the time; else every epoch leaves out a few images."""
RECENT = 4
"""Epochs whose pace tells that of the further ones."""


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


class KeepingTime(Callback):
    """Plan the rest of a run anew after each epoch, so that it ends in time on a machine that becomes slower or faster.

    The further epochs keep their number and train fewer or more batches each; where all images leave time over, epochs
    are added. With the number of steps the schedule of the learning rate changes. A resumed run continues the plan of
    its checkpoint without looking at the clock.

    Attributes:
        pace: that was measured before the start; None for a run without `hours`, whose plan stays.
        hours: from the run's start to its end; end: when that is, by `time.monotonic`.
        most: batches of an epoch with all images, or as many as the user allows.
    """

    def __init__(self) -> None:
        self.pace: Pace | None = None
        self.hours, self.end, self.most = 0.0, math.inf, 0
        self._plan: dict[str, int] = {}
        self._times: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._mark = math.nan

    def state_dict(self) -> dict[str, Any]:
        """The epochs, the batches of each further one, and the steps of the run; empty if it was not planned anew."""
        return self._plan

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore them, before Lightning counts the batches."""
        if plan := checkpoint["callbacks"].get(self.state_key):
            self._plan = plan
            trainer.fit_loop.max_epochs, trainer.limit_train_batches = plan["epochs"], plan["batches"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        module.task.steps = self._plan.get("steps", module.task.steps)
        self._mark = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the further epochs; comes before the callback that writes the checkpoint."""
        epoch, epochs = trainer.current_epoch + 1, cast(int, trainer.max_epochs)
        if not self.pace or epoch == epochs:
            return
        module = cast(TrainingModule, pl_module)
        now, every = time.monotonic(), cast(int, trainer.check_val_every_n_epoch)
        validated = module.scored_epoch == epoch
        planned = self.pace.batch * trainer.num_training_batches + self.pace.saving + self.pace.validation * validated
        self._times.append((now - self._mark, planned))
        self._mark = now
        slower = sum(spent for spent, _ in self._times) / sum(planned for _, planned in self._times)
        left, further = (self.end - now) / slower, epochs - epoch
        validations = math.ceil(epochs / every) - epoch // every
        left -= self.pace.validation * validations + self.pace.saving * further
        batches = max(left / self.pace.batch, further)
        if batches > further * self.most * (1 + CLOSE):
            further = math.ceil(batches / self.most)
        self._train(trainer, module, epoch + further, min(self.most, round(batches / further)))

    def _train(self, trainer: Trainer, module: TrainingModule, epochs: int, batches: int) -> None:
        """Train until `epochs` are done, each further one of so many batches, of whole steps where that is possible."""
        parts = trainer.accumulate_grad_batches
        if batches < self.most:
            batches = max(1, batches // parts) * parts
        steps = trainer.global_step + math.ceil(batches / parts) * (epochs - trainer.current_epoch - 1)
        self._plan = {"epochs": epochs, "batches": batches, "steps": steps}
        module.task.steps = steps
        trainer.fit_loop.max_epochs = epochs
        trainer.fit_loop.max_batches = trainer.limit_train_batches = trainer.val_check_batch = batches
        loader = trainer.fit_loop._combined_loader  # pyright: ignore[reportPrivateUsage]
        assert loader
        loader.limits = [batches]
