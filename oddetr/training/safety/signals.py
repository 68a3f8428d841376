"""Stop a training at Ctrl-C or SIGTERM after its current step, with a checkpoint."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.training.saving import Recorder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(Callback):
    """Ask the recorder to write a checkpoint and stop at the first signal; a second one has its usual effect.

    Signals reach the main thread only: a training in another thread cannot be stopped this way.
    """

    def __init__(self, recorder: Recorder, say: Callable[[str], None]) -> None:
        self.recorder, self.say = recorder, say
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, in place of Lightning's."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._stop) for number in SIGNALS}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.recorder.stopping = True
        with suppress(RuntimeError):  # the signal came while a line was being written, which is not reentrant
            self.say(
                "Stopping after this step, with a checkpoint (a running validation is finished first). A second signal "
                "stops at once."
            )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
