"""Record a run: log events, and write the checkpoints `last` and `best`."""

import math
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.checkpoints.checkpoint import RESUME, CheckpointInfo, save_of_run
from oddetr.common.durable import sync, writing
from oddetr.structures import Batch
from oddetr.training.module import AGREE_EVERY, TrainingModule
from oddetr.training.plan.preparation import Prepared
from oddetr.training.records.log import RunLog, Speed, StepMeans, out_of_patience, peak_memory_gib, teacher_aps
from oddetr.training.records.logged import logged_values
from oddetr.training.safety.resume import restore

EVERY = 20
"""Steps between two events of kind `train`: reading the losses waits for the device."""
AGREEMENT = ("matching_carried", "matching_disagreement")
"""Values of the steps that an epoch averages: see `oddetr.distillation.group.agreement`."""
SAVE_EVERY = 300.0
"""Seconds between two saves of `last` within an epoch."""


class Recorder(Callback):
    """Log losses and scores; write the checkpoints after each epoch, and `last` every few minutes.

    `best` is the epoch with the teacher's highest validation AP, or without any AP (no objects to validate on) the last
    epoch. It is written before `last`, so that a run killed between the two repeats the epoch, and its `best`.

    Attributes:
        stopping: whether to write `last` after the current step, and end the training.
        speed: of the training, in this process.
        loss: mean of the last event; NaN before the first.
        aps: the teacher's, by epoch, over all parts of a resumed run.
        trained: seconds of training before this process resumed the run.
        saved_step: optimizer steps of the last checkpoint that this process wrote.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.folder, self.state = prepared, prepared.out, prepared.state
        steps_done = prepared.steps_done
        self.stopping = False
        self.saved_step = -1
        self.speed = Speed()
        self.loss = math.nan
        self.events = RunLog(self.folder, steps_done)
        before = self.events.before
        self.aps = teacher_aps(before)
        last = before[-1] if before else {}
        self._before: float = last.get("seconds", 0.0)
        self.trained: float = last.get("training_seconds", 0.0)
        self._start = math.nan
        self._saved = time.monotonic()
        self._means, self._agreement = StepMeans(steps_done), StepMeans(steps_done)

    @property
    def best(self) -> float:
        """The teacher's highest AP; -1 without any."""
        return max(self.aps.values(), default=-1.0)

    @property
    def stopped(self) -> str:
        """Why the training ends before its last epoch; empty if it goes on."""
        return out_of_patience(self.aps, self.prepared.config.patience)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no step of a run that has stopped early."""
        trainer.should_stop = bool(self.stopped)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also of a run resumed within an epoch; rename the checkpoint that it continues to `last`."""
        self._start = time.monotonic()
        self._restore(trainer)
        self.on_train_epoch_start(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rename the checkpoint of a finished run, which trains no step, too."""
        self._restore(trainer)

    def _restore(self, trainer: Trainer) -> None:
        state, self.state = self.state, None
        if state:
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                with writing(self.folder):
                    restore(state.parent, self.folder / "last")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.speed.start_waiting()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.speed.start_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the parts of the loss, log their means every `EVERY` steps, and save if it is time."""
        module = cast(TrainingModule, pl_module)
        agreement = {name: outputs[name] for name in AGREEMENT if name in outputs}
        self._means.add(outputs, trainer.global_step, module.watch.step_skipped)
        self._agreement.add(agreement, trainer.global_step, module.watch.step_skipped)
        if self._means.steps(trainer.global_step) >= EVERY:
            with writing(self.folder):
                self._log_losses(trainer)
        self.speed.end_step(len(batch.image_ids) * trainer.world_size)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            self._save_within_epoch(trainer, module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.speed.pause()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, write `last`, and `best` if it is the best so far; end the run if it is out of patience, or
        raise KeyboardInterrupt to stop it."""
        self.speed.pause()
        module = cast(TrainingModule, pl_module)
        epoch = trainer.current_epoch + 1
        found = module.validation.scores if module.scored_epoch == epoch else {}
        scores = {name: score.to_json() for name, score in found.items()}
        agreement = self._agreement.read(trainer.global_step)
        skipped = {"skipped_steps": module.watch.skipped} if module.watch.policy == "skip" else {}
        speed = {
            "images_per_second": self.speed.images_per_second,
            "waiting_share": self.speed.waiting_share,
            "peak_memory_gib": peak_memory_gib(),
        }
        with writing(self.folder):
            self._log_losses(trainer)
            self._record(trainer, "epoch", speed | agreement | skipped | scores)
            self._save(trainer, module, epoch, scores)
        if self.stopped:
            trainer.should_stop = True
        elif epoch != trainer.max_epochs and _any_process(trainer, self.stopping):
            raise KeyboardInterrupt

    def _save_within_epoch(self, trainer: Trainer, module: TrainingModule) -> None:
        """Save `last` if it is time, or the run is to stop; several processes decide together now and then."""
        stopping, due = self.stopping, time.monotonic() - self._saved > SAVE_EVERY
        if trainer.world_size > 1:
            if trainer.global_step % AGREE_EVERY:
                return
            stopping, due = _any_process(trainer, stopping), _any_process(trainer, due)
        if stopping or due:
            self.speed.pause()
            with writing(self.folder):
                self._log_losses(trainer)
                self._save(trainer, module, trainer.current_epoch, {})
            self.speed.start_waiting()
        if stopping:
            raise KeyboardInterrupt

    def _log_losses(self, trainer: Trainer) -> None:
        means = self._means.read(trainer.global_step)
        self.loss = means.get("loss", self.loss)
        if means:
            rate = trainer.optimizers[0].param_groups[0]["lr"]  # of the main parameters
            self._record(trainer, "train", means | {"learning_rate": rate})

    def _record(self, trainer: Trainer, kind: str, values: dict[str, Any]) -> None:
        """Log an event to metrics.jsonl and the loggers."""
        if not trainer.is_global_zero:
            return
        event: dict[str, Any] = {
            "kind": kind,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch + 1,
            "seconds": self._before + time.monotonic() - self._start,
            "training_seconds": self.trained + self.speed.seconds,
            **values,
        }
        self.events.add(event)
        for logger in trainer.loggers:
            logger.log_metrics(logged_values(event), event["step"])

    def _save(self, trainer: Trainer, module: TrainingModule, epoch: int, scores: dict[str, Any]) -> None:
        self._saved = time.monotonic()
        info, state = self.prepared.describe(epoch, scores), self.folder / RESUME
        try:
            trainer.save_checkpoint(state)
            if trainer.is_global_zero:
                info = replace(info, thresholds=module.validation.thresholds() if scores else {})
                self._write(module, info, scores, state)
        except Exception:
            with suppress(OSError):
                state.unlink()
            raise
        self.aps |= teacher_aps([{"epoch": epoch, **scores}])
        self.saved_step = trainer.global_step
        trainer.strategy.barrier("written")  # else torchrun may kill a process that still writes when another one ends

    def _write(self, module: TrainingModule, info: CheckpointInfo, scores: dict[str, Any], state: Path) -> None:
        sync(self.events.file)  # so that no checkpoint is newer than the records beside it
        ap = scores["teacher"]["AP"] if scores else None
        if (ap is not None and ap > self.best) or (scores and self.best < 0):
            save_of_run(self.folder / "best", module.detectors, info)
        save_of_run(self.folder / "last", module.detectors, info, state)


def _any_process(trainer: Trainer, wanted: bool) -> bool:
    """Whether any process wants it; all of them call it."""
    return trainer.strategy.reduce_boolean_decision(wanted, all=False)
