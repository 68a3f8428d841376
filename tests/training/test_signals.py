"""Runs that are killed or stopped, and resumed: they end in the weights and records of the run that nothing stopped."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.data.transforms import STRONG, AugmentConfig
from oddetr.distillation.config import DistillationConfig
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.training.helpers import AtSteps, assert_same_weights, events_without_times, killed_at, quiet, weights

CPU = {"accelerator": "cpu"}


def saved_steps(out: Path) -> int:
    return torch.load(out / "last" / "resume.ckpt", weights_only=True)["global_step"]


def send(number: signal.Signals, *steps: int) -> AtSteps:
    return AtSteps(lambda *_: signal.raise_signal(number), *steps)


@pytest.fixture(scope="module")
def arguments(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of a run of three epochs of four steps, of which the second and the last are validated. The rate is high, so that
    matchings change; the teacher averages, so that it is not the student."""
    return tiny_arguments(scenes, tmp_path_factory.mktemp("stopping") / "whole") | {
        "optimizer": OptimizerConfig(learning_rate=5e-3),
        "distillation": DistillationConfig(horizon=3.0),
        "batch_size": 2,
        "epochs": 3,
        "validate_every": 2,
        "image_size": 64,
        "augment": AugmentConfig(**dict.fromkeys(STRONG, 0.5), strong_until=0.7),
    }


@pytest.fixture(scope="module")
def whole(arguments: dict) -> Path:
    """The folder of the run that nothing stops."""
    return run(TrainConfig(**arguments), quiet())


def resume(out: Path) -> Path:
    return run(TrainConfig(out=out, resume=True, trainer=CPU), quiet())


def test_a_run_killed_between_saves_ends_in_the_same_weights_and_records(
    arguments: dict, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "resumed"
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments | {"out": out, "trainer": CPU | {"callbacks": [killed_at(10)]}}), quiet())
    assert saved_steps(out) == 8
    resume(out)
    assert_same_weights(whole, out, "last", "best")
    assert not all(value.equal(weights(whole)[name]) for name, value in weights(whole, "model.safetensors").items())
    events = read_events(whole)
    assert events_without_times(whole) == events_without_times(out)
    for model in ("teacher", "student"):
        first, *changes = (event[model]["instability"] for event in events if model in event)
        assert first is None
        assert any(change > 0 for layers in changes for change in layers)
    for times in ("seconds", "training_seconds"):
        passed = [event[times] for event in read_events(out) if event["kind"] == "epoch"]
        assert passed == sorted(passed)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 0), (signal.SIGINT, 5), (signal.SIGINT, 11)])
def test_a_signal_saves_within_the_epoch_and_the_resumed_run_ends_alike(
    arguments: dict, whole: Path, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    """After the last step the validation follows, and the run is over: nothing is stopped."""
    out, console = tmp_path / "resumed", quiet()
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stopped = TrainConfig(**arguments | {"out": out, "trainer": CPU | {"callbacks": [send(number, step)]}})
    if step == 11:
        run(stopped, console)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(stopped, console)
        assert "Stopping after this step, with a checkpoint" in console.file.getvalue()
        assert f"step {step + 1}. Go on after this step: oddetr train --out {out} --resume" in console.file.getvalue()
        assert saved_steps(out) == step + 1
        resume(out)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_same_weights(whole, out)


def test_a_second_signal_ends_the_run_at_once_and_the_message_says_how_to_resume(
    arguments: dict, tmp_path: Path
) -> None:
    """With two accumulated batches a step: the second epoch has the steps 2 and 3."""
    out, console = tmp_path / "run", quiet()
    changes: dict[str, Any] = {"accumulate": 2, "out": out}
    changes["trainer"] = CPU | {"callbacks": [send(signal.SIGINT, 3, 3)]}
    with pytest.raises(KeyboardInterrupt):
        run(TrainConfig(**arguments | changes), console)
    assert saved_steps(out) == 2
    assert "Stopped in epoch 2/3, step 3. Go on after the last checkpoint: " in console.file.getvalue()


def test_a_run_killed_after_a_save_within_an_accumulated_epoch_ends_in_the_same_weights(
    arguments: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddetr.training.saving.SAVE_EVERY", 0.0)
    whole, out = tmp_path / "whole", tmp_path / "resumed"
    run(TrainConfig(**arguments | {"accumulate": 2, "out": whole}), quiet())
    changes = {"accumulate": 2, "out": out, "trainer": CPU | {"callbacks": [killed_at(3)]}}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments | changes), quiet())
    assert saved_steps(out) == 3
    resume(out)
    assert_same_weights(whole, out)
