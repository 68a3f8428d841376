"""What tests of trainings share: callbacks that disturb a run, and comparisons of two runs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors.torch import load_file

from oddetr.training.records.log import read_events

WEIGHTS = ("student.safetensors", "model.safetensors")


class AtSteps(Callback):
    """Do something before some steps; a step that is named twice has it done twice."""

    def __init__(self, what: Callable[[LightningModule, Any], None], *steps: int) -> None:
        self.what, self.steps = what, [*steps]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        while self.steps[:1] == [trainer.global_step]:
            self.steps.pop(0)
            self.what(pl_module, batch)


def killed_at(step: int) -> AtSteps:
    """End the training as a lost machine would, before `step`."""

    def kill(*_: Any) -> None:
        raise ConnectionAbortedError("killed by the test")

    return AtSteps(kill, step)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=300)


def weights(run: Path, file: str = "student.safetensors", which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / which / file)


def assert_same_weights(first: Path, second: Path, *checkpoints: str) -> None:
    """Student and teacher, to the bit, in `last` or the checkpoints named."""
    for which in checkpoints or ("last",):
        for file in WEIGHTS:
            expected, found = weights(first, file, which), weights(second, file, which)
            assert expected.keys() == found.keys()
            assert all(value.equal(found[name]) for name, value in expected.items()), (which, file)


def events_without_times(run: Path) -> list[dict[str, Any]]:
    """What a run records that does not depend on the machine."""
    measured = ("seconds", "training_seconds", "images_per_second", "waiting_share", "peak_memory_gib")
    return [{name: value for name, value in event.items() if name not in measured} for event in read_events(run)]
