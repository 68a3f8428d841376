"""The example that trains OD-DETR in a loop of plain PyTorch."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal.py"


def test_minimal_example_lowers_the_loss_and_scores_both_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["minimal.py", "--steps", "12", "--scenes", "8", "--rate", "3e-4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    told = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", told)]
    assert losses[-1] < losses[0]
    assert re.search(r"student: AP 0\.\d{3}", told)
    assert re.search(r"teacher: AP 0\.\d{3}", told)
