"""Fine-tuning: a training that starts from a checkpoint's weights, or a model's of transformers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import oddetr
from oddetr.checkpoints.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, save_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.families.build import DetectorConfig, build_detector
from oddetr.training.config import TrainConfig
from oddetr.training.initial_weights import copy_weights
from oddetr.training.plan.preparation import prepare
from oddetr.training.run import run
from tests.training.helpers import quiet

SIZES = {"width": 32, "heads": 4, "ffn_width": 48, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6}
SIZES |= {"backbone": "test_efficientnet", "pretrained": False}


def config_of(variant: str) -> DetectorConfig:
    return DetectorConfig(variant=variant, denoising=10 if variant == "dino" else 0, **SIZES)


def saved(folder: Path, variant: str, *names: str) -> Any:
    torch.manual_seed(1)
    detector = build_detector(config_of(variant), len(names))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    table = ClassTable(names, tuple(range(len(names))))
    info = CheckpointInfo(config_of(variant), table, 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save_checkpoint(folder, {"teacher": detector}, info)
    return detector


@pytest.mark.parametrize("variant", ["two_stage", "dino"])
def test_outputs_of_classes_with_the_same_name_are_copied_whatever_its_case(variant: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "old", variant, "cat", "dog", "cow")
    torch.manual_seed(2)
    target = build_detector(config_of(variant), 2)
    fresh = target.decoder.heads[-1].classes.weight[1].detach().clone()
    loaded, info = load_checkpoint(tmp_path / "old")
    known = copy_weights(target, (" Dog", "emu"), loaded, info.classes.names)
    assert known == 1
    for mine, theirs in zip(target.decoder.heads, source.decoder.heads, strict=True):
        assert mine.classes.weight[0].equal(theirs.classes.weight[1])
        assert mine.classes.bias[0].equal(theirs.classes.bias[1])
        assert mine.boxes.layers[0].weight.equal(theirs.boxes.layers[0].weight)
    assert target.decoder.heads[-1].classes.weight[1].equal(fresh)
    mine, theirs = target.query_source.head.classes.weight, source.query_source.head.classes.weight
    assert mine[0].equal(theirs[0 if variant == "two_stage" else 1])
    if variant == "dino":
        mine, theirs = target.denoising.labels.weight, source.denoising.labels.weight
        assert mine[0].equal(theirs[1])
        assert mine[-1].equal(theirs[-1])
    same = [n for n in source.state_dict() if ".classes." not in n and "labels" not in n]
    assert all(target.state_dict()[name].equal(source.state_dict()[name]) for name in same)


def test_training_from_a_checkpoint_has_its_detector_and_resumes(
    tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is named by a relative path, and is gone when the run is resumed."""
    monkeypatch.chdir(tmp_path)
    source = saved(tmp_path / "old", "dab", *"0123456789")
    console = quiet()
    arguments = {name: value for name, value in tiny.items() if name not in ("model", "detector", "image_size")}
    run(TrainConfig(**arguments | {"init": Path("old"), "epochs": 1}), console)
    assert "10 of 10 classes" in console.file.getvalue()
    detector, info = load_checkpoint(tiny["out"])
    assert info.detector == config_of("dab")
    assert info.image_size == load_checkpoint(tmp_path / "old")[1].image_size
    mine, theirs = (each.query_source.anchor_logits.weight for each in (detector, source))
    torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0)
    assert not mine.equal(theirs)
    prepare(TrainConfig(**arguments | {"init": Path("old"), "epochs": 1, "resume": True}), console.print, console)
    shutil.rmtree(tmp_path / "old")
    prepare(TrainConfig(out=tiny["out"], resume=True), console.print, console)


def test_weights_of_other_sizes_are_named(tmp_path: Path) -> None:
    source = saved(tmp_path / "old", "refine", "cat")
    target = build_detector(replace(config_of("refine"), num_queries=9), 1)
    with pytest.raises(ValueError, match=r"query_source.embedding.weight is \(9, 64\) here and \(6, 64\) there"):
        copy_weights(target, ("cat",), source, ("cat",))


def test_init_needs_a_checkpoint_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no"):
        TrainConfig(init=tmp_path / "nothing")
    saved(tmp_path / "old", "refine", "cat")
    with pytest.raises(ValueError, match="leave model"):
        TrainConfig(init=tmp_path / "old", model="dino_tiny")


@pytest.mark.parametrize("name", ["RT-DETR v2", "deformable two-stage"])
def test_a_transformers_model_is_saved_as_a_folder_of_its_kind(tiny: dict, tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.23")
    from tests.models.test_huggingface import MODELS

    torch.manual_seed(0)
    model = MODELS[name]()
    model.config.id2label = {0: "7", 1: "bird", 2: "0"}
    arguments = {key: value for key, value in tiny.items() if key != "detector"}
    arguments |= {"model": f"hf:{tmp_path / 'theirs'}", "epochs": 1}
    console = quiet()
    model.config.save_pretrained(tmp_path / "theirs")
    prepared = prepare(TrainConfig(**arguments), console.print, console)
    assert "holds a configuration only" in console.file.getvalue()
    assert set(prepared.spec.to_plain()["content"]["id2label"].values()) == {*"0123456789"}
    model.save_pretrained(tmp_path / "theirs")
    run(TrainConfig(**arguments), console)
    assert "2 of 10 classes" in console.file.getvalue()
    shutil.rmtree(tmp_path / "theirs")
    prepare(TrainConfig(out=tiny["out"], resume=True), console.print, console)

    ours, info = load_checkpoint(tiny["out"])
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tiny["out"] / "best").eval()
    assert theirs.config.id2label == {index: str(index) for index in range(10)}
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        found = ours(images, torch.zeros(1, 96, 96, dtype=torch.bool)).logits[-1]
        torch.testing.assert_close(found, theirs(images).logits, atol=1e-5, rtol=1e-5)
    assert info.mean == ((0.485, 0.456, 0.406) if name.startswith("deformable") else (0.0, 0.0, 0.0))
    assert 0 <= oddetr.evaluate(tiny["out"], split="test").ap <= 1


def test_a_job_that_resumes_what_there_is_starts_from_the_detector_of_init(tiny: dict, trained: Path) -> None:
    """As the jobs of a comparison do; `trained` has other sizes than every preset."""
    arguments = {name: value for name, value in tiny.items() if name not in ("model", "detector")}
    console = quiet()
    prepared = prepare(TrainConfig(**arguments | {"init": trained, "resume": True}), console.print, console)
    assert prepared.spec.num_queries == 12
