import csv
import json
from pathlib import Path

import pytest
import torch

from oddetr.training.records.log import RunLog, Speed, StepMeans, read_events, table_row
from oddetr.training.records.logged import logged_values
from oddetr.training.records.recorder import Recorder


def test_a_part_is_averaged_over_the_steps_that_have_it() -> None:
    means = StepMeans(100)
    for step in range(101, 121):
        lesson = {"lesson": torch.tensor(1.0)} if step <= 103 else {}
        means.add({"loss": torch.tensor(2.0)} | lesson, step)
    assert means.steps(120) == 20
    assert means.read(120) == {"loss": 2.0, "lesson": 1.0}
    means.add({"loss": torch.tensor(3.0)}, 121)
    assert means.read(121) == {"loss": 3.0}
    assert means.read(121) == {}


def test_shares_of_accumulated_batches_make_one_step() -> None:
    """Two steps of two batches; in the second, only one batch has the part."""
    means = StepMeans()
    for step, share in ((0, 0.25), (1, 0.75), (1, None), (2, 0.5)):
        part = {} if share is None else {"part": torch.tensor(share)}
        means.add({"loss": torch.tensor(0.5)} | part, step)
    assert means.read(2) == {"loss": 1.0, "part": 0.75}


def test_speed_counts_steps_and_waiting_but_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """On at 10, steps 13-14 and 15-17, a pause, on at 100, step 101-105: waiting 3 + 1 + 1, working 1 + 2 + 4."""
    times = iter([10.0, 13.0, 14.0, 15.0, 17.0, 100.0, 101.0, 105.0])
    monkeypatch.setattr("oddetr.training.records.log.time.perf_counter", lambda: next(times))
    speed = Speed()
    speed.go_on()
    for _ in range(2):
        speed.step_begins()
        speed.step_ends(4)
    speed.pause()
    speed.go_on()
    speed.step_begins()
    speed.step_ends(4)
    assert speed.seconds == 12.0
    assert speed.images_per_second == 1.0
    assert speed.waiting_share == pytest.approx(5 / 12)


def test_a_row_names_columns_by_model() -> None:
    scores = {"AP": 0.5, "APl": None, "per_class": {"car": 0.4}, "unstable_score": [0.1], "instability": [1.0, 2.0]}
    event = {"kind": "epoch", "epoch": 2, "teacher": scores | {"normalised_instability": [0.3, 0.2]}}
    assert table_row(event) == {
        "epoch": 2,
        "teacher AP": 0.5,
        "teacher APl": None,
        "teacher normalised instability": 0.2,
        "teacher AP car": 0.4,
    }


def test_a_row_of_the_first_validation_or_none_has_no_instability() -> None:
    scores = {"AP": 0.5, "per_class": {}, "unstable_score": [], "instability": None, "normalised_instability": None}
    assert table_row({"kind": "epoch", "student": scores}) == {
        "student AP": 0.5,
        "student normalised instability": None,
    }
    assert table_row({"kind": "epoch", "epoch": 1}) == {"epoch": 1}


def test_skipped_steps_do_not_count_in_the_means() -> None:
    """Three steps of two batches; the second is not finite, in its first batch."""
    means, nan = StepMeans(), float("nan")
    for step, share in ((0, 1.0), (1, 2.0), (1, nan), (2, 1.0), (2, 3.0), (3, 4.0)):
        means.add({"loss": torch.tensor(share)}, step, left_out=step == 2 and share == 1.0)
    assert means.steps(3) == 3
    assert means.read(3) == {"loss": 5.0}


def test_an_epoch_loses_only_the_scores_that_are_unknown_or_damaged(tmp_path: Path) -> None:
    scores = {"AP": 0.5, "per_class": {"cat": 0.5, "dog": 0.4}, "normalised_instability": [0.2, 0.1]}
    odd = {"AP_by_size": {"small": 0.1}, "AP50": [0.2], "AR": "high", "of tomorrow": 0.3}
    odd |= {"instability": {"layer 1": 2.0}, "unstable_score": [0.1, "x"]}
    classes = {"per_class": {"cat": 0.5, "dog": {"AP": 0.4}}}
    epoch = {"kind": "epoch", "step": 4, "epoch": 1, "seconds": 9.0}
    events = [
        epoch | {"teacher": scores | odd, "student": scores | classes, "gpu": {"peak": 1}},
        epoch | {"teacher": {"AP": 0.9}, "student": "none"},
        {"kind": "train", "step": 5, "loss": 0.5, "loss_by_layer": [0.1, 0.4]},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    first, second, third = read_events(tmp_path)
    assert first["teacher"] == scores | {"of tomorrow": 0.3, "unstable_score": [0.1, None]}
    assert first["student"] == scores | {"per_class": {"cat": 0.5}}
    assert second == epoch | {"teacher": {"AP": 0.9, "per_class": {}, "normalised_instability": None}}
    assert third == {"kind": "train", "step": 5, "loss": 0.5}
    assert Recorder(tmp_path, lambda epoch, scores: None, steps_done=4).best == 0.9
    RunLog(tmp_path, steps_done=4).add(epoch | {"step": 8, "epoch": 2})
    rows = [*csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())]
    assert [row["teacher AP"] for row in rows] == ["0.5", "0.9", ""]
    assert logged_values(first)["val/teacher/AP"] == 0.5
