"""A training that is asked to stop, by Ctrl-C or SIGTERM, ends after the step that it is doing, with a checkpoint."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.training.records.recorder import Recorder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(Callback):
    """Tells the recorder that the first signal has come; a second one ends the process as it would have.

    Signals reach the main thread only: trainings in others cannot be stopped so.

    Args:
        recorder: writes the checkpoint and ends the training.
        say: tells the user.
    """

    def __init__(self, recorder: Recorder, say: Callable[[str], None]) -> None:
        self.recorder, self.say = recorder, say
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens, in the place of Lightning."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in SIGNALS}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.recorder.stopping = True
        with suppress(RuntimeError):  # the signal came while a line was being written, which is not reentrant
            self.say(
                "Stopping after this step, with a checkpoint (a validation is finished first). Once more: at once."
            )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listens no more."""
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens no more."""
        self._restore()
