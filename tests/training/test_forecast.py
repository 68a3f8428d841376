import re
from pathlib import Path

import pytest
import torch

from oddetr.distillation.task import DistillationTask
from oddetr.structures import Batch
from oddetr.training.config import TrainConfig
from oddetr.training.plan import forecast as room
from oddetr.training.plan.forecast import Forecast
from oddetr.training.run import run
from tests.training.helpers import assert_same_weights, quiet


def test_forecast_is_shown_in_minutes_or_hours() -> None:
    short, long = Forecast(0.5, 2499, 14.0, 16), Forecast(2.0, 9000, 0.25, 3)
    assert str(short) == "about 25 minutes: 2,499 batches of 0.5 s, 16 validations of 14 s"
    assert str(long) == "about 5.0 hours: 9,000 batches of 2 s, 3 validations of 0.25 s"


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
