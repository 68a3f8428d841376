import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from oddetr.distillation.task import DistillationTask
from oddetr.structures import Batch
from oddetr.training.config import TrainConfig
from oddetr.training.plan import forecast as room
from oddetr.training.plan.forecast import Forecast
from oddetr.training.run import run
from tests.training.test_run import weights


@pytest.mark.parametrize(
    ("forecast", "text"),
    [
        (Forecast(0.5, 2499, 14.0, 16), "about 25 minutes: 2,499 batches of 0.5 s, 16 validations of 14 s"),
        (Forecast(2.0, 9000, 0.25, 3), "about 5.0 hours: 9,000 batches of 2 s, 3 validations of 0.25 s"),
    ],
)
def test_forecast_is_shown_in_minutes_or_hours(forecast: Forecast, text: str) -> None:
    assert str(forecast) == text


def test_a_forecast_times_steps_and_changes_no_weights(
    tiny: dict, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of its own: a distilled step takes 3 seconds, the baseline's 2. `trained` is this run without it."""
    now = 0.0
    forward = DistillationTask.forward

    def slow(self: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal now
        now += 3.0 if self.distillation.enabled else 2.0
        return forward(self, batch)

    monkeypatch.setattr(DistillationTask, "forward", slow)
    monkeypatch.setattr(room, "LEAST", 1)
    monkeypatch.setattr(room, "_now", lambda _: now)
    console = Console(file=io.StringIO(), width=300)
    folder = run(TrainConfig(**tiny | {"epochs": 1}), console)

    assert re.search(r"time: about 0 minutes: 2 batches of 3 s, 1 validations of 0 s", console.file.getvalue())
    found = json.loads((folder / "plan.json").read_text())["forecast"]
    assert found["cost_low"] == found["cost"] == found["cost_high"] == 1.5
    for file in ("student.safetensors", "model.safetensors"):
        expected = weights(trained, file)
        assert all(value.equal(expected[name]) for name, value in weights(folder, file).items())
