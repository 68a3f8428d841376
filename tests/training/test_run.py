import csv
import dataclasses
import gc
import io
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors.torch import load_file, save_file

import oddetr
from oddetr.cli import main
from oddetr.data.digits import DigitScenes
from oddetr.data.faults import DataError
from oddetr.data.transforms import AugmentConfig
from oddetr.data.writer import write_coco
from oddetr.distillation.config import DistillationConfig, PredictionConfig
from oddetr.losses.matching import NonFiniteCostError
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.helpers import without_checksums


class StopAfter(Callback):
    """Kills the training, as a lost machine would, in the middle of the epoch after `epochs`."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == self.epochs:
            raise ConnectionAbortedError("killed by the test")


def weights(run_folder: Path, file: str = "student.safetensors", which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run_folder / which / file)


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a run says of itself that does not depend on the machine."""
    measured = ("seconds", "training_seconds", "images_per_second", "waiting_share", "peak_memory_gib")
    return [{name: value for name, value in event.items() if name not in measured} for event in events]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_resumed_run_ends_in_the_same_weights_and_records(tiny: dict) -> None:
    """The rate is high, so that matchings change; the teacher averages, so that it is not the student."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny["validate_every"] = 2
    whole = run(TrainConfig(**tiny), quiet())
    out = tiny["out"].with_name("resumed")
    trainer = tiny["trainer"] | {"callbacks": [StopAfter(3)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": trainer}), quiet())
    assert json.loads((out / "last" / "checkpoint.json").read_text())["epoch"] == 3

    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    for which in ("last", "best"):
        for file in ("student.safetensors", "model.safetensors"):
            expected, found = weights(whole, file, which), weights(out, file, which)
            assert expected.keys() == found.keys()
            assert all(value.equal(found[name]) for name, value in expected.items()), (which, file)
    assert not all(value.equal(weights(whole)[name]) for name, value in weights(whole, "model.safetensors").items())

    events = read_events(whole)
    assert without_times(events) == without_times(read_events(out))
    for model in ("teacher", "student"):
        changes = [event[model]["instability"] for event in events if model in event]
        assert changes[0] is None
        assert any(change > 0 for layers in changes[1:] for change in layers)
    for times in ("seconds", "training_seconds"):
        passed = [event[times] for event in read_events(out) if event["kind"] == "epoch"]
        assert passed == sorted(passed)


def test_train_takes_plain_values_and_the_seed_changes_the_weights(tiny: dict, trained: Path) -> None:
    """`trained` is this run with seed 0."""
    plain = {"epochs": 1, "seed": 1, "out": str(tiny["out"]), "data": Path(tiny["data"]), "optimizer": {"clip": 0.1}}
    assert oddetr.train(**tiny | plain) == tiny["out"]
    before = weights(trained)
    assert not all(value.equal(before[name]) for name, value in weights(tiny["out"]).items())


class GradientNorms(Callback):
    """The gradient's norm before each step, before it is clipped."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients).item())


def test_accumulated_batches_equal_one_large_batch(tiny: dict, tmp_path: Path) -> None:
    """Eight images: a step of six and one of two, so the last group of parts is short. No dropout, and the backbone's
    weights are from a file, so that no batch norm depends on the batch."""
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "backbone.safetensors")
    tiny |= {"epochs": 1, "detector": tiny["detector"] | {"dropout": 0.0, "pretrained": True}}
    tiny |= {"backbone_weights": tmp_path / "backbone.safetensors", "optimizer": OptimizerConfig(learning_rate=1e-6)}
    tiny |= {"augment": AugmentConfig(min_scale=1.0, crop=False)}
    norms, events = [], []
    for name, size, parts in (("large", 6, 1), ("parts", 2, 3)):
        seen = GradientNorms()
        trainer = tiny["trainer"] | {"callbacks": [seen]}
        arguments = tiny | {"out": tiny["out"] / name, "batch_size": size, "accumulate": parts, "trainer": trainer}
        events += [event for event in read_events(run(TrainConfig(**arguments), quiet())) if event["kind"] == "train"]
        norms.append(seen.norms)
    assert len(norms[0]) == len(norms[1]) == 2
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    parts = [name for name in events[0] if name.startswith("loss")]
    assert {"loss", "loss_classes", "loss_prediction_giou", "loss_auxiliary_l1"} < {*parts}
    for part in parts:
        assert events[1][part] == pytest.approx(events[0][part], rel=1e-4)


class FrozenObjects(Callback):
    """How many objects Python's garbage collection leaves alone, by step."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts.append(gc.get_freeze_count())


@pytest.fixture(scope="module")
def three_epochs(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, FrozenObjects]:
    """The folder of a run of three epochs, of which the second and the last are validated; what it printed; and a
    callback that watched it."""
    console, frozen = quiet(), FrozenObjects()
    arguments = tiny_arguments(scenes, tmp_path_factory.mktemp("three") / "run")
    arguments |= {"epochs": 3, "validate_every": 2, "trainer": {"accelerator": "cpu", "callbacks": [frozen]}}
    constant = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    return run(TrainConfig(**arguments, distillation=constant), console), console.file.getvalue(), frozen


def test_a_run_records_losses_and_scores(three_epochs: tuple[Path, str, FrozenObjects]) -> None:
    out, _, _ = three_epochs
    events = read_events(out)
    epochs = [event for event in events if event["kind"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert all(0 < event["training_seconds"] < event["seconds"] for event in epochs)
    for model in ("teacher", "student"):
        assert [event["epoch"] for event in epochs if model in event] == [2, 3]
        assert 0 <= epochs[-1][model]["AP"] <= 1
        assert len(epochs[-1][model]["unstable_score"]) == 1
        assert len(epochs[-1][model]["normalised_instability"]) == 2
    train = [event for event in events if event["kind"] == "train"]
    assert train[-1]["step"] == 6
    weights_of = {"classes": 1, "l1": 5, "giou": 2}
    parts = [
        weight * train[-1][f"loss_{group}{part}"]
        for group in ("", "prediction_", "auxiliary_")
        for part, weight in weights_of.items()
    ]
    assert train[-1]["loss"] == pytest.approx(sum(parts), rel=1e-4)
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0].keys() >= {"teacher AP", "student AP", "teacher AP 7", "student normalised instability"}
    assert [row["teacher normalised instability"] for row in rows[:2]] == ["", ""]
    assert float(rows[2]["teacher normalised instability"]) == epochs[-1]["teacher"]["normalised_instability"][-1]


def test_a_run_leaves_checkpoints_and_its_configuration(three_epochs: tuple[Path, str, FrozenObjects]) -> None:
    out, _, _ = three_epochs
    files = {"model.safetensors", "student.safetensors", "checkpoint.json"}
    assert {path.name for path in (out / "last").iterdir()} == files | {"resume.ckpt"}
    assert {path.name for path in (out / "best").iterdir()} == files
    described = json.loads((out / "last" / "checkpoint.json").read_text())
    assert described["metrics"] == {model: read_events(out)[-1][model] for model in ("teacher", "student")}
    assert described["classes"] == {"names": list("0123456789"), "ids": list(range(10))}
    assert described["versions"].keys() >= {"oddetr", "torch", "timm"}
    assert TrainConfig.from_plain(json.loads((out / "config.json").read_text())).epochs == 3


def test_a_run_prints_its_progress(three_epochs: tuple[Path, str, FrozenObjects]) -> None:
    _, printed, _ = three_epochs
    for part in ("classes: 10", "train 8, val 4", "epoch 1/3  loss", "AP -", "AP 0.", "(student 0."):
        assert part in printed, part
    for part in ("instability 0.", "unstable score 0.", "images/s", "waiting for data", "left 0:00", "best teacher AP"):
        assert part in printed, part


def test_garbage_collection_skips_what_is_shared_with_workers(three_epochs: tuple[Path, str, FrozenObjects]) -> None:
    _, _, frozen = three_epochs
    assert min(frozen.counts) > 10_000
    assert gc.get_freeze_count() == 0


def test_a_run_starts_without_forecast_if_a_timed_step_is_not_finite(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself will report the step, or skip it."""

    def forecast(*_: Any) -> None:
        raise NonFiniteCostError((0,))

    monkeypatch.setattr("oddetr.training.run.is_long", lambda *_: True)
    monkeypatch.setattr("oddetr.training.run.forecast", forecast)
    run(dataclasses.replace(config, epochs=1), quiet())
    assert json.loads((config.out / "plan.json").read_text())["forecast"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "--resume"),
        ({"seed": 5}, "seed was 0, now it is 5"),
        ({"data": "other"}, "this data has 0, 1, 2, three"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(changes: dict, message: str, finished: Path, tmp_path: Path) -> None:
    if "data" in changes:
        changes = {"data": str(tmp_path / "other")}
        for split in ("train", "val"):
            write_coco(DigitScenes("train", 4), tmp_path / "other", split)
            file = tmp_path / "other" / "annotations" / f"instances_{split}.json"
            file.write_text(file.read_text().replace('"name": "3"', '"name": "three"'))
    with pytest.raises((FileExistsError, ValueError), match=message):
        run(TrainConfig(**{"out": finished, "resume": True} | changes), quiet())


def test_resume_compares_arguments_that_are_the_default(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = finished / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 3}))
    with pytest.raises(ValueError, match="seed was 3, now it is 0"):
        oddetr.train(out=finished, resume=True, seed=0)
    assert main(["train", "--out", str(finished), "--resume", "--seed", "0"]) == 1
    assert "seed was 3, now it is 0" in capsys.readouterr().err


def test_resume_refuses_a_run_without_teacher(finished: Path) -> None:
    (finished / "last" / "student.safetensors").unlink()
    without_checksums(finished / "last")
    with pytest.raises(ValueError, match="has no teacher: an older oddetr began it"):
        run(TrainConfig(out=finished, resume=True), quiet())


def test_resume_goes_on_with_the_defaults_of_fields_newer_than_the_run(finished: Path) -> None:
    file = finished / "config.json"
    recorded = json.loads(file.read_text())
    del recorded["init"], recorded["distillation"]["memory"]
    file.write_text(json.dumps(recorded | {"epochs": 2}))
    run(TrainConfig(out=finished, resume=True, trainer={"accelerator": "cpu"}), quiet())
    assert [event["epoch"] for event in read_events(finished) if event["kind"] == "epoch"] == [1, 2]
    assert json.loads(file.read_text())["resume"] is False
    described = json.loads((finished / "last" / "checkpoint.json").read_text())
    assert described["configuration"]["resume"] is False


def test_data_with_errors_stops_before_training(tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    write_coco(DigitScenes("train", 4), folder, "train")
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [5, 5, -3, 4]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="oddetr check"):
        run(TrainConfig(**tiny | {"data": str(folder)}), quiet())
    assert not (tiny["out"] / "last").exists()


class Diverge(Callback):
    """Makes a detector predict NaN, from the second step or from the first validation on."""

    def __init__(self, model: str, validating: bool) -> None:
        self.model, self.validating = model, validating

    def _spoil(self, module: LightningModule) -> None:
        for parameter in module.detectors[self.model].decoder.heads.parameters():
            parameter.data.fill_(float("nan"))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.validating and trainer.global_step == 1:
            self._spoil(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.validating:
            self._spoil(pl_module)


@pytest.mark.parametrize(
    ("callback", "where"),
    [
        (
            Diverge("student", False),
            r"Step 1 \(epoch 1, batch 1\), images with the ids \d, \d, \d, \d \(train/[\w-]+.png, .* and 1 more\): ",
        ),
        (Diverge("teacher", True), r"Validation after epoch 1, images with the ids \d, \d, \d, \d: "),
    ],
    ids=["training", "validation"],
)
def test_a_detector_that_diverges_is_reported_with_its_images(
    config: TrainConfig, callback: Diverge, where: str
) -> None:
    trainer = config.trainer | {"callbacks": [callback]}
    with pytest.raises(FloatingPointError, match=where):
        run(dataclasses.replace(config, trainer=trainer), quiet())
