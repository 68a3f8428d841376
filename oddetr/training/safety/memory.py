"""Go on with smaller batches where the device's memory is too small, before anything was saved."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from oddetr.training.config import TrainConfig, chosen


class BatchMemoryError(RuntimeError):
    """The device's memory is too small for the batches of a run; the message says what to do.

    Attributes:
        out: the run's folder.
        changes: the next smaller batch whose multiple is the same step, as fields of `TrainConfig`; none at one image.
    """

    def __init__(self, config: TrainConfig, out: Path, reason: str) -> None:
        size, images = chosen(config.batch_size), f"images of {config.image_size} px"
        smaller = max((part for part in range(1, size) if size % part == 0), default=0)
        self.out = out
        self.changes = {"batch_size": smaller, "accumulate": config.accumulate * size // smaller} if smaller else {}
        advice = "Train smaller images (--image-size)"
        if not config.gradient_checkpointing:
            advice += ", keep less of them for the backward pass (--gradient-checkpointing true)"
        if self.changes:
            options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.changes.items())
            advice += f", or in a new run the same steps of smaller batches ({options})"
        super().__init__(f"The memory of the device is too small for batches of {size} {images} ({reason}). {advice}.")


@contextmanager
def watching_memory(config: TrainConfig, out: Path) -> Generator[None]:
    """Raise BatchMemoryError in the place of torch's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BatchMemoryError(config, out, str(error).partition(". ")[0]) from error
