"""Runs that stop without a gain, and runs that fill a given time."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oddetr.distillation.task import DistillationTask
from oddetr.reporting.record import Record
from oddetr.structures import Batch
from oddetr.training import run as run_module
from oddetr.training.config import OptimizerConfig, TrainConfig, chosen
from oddetr.training.plan import forecast, hours
from oddetr.training.plan.forecast import Pace
from oddetr.training.plan.hours import VALIDATING, with_length
from oddetr.training.records.log import out_of_patience, read_events
from oddetr.training.run import run
from tests.training.helpers import assert_same_weights, events_without_times, killed_at, quiet

CPU = {"accelerator": "cpu"}


def epochs_of(out: Path) -> list[int]:
    return [event["epoch"] for event in read_events(out) if event["kind"] == "epoch"]


@pytest.mark.parametrize(
    ("aps", "patience", "expected"),
    [
        ({1: 0.2, 2: 0.5, 4: 0.5, 6: 0.1}, 2, "no better AP for 2 validations, best 0.500 after epoch 2"),
        ({1: 0.2, 2: 0.5, 4: 0.5, 6: 0.1}, 3, ""),
        ({1: 0.2, 2: 0.1, 3: 0.3}, 1, ""),
        ({1: 0.2, 2: 0.1}, 0, ""),
        ({}, 1, ""),
    ],
)
def test_patience_counts_the_validations_since_the_best(aps: dict[int, float], patience: int, expected: str) -> None:
    assert out_of_patience(aps, patience) == expected


def test_a_run_out_of_patience_ends_as_a_finished_one_also_when_it_is_resumed(tiny: dict) -> None:
    """At no learning rate every AP is the first one's; the third epoch is trained after a resume."""
    out, still = tiny["out"], OptimizerConfig(learning_rate=1e-15)
    arguments = tiny | {"epochs": 9, "patience": 2, "optimizer": still, "image_size": 64}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**arguments | {"trainer": CPU | {"callbacks": [killed_at(4)]}}), quiet())
    assert epochs_of(out) == [1, 2]
    for words in ("\nstopped: no better AP for 2 validations, best 0.", "The run is finished: no better AP for 2 vali"):
        console = quiet()
        assert run(TrainConfig(out=out, resume=True, trainer=CPU), console) == out
        assert words in console.file.getvalue()
        assert epochs_of(out) == [1, 2, 3]
    assert {path.name for path in out.iterdir()} >= {"best", "last"}
    assert Record.read(out).finished


@pytest.mark.parametrize("validate_every", [None, 1, 3])
@pytest.mark.parametrize(
    ("batches", "seconds", "pace"),
    [
        (75, 3600.0, Pace(0.5, 10.0, 0.5)),
        (4, 180.0, Pace(0.2, 0.4, 0.3)),
        (7400, 9000.0, Pace(0.9, 120.0, 3.0)),
        (7400, 9000.0, Pace(0.9, 600.0, 3.0)),
        (2, 300_000.0, Pace(0.1, 0.1, 0.0)),
    ],
)
def test_the_length_fills_the_hours(batches: int, seconds: float, pace: Pace, validate_every: int | None) -> None:
    config = TrainConfig(data="photos", hours=seconds / 3600, validate_every=validate_every)
    planned, reason = with_length(config, pace, batches, seconds)

    epochs, each = chosen(planned.epochs), planned.trainer.get("limit_train_batches", batches)
    validations = -(-epochs // chosen(planned.validate_every))
    validating = pace.validation * validations
    assert epochs * (each * pace.batch + pace.saving) + validating == pytest.approx(seconds, rel=0.025)
    assert 1 <= each <= batches
    if validate_every is None and validations > 1:
        assert validating <= VALIDATING * seconds * 1.01
    assert f"{epochs:,} epochs of {each:,} batches" in reason
    assert planned.hours is None


def test_hours_in_which_nothing_fits_are_refused() -> None:
    words = r"hours is 0\.01: of that 20 s are left to train, but a step takes 8 s and a validation .* 13 s\. Give more"
    with pytest.raises(ValueError, match=words):
        with_length(TrainConfig(hours=0.01, accumulate=4), Pace(2.0, 12.0, 1.0), 100, 20.0)


def test_a_run_of_hours_is_that_of_its_epochs_and_is_resumed_by_the_same_command(
    tiny: dict, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own a batch takes a thousand seconds; `trained` is the run of one epoch of two batches."""
    now, forward = 0.0, DistillationTask.forward

    def slow(self: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal now
        now += 1000.0
        return forward(self, batch)

    monkeypatch.setattr(DistillationTask, "forward", slow)
    monkeypatch.setattr(forecast, "_now", lambda _: now)
    given = TrainConfig(**tiny | {"epochs": None, "hours": 2000 / 3600})
    console = quiet()
    out = run(given, console)
    words = r"chosen: 0\.5\d* hours: 1 epochs of 2 batches, 1e\+03 s each; 1 validations"
    assert re.search(words, console.file.getvalue())
    assert_same_weights(trained, out)
    recorded = json.loads((out / "config.json").read_text())
    assert (recorded["epochs"], recorded["hours"]) == (1, None)
    assert not [path for path in out.iterdir() if path.name.startswith("timing")]
    run(TrainConfig(**vars(given) | {"resume": True}), console)
    assert "The run is finished: all its 1 epochs are done" in console.file.getvalue()


class Clock:
    """A clock that only batches move: one second each while the pace is measured, then `real` seconds."""

    def __init__(self, real: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step, self.real = 0.0, 1.0, real
        forward, clock = DistillationTask.forward, SimpleNamespace(monotonic=lambda: self.now)

        def ticking(task: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
            self.now += self.step
            return forward(task, batch)

        monkeypatch.setattr(DistillationTask, "forward", ticking)
        monkeypatch.setattr(forecast, "_now", lambda _: self.now)
        monkeypatch.setattr(hours, "time", SimpleNamespace(**vars(clock), perf_counter=clock.monotonic))
        monkeypatch.setattr(run_module, "time", clock)
        monkeypatch.setattr(run_module, "with_length", self.chosen_length)

    def chosen_length(self, config: TrainConfig, pace: Pace, batches: int, seconds: float) -> Any:
        """Start the run's twenty seconds after the measurement."""
        self.now, self.step = 0.0, self.real
        return with_length(config, pace, batches, 20.0)


@pytest.mark.parametrize("real", [1.5, 0.6])
def test_a_run_keeps_to_its_hours_on_a_machine_that_changes_its_speed(
    tiny: dict, real: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(real, monkeypatch)
    out = run(TrainConfig(**tiny | {"epochs": None, "hours": 20 / 3600, "validate_every": 2}), quiet())
    assert clock.now == pytest.approx(20, rel=0.08)
    rates = [event["learning_rate"] for event in read_events(out) if event["kind"] == "train"]
    assert rates[-1] < 0.05 * max(rates)


def test_a_run_of_hours_keeps_to_the_users_limit_of_batches(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster machine makes more epochs of one batch, and none of the two that there are."""
    Clock(0.5, monkeypatch)
    limited = CPU | {"limit_train_batches": 1}
    out = run(
        TrainConfig(**tiny | {"epochs": None, "hours": 20 / 3600, "validate_every": 9, "trainer": limited}), quiet()
    )
    last = read_events(out)[-1]
    assert last["step"] == last["epoch"] > 20


def test_a_resumed_run_keeps_the_plan_of_its_checkpoint(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten epochs of two batches, three are trained before the machine is lost; the others have one batch each."""
    Clock(2.0, monkeypatch)
    killed = CPU | {"callbacks": [killed_at(6)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"epochs": None, "hours": 20 / 3600, "validate_every": 5, "trainer": killed}), quiet())
    run(TrainConfig(out=tiny["out"], resume=True, trainer=CPU), quiet())
    last = read_events(tiny["out"])[-1]
    assert (last["epoch"], last["step"]) == (10, 2 + 9)


def test_batches_that_the_memory_cannot_hold_are_halved_and_the_steps_stay(
    tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DistillationTask.forward

    def small_memory(self: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
        if len(batch.image_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, batch)

    monkeypatch.setattr(DistillationTask, "forward", small_memory)
    most, console = 2, quiet()
    out = run(TrainConfig(**tiny | {"epochs": 1, "image_size": 64}), console)
    recorded = json.loads((out / "config.json").read_text())
    assert (recorded["batch_size"], recorded["accumulate"]) == (2, 2)
    assert [event["step"] for event in read_events(out) if event["kind"] == "epoch"] == [2]
    assert "too small for batches of 4 images of 64 px (CUDA out of memory)." in console.file.getvalue()
    assert "--gradient-checkpointing true" in console.file.getvalue()
    assert "Starting again with --batch-size 2 --accumulate 2." in console.file.getvalue()
    most = 0
    one = {"epochs": 1, "image_size": 64, "batch_size": 3, "gradient_checkpointing": True, "out": out / "other"}
    with pytest.raises(RuntimeError, match=r"batches of 1 images of 64 px .* Train smaller images \(--image-size\)\.$"):
        run(TrainConfig(**tiny | one), quiet())


def test_gradient_checkpointing_changes_no_bit_of_a_run_and_a_resumed_run_may_begin_with_it(tiny: dict) -> None:
    """The batch norms learn, and there is dropout."""
    tiny |= {"epochs": 2, "image_size": 64, "batch_size": 2}
    whole = run(TrainConfig(**tiny), quiet())
    out = whole.with_name("resumed")
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": CPU | {"callbacks": [killed_at(6)]}}), quiet())
    run(TrainConfig(out=out, resume=True, gradient_checkpointing=True, trainer=CPU), quiet())
    assert json.loads((out / "config.json").read_text())["gradient_checkpointing"]
    assert_same_weights(whole, out)
    assert events_without_times(whole) == events_without_times(out)


def test_parts_at_random_weights_are_not_frozen(tiny: dict) -> None:
    with pytest.raises(ValueError, match="freeze is backbone, but it would start, and stay, at random weights"):
        run(TrainConfig(**tiny | {"freeze": "backbone"}), quiet())
