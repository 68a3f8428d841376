"""What a person sees of a running training: a line that moves on a terminal, a line per epoch elsewhere."""

import math
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from oddetr.structures import Batch
from oddetr.training.log import StepMeans
from oddetr.training.module import TrainingModule


class Speed:
    """Images per second, and the share of time in which training waits for data.

    Waiting is all that passes between a step's end and the next one's beginning: loading, and the copy to the device.
    """

    def __init__(self) -> None:
        self.images, self.waiting, self.working = 0, 0.0, 0.0
        self._mark: float | None = None

    def step_begins(self) -> None:
        """A batch is there."""
        now = time.perf_counter()
        if self._mark is not None:
            self.waiting += now - self._mark
        self._mark = now

    def step_ends(self, images: int) -> None:
        """A batch of `images` is done."""
        now = time.perf_counter()
        self.working += now - (self._mark or now)
        self.images += images
        self._mark = now

    def pause(self) -> None:
        """What follows (validation, say) is no part of a step."""
        self._mark = None

    @property
    def images_per_second(self) -> float:
        """Since the beginning, pauses left out."""
        return self.images / max(self.waiting + self.working, 1e-9)

    @property
    def waiting_share(self) -> float:
        """In [0, 1]."""
        return self.waiting / max(self.waiting + self.working, 1e-9)


def peak_memory_gib() -> float:
    """The most memory held so far: the device's on CUDA, else this process's; NaN where the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class ProgressLine(Callback):
    """Epoch, time left, loss, AP (in 0-1), images per second, share of time waiting for data, peak memory."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.console, self.folder = console, folder
        self.speed = Speed()
        self._begin = 0.0
        self._steps_before = 0
        self._loss = math.nan
        self._means = StepMeans()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]}"), console=console, refresh_per_second=2, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1, status="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._begin, self._steps_before = time.perf_counter(), trainer.global_step
        self._means = StepMeans(trainer.global_step)
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """A step begins."""
        self.speed.step_begins()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """A step is done; every 20 steps the losses are read, which waits for the device."""
        self.speed.step_ends(len(batch.image_ids) * trainer.world_size)
        self._means.add({"loss": outputs["loss"]})
        if self._means.steps(trainer.global_step) >= 20:
            self._read_loss(trainer)
        if trainer.is_global_zero and self.console.is_terminal:
            total = max(1, int(trainer.estimated_stepping_batches))
            self._bar.update(
                self._task,
                total=total,
                completed=trainer.global_step,
                description=self._epoch(trainer),
                status=self._status(trainer),
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is no part of a step."""
        self.speed.pause()

    def _read_loss(self, trainer: Trainer) -> None:
        self._loss = self._means.read(trainer.global_step).get("loss", self._loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how the epoch went, where no line moves or the scores are new."""
        self.speed.pause()
        self._read_loss(trainer)
        if trainer.is_global_zero:
            self.console.print(f"{self._epoch(trainer)}  {self._status(trainer)}", highlight=False, soft_wrap=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After Ctrl-C, says how to go on."""
        self._bar.stop()
        if trainer.is_global_zero and isinstance(exception, KeyboardInterrupt):
            hint = "No epoch was finished."
            if (self.folder / "last").exists():
                hint = f"Go on after its last finished epoch: oddetr train --out {self.folder} --resume"
            self.console.print(f"Stopped in {self._epoch(trainer)}. {hint}", highlight=False, soft_wrap=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the terminal back."""
        self._bar.stop()

    def _epoch(self, trainer: Trainer) -> str:
        return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"

    def _status(self, trainer: Trainer) -> str:
        done = trainer.global_step - self._steps_before
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        seconds = (time.perf_counter() - self._begin) / max(done, 1) * left
        module = cast(TrainingModule, trainer.lightning_module)
        loss = "-" if math.isnan(self._loss) else f"{self._loss:.3f}"
        ap = "-" if module.metrics is None or math.isnan(module.metrics.ap) else f"{module.metrics.ap:.3f}"
        if module.metrics and module.scored_epoch <= trainer.current_epoch:
            ap += f" (epoch {module.scored_epoch})"
        return (
            f"loss {loss}  AP {ap}  {self.speed.images_per_second:.1f} images/s  "
            f"waiting for data {self.speed.waiting_share:.0%}  {peak_memory_gib():.1f} GiB  left {clock(seconds)}"
        )


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
