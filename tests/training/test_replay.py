"""Trainings that meet NaN, what they leave, and `oddetr replay`."""

import dataclasses
import errno
import io
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors.torch import load_file

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
from tests.conftest import tiny_arguments
from tests.helpers import small_replay
from tests.training.test_run import StopAfter, weights, without_times


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


class SpoilImages(Callback):
    """The images of some batches are NaN, with all that comes of them: batch norms' statistics, too."""

    def __init__(self, *where: tuple[int, int]) -> None:
        self.where = where

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) in self.where:
            batch.images.fill_(float("nan"))


class Overflow(Callback):
    """Before one batch, a weight that is finite, but makes of any image infinity."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
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
    assert report.reproduced
    (trial,) = report.trials
    assert trial.parts == report.recorded
    assert trial.norm == float("inf")
    assert not trial.losses
    assert report.before == ()
    assert main(["replay", str(file)]) == 0
    assert "reproduced" in capsys.readouterr().out


def test_replay_names_the_layer_that_overflows_in_bf16_and_tries_fp32(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before: dict[str, dict[str, torch.Tensor]] = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            before["task"] = {name: value.clone() for name, value in pl_module.task.named_buffers()}

    callbacks = [Overflow(), Keep()]
    file, error = failed(config, precision="bf16", trainer=config.trainer | {"callbacks": callbacks})
    assert "Step 1 (epoch 1, batch 1)" in error
    report = oddetr.replay(str(file))
    assert report.place.step == 1
    assert [trial.precision for trial in report.trials] == ["bf16", "fp32"]
    for trial in report.trials:
        assert trial.module == "student.encoder.layers.0.linear1"
        assert len(trial.images) == 4
        assert trial.gradients
    assert report.before == ()
    kept = torch.load(file, weights_only=True)["task"]
    assert all(value.equal(kept[name]) for name, value in before["task"].items())
    assert main(["replay", str(file)]) == 0
    told = capsys.readouterr().out
    assert "the first module whose output is not finite: student.encoder.layers.0.linear1" in told
    assert "again, fp32" in told


@pytest.fixture(scope="module")
def kept(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replay file of a training whose second batch was NaN."""
    arguments = tiny_arguments(scenes, tmp_path_factory.mktemp("kept") / "run")
    spoilt = arguments["trainer"] | {"callbacks": [SpoilImages((0, 1))]}
    return failed(TrainConfig(**arguments | {"trainer": spoilt}))[0]


def test_replay_says_when_the_step_is_not_reproduced(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same file with other images."""
    assert oddetr.replay(kept).before == ("images",)
    assert main(["replay", str(kept)]) == 0
    content = torch.load(kept, weights_only=True)
    content["batch"]["images"].zero_()
    torch.save(content, tmp_path / "other.pt")
    assert main(["replay", str(tmp_path / "other.pt")]) == 1
    assert "NOT reproduced" in capsys.readouterr().out
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is 'cuda', and nothing can be computed there"):
            oddetr.replay(kept, device="cuda")


def test_a_damaged_or_foreign_file_is_refused(kept: Path, tmp_path: Path) -> None:
    whole = kept.read_bytes()
    middle = len(whole) // 2
    broken = {"torn": whole[:middle], "text": b"no replay", "empty": b""}
    broken["flipped"] = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other")
    content = torch.load(kept, weights_only=True)
    content["oddetr replay"] = content["oddetr replay"].replace('"width": 32', '"width": 64')
    torch.save(content, tmp_path / "mixed")
    for name in (*broken, "other", "mixed"):
        with pytest.raises(ReplayError, match=f"{name} is no replay file, or it is damaged"):
            oddetr.replay(tmp_path / name)
    with pytest.raises(ReplayError, match="There is no file nowhere"):
        oddetr.replay("nowhere")
    assert main(["replay", str(tmp_path / "torn")]) == 1


PLACE = {"step": 1, "epoch": 0, "batch": 1, "process": 0, "seed": 5}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"place": PLACE | {"number": 3}}, "TypeError"),
        ({"place": PLACE | {"step": "first"}}, "'first' is no count"),
        ({"place": PLACE | {"seed": -1}}, "seed is -1"),
        ({"parts": {"loss": "high"}}, "'high'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"counts": [1, 0]}, "labels are not, as counted"),
        ({"image_ids": ["a", "b"]}, "an id is no number"),
        ({"image_ids": [1]}, "2 images have 2 counts and 1 ids"),
        ({"step_images": 0}, "the step has no images"),
        ({"images": "none"}, "AttributeError"),
        ({"images": torch.zeros(2, 3, 64, 64, dtype=torch.int64)}, "images is torch.int64"),
        ({"images": torch.zeros(0, 3, 64, 64)}, "labels is torch.int64 (2, 2), where torch.int64 (0, 2)"),
        ({"labels": torch.tensor([[50, 0], [-1, -1]])}, "from 0 to 1"),
        ({"boxes": torch.zeros(2, 2, 3)}, "boxes is torch.float32 (2, 2, 3)"),
    ],
)
def test_a_file_with_values_of_another_kind_is_refused(
    changes: dict[str, Any], said: str, small: Path, tmp_path: Path
) -> None:
    content = torch.load(small, weights_only=True)
    told = json.loads(content["oddetr replay"])
    told |= {name: value for name, value in changes.items() if name in told}
    batch = content["batch"] | {name: value for name, value in changes.items() if name in content["batch"]}
    torch.save(content | {"oddetr replay": json.dumps(told), "batch": batch}, tmp_path / "strange.pt")
    with pytest.raises(ReplayError, match=f"is no replay file, or it is damaged .*{re.escape(said)}"):
        oddetr.replay(tmp_path / "strange.pt")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_replay(tmp_path_factory.mktemp("small"))


def test_an_unknown_part_of_the_loss_is_shown_without_a_new_value(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(small, weights_only=True)
    told = json.loads(content["oddetr replay"])
    text = json.dumps(told | {"parts": {"loss": 0.5, "loss_of_another": 1}})
    torch.save(content | {"oddetr replay": text}, tmp_path / "other.pt")
    assert main(["replay", str(tmp_path / "other.pt")]) == 1
    assert re.search(r"loss_of_another\W+1\W+-\W", capsys.readouterr().out)


def test_a_step_that_cannot_be_computed_is_an_error_with_the_reason(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillationTask, "forward", Mock(side_effect=RuntimeError("no memory is left")))
    with pytest.raises(ReplayError, match=r"cannot be computed on cpu \(RuntimeError: no memory is left\)"):
        oddetr.replay(small)


@pytest.mark.parametrize("device", ["meta", "cpu:x"])
def test_an_unknown_device_is_refused(device: str, small: Path) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', and nothing can be computed there"):
        oddetr.replay(small, device)


def test_nothing_stays_of_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, stream: io.BufferedWriter) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WriteError, match="No space left on device"):
        small_replay(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_with_skipped_steps_ends_in_the_same_weights_and_counts(tiny: dict) -> None:
    """Two steps of epoch 2, one before and one after the run is killed in epoch 3, whose batch norms learn."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny |= {"batch_size": 2, "epochs": 3, "validate_every": 3, "non_finite": "skip"}
    spoil = SpoilImages((1, 0), (1, 2), (2, 3))
    console = quiet()
    whole = run(TrainConfig(**tiny | {"trainer": tiny["trainer"] | {"callbacks": [spoil]}}), console)
    told = console.file.getvalue()
    assert told.count("left out: Step 4 (epoch 2, batch 0)") == 1
    assert told.count("left out") == 1
    assert "skipped steps 2  " in told
    assert "skipped steps: 3" in told
    assert [file.name for file in whole.glob("replay_*")] == ["replay_step_4.pt"]
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
        expected, found = (load_file(each / "last" / file) for each in (whole, out))
        assert all(value.equal(found[name]) for name, value in expected.items()), file
    assert without_times(read_events(whole)) == without_times(read_events(out))
    assert [file.name for file in out.glob("replay_*")] == ["replay_step_4.pt"]


def test_a_run_that_stopped_goes_on_with_skip(config: TrainConfig) -> None:
    spoilt = config.trainer | {"callbacks": [SpoilImages((1, 1))]}
    failed(config, epochs=2, trainer=spoilt)
    with pytest.raises(FloatingPointError, match="Step 3 "):
        run(TrainConfig(out=config.out, resume=True, trainer=spoilt), quiet())
    run(TrainConfig(out=config.out, resume=True, trainer=spoilt, non_finite="skip"), quiet())
    assert read_events(config.out)[-1]["skipped_steps"] == 1
