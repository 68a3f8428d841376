import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from oddetr.training import forecast as room
from oddetr.training.config import TrainConfig
from oddetr.training.forecast import Forecast
from oddetr.training.run import run


def trained(config: TrainConfig) -> tuple[str, dict[str, torch.Tensor]]:
    console = Console(file=io.StringIO(), width=300)
    folder = run(config, console)
    return console.file.getvalue(), load_file(folder / "last" / "model.safetensors")


def test_run_when_it_is_forecast_then_says_how_long_and_its_weights_are_the_same(
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
def test_forecast_when_shown_then_in_minutes_or_hours(forecast: Forecast, text: str) -> None:
    assert str(forecast) == text
