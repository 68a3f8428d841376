import re
from pathlib import Path

import pytest
import torch

from oddetr.distillation.task import DistillationTask
from oddetr.structures import Batch
from oddetr.training.config import TrainConfig
from oddetr.training.plan import forecast as room
from oddetr.training.plan.forecast import Pace, forecast
from oddetr.training.run import run
from tests.training.helpers import assert_same_weights, quiet


def test_forecast_is_shown_in_minutes_or_hours() -> None:
    config = TrainConfig(epochs=16, validate_every=1, trainer={"limit_train_batches": 156})
    short = forecast(Pace(0.5, 14.0), config, 2499)
    assert short == "about 25 minutes: 2,496 batches of 0.5 s, 16 validations of 14 s"
    long = forecast(Pace(2.0, 0.25), TrainConfig(epochs=10, validate_every=4), 900)
    assert long == "about 5.0 hours: 9,000 batches of 2 s, 3 validations of 0.25 s"


def test_a_forecast_times_steps_and_changes_no_weights(
    tiny: dict, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of its own: a step takes 3 seconds. `trained` is this run without a forecast."""
    now = 0.0
    forward = DistillationTask.forward

    def slow(self: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal now
        now += 3.0
        return forward(self, batch)

    monkeypatch.setattr(DistillationTask, "forward", slow)
    monkeypatch.setattr(room, "LEAST", 1)
    monkeypatch.setattr(room, "_now", lambda _: now)
    console = quiet()
    folder = run(TrainConfig(**tiny | {"epochs": 1}), console)
    assert re.search(r"time: about 0 minutes: 2 batches of 3 s, 1 validations of 0 s", console.file.getvalue())
    assert_same_weights(trained, folder)
