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
from oddetr.data.digits import DigitScenes
from oddetr.data.doctor.faults import DataError
from oddetr.data.transforms import AugmentConfig
from oddetr.data.writer import write_coco
from oddetr.distillation.config import DistillationConfig, MatchingConfig, PredictionConfig
from oddetr.losses.matching import NonFiniteCostError
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.helpers import without_checksums
from tests.models.helpers import VARIANTS


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


@pytest.mark.parametrize(("validate_every", "killed_after"), [(1, 2), (2, 3)])
def test_a_resumed_run_ends_in_the_same_weights_and_records(tiny: dict, validate_every: int, killed_after: int) -> None:
    """The rate is high, so that matchings change; the teacher looks back, so that it is not the student."""
    tiny |= {"optimizer": OptimizerConfig(learning_rate=5e-3), "distillation": DistillationConfig(horizon=3.0)}
    tiny["validate_every"] = validate_every
    whole = run(TrainConfig(**tiny), quiet())
    out = tiny["out"].with_name("resumed")
    trainer = tiny["trainer"] | {"callbacks": [StopAfter(killed_after)]}
    with pytest.raises(ConnectionAbortedError):
        run(TrainConfig(**tiny | {"out": out, "trainer": trainer}), quiet())
    assert json.loads((out / "last" / "checkpoint.json").read_text())["epoch"] == killed_after

    run(TrainConfig(out=out, resume=True, trainer={"accelerator": "cpu"}), quiet())
    for which in ("last", "best"):
        for file in ("student.safetensors", "model.safetensors"):
            expected, found = weights(whole, file, which), weights(out, file, which)
            assert expected.keys() == found.keys()
            for name, value in expected.items():
                assert value.equal(found[name]), (which, file, name)
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


def test_a_run_depends_on_the_seed_and_not_on_the_workers(tiny: dict) -> None:
    first, second, third = (
        weights(run(TrainConfig(**tiny | {"epochs": 1, "out": tiny["out"] / str(i), **changes}), quiet()))
        for i, changes in enumerate(({"workers": 0}, {"workers": 2}, {"workers": 0, "seed": 1}))
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(third[name]) for name in first)


@pytest.fixture
def frozen(tiny: dict, tmp_path: Path) -> dict:
    """The tiny run with `pretrained` weights from a file, so that no batch norm looks at the batch; no dropout."""
    file = tmp_path / "backbone.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    detector = tiny["detector"] | {"dropout": 0.0, "pretrained": True}
    return tiny | {"epochs": 1, "backbone_weights": file, "detector": detector}


class GradientNorms(Callback):
    """The gradient's norm before each step, before it is clipped."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients).item())


class Kept(Callback):
    """How many objects Python's garbage collection leaves alone, by step."""

    def __init__(self) -> None:
        self.objects: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.objects.append(gc.get_freeze_count())


def test_garbage_collection_leaves_alone_what_is_shared_with_workers(tiny: dict) -> None:
    kept = Kept()
    run(TrainConfig(**tiny | {"epochs": 1, "trainer": tiny["trainer"] | {"callbacks": [kept]}}), quiet())
    assert min(kept.objects) > 10_000
    assert gc.get_freeze_count() == 0


def test_accumulated_batches_equal_one_large_batch(frozen: dict) -> None:
    """Eight images: a step of six and one of two, so the last group of parts is short."""
    frozen |= {"augment": AugmentConfig(min_scale=1.0, crop=False), "optimizer": OptimizerConfig(learning_rate=1e-6)}
    norms, events = [], []
    for name, size, parts in (("large", 6, 1), ("parts", 2, 3)):
        seen = GradientNorms()
        trainer = frozen["trainer"] | {"callbacks": [seen]}
        arguments = frozen | {"out": frozen["out"] / name, "batch_size": size, "accumulate": parts, "trainer": trainer}
        events += [event for event in read_events(run(TrainConfig(**arguments), quiet())) if event["kind"] == "train"]
        norms.append(seen.norms)
    assert len(norms[0]) == len(norms[1]) == 2
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    parts = [name for name in events[0] if name.startswith("loss")]
    assert {"loss", "loss_classes", "loss_prediction_giou", "loss_auxiliary_l1"} < {*parts}
    for part in parts:
        assert events[1][part] == pytest.approx(events[0][part], rel=1e-4)


def test_a_run_leaves_metrics_configuration_and_checkpoints(config: TrainConfig) -> None:
    constant = DistillationConfig(prediction=PredictionConfig(weight=1.0))
    run(dataclasses.replace(config, epochs=2, distillation=constant), quiet())
    out = config.out
    events = read_events(out)
    assert [event["epoch"] for event in events if event["kind"] == "epoch"] == [1, 2]
    for event in (event for event in events if event["kind"] == "epoch"):
        assert 0 < event["training_seconds"] < event["seconds"]
        for model in ("teacher", "student"):
            assert 0 <= event[model]["AP"] <= 1
            assert len(event[model]["unstable_score"]) == 1
            assert event["epoch"] == 1 or len(event[model]["normalised_instability"]) == 2
    train = [event for event in events if event["kind"] == "train"]
    assert train[-1]["step"] == 4
    weights_of = {"classes": 1, "l1": 5, "giou": 2}
    parts = [
        weight * train[-1][f"loss_{group}{part}"]
        for group in ("", "prediction_", "auxiliary_")
        for part, weight in weights_of.items()
    ]
    assert train[-1]["loss"] == pytest.approx(sum(parts), rel=1e-4)
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0].keys() >= {"teacher AP", "student AP", "teacher AP 7", "student normalised instability"}
    assert rows[0]["teacher normalised instability"] == ""
    assert float(rows[1]["teacher normalised instability"]) == events[-1]["teacher"]["normalised_instability"][-1]
    files = {"model.safetensors", "student.safetensors", "checkpoint.json"}
    assert {path.name for path in (out / "last").iterdir()} == files | {"resume.ckpt"}
    assert {path.name for path in (out / "best").iterdir()} == files
    described = json.loads((out / "last" / "checkpoint.json").read_text())
    assert described["metrics"] == {model: events[-1][model] for model in ("teacher", "student")}
    assert described["classes"] == {"names": list("0123456789"), "ids": list(range(10))}
    assert described["versions"].keys() >= {"oddetr", "torch", "timm"}
    assert TrainConfig.from_plain(json.loads((out / "config.json").read_text())).epochs == 2


def test_the_last_epoch_is_always_validated(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=3, validate_every=2), quiet())
    for model in ("teacher", "student"):
        scored = [event["epoch"] for event in read_events(config.out) if event["kind"] == "epoch" and model in event]
        assert scored == [2, 3]


def test_progress_shows_what_matters(config: TrainConfig) -> None:
    console = quiet()
    run(dataclasses.replace(config, epochs=4, validate_every=2), console)
    text = console.file.getvalue()
    for part in (
        "classes: 10",
        "train 8, val 4",
        "epoch 1/4  loss",
        "AP -",
        "AP 0.",
        "(student 0.",
        "after epoch 2: AP 0.",
        "instability 0.",
        "unstable score 0.",
        "images/s",
        "waiting for data",
        "left 0:00",
        "best teacher AP 0.",
    ):
        assert part in text, part


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_in_bf16(tiny: dict, variant: str) -> None:
    tiny["detector"] |= {"variant": variant}
    run(TrainConfig(**tiny | {"epochs": 1, "precision": "bf16"}), quiet())
    losses = [event["loss"] for event in read_events(tiny["out"]) if event["kind"] == "train"]
    assert all(0 < loss < 100 for loss in losses)


def test_a_run_begins_without_forecast_if_a_timed_step_is_not_finite(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run will say where it is, or skip it."""

    def forecast(*_: Any) -> None:
        raise NonFiniteCostError((0,))

    monkeypatch.setattr("oddetr.training.run.is_long", lambda *_: True)
    monkeypatch.setattr("oddetr.training.run.forecast", forecast)
    monkeypatch.setattr("oddetr.training.run._write_report", lambda *_: None)
    run(dataclasses.replace(config, epochs=1), quiet())
    assert json.loads((config.out / "beginning.json").read_text())["forecast"] is None


def test_resume_begins_a_run_and_refuses_arguments_that_contradict_it(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1, resume=True), quiet())
    assert (config.out / "last").is_dir()
    with pytest.raises(FileExistsError, match="--resume"):
        run(config, quiet())
    with pytest.raises(ValueError, match="seed was 0, now it is 5"):
        run(TrainConfig(out=config.out, resume=True, seed=5), quiet())


def test_resume_ignores_lessons_of_a_baseline(config: TrainConfig) -> None:
    """As a comparison does, whose baselines do not depend on what the others distil."""
    begun = dataclasses.replace(config, epochs=1, distillation=DistillationConfig(enabled=False))
    run(begun, quiet())
    other = DistillationConfig(enabled=False, memory="teacher", matching=MatchingConfig(queries="teacher"))
    run(dataclasses.replace(begun, resume=True, distillation=other), quiet())


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_epochs": 2}, "use --epochs"),
        ({"accumulate_grad_batches": 2}, "use --accumulate"),
        ({"gradient_clip_val": 2}, "use --optimizer.clip"),
        ({"device": 2}, "no flag 'device'. Similar: devices"),
    ],
)
def test_contradictory_and_unknown_trainer_flags_are_refused(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(trainer=flags)


def test_resume_takes_the_default_of_a_field_newer_than_the_run(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1), quiet())
    file = config.out / "config.json"
    recorded = json.loads(file.read_text())
    del recorded["init"], recorded["distillation"]["memory"]
    file.write_text(json.dumps(recorded | {"epochs": 2}))
    run(TrainConfig(out=config.out, resume=True, trainer=config.trainer), quiet())
    assert [event["epoch"] for event in read_events(config.out) if event["kind"] == "epoch"] == [1, 2]


def test_resume_refuses_data_with_other_classes(config: TrainConfig, tmp_path: Path) -> None:
    run(dataclasses.replace(config, epochs=1), quiet())
    for split in ("train", "val"):
        write_coco(DigitScenes("train", 4), tmp_path / "other", split)
        file = tmp_path / "other" / "annotations" / f"instances_{split}.json"
        file.write_text(file.read_text().replace('"name": "3"', '"name": "three"'))
    with pytest.raises(ValueError, match="this data has 0, 1, 2, three"):
        run(TrainConfig(data=str(tmp_path / "other"), out=config.out, resume=True), quiet())


def test_a_detector_that_diverges_names_step_and_images(config: TrainConfig) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 1:
                for parameter in pl_module.task.student.decoder.heads.parameters():
                    parameter.data.fill_(float("nan"))

    where = r"Step 1 \(epoch 1, batch 1\), images with the ids \d, \d, \d, \d \(train/[\w-]+.png, .* and 1 more\): "
    with pytest.raises(FloatingPointError, match=where):
        run(dataclasses.replace(config, trainer=config.trainer | {"callbacks": [Poison()]}), quiet())


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_a_detector_that_diverges_in_validation_names_epoch_and_images(config: TrainConfig, model: str) -> None:
    class Poison(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            for parameter in pl_module.detectors[model].decoder.heads.parameters():
                parameter.data.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match=r"Validation after epoch 1, images with the ids \d, \d, \d, \d: "):
        run(dataclasses.replace(config, trainer=config.trainer | {"callbacks": [Poison()]}), quiet())


def test_resume_refuses_a_run_without_teacher(config: TrainConfig) -> None:
    run(dataclasses.replace(config, epochs=1), quiet())
    (config.out / "last" / "student.safetensors").unlink()
    without_checksums(config.out / "last")
    with pytest.raises(ValueError, match="has no teacher: an older oddetr began it"):
        run(TrainConfig(out=config.out, resume=True), quiet())


def test_train_takes_plain_values_as_fields(tiny: dict) -> None:
    plain = tiny | {"epochs": 1, "out": str(tiny["out"]), "data": Path(tiny["data"]), "optimizer": {"clip": 0.2}}
    assert oddetr.train(**plain) == tiny["out"]
    with pytest.raises(ValueError, match=r"There is no option epoch\. Did you mean epochs\?"):
        oddetr.train(epoch=3)
