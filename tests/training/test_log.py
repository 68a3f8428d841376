import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.training.config import TrainConfig
from oddetr.training.plan.preparation import Prepared
from oddetr.training.records.log import RunLog, Speed, StepMeans, read_events
from oddetr.training.records.logged import best_values, logged_values, plain_names
from oddetr.training.saving import Recorder
from tests.models.helpers import SMALL, small_detector


def test_means_sum_the_batches_of_a_step_and_leave_out_skipped_steps_and_missing_parts() -> None:
    """Three steps of two batches; the second is not finite, in its first batch; in the third only one has the part."""
    means, nan = StepMeans(), float("nan")
    for step, share in ((0, 0.25), (1, 0.75), (1, nan), (2, 1.0), (2, None), (3, 0.5)):
        part = {} if share is None else {"part": torch.tensor(share)}
        means.add({"loss": torch.tensor(0.5)} | part, step, skipped=step == 2 and share == 1.0)
    assert means.steps(3) == 3
    assert means.read(3) == {"loss": 1.0, "part": 0.75}
    assert means.read(3) == {}


def test_speed_counts_steps_and_waiting_but_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start at 10, steps 13-14 and 15-17, a pause, start at 100, step 101-105: waiting 3 + 1 + 1, working 1 + 2 + 4."""
    times = iter([10.0, 13.0, 14.0, 15.0, 17.0, 100.0, 101.0, 105.0])
    monkeypatch.setattr("oddetr.training.records.log.time.perf_counter", lambda: next(times))
    speed = Speed()
    speed.start_waiting()
    for _ in range(2):
        speed.start_step()
        speed.end_step(4)
    speed.pause()
    speed.start_waiting()
    speed.start_step()
    speed.end_step(4)
    assert (speed.seconds, speed.images_per_second) == (12.0, 1.0)
    assert speed.waiting_share == pytest.approx(5 / 12)


def test_an_epoch_loses_only_the_scores_that_are_unknown_or_damaged(tmp_path: Path) -> None:
    scores = {"AP": 0.5, "per_class": {"cat": 0.5, "dog": 0.4}, "normalised_instability": [0.2, 0.1]}
    odd = {"AP_by_size": {"small": 0.1}, "AP50": [0.2], "of tomorrow": 0.3, "unstable_score": [0.1, "x"]}
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
    RunLog(tmp_path, steps_done=4).add(epoch | {"step": 8, "epoch": 2})
    rows = [*csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())]
    assert [row["val/teacher/AP"] for row in rows] == ["0.5", "0.9", ""]


def test_torn_and_damaged_lines_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3, 4)]
    lines[1] = lines[1].replace("t", "\x00", 1)
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode()[:-5] + b"\xff")
    assert [event["step"] for event in read_events(tmp_path)] == [1, 3]
    RunLog(tmp_path, steps_done=3).add({"kind": "train", "step": 5})
    assert [event["step"] for event in read_events(tmp_path)] == [1, 3, 5]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_values_are_logged_under_their_kind_model_layer_and_class() -> None:
    teacher = {
        "AP": 0.5,
        "APl": None,
        "per_class": {"cat": 0.25, "dog/wolf": 0.75, "none": None},
        "instability": [3.0, 1.0],
        "normalised_instability": None,
        "unstable_score": [0.125],
    }
    event = {"kind": "epoch", "step": 40, "epoch": 2, "seconds": 9.0, "peak_memory_gib": math.nan, "teacher": teacher}
    assert logged_values(event) == {
        "epoch": 2.0,
        "epoch/seconds": 9.0,
        "val/teacher/AP": 0.5,
        "val/teacher/AP_per_class/cat": 0.25,
        "val/teacher/AP_per_class/dog_wolf": 0.75,
        "val/teacher/instability": 1.0,
        "val/teacher/instability_per_layer/1": 3.0,
        "val/teacher/instability_per_layer/2": 1.0,
        "val/teacher/unstable_score": 0.125,
        "val/teacher/unstable_score_per_layer/2": 0.125,
    }
    event = {"kind": "train", "step": 20, "epoch": 0, "loss": 2.0, "loss_l1": 1, "learning_rate": 1e-4}
    assert logged_values(event) == {"train/loss": 2.0, "train/loss_l1": 1.0, "train/learning_rate": 1e-4}
    best = {"epoch": 4, "metrics": {"teacher": {"AP": None}, "student": {"AP": 0.5}}}
    assert best_values(best) == {"best/epoch": 4.0, "best/student/AP": 0.5}


def test_class_names_become_plain_and_stay_different() -> None:
    names = ["cat", "a/b: c", "a.b? c", "a_b_ c_2", "..", "", "猫", "犬", " x ", "long" * 100]
    plain = plain_names(names)
    assert [*plain] == names
    assert [*plain.values()][:4] == ["cat", "a_b_ c", "a_b_ c_2", "a_b_ c_2_3"]
    assert (plain["猫"], plain["犬"], plain[" x "]) == ("__6", "__7", "x")
    assert len({*plain.values()}) == len(names)
    assert all(len(name) <= 210 for name in plain.values())


def test_a_resumed_recorder_knows_the_best_ap_and_the_time_passed(tmp_path: Path) -> None:
    """The last epoch is repeated: its scores are forgotten. One epoch was not validated, one has no AP."""
    rest: dict[str, Any] = {"per_class": {}, "normalised_instability": None}
    scores = [(0.1, 0.6), (0.3, 0.2), None, (None, None), (0.9, 0.9)]
    events = [
        {"kind": "epoch", "step": 10 * epoch, "epoch": epoch, "seconds": 9.0 * epoch, "training_seconds": 5.0 * epoch}
        | ({"teacher": rest | {"AP": pair[0]}, "student": rest | {"AP": pair[1]}} if pair else {})
        for epoch, pair in enumerate(scores, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    torch.save({"global_step": 40}, tmp_path / "resume.ckpt")
    new = Prepared(TrainConfig(), tmp_path, None, {}, small_detector("plain"), SMALL, {})
    recorder = Recorder(replace(new, state=tmp_path / "resume.ckpt"))
    assert recorder.best == 0.3
    assert recorder.trained == 20.0
    assert math.isnan(recorder.loss)
    assert Recorder(new).best == -1.0
