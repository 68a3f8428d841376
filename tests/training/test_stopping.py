"""Runs that are stopped within an epoch, and resumed."""

import dataclasses
import signal
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.distillation.config import DistillationConfig
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.training.test_run import StopAfter, quiet, weights


def test_an_interrupted_run_says_how_to_go_on(config: TrainConfig) -> None:
    class Interrupt(StopAfter):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.current_epoch == self.epochs:
                raise KeyboardInterrupt

    console = quiet()
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(config, trainer=config.trainer | {"callbacks": [Interrupt(1)]}), console)
    assert "Stopped in epoch 2/4, step 3. Go on after the last checkpoint: " in console.file.getvalue()
    assert f"oddetr train --out {config.out} --resume" in console.file.getvalue()


class Signal(Callback):
    """Sends this process a signal during a step."""

    def __init__(self, number: signal.Signals, epoch: int, batch: int) -> None:
        self.number, self.where = number, (epoch, batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.where:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "epoch", "batch", "accumulate", "saved"),
    [
        (signal.SIGTERM, 0, 0, 1, 1),
        (signal.SIGINT, 2, 0, 2, 5),
        (signal.SIGINT, 2, 3, 1, 12),
    ],
)
def test_a_signal_saves_within_the_epoch_and_the_resumed_run_ends_alike(
    tiny: dict, number: signal.Signals, epoch: int, batch: int, accumulate: int, saved: int
) -> None:
    """The last epoch's last step is followed by the validation, and the run is over: nothing is stopped."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny |= {"batch_size": 2, "accumulate": accumulate, "epochs": 3, "validate_every": 2}
    whole = run(TrainConfig(**tiny), quiet())
    out, console = tiny["out"].with_name("resumed"), quiet()
    trainer = tiny["trainer"] | {"callbacks": [Signal(number, epoch, batch)]}
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stopped = TrainConfig(**tiny | {"out": out, "trainer": trainer})
    if epoch == 2 and batch == 3:
        run(stopped, console)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(stopped, console)
        assert "Stopping after this step, with a checkpoint" in console.file.getvalue()
        assert f"step {saved}. Go on after this step" in console.file.getvalue()
        assert torch.load(out / "last" / "resume.ckpt", weights_only=True)["global_step"] == saved
        run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers

    for file in ("student.safetensors", "model.safetensors"):
        expected, found = weights(whole, file), weights(out, file)
        assert all(value.equal(found[name]) for name, value in expected.items()), file
    scores = [[event["teacher"] for event in read_events(each) if "teacher" in event] for each in (whole, out)]
    assert scores[0] == scores[1]


def test_a_second_signal_ends_the_run_at_once(tiny: dict) -> None:
    twice = [Signal(signal.SIGINT, 1, 0), Signal(signal.SIGINT, 1, 0)]
    with pytest.raises(KeyboardInterrupt):
        run(TrainConfig(**tiny | {"trainer": tiny["trainer"] | {"callbacks": twice}}), quiet())
    assert torch.load(tiny["out"] / "last" / "resume.ckpt", weights_only=True)["global_step"] == 2


def test_a_run_killed_after_a_save_within_an_epoch_ends_in_the_same_weights(
    tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny |= {"batch_size": 2, "epochs": 2, "optimizer": OptimizerConfig(learning_rate=5e-3)}
    whole = run(TrainConfig(**tiny), quiet())
    monkeypatch.setattr("oddetr.training.records.recorder.SAVE_EVERY", 0.0)

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 6:
                raise ConnectionAbortedError("killed by the test")

    out, trainer = tiny["out"].with_name("resumed"), tiny["trainer"] | {"callbacks": [Kill()]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": trainer}), quiet())
    assert torch.load(out / "last" / "resume.ckpt", weights_only=True)["global_step"] == 6
    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())

    assert all(value.equal(weights(out)[name]) for name, value in weights(whole).items())
