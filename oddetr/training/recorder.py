"""What a run leaves behind: events, and the checkpoints `last` and `best`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.checkpoint import RESUME, CheckpointInfo, save_checkpoint
from oddetr.structures import Batch
from oddetr.training.log import RunLog, StepMeans, read_events
from oddetr.training.module import TrainingModule
from oddetr.training.progress import Speed, peak_memory_gib

EVERY = 50
"""Steps between two events of kind `train`."""


class Recorder(Callback):
    """Logs losses and scores, and writes the checkpoints after each epoch.

    `best` is the epoch with the highest validation AP; without an AP (no objects in the validation images), the last.
    It is written before `last`, so that a run killed between the two does the epoch, and its `best`, again.

    Args:
        folder: the run's.
        describe: (epochs trained, scores) -> what to write beside the weights.
        speed: of the training, for the log.
        steps_done: where a resumed run goes on.
    """

    def __init__(
        self, folder: Path, describe: Callable[[int, dict[str, Any]], CheckpointInfo], speed: Speed, steps_done: int
    ) -> None:
        self.folder, self.describe, self.speed = folder, describe, speed
        self.events = RunLog(folder, steps_done)
        before = [event for event in read_events(folder) if event["kind"] == "epoch"]
        self.best: float = max((event["AP"] for event in before if event.get("AP") is not None), default=-1.0)
        self._begin = time.time() - (before[-1]["seconds"] if before else 0.0)
        self._means = StepMeans(steps_done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Adds up the parts of the loss on the device, and logs their means every `EVERY` steps."""
        self._means.add(outputs)
        if self._means.steps(trainer.global_step) >= EVERY:
            self._log_losses(trainer)

    def _log_losses(self, trainer: Trainer) -> None:
        means = self._means.read(trainer.global_step)
        if trainer.is_global_zero and means:
            event = means | {"learning_rate": cast(TrainingModule, trainer.lightning_module).learning_rate}
            self.events.add({"kind": "train", "step": trainer.global_step, "epoch": trainer.current_epoch, **event})
            if trainer.logger:
                trainer.logger.log_metrics(event, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the epoch and writes `last`, and `best` where the epoch is the best so far."""
        module = cast(TrainingModule, pl_module)
        epoch = trainer.current_epoch + 1
        scores = module.metrics.to_json() if module.metrics and module.scored_epoch == epoch else {}
        self._log_losses(trainer)
        if trainer.is_global_zero:
            self.events.add(
                {"kind": "epoch", "step": trainer.global_step, "epoch": epoch, "seconds": time.time() - self._begin}
                | {"images_per_second": self.speed.images_per_second, "waiting_share": self.speed.waiting_share}
                | {"peak_memory_gib": peak_memory_gib(), **scores}
            )
            if trainer.logger:
                plain = {name: value for name, value in scores.items() if isinstance(value, float)}
                trainer.logger.log_metrics(plain, trainer.global_step)
        self._save(trainer, module, epoch, scores)

    def _save(self, trainer: Trainer, module: TrainingModule, epoch: int, scores: dict[str, Any]) -> None:
        info = self.describe(epoch, scores)
        state = self.folder / RESUME
        trainer.save_checkpoint(state)
        if not trainer.is_global_zero:
            return
        detector, ap = module.task.detector, scores.get("AP")
        if (ap is not None and ap > self.best) or (scores and self.best < 0):
            self.best = ap if ap is not None else self.best
            save_checkpoint(self.folder / "best", detector, info)
        save_checkpoint(self.folder / "last", detector, info, state)
