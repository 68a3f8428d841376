import csv
import dataclasses
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save_file

import oddetr
from oddetr.cli import main
from oddetr.data.digits import DigitScenes
from oddetr.data.faults import DataError
from oddetr.data.transforms import AugmentConfig
from oddetr.data.writer import write_coco
from oddetr.distillation.config import DistillationConfig, PredictionConfig
from oddetr.evaluation.detections import Detections
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.conftest import tiny_arguments
from tests.helpers import without_checksums
from tests.training.helpers import quiet, weights


def test_train_takes_plain_values_and_the_seed_changes_the_weights(tiny: dict, trained: Path) -> None:
    """`trained` is this run with seed 0."""
    plain = {"epochs": 1, "seed": 1, "out": str(tiny["out"]), "data": Path(tiny["data"]), "optimizer": {"clip": 0.1}}
    assert oddetr.train(**tiny | plain) == tiny["out"]
    before = weights(trained)
    assert not all(value.equal(before[name]) for name, value in weights(tiny["out"]).items())


def test_a_run_on_tiles_is_detected_and_scored_with_in_the_same_tiles(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = oddetr.train(**tiny | {"slice": 64, "epochs": 1})
    sides: list[int] = []

    def sliced(predictor: Any, image: Any, side: int, *_: Any) -> Detections:
        sides.append(side)
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    monkeypatch.setattr("oddetr.prediction.slicing.detect_sliced", sliced)
    monkeypatch.setattr("oddetr.prediction.predict.detect_sliced", sliced)
    assert len(oddetr.evaluate(run).to_json()["per_class"]) == 10
    images = Path(tiny["data"]) / "val"
    oddetr.predict(run, images, tmp_path / "found", formats="coco")
    assert sides == [64] * 8
    oddetr.predict(run, images, tmp_path / "whole", formats="coco", slice=0)
    oddetr.evaluate(run, slice=0)
    assert sides == [64] * 8


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


def test_a_run_records_prints_and_saves_what_it_does(scenes: Path, tmp_path: Path) -> None:
    """Three epochs, of which the second and the last are validated."""
    console, frozen = quiet(), FrozenObjects()
    arguments = tiny_arguments(scenes, tmp_path / "run")
    arguments |= {"epochs": 3, "validate_every": 2, "trainer": {"accelerator": "cpu", "callbacks": [frozen]}}
    constant = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    out = run(TrainConfig(**arguments, distillation=constant), console)

    events = read_events(out)
    epochs = [event for event in events if event["kind"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert all(0 < event["training_seconds"] < event["seconds"] for event in epochs)
    for model in ("teacher", "student"):
        assert [event["epoch"] for event in epochs if model in event] == [2, 3]
        assert 0 <= epochs[-1][model]["AP"] <= 1
        assert len(epochs[-1][model]["unstable_score"]) == 1
        assert len(epochs[-1][model]["normalised_instability"]) == 2
    last = [event for event in events if event["kind"] == "train"][-1]
    assert last["step"] == 6
    weights_of = {"classes": 1, "l1": 5, "giou": 2}
    groups = ("", "prediction_", "auxiliary_")
    parts = [weight * last[f"loss_{group}{part}"] for group in groups for part, weight in weights_of.items()]
    assert last["loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert epochs[-1]["matching_disagreement"] == pytest.approx(last["matching_disagreement"])
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    column = "val/teacher/normalised_instability"
    assert rows[0].keys() >= {"step", "epoch", "val/student/AP", "val/teacher/AP_per_class/7", column}
    assert [row[column] for row in rows[:2]] == ["", ""]
    assert float(rows[2][column]) == epochs[-1]["teacher"]["normalised_instability"][-1]

    files = {"model.safetensors", "student.safetensors", "checkpoint.json"}
    assert {path.name for path in (out / "last").iterdir()} == files | {"resume.ckpt"}
    assert {path.name for path in (out / "best").iterdir()} == files
    described = json.loads((out / "last" / "checkpoint.json").read_text())
    assert described["metrics"] == {model: epochs[-1][model] for model in ("teacher", "student")}
    assert described["classes"] == {"names": list("0123456789"), "ids": list(range(10))}
    assert described["versions"].keys() >= {"oddetr", "torch", "timm"}
    assert TrainConfig.from_plain(json.loads((out / "config.json").read_text())).epochs == 3

    for part in ("classes: 10", "train 8, val 4", "epoch 1/3  loss", "AP -", "AP 0.", "(student 0.", "instability 0.",
                 "unstable score 0.", "images/s", "waiting for data", "left 0:00", "best teacher AP"):  # fmt: skip
        assert part in console.file.getvalue(), part
    assert min(frozen.counts) > 10_000, "garbage collection looks at what is shared with workers"
    assert gc.get_freeze_count() == 0


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


def reconfigured(run: Path, **changes: Any) -> dict[str, Any]:
    """Change the configuration that a run's last checkpoint records, and return it."""
    without_checksums(run / "last")
    file = run / "last" / "checkpoint.json"
    content = json.loads(file.read_text())
    content["configuration"] |= changes
    file.write_text(json.dumps(content))
    return content["configuration"]


def test_resume_compares_arguments_that_are_the_default(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reconfigured(finished, seed=3)
    with pytest.raises(ValueError, match="seed was 3, now it is 0"):
        oddetr.train(out=finished, resume=True, seed=0)
    assert main(["train", "--out", str(finished), "--resume", "--seed", "0"]) == 1
    assert "seed was 3, now it is 0" in capsys.readouterr().err


def test_resume_refuses_a_run_without_teacher(finished: Path) -> None:
    (finished / "last" / "student.safetensors").unlink()
    without_checksums(finished / "last")
    with pytest.raises(ValueError, match="has no teacher: an older oddetr wrote it"):
        run(TrainConfig(out=finished, resume=True), quiet())


def test_resume_goes_on_with_the_defaults_of_fields_newer_than_the_run(finished: Path) -> None:
    recorded = reconfigured(finished)
    recorded["distillation"].pop("memory")
    reconfigured(finished, epochs=2, distillation=recorded["distillation"])
    run(TrainConfig(out=finished, resume=True, trainer={"accelerator": "cpu"}), quiet())
    assert [event["epoch"] for event in read_events(finished) if event["kind"] == "epoch"] == [1, 2]
    assert json.loads((finished / "config.json").read_text())["resume"] is False
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


class DivergeInValidation(Callback):
    """Make the teacher predict NaN."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for parameter in pl_module.detectors["teacher"].decoder.heads.parameters():
            parameter.data.fill_(float("nan"))


def test_a_detector_that_diverges_in_validation_is_reported_with_its_images(config: TrainConfig) -> None:
    trainer = config.trainer | {"callbacks": [DivergeInValidation()]}
    with pytest.raises(FloatingPointError, match=r"Validation after epoch 1, images with the ids \d, \d, \d, \d: "):
        run(dataclasses.replace(config, trainer=trainer), quiet())
