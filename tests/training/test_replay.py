"""Trainings that meet NaN, what they leave, and `oddetr replay`."""

import dataclasses
import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule

import oddetr
from oddetr.cli import main
from oddetr.common.durable import WriteError
from oddetr.distillation import DistillationTask
from oddetr.distillation.config import DistillationConfig
from oddetr.losses.detection import LossConfig
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from oddetr.training.safety.replay import ReplayError
from tests.helpers import small_replay
from tests.training.helpers import AtSteps, assert_same_weights, events_without_times, killed_at, quiet, weights


def spoiled_images(*steps: int) -> AtSteps:
    """Images become NaN, with all that comes of them: batch norms' statistics, too."""
    return AtSteps(lambda module, batch: batch.images.fill_(float("nan")), *steps)


def failed(config: TrainConfig, **changes: Any) -> tuple[Path, str]:
    """A training that ends in an error; its replay file and the error."""
    with pytest.raises(FloatingPointError) as caught:
        run(dataclasses.replace(config, **changes), quiet())
    (file,) = config.out.glob("replay_*")
    assert f"oddetr replay {file}" in str(caught.value)
    return file, str(caught.value)


def test_replay_of_an_overflowing_gradient_is_the_runs_step_to_the_bit(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight of the loss so great that the sum of the gradient's squares is infinite; dropout is on."""
    file, error = failed(config, loss=LossConfig(l1=1e30), accumulate=2, batch_size=2)
    assert re.search(r"batch 0\), images with the ids \d, \d \(train/[\w-]+.png, train/[\w-]+.png\): ", error)
    assert "its gradient is not" in error
    report = oddetr.replay(file)
    (trial,) = report.trials
    assert report.reproduced
    assert trial.parts == report.recorded
    assert trial.norm == float("inf")
    assert not trial.losses
    assert report.before == ()
    assert main(["replay", str(file)]) == 0
    assert "its gradient is not: only its norm" in capsys.readouterr().out


def test_replay_names_the_first_module_that_overflows_and_what_fp32_does(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight is set to a finite value that makes infinity of any image."""
    buffers: dict[str, torch.Tensor] = {}

    def overflow(module: LightningModule, _: Any) -> None:
        buffers.update({name: value.clone() for name, value in module.task.named_buffers()})
        module.task.student.encoder.layers[0].linear1.weight.data.fill_(3e38)

    file, error = failed(config, precision="bf16", trainer=config.trainer | {"callbacks": [AtSteps(overflow, 1)]})
    assert "Step 1 (epoch 1, batch 1)" in error
    report = oddetr.replay(str(file))
    assert report.place.step == 1
    assert report.before == ()
    assert [trial.precision for trial in report.trials] == ["bf16", "fp32"]
    for trial in report.trials:
        assert trial.module == "student.encoder.layers.0.linear1"
        assert len(trial.images) == 4
        assert trial.gradients
    kept = torch.load(file, weights_only=True)["task"]
    assert all(value.equal(kept[name]) for name, value in buffers.items())
    assert main(["replay", str(file)]) == 0
    lines = " ".join(capsys.readouterr().out.split())
    assert "the first module whose output is not finite: student.encoder.layers.0.linear1" in lines
    assert "again, fp32" in lines


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_replay(tmp_path_factory.mktemp("small"))


def rewritten(small: Path, file: Path, **changes: Any) -> Path:
    """The replay file with other facts or tensors."""
    content = torch.load(small, weights_only=True)
    facts = json.loads(content["oddetr replay"])
    batch = content["batch"] | {name: value for name, value in changes.items() if name in content["batch"]}
    facts |= {name: value for name, value in changes.items() if name not in batch}
    torch.save(content | {"oddetr replay": json.dumps(facts), "batch": batch}, file)
    return file


def test_a_file_that_cannot_be_computed_is_refused_with_the_reason(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other")
    (tmp_path / "torn").write_bytes(small.read_bytes()[:-1000])
    rewritten(small, tmp_path / "newer", format=2)
    rewritten(small, tmp_path / "place", place={"step": "first"})
    rewritten(small, tmp_path / "labels", labels=torch.tensor([[50, 0], [-1, -1]]))
    for name in ("other", "torn", "newer", "place", "labels"):
        with pytest.raises(ReplayError, match=rf"{name} cannot be computed on cpu: .*Give a replay_step_N\.pt"):
            oddetr.replay(tmp_path / name)
    with pytest.raises(ReplayError, match="There is no file nowhere"):
        oddetr.replay("nowhere")
    with pytest.raises(ReplayError, match=r"cannot be computed on cpu:x"):
        oddetr.replay(small, "cpu:x")
    monkeypatch.setattr(DistillationTask, "forward", Mock(side_effect=RuntimeError("no memory is left")))
    with pytest.raises(ReplayError, match=r"cannot be computed on cpu: RuntimeError: no memory is left\."):
        oddetr.replay(small)


def test_a_step_that_is_finite_again_is_not_reproduced_and_unknown_parts_are_shown(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of earlier versions have the number of images."""
    file = rewritten(small, tmp_path / "old.pt", step_images=2, parts={"loss": 0.5, "loss_of_another": 1})
    assert main(["replay", str(file)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"loss_of_another\W+1\W+-\W", printed)
    assert "in fp32: all is finite" in printed
    assert "NOT reproduced" in printed


def test_nothing_stays_of_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, stream: io.BufferedWriter) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="No space left on device"):
        small_replay(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_continues_with_skip_and_a_resumed_one_ends_in_the_same_weights_and_counts(tiny: dict) -> None:
    """Three epochs of four steps, three of them spoiled: two before and one after the run is killed. The batch norms
    learn. Without skipping, the first spoiled step stops the run and leaves a replay file."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny |= {"batch_size": 2, "epochs": 3, "validate_every": 3, "image_size": 64}
    console = quiet()
    spoil = {"callbacks": [spoiled_images(4, 6, 11)]}
    whole = run(TrainConfig(**tiny | {"non_finite": "skip", "trainer": tiny["trainer"] | spoil}), console)
    lines = console.file.getvalue()
    assert lines.count("skipped: Step 4 (epoch 2, batch 0)") == lines.count("skipped: ") == 1
    assert "skipped steps 2  " in lines
    assert "skipped steps: 3" in lines
    events = read_events(whole)
    assert [event["skipped_steps"] for event in events if event["kind"] == "epoch"] == [0, 2, 3]
    assert all(0 < event["loss"] < 100 for event in events if event["kind"] == "train")
    assert all(value.isfinite().all() for value in weights(whole).values() if value.is_floating_point())
    state = torch.load(whole / "last" / "resume.ckpt", weights_only=True)
    assert state["state_dict"]["task.teacher._extra_state"] == {"steps": 12}
    assert {int(each["step"]) for each in state["optimizer_states"][0]["state"].values()} == {12 - 3}

    out = tiny["out"].with_name("resumed")
    stopped = TrainConfig(**tiny | {"out": out, "trainer": tiny["trainer"] | {"callbacks": [spoiled_images(4)]}})
    file, _ = failed(stopped)
    assert oddetr.replay(file).before == ("images",)
    resumed = {"out": out, "resume": True, "non_finite": "skip"}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**resumed, trainer={"callbacks": [spoiled_images(4, 6), killed_at(9)]}), quiet())
    run(TrainConfig(**resumed, trainer={"accelerator": "cpu", "callbacks": [spoiled_images(11)]}), quiet())
    assert_same_weights(whole, out)
    assert events_without_times(whole)[2:] == events_without_times(out)[2:]
    assert [[file.name for file in each.glob("replay_*")] for each in (whole, out)] == [["replay_step_4.pt"]] * 2
