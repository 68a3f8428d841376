"""Show a running training: a progress bar on a terminal, and a line per epoch."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oddetr.structures import Batch
from oddetr.training.module import TrainingModule
from oddetr.training.records.log import peak_memory_gib
from oddetr.training.records.recorder import Recorder

TOLD = "where it was stopped, and how to go on, is told"
"""The message of a KeyboardInterrupt that was reported already."""


class ProgressLine(Callback):
    """Show epoch, loss; AP, normalised instability and unstable score of the last decoder layer, all in 0-1; images per
    second, share of time spent waiting for data, memory, and time left.

    Args:
        console: where to print.
        folder: the run's.
        recorder: provides the numbers; its callback comes before this one.
    """

    def __init__(self, console: Console, folder: Path, recorder: Recorder) -> None:
        self.console, self.folder, self.recorder = console, folder, recorder
        self._begin = 0.0
        self._steps_before = 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]}"), console=console, refresh_per_second=2, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1, status="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin, self._steps_before = time.perf_counter(), trainer.global_step
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Update the bar."""
        if trainer.is_global_zero and self.console.is_terminal:
            total = max(1, int(trainer.estimated_stepping_batches))
            self._bar.update(
                self._task,
                total=total,
                completed=trainer.global_step,
                description=self._epoch(trainer),
                status=self._status(trainer),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        if trainer.is_global_zero:
            self.console.print(f"{self._epoch(trainer)}  {self._status(trainer)}", highlight=False, soft_wrap=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print how to resume, after Ctrl-C or an error of the system."""
        self._bar.stop()
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt | OSError):
            hint = "There is no checkpoint to go on from."
            if any((self.folder / name).exists() for name in ("last", "last.old")):
                after = "this step" if self.recorder.stopping else "the last checkpoint"
                hint = f"Go on after {after}: oddetr train --out {self.folder} --resume"
            self.console.print(
                f"Stopped in {self._epoch(trainer)}, step {trainer.global_step:,}. {hint}",
                highlight=False,
                soft_wrap=True,
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _status(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._steps_before
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        seconds = (time.perf_counter() - self._begin) / max(done, 1) * left
        loss, speed = self.recorder.loss, self.recorder.speed
        skipped = cast(TrainingModule, trainer.lightning_module).watch.skipped
        left_out = f"skipped steps {skipped}  " if skipped else ""
        return (
            f"loss {_number(loss)}  {left_out}{self._scores(trainer)}  {speed.images_per_second:.1f} images/s  "
            f"waiting for data {speed.waiting_share:.0%}  {peak_memory_gib():.1f} GiB  left {clock(seconds)}"
        )

    def _scores(self, trainer: Trainer) -> str:
        module = cast(TrainingModule, trainer.lightning_module)
        if not module.validation.scores:
            return "AP -"
        both = module.validation.scores["teacher"], module.validation.scores["student"]
        after = f"after epoch {module.scored_epoch}: " if module.scored_epoch <= trainer.current_epoch else ""
        told = [f"{after}AP {_pair(score.metrics.ap for score in both)}"]
        if all(score.instability.normalised for score in both):
            told.append(f"instability {_pair(_last(score.instability.normalised) for score in both)}")
        if all(score.instability.unstable_score for score in both):
            told.append(f"unstable score {_pair(_last(score.instability.unstable_score) for score in both)}")
        return "  ".join(told)


def _last(layers: tuple[float, ...] | None) -> float:
    """The last decoder layer's."""
    return layers[-1] if layers else math.nan


def _pair(values: Iterable[float]) -> str:
    teacher, student = values
    return f"{_number(teacher)} (student {_number(student)})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
