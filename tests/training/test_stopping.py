"""Runs that are stopped within an epoch, and resumed."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from oddetr.distillation.config import DistillationConfig
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.training.test_run import quiet, weights

WEIGHTS = ("student.safetensors", "model.safetensors")


class Act(Callback):
    """Does something at the start of some steps."""

    def __init__(self, what: Any, *steps: int) -> None:
        self.what, self.steps = what, [*steps]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        while self.steps[:1] == [trainer.global_step]:
            self.steps.pop(0)
            self.what()


def kill() -> None:
    raise ConnectionAbortedError("killed by the test")


def saved_steps(out: Path) -> int:
    return torch.load(out / "last" / "resume.ckpt", weights_only=True)["global_step"]


@pytest.fixture(scope="module")
def arguments(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of a run of three epochs of four steps, the last of which is validated."""
    return tiny_arguments(scenes, tmp_path_factory.mktemp("stopping") / "whole") | {
        "optimizer": OptimizerConfig(learning_rate=5e-3),
        "distillation": DistillationConfig(horizon=3.0),
        "batch_size": 2,
        "epochs": 3,
        "validate_every": 2,
        "image_size": 64,
    }


@pytest.fixture(scope="module")
def whole(arguments: dict) -> Path:
    """The folder of the run that nothing stops."""
    return run(TrainConfig(**arguments), quiet())


def assert_equal(whole: Path, out: Path) -> None:
    """Weights, to the bit, and scores."""
    for file in WEIGHTS:
        expected, found = weights(whole, file), weights(out, file)
        assert all(value.equal(found[name]) for name, value in expected.items()), file
    scores = [[event["teacher"] for event in read_events(each) if "teacher" in event] for each in (whole, out)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 0), (signal.SIGINT, 5), (signal.SIGINT, 11)])
def test_a_signal_saves_within_the_epoch_and_the_resumed_run_ends_alike(
    arguments: dict, whole: Path, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    """After the last step the validation follows, and the run is over: nothing is stopped."""
    out, console = tmp_path / "resumed", quiet()
    callbacks = {"callbacks": [Act(lambda: signal.raise_signal(number), step)]}
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stopped = TrainConfig(**arguments | {"out": out, "trainer": arguments["trainer"] | callbacks})
    if step == 11:
        run(stopped, console)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(stopped, console)
        assert "Stopping after this step, with a checkpoint" in console.file.getvalue()
        assert f"step {step + 1}. Go on after this step: oddetr train --out {out} --resume" in console.file.getvalue()
        assert saved_steps(out) == step + 1
        run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_equal(whole, out)


def test_a_second_signal_ends_the_run_at_once_and_the_message_says_how_to_resume(
    arguments: dict, whole: Path, tmp_path: Path
) -> None:
    """With two accumulated batches a step: the second epoch has the steps 2 and 3."""
    out, console = tmp_path / "run", quiet()
    callbacks = {"callbacks": [Act(lambda: signal.raise_signal(signal.SIGINT), 3, 3)]}
    changes = {"accumulate": 2, "out": out, "trainer": arguments["trainer"] | callbacks}
    with pytest.raises(KeyboardInterrupt):
        run(TrainConfig(**arguments | changes), console)
    assert saved_steps(out) == 2
    assert "Stopped in epoch 2/3, step 3. Go on after the last checkpoint: " in console.file.getvalue()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_killed_after_a_save_within_an_epoch_ends_in_the_same_weights(
    arguments: dict, whole: Path, tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = arguments | {"accumulate": accumulate}
    if accumulate > 1:
        whole = run(TrainConfig(**arguments | {"out": tmp_path / "whole"}), quiet())
    monkeypatch.setattr("oddetr.training.records.recorder.SAVE_EVERY", 0.0)
    out, killed = tmp_path / "resumed", 6 // accumulate
    callbacks = {"callbacks": [Act(kill, killed)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments | {"out": out, "trainer": arguments["trainer"] | callbacks}), quiet())
    assert saved_steps(out) == killed
    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    assert_equal(whole, out)
