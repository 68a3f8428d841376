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
from lightning.pytorch import Callback, LightningModule, Trainer

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
from tests.training.test_run import StopAfter, quiet, weights, without_times


class SpoilImages(Callback):
    """The images of some batches are NaN, with all that comes of them: batch norms' statistics, too."""

    def __init__(self, *where: tuple[int, int]) -> None:
        self.where = where

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) in self.where:
            batch.images.fill_(float("nan"))


class Overflow(Callback):
    """Before one batch, sets a weight to a finite value that makes infinity of any image, and keeps the buffers."""

    buffers: dict[str, torch.Tensor]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.buffers = {name: value.clone() for name, value in pl_module.task.named_buffers()}
        if trainer.global_step == 1:
            pl_module.task.student.encoder.layers[0].linear1.weight.data.fill_(3e38)


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
    assert "batch 0), images with the ids" in error
    assert "its gradient is not" in error
    report = oddetr.replay(file)
    (trial,) = report.trials
    assert report.reproduced
    assert trial.parts == report.recorded
    assert trial.norm == float("inf")
    assert not trial.losses
    assert report.before == ()
    assert main(["replay", str(file)]) == 0
    assert "reproduced" in capsys.readouterr().out


def test_replay_names_the_layer_that_overflows_in_bf16_and_tries_fp32(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    overflow = Overflow()
    file, error = failed(config, precision="bf16", trainer=config.trainer | {"callbacks": [overflow]})
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
    assert all(value.equal(kept[name]) for name, value in overflow.buffers.items())
    assert main(["replay", str(file)]) == 0
    lines = capsys.readouterr().out
    assert "the first module whose output is not finite: student.encoder.layers.0.linear1" in lines
    assert "again, fp32" in lines


def test_a_stopped_run_leaves_a_replay_file_and_continues_with_skip(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = config.trainer | {"callbacks": [SpoilImages((1, 1))]}
    file, _ = failed(config, epochs=2, trainer=spoiled)
    assert oddetr.replay(file).before == ("images",)
    assert main(["replay", str(file)]) == 0
    content = torch.load(file, weights_only=True)
    content["batch"]["images"].zero_()
    torch.save(content, tmp_path / "other.pt")
    assert main(["replay", str(tmp_path / "other.pt")]) == 1
    assert "NOT reproduced" in capsys.readouterr().out
    run(TrainConfig(out=config.out, resume=True, trainer=spoiled, non_finite="skip"), quiet())
    assert read_events(config.out)[-1]["skipped_steps"] == 1


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


def test_a_damaged_or_foreign_file_is_refused(small: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other")
    (tmp_path / "torn").write_bytes(small.read_bytes()[:-1000])
    (tmp_path / "text").write_bytes(b"no replay")
    rewritten(small, tmp_path / "newer", format=2)
    rewritten(small, tmp_path / "place", place={"step": "first"})
    for name in ("other", "torn", "text", "newer", "place"):
        with pytest.raises(ReplayError, match=f"{name} is no replay file, or it is damaged"):
            oddetr.replay(tmp_path / name)
    for changes in ({"labels": torch.tensor([[50, 0], [-1, -1]])}, {"images": torch.zeros(2, 3, 64, 64).long()}):
        with pytest.raises(ReplayError, match=r"(cannot be computed on cpu|it is damaged)"):
            oddetr.replay(rewritten(small, tmp_path / "mixed", **changes))
    with pytest.raises(ReplayError, match="There is no file nowhere"):
        oddetr.replay("nowhere")


def test_a_file_with_step_images_is_read_and_an_unknown_part_of_the_loss_is_shown(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of earlier versions have the number of images."""
    file = rewritten(small, tmp_path / "old.pt", step_images=2, parts={"loss": 0.5, "loss_of_another": 1})
    assert main(["replay", str(file)]) == 1
    assert re.search(r"loss_of_another\W+1\W+-\W", capsys.readouterr().out)


def test_a_step_that_cannot_be_computed_is_an_error_with_the_reason(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReplayError, match=r"cannot be computed on cpu:x"):
        oddetr.replay(small, "cpu:x")
    monkeypatch.setattr(DistillationTask, "forward", Mock(side_effect=RuntimeError("no memory is left")))
    with pytest.raises(ReplayError, match=r"cannot be computed on cpu \(RuntimeError: no memory is left\)"):
        oddetr.replay(small)


def test_nothing_stays_of_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, stream: io.BufferedWriter) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="No space left on device"):
        small_replay(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_with_skipped_steps_ends_in_the_same_weights_and_counts(tiny: dict) -> None:
    """Two steps of epoch 2, one before and one after the run is killed in epoch 3, whose batch norms learn."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny |= {"batch_size": 2, "epochs": 3, "validate_every": 3, "non_finite": "skip", "image_size": 64}
    spoil = SpoilImages((1, 0), (1, 2), (2, 3))
    console = quiet()
    whole = run(TrainConfig(**tiny | {"trainer": tiny["trainer"] | {"callbacks": [spoil]}}), console)
    lines = console.file.getvalue()
    assert lines.count("skipped: Step 4 (epoch 2, batch 0)") == lines.count("skipped: ") == 1
    assert "skipped steps 2  " in lines
    assert "skipped steps: 3" in lines
    epochs = [event for event in read_events(whole) if event["kind"] == "epoch"]
    assert [event["skipped_steps"] for event in epochs] == [0, 2, 3]
    losses = [event["loss"] for event in read_events(whole) if event["kind"] == "train"]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)
    assert all(value.isfinite().all() for value in weights(whole).values() if value.is_floating_point())
    state = torch.load(whole / "last" / "resume.ckpt", weights_only=True)
    assert state["state_dict"]["task.teacher._extra_state"] == {"steps": 12}
    moved = {int(each["step"]) for each in state["optimizer_states"][0]["state"].values()}
    assert moved == {12 - 3}

    out = tiny["out"].with_name("resumed")
    killed = tiny["trainer"] | {"callbacks": [spoil, StopAfter(2)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": killed}), quiet())
    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu", "callbacks": [spoil]}), quiet())
    for file in ("student.safetensors", "model.safetensors"):
        expected, found = weights(whole, file), weights(out, file)
        assert all(value.equal(found[name]) for name, value in expected.items()), file
    assert without_times(read_events(whole)) == without_times(read_events(out))
    assert [[file.name for file in each.glob("replay_*")] for each in (whole, out)] == [["replay_step_4.pt"]] * 2
