"""The example that trains OD-DETR in a loop of plain PyTorch."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal.py"


def test_minimal_example_trains_and_scores_student_and_teacher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["minimal.py", "--steps", "2", "--scenes", "8"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    told = capsys.readouterr().out
    assert re.search(r"step 2/2  loss \d+\.\d\d .* auxiliary_l1 0\.\d\d", told)
    assert re.search(r"student: AP 0\.\d{3}", told)
    assert re.search(r"teacher: AP 0\.\d{3}", told)
