"""Show a running training: a progress bar on a terminal, and a line per epoch."""

import math
import time
from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oddetr.common.terminal import print_line
from oddetr.evaluation.scores_json import MODELS
from oddetr.structures import Batch
from oddetr.training.module import TrainingModule
from oddetr.training.records.log import peak_memory_gib
from oddetr.training.safety.resume import has_checkpoint
from oddetr.training.saving import Recorder

REPORTED = "the end of the run was reported already"
"""The message of a KeyboardInterrupt after which nothing more is printed."""


class ProgressLine(Callback):
    """Show epoch, loss; AP, normalised instability and unstable score of the last decoder layer, all in 0-1; images per
    second, share of time spent waiting for data, memory, and time left.

    The recorder provides the numbers; its callback comes before this one.
    """

    def __init__(self, console: Console, recorder: Recorder) -> None:
        self.console, self.recorder = console, recorder
        self._start = 0.0
        self._steps_before = 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]}"), console=console, refresh_per_second=2, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1, status="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._steps_before = time.perf_counter(), trainer.global_step
        if trainer.is_global_zero:
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            total = cast(TrainingModule, pl_module).task.steps
            done, description, status = trainer.global_step, self._epoch(trainer), self._status(trainer)
            self._bar.update(self._task, total=total, completed=done, description=description, status=status)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print_line(self.console, f"{self._epoch(trainer)}  {self._status(trainer)}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print how to resume, after Ctrl-C or an error of the system."""
        self._bar.stop()
        if not (trainer.is_global_zero and isinstance(exception, KeyboardInterrupt | OSError)):
            return
        hint, folder = "There is no checkpoint to go on from.", self.recorder.folder
        if has_checkpoint(folder):
            saved = self.recorder.stopping and self.recorder.saved_step == trainer.global_step
            after = "this step" if saved else "the last checkpoint"
            hint = f"Go on after {after}: oddetr train --out {folder} --resume"
        print_line(self.console, f"Stopped in {self._epoch(trainer)}, step {trainer.global_step:,}. {hint}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._bar.stop()

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _status(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._steps_before
        module = cast(TrainingModule, trainer.lightning_module)
        left = module.task.steps - trainer.global_step
        seconds = (time.perf_counter() - self._start) / max(done, 1) * left
        speed, skipped = self.recorder.speed, module.watch.skipped
        parts = [
            f"loss {_number(self.recorder.loss)}",
            *([f"skipped steps {skipped}"] if skipped else []),
            *self._scores(trainer),
            f"{speed.images_per_second:.1f} images/s",
            f"waiting for data {speed.waiting_share:.0%}",
            f"{peak_memory_gib():.1f} GiB",
            f"left {clock(seconds)}",
        ]
        return "  ".join(parts)

    def _scores(self, trainer: Trainer) -> list[str]:
        module = cast(TrainingModule, trainer.lightning_module)
        if not module.validation.scores:
            return ["AP -"]
        teacher, student = (module.validation.scores[model] for model in MODELS)
        after = f"after epoch {module.scored_epoch}: " if module.scored_epoch <= trainer.current_epoch else ""
        pairs: dict[str, tuple[Sequence[float] | None, Sequence[float] | None]] = {
            f"{after}AP": ([teacher.metrics.ap], [student.metrics.ap]),
            "instability": (teacher.instability.normalised, student.instability.normalised),
            "unstable score": (teacher.instability.unstable_score, student.instability.unstable_score),
        }
        return [
            f"{name} {_number(first[-1])} (student {_number(second[-1])})"
            for name, (first, second) in pairs.items()
            if first and second
        ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
