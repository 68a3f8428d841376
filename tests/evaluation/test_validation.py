"""Validation of teacher and student, on a run of seconds that learns enough for scores above 0."""

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import oddetr
from oddetr.data.dataset import Annotations, ClassTable
from oddetr.distillation.config import DistillationConfig
from oddetr.evaluation.coco import Metrics, evaluate_detections
from oddetr.evaluation.detections import Detections
from oddetr.training.config import OptimizerConfig, TrainConfig
from oddetr.training.records.log import read_events
from oddetr.training.run import run
from tests.conftest import tiny_arguments


def quiet() -> Console:
    return Console(file=io.StringIO())


def write_squares(folder: Path, split: str, count: int, seed: int) -> None:
    """Grey images, 64 pixels wide and high, each with a large blue or red rectangle."""
    generator = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = np.full((64, 64, 3), 90, np.uint8)
        width, height = (int(side) for side in generator.integers(30, 50, 2))
        left, top, red = (int(generator.integers(most)) for most in (64 - width, 64 - height, 2))
        pixels[top : top + height, left : left + width] = (250, 60, 0) if red else (0, 60, 250)
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": red + 1, **box})
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
    (folder / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of the run."""
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder / "data", "train", 16, seed=0)
    write_squares(folder / "data", "val", 8, seed=1)
    return tiny_arguments(folder / "data", folder / "run") | {
        "epochs": 9,
        "image_size": 64,
        "batch_size": 8,
        "validate_every": 2,
        "optimizer": OptimizerConfig(learning_rate=5e-3, backbone_factor=1.0, clip=1.0),
        "distillation": DistillationConfig(horizon=8.0),
    }


class KeepMatchings(Callback):
    """The matching in the training's state after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[int, dict[str, dict[str, torch.Tensor]]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = torch.load(self.folder / "last" / "resume.ckpt", weights_only=True)
        self.found[trainer.current_epoch + 1] = state["matching"]


@pytest.fixture(scope="module")
def matchings(learning: dict[str, Any]) -> KeepMatchings:
    return KeepMatchings(learning["out"])


@pytest.fixture(scope="module")
def learned(learning: dict[str, Any], matchings: KeepMatchings) -> Path:
    trainer = learning["trainer"] | {"callbacks": [matchings]}
    return run(TrainConfig(**learning | {"trainer": trainer}), quiet())


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event["kind"] == "epoch"]


@pytest.mark.parametrize("weights", ["teacher", "student"])
def test_evaluate_repeats_the_last_validation(learned: Path, weights: str) -> None:
    last = epochs(learned)[-1]
    found = oddetr.evaluate(learned / "last", split="val", batch_size=8, weights=weights).to_json()
    assert 0 <= found.pop("AP_without_duplicates") <= 1
    expected = {name: last[weights][name] for name in found}
    assert found == expected
    assert found["AP"] > 0
    assert last["teacher"] != last["student"]


def test_checkpoint_holds_teacher_and_student(learned: Path) -> None:
    teacher, student = (load_file(learned / "last" / f"{name}.safetensors") for name in ("model", "student"))
    assert teacher.keys() == student.keys()
    assert not all(value.equal(student[name]) for name, value in teacher.items())
    state = torch.load(learned / "last" / "resume.ckpt", weights_only=True)["state_dict"]
    assert all(value.equal(state[f"task.teacher.detector.{name}"]) for name, value in teacher.items())
    assert all(value.equal(state[f"task.student.{name}"]) for name, value in student.items())


def test_best_checkpoint_has_the_teachers_highest_ap(learned: Path) -> None:
    scores = {event["epoch"]: event["teacher"]["AP"] for event in epochs(learned) if "teacher" in event}
    described = json.loads((learned / "best" / "checkpoint.json").read_text())
    assert described["epoch"] == max(scores, key=lambda epoch: scores[epoch])
    assert described["metrics"]["teacher"]["AP"] == max(scores.values())


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_instability_is_that_of_the_saved_matchings(learned: Path, matchings: KeepMatchings, model: str) -> None:
    """Each image has one object: a query that is left and one that is taken change."""
    scores = {event["epoch"]: event[model] for event in epochs(learned) if model in event}
    assert list(scores) == [2, 4, 6, 8, 9]
    assert matchings.found[1] == {}
    kept = matchings.found[9][model]
    assert kept["image_ids"].tolist() == list(range(1, 9))
    assert kept["counts"].tolist() == [1] * 8
    assert matchings.found[3][model]["queries"].equal(matchings.found[2][model]["queries"])
    for before, now in pairwise(scores):
        old, new = (matchings.found[epoch][model]["queries"] for epoch in (before, now))
        share = (old != new).double().mean(dim=1).tolist()
        assert scores[now]["normalised_instability"] == share
        assert scores[now]["instability"] == [2 * each for each in share]
        assert scores[now]["unstable_score"] == [(new[1] != new[0]).double().mean().item()]
    assert scores[2]["instability"] is None
    assert any(max(scores[epoch]["instability"]) > 0 for epoch in (4, 6, 8, 9))


def test_validation_of_the_student_ignores_the_teacher(learning: dict[str, Any]) -> None:
    """Without distillation the student learns nothing from the teacher, whatever its horizon."""
    learning = learning | {"epochs": 4, "validate_every": 1}
    folders: list[Path] = []
    for horizon in (1.0, 8.0):
        distillation = DistillationConfig(enabled=False, horizon=horizon)
        out = learning["out"].with_name(f"horizon_{horizon:.0f}")
        folders.append(run(TrainConfig(**learning | {"out": out, "distillation": distillation}), quiet()))
    first, second = ([event["student"] for event in epochs(folder)] for folder in folders)
    assert first == second
    assert any(max(scores["instability"]) > 0 for scores in first[1:])
    teacher, other = (load_file(folder / "last" / "model.safetensors") for folder in folders)
    assert not all(value.equal(other[name]) for name, value in teacher.items())


def test_limited_validation_scores_only_the_images_it_saw(
    learning: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[set[int]] = []

    def evaluate(truth: Annotations, classes: ClassTable, detections: dict[int, Detections]) -> Metrics:
        scored.extend([set(truth.image_ids.tolist()), set(detections)])
        return evaluate_detections(truth, classes, detections)

    monkeypatch.setattr("oddetr.evaluation.validation.evaluate_detections", evaluate)
    trainer = learning["trainer"] | {"limit_val_batches": 2}
    arguments = learning | {"out": learning["out"].with_name("limited"), "trainer": trainer, "epochs": 1}
    run(TrainConfig(**arguments | {"batch_size": 2}), quiet())
    assert scored
    assert all(each == {1, 2, 3, 4} for each in scored)


def test_instability_by_slot_of_queries_chosen_from_tokens(learning: dict[str, Any]) -> None:
    out = learning["out"].with_name("dino")
    detector = learning["detector"] | {"variant": "dino", "denoising": 4}
    keep = KeepMatchings(out)
    arguments = learning | {"out": out, "detector": detector, "epochs": 3, "validate_every": 1}
    run(TrainConfig(**arguments | {"trainer": learning["trainer"] | {"callbacks": [keep]}}), quiet())
    for event in epochs(out)[1:]:
        old, new = (keep.found[event["epoch"] - back]["student_slots"]["queries"] for back in (1, 0))
        expected = (old != new).double().mean(dim=1).tolist()
        assert event["student"]["normalised_instability_by_slot"] == expected
    assert keep.found[3]["student_slots"]["queries"].max() < detector["num_queries"]
    assert not keep.found[3]["student_slots"]["queries"].equal(keep.found[3]["student"]["queries"])
