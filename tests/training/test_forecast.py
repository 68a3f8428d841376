import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.task import DistillationTask
from oddetr.structures import Batch
from oddetr.training.config import TrainConfig
from oddetr.training.plan import forecast as room
from oddetr.training.plan.forecast import Forecast
from oddetr.training.run import run


def trained(config: TrainConfig) -> tuple[str, dict[str, torch.Tensor]]:
    console = Console(file=io.StringIO(), width=300)
    folder = run(config, console)
    return console.file.getvalue(), load_file(folder / "last" / "model.safetensors")


def test_a_forecast_is_printed_and_changes_no_weights(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny |= {"epochs": 3, "validate_every": 2, "accumulate": 2, "batch_size": 2}
    silent, expected = trained(TrainConfig(**tiny))
    monkeypatch.setattr(room, "LEAST", 1)
    told, found = trained(TrainConfig(**tiny | {"out": tmp_path / "other"}))

    assert "time:" not in silent
    assert re.search(r"time: about 0 minutes: 12 batches of [\d.e-]+ s, 2 validations of [\d.e-]+ s", told)
    assert all(value.equal(found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("forecast", "text"),
    [
        (Forecast(0.5, 2499, 14.0, 16), "about 25 minutes: 2,499 batches of 0.5 s, 16 validations of 14 s"),
        (Forecast(2.0, 9000, 0.25, 3), "about 5.0 hours: 9,000 batches of 2 s, 3 validations of 0.25 s"),
    ],
)
def test_forecast_is_shown_in_minutes_or_hours(forecast: Forecast, text: str) -> None:
    assert str(forecast) == text


def test_the_cost_of_distillation_is_a_median_that_outliers_do_not_move(
    tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of its own: a distilled step takes 3, the baseline's 2; the second step and the sixth take 10 longer."""
    now, steps = 0.0, 0
    forward = DistillationTask.forward

    def slow(self: DistillationTask, batch: Batch) -> dict[str, torch.Tensor]:
        nonlocal now, steps
        steps += 1
        now += (3.0 if self.distillation.enabled else 2.0) + 10.0 * (steps in (2, 6))
        return forward(self, batch)

    monkeypatch.setattr(DistillationTask, "forward", slow)
    monkeypatch.setattr(room, "LEAST", 1)
    monkeypatch.setattr(room, "WARM", 0)
    monkeypatch.setattr(room, "SECONDS", 1e9)
    monkeypatch.setattr(room, "_now", lambda _: now)
    folder = run(TrainConfig(**tiny | {"epochs": 1, "batch_size": 2}), Console(file=io.StringIO()))

    told = json.loads((folder / "beginning.json").read_text())["forecast"]
    assert told["cost_low"] == told["cost"] == 1.5  # of 1.5, 1.5, 1.5 and 13 / 2
    assert told["cost_high"] == 2.75
    assert told["batch"] == (4 * 3 + 10) / 4


def test_a_baseline_has_no_cost_of_distillation(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEAST", 1)
    folder = run(
        TrainConfig(**tiny | {"epochs": 1, "distillation": DistillationConfig(enabled=False)}),
        Console(file=io.StringIO()),
    )

    assert json.loads((folder / "beginning.json").read_text())["forecast"]["cost"] is None
