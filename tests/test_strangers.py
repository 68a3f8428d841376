"""Files of strangers: nothing in them is executed, believed without a limit, or leads a verb to write elsewhere."""

import argparse
import json
import os
import pickle
import re
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import oddetr
from oddetr.checkpoints.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from oddetr.cli import main
from oddetr.common.untrusted import MOST_JSON, read_json, read_weights_only
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.scores import read_scores
from oddetr.models.families.presets import DetectorConfig, build_detector, count_values
from oddetr.training.config import TrainConfig
from oddetr.training.records.log import MOST_EVENTS, read_events
from tests.conftest import tiny_arguments
from tests.helpers import without_checksums

SMALL = DetectorConfig(
    "refine", "test_efficientnet", False, 32, 4, 32, encoder_layers=1, decoder_layers=2, num_queries=12, dropout=0.0
)
HOSTILE = (
    "../../up",
    "/tmp/oddetr-root",
    "a/b",
    "..",
    "<script>alert(1)</script>",
    "$x^{$",
    "{{ 7*7 }}",
    "n" * 300,
)
"""Names of classes."""


TIMM = "only names of timm's own models are taken"


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    """The file that a bomb makes; it does where it is read without care."""
    file = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(file)))
    assert file.exists(), "the pickle is harmless: nothing would be tested"
    file.unlink()
    return file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A detector with random weights whose classes have hostile names."""
    folder = tmp_path / "run" / "best"
    detector = build_detector(SMALL, len(HOSTILE))
    names = ClassTable(HOSTILE, tuple(range(len(HOSTILE))))
    save_checkpoint(folder, {"teacher": detector}, CheckpointInfo(SMALL, names, 64, detector.mean, detector.std))
    return folder


def by_torch(file: Path, bomb: Bomb) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}, "global_step": 3, "more": bomb}, file)


def by_torch_before_zip(file: Path, bomb: Bomb) -> None:
    torch.save({"state_dict": {}, "more": bomb}, file, _use_new_zipfile_serialization=False)


def by_pickle(file: Path, bomb: Bomb) -> None:
    file.write_bytes(pickle.dumps(bomb))


def by_yaml(file: Path, bomb: Bomb) -> None:
    file.write_text(
        f"data: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{bomb.file}']]\n"
    )


PLANTERS = (by_torch, by_torch_before_zip, by_pickle)
Planter = Callable[[Path, Bomb], None]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, which must be a failure that it explains; not how it got there."""
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr()
    assert status in (1, 2), told
    assert "weights_only=False" not in told.err
    return " ".join(told.err.split())


@pytest.mark.parametrize("plant", PLANTERS)
def test_convert_when_the_file_is_a_pickle_then_refuses_and_says_what_to_do(
    plant: Planter, exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "strange.pth", Bomb(exploded))
    told = refused(["convert", str(tmp_path / "strange.pth"), "--to", str(tmp_path / "ours")], capsys)
    assert "cannot be read as weights only" in told
    assert "Save its state dict alone" in told
    assert not exploded.exists()


@pytest.mark.parametrize("plant", PLANTERS)
def test_training_when_backbone_weights_are_a_pickle_then_refuses_and_says_what_to_do(
    plant: Planter, exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "strange.pth", Bomb(exploded))
    words = [
        "train",
        "--backbone-weights",
        str(tmp_path / "strange.pth"),
        "--out",
        str(tmp_path / "new"),
        "--epochs",
        "1",
    ]
    told = refused(words, capsys)
    assert "cannot be read as weights only" in told
    assert "Ways to get them" in told
    assert not exploded.exists()


@pytest.mark.parametrize("plant", PLANTERS)
def test_state_when_it_is_a_pickle_then_resuming_refuses(
    plant: Planter, exploded: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = checkpoint.parent
    digits = {"names": [*"0123456789"], "ids": [*range(10)]}
    changed(checkpoint, lambda content: content.update(classes=digits))
    checkpoint.rename(run / "last")
    (run / "config.json").write_text(json.dumps(TrainConfig(epochs=2).to_json()))
    (run / "last" / "student.safetensors").write_bytes((run / "last" / "model.safetensors").read_bytes())
    plant(run / "last" / "resume.ckpt", Bomb(exploded))
    without_checksums(run / "last")
    assert "resume.ckpt cannot be read as weights only" in refused(["train", "--out", str(run), "--resume"], capsys)
    assert not exploded.exists()


@pytest.mark.parametrize("plant", PLANTERS)
def test_replay_when_the_file_is_a_pickle_then_refuses(
    plant: Planter, exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "replay_step_1.pt", Bomb(exploded))
    assert "cannot be read as weights only" in refused(["replay", str(tmp_path / "replay_step_1.pt")], capsys)
    assert not exploded.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
def test_checkpoint_when_a_file_in_it_is_a_pickle_then_is_refused(
    name: str, exploded: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(exploded)))
    words = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert "cannot be read" in refused(words, capsys)
    assert not exploded.exists()


def test_image_and_annotations_when_they_are_pickles_then_are_unreadable(
    exploded: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        (data / split / "a.png").write_bytes(pickle.dumps(Bomb(exploded)))
        (data / split / "_annotations.coco.json").write_bytes(pickle.dumps(Bomb(exploded)))
    assert main(["check", str(data)]) == 1
    assert main(["predict", str(checkpoint), str(data / "val"), "--out", str(tmp_path / "out")]) == 1
    assert "the file is empty, or no image" in " ".join(capsys.readouterr().out.split())
    assert not exploded.exists()


def test_configurations_when_they_hold_tags_of_python_then_are_refused(
    exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "strange.yaml"
    by_yaml(file, Bomb(exploded))
    for words in (["train", "--config", str(file)], ["compare", str(file)]):
        assert "could not determine a constructor for the tag" in refused(words, capsys)
    assert not exploded.exists()


LEVELS = ["&a0 [x, x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
"""A few hundred bytes of YAML that mean 9^29 lists."""


@pytest.mark.parametrize("field", ["trainer", "detector"])
def test_configurations_when_they_hold_aliases_then_are_refused_before_these_are_unfolded(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = f"{field}: {{{', '.join(f'a{n}: {level}' for n, level in enumerate(LEVELS))}}}"
    file = tmp_path / "strange.yaml"
    told: dict[str, str] = {}
    for text in (bomb, f"base: {{{bomb}}}"):
        file.write_text(f"{text}\n")
        told |= {verb: refused([*verb.split(), str(file)], capsys) for verb in ("train --config", "compare")}
        assert "*a0 stands for another part of it, which is not read; write that out here" in told["compare"]
        assert "*a0 stands for another part" in told["train --config"]
    file.write_text(f"base: '{{{bomb}}}'\n")
    assert "strange.yaml: base takes names with values, not " in refused(["compare", str(file)], capsys)
    refused(["train", f"--{field}", bomb.partition(": ")[2]], capsys)


STRANGE_MODULE = "from pathlib import Path\nPath({!r}).touch()\nclass Bomb: pass\n"


@pytest.mark.parametrize("field", ["trainer", "detector"])
def test_configurations_when_they_name_what_to_import_then_nothing_is_imported_or_made(
    field: str, exploded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsonargparse by itself imports the class that `class_path` names, and makes one."""
    (tmp_path / "strange_module.py").write_text(STRANGE_MODULE.format(str(exploded)))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "strange.yaml"
    values = f"{field}: {{profiler: {{class_path: strange_module.Bomb}}}}\nepochs: 1\nout: {tmp_path / 'new'}\n"
    file.write_text(values)
    refused(["train", "--config", str(file)], capsys)
    file.write_text("base:\n  " + values.partition("out:")[0].strip().replace("\n", "\n  ") + "\n")
    with pytest.raises(ValueError, match="class_path"):
        oddetr.compare(file)
    assert not exploded.exists()


def files_of_transformers(folder: Path, **content: Any) -> Path:
    """A folder as transformers reads it, without weights."""
    transformers = pytest.importorskip("transformers", reason="the transformers extra is not installed")
    folder.mkdir()
    transformers.DeformableDetrConfig().save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    return folder


@pytest.mark.parametrize("plant", PLANTERS)
def test_folder_of_transformers_when_its_weights_are_pickles_then_refuses_and_says_what_to_do(
    plant: Planter, exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from oddetr.models.transformers.config import load_pretrained

    folder = files_of_transformers(tmp_path / "theirs")
    plant(folder / "pytorch_model.bin", Bomb(exploded))
    with pytest.raises(OSError, match=r"Only safetensors are: pickles.*model\.save_pretrained\(FOLDER\)"):
        load_pretrained(str(folder))
    assert "holds no *.safetensors" in refused(["convert", str(folder), "--to", str(tmp_path / "ours")], capsys)
    assert not exploded.exists()


@pytest.mark.parametrize("kind", ["deformable_detr", "strange"])
def test_folder_of_transformers_when_it_brings_code_then_none_is_run_or_asked_for(
    kind: str, exploded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oddetr.models.transformers.config import HuggingFaceConfig

    code = {"AutoConfig": "strange_module.Bomb", "AutoModelForObjectDetection": "strange_module.Bomb"}
    folder = files_of_transformers(tmp_path / "theirs", model_type=kind, auto_map=code)
    (folder / "strange_module.py").write_text(STRANGE_MODULE.format(str(exploded)))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run the code"))
    if kind == "strange":
        with pytest.raises(ValueError, match="strange cannot be trained here"):
            HuggingFaceConfig.read(str(folder))
    else:
        assert HuggingFaceConfig.read(str(folder)).kind == kind
    assert not exploded.exists()


@pytest.mark.parametrize("name", ["hf-hub:stranger/model", "local-dir:/tmp/model", "hf_hub:stranger/model"])
def test_checkpoint_when_its_backbone_lies_elsewhere_then_is_refused_without_asking_the_network(
    name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    changed(checkpoint, lambda content: content["detector"].update(backbone=name))
    with pytest.raises(CheckpointError, match="only names of timm's own models are taken"):
        load_checkpoint(checkpoint)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A checkpoint of a small detector of transformers."""
    from oddetr.models.transformers.config import HuggingFaceConfig

    transformers = pytest.importorskip("transformers", reason="the transformers extra is not installed")
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 4, "encoder_ffn_dim": 16}
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, layer_type="basic"
    )
    content = transformers.DeformableDetrConfig(backbone_config=backbone, decoder_ffn_dim=16, **sizes).to_dict()
    config = HuggingFaceConfig(content).for_classes(("cat", "dog"))
    folder = tmp_path / "theirs" / "best"
    info = CheckpointInfo(config, ClassTable(("cat", "dog"), (0, 1)), 64, config.mean, config.std)
    save_checkpoint(folder, {"teacher": build_detector(config, 2)}, info)
    return folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"backbone_config": None, "backbone": "microsoft/resnet-50", "use_timm_backbone": False}, TIMM),
        ({"backbone_config": None, "backbone": "bert-base-uncased", "use_timm_backbone": False}, "elsewhere"),
        ({"backbone_config": None, "backbone": "resnet50", "backbone_kwargs": {"out_indices": [1]}}, "elsewhere"),
        ({"model_type": "rt_detr", "backbone_config": None, "backbone": "bert-base-uncased"}, "elsewhere"),
        ({"backbone_config": None, "backbone": "stranger/model", "use_timm_backbone": True}, TIMM),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:stranger/model"}}, TIMM),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"backbone": "bert-base-uncased", "use_timm_backbone": False}, None),
        ({"attn_implementation": "kernels-community/flash-attn", "use_kernels": True}, None),
        ({"_attn_implementation": "stranger/code"}, None),
        ({"fusion_config": {"patch_embeddings": True}, "dtype": "float99", "transformers_weights": "../up"}, None),
    ],
)
def test_folder_of_transformers_when_it_names_what_lies_elsewhere_then_nothing_is_fetched(
    changes: dict[str, Any], told: str | None, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oddetr.models.transformers.config import load_pretrained

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    rewritten(theirs / "config.json", changes)
    if told is None:
        detector, _ = load_pretrained(str(theirs))
        assert detector.config.backbone_config.model_type == "resnet"
        for name, value in load_checkpoint(theirs)[0].state_dict().items():
            torch.testing.assert_close(detector.state_dict()[name], value, rtol=0, atol=0)
    else:
        with pytest.raises(ValueError, match=told):
            load_pretrained(str(theirs))


def test_folder_of_transformers_when_older_then_its_backbone_is_timms_without_asking_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oddetr.models.transformers.config import HuggingFaceConfig

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    older = {"backbone_config": None, "backbone": "resnet18", "use_timm_backbone": True, "num_feature_levels": 1}
    found = HuggingFaceConfig.read(str(files_of_transformers(tmp_path / "theirs", **older))).content["backbone_config"]
    assert (found["model_type"], found["backbone"], found["out_indices"]) == ("timm_backbone", "resnet18", [4])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", [], "no JSON object"),
        ("config.json", {"id2label": [1, 2]}, "AttributeError"),
        ("config.json", {"d_model": "x"}, "d_model"),
        ("config.json", {"d_model": 64}, "mismatch"),
        ("config.json", {"model_type": ["detr"]}, "cannot be trained here"),
        ("preprocessor_config.json", [], "no JSON object"),
        ("preprocessor_config.json", {"image_mean": 5}, "TypeError"),
        ("preprocessor_config.json", {"image_mean": ["a", "b", "c"]}, "three numbers"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "above 0"),
    ],
)
def test_folder_of_transformers_when_it_cannot_be_understood_then_says_which_and_why(
    file: str, content: Any, told: str, theirs: Path
) -> None:
    from oddetr.models.transformers.config import load_pretrained

    rewritten(theirs / file, content)
    with pytest.raises(ValueError, match=f"{theirs} of transformers cannot be read .*{told}"):
        load_pretrained(str(theirs))


def test_training_when_a_folder_of_transformers_cannot_be_understood_then_says_why(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", f"hf:{theirs}", "--out", str(theirs / "run")]
    assert "it must be above 0" not in refused([*words, "--detector.d_model", "x"], capsys)
    rewritten(theirs / "preprocessor_config.json", {"image_std": [0, 0, 0]})
    assert "it must be above 0" in refused(words, capsys)


@pytest.mark.parametrize("whose", ["checkpoint", "theirs"])
def test_checkpoint_when_whole_then_holds_what_is_counted(whose: str, request: pytest.FixtureRequest) -> None:
    detector, info = load_checkpoint(request.getfixturevalue(whose))
    count = sum(parameter.numel() for parameter in detector.parameters())
    assert count_values(info.detector, len(info.classes)) == count


def rewritten(file: Path, content: Any) -> None:
    """The file with these changes; or with this content, which is no object."""
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | content if isinstance(content, dict) else content))


LARGER = r"(parameters or more, and model.safetensors has|it is at most|it must be a whole number from . to)"
SWIN = {"model_type": "swin", "window_size": 150, "depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    "content",
    [
        {"d_model": 10**9},
        {"d_model": 2**14},
        {"encoder_ffn_dim": 10**6},
        {"num_queries": 10**6},
        {"encoder_layers": 10**9},
        {"backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 10**9]}},
        {"backbone_config": {"model_type": "resnet", "depths": [30] * 4}},
        {"backbone_config": {"model_type": "resnet", "depths": [[30, 30], [30, 30]]}},
        {"backbone_config": {"model_type": "resnet", "hidden_sizes": [8] * 1000}},
        {"backbone_config": {"model_type": "hgnet_v2", "stage_num_blocks": [90, 90, -90, -90]}},
        {"decoder_n_points": 10**6},
        {"depth_mult": 1e9},
        {"backbone_config": {"model_type": "swin", "out_indices": [2, 3, 4], "image_size": 64_000}},
        {"backbone_config": SWIN | {"out_indices": [2, 3, 4], "image_size": 9600}},
    ],
)
def test_checkpoint_of_transformers_when_it_describes_more_than_it_holds_then_is_refused_before_memory_is_taken(
    content: dict[str, Any], theirs: Path
) -> None:
    changed(theirs, lambda known: known["detector"]["content"].update(content))
    with pytest.raises(CheckpointError, match=LARGER):
        load_checkpoint(theirs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:stranger/model"}},
            TIMM,
        ),
        (
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "local-dir:/tmp/model"}},
            TIMM,
        ),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "stranger/model"}}, TIMM),
        ({"backbone_config": None, "backbone": "bert-base-uncased"}, "there is no backbone_config"),
        ({"backbone_config": None, "backbone": "resnet50", "use_timm_backbone": False}, "there is no backbone_config"),
        ({"backbone": "resnet50", "use_timm_backbone": False, "backbone_kwargs": {"out_indices": [1]}}, None),
        ({"attn_implementation": "kernels-community/flash-attn", "use_kernels": True}, None),
        ({"_attn_implementation": "stranger/code"}, None),
    ],
)
def test_checkpoint_of_transformers_when_it_names_what_lies_elsewhere_then_nothing_is_fetched(
    changes: dict[str, Any], told: str | None, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    changed(theirs, lambda known: known["detector"]["content"].update(changes))
    if told is None:
        assert load_checkpoint(theirs)[0].config.backbone_config.model_type == "resnet"
    else:
        with pytest.raises(CheckpointError, match=told):
            load_checkpoint(theirs)


@pytest.mark.parametrize(("name", "values"), [("mean", ["x", 0, 0]), ("std", [0, 0, 0]), ("std", [1, 1])])
def test_checkpoint_of_transformers_when_its_normalisation_is_none_then_is_refused(
    name: str, values: list[Any], theirs: Path
) -> None:
    changed(theirs, lambda known: known["detector"].update({name: values}))
    with pytest.raises(CheckpointError, match=f"{name} is .*; it must be"):
        read_info(theirs)


def changed(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = checkpoint / "checkpoint.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    without_checksums(checkpoint)


THIN = {"heads": 1, "ffn_width": 1, "levels": 3, "points": 1, "num_queries": 1}


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 3_200_000},
        {"num_queries": 10**12},
        {"encoder_layers": 10**9},
        {"ffn_width": 10**9},
        {"denoising": 10**9},
        {"top_k": 10**9},
        {"levels": 1000},
        {"points": 1000},
        THIN | {"width": 8192},
        THIN | {"width": 2048, "levels": 15},
        THIN | {"width": 2048, "variant": "dino", "denoising": 1},
        {"backbone": "convnext_large"},
    ],
)
def test_checkpoint_when_it_describes_more_than_it_holds_then_is_refused_before_memory_is_taken(
    sizes: dict[str, Any], checkpoint: Path
) -> None:
    changed(checkpoint, lambda content: content["detector"].update({"variant": "plain"} | sizes))
    with pytest.raises(CheckpointError, match=LARGER):
        load_checkpoint(checkpoint)


def test_checkpoint_when_it_names_more_classes_than_it_holds_then_is_refused_before_memory_is_taken(
    checkpoint: Path,
) -> None:
    classes = {"names": [f"class {number}" for number in range(200_000)], "ids": [*range(200_000)]}
    changed(checkpoint, lambda content: content.update(classes=classes))
    with pytest.raises(CheckpointError, match=LARGER):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("size", [0, -5, 4097, 10**9, "64", None])
def test_checkpoint_when_its_image_size_is_no_size_then_is_refused(size: object, checkpoint: Path) -> None:
    changed(checkpoint, lambda content: content.update(image_size=size))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_info(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "3"),
        ("mean", [0.5, 0.5]),
        ("mean", ["a", 0.5, 0.5]),
        ("std", [0, 1, 1]),
        ("images", {"train": "many"}),
        ("versions", {"torch": 2}),
        ("metrics", {"teacher": 0.5}),
        ("configuration", {"optimizer": []}),
        ("configuration", {"batch_size": "8"}),
        ("configuration", {"out": ["runs/a"]}),
        ("configuration", {"accumulate": 0}),
        ("epoch", -1),
        ("std", [1, float("nan"), 1]),
    ],
)
def test_checkpoint_when_what_it_says_is_of_another_kind_then_is_refused(
    field: str, value: object, checkpoint: Path
) -> None:
    changed(checkpoint, lambda content: content.update({field: value}))
    with pytest.raises(CheckpointError, match=r"must|no run|no count|no number"):
        read_info(checkpoint)


@pytest.mark.parametrize("line", ["[" * 10**5, "{}", '"train"', '{"kind": "train"}', '{"kind": ["x"], "step": 1}'])
@pytest.mark.parametrize("value", ["x", [1], True])
def test_events_when_lines_are_of_another_kind_then_they_are_none(line: str, value: object, tmp_path: Path) -> None:
    sound = {"kind": "train", "step": 1, "loss": 0.5}
    epoch = {"kind": "epoch", "step": 1, "epoch": 1}
    wrong = [sound | {"step": value}, epoch | {"epoch": value}, sound | {"step": 10**30}, sound | {"step": -1}]
    text = [json.dumps(event) for event in (sound, *wrong, epoch)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([text[0], line, *text[1:], text[0][:-5]]))
    assert read_events(tmp_path) == [sound, epoch]


@pytest.mark.parametrize("value", ["x", [1], {"y": 1}, True, 10**400])
def test_scores_when_of_another_kind_then_are_left_out_one_by_one(value: object) -> None:
    scores = {"AP": 0.5, "per_class": {"cat": None}, "instability": [0.5], "AP50": 1.0}
    for name in ("AP", "AP50"):
        assert read_scores(scores | {name: value}) == {key: kept for key, kept in scores.items() if key != name}
    assert read_scores(scores | {"per_class": {"cat": None, "dog": value}, "instability": [0.5]}) == scores


def test_checkpoint_when_its_description_is_huge_or_nested_without_end_then_is_refused_unread(checkpoint: Path) -> None:
    file = checkpoint / "checkpoint.json"
    with file.open("r+b") as stream:
        stream.truncate(2**30)
    with pytest.raises(CheckpointError, match="has 1,073,741,824 bytes; of such files at most 67,108,864 are read"):
        read_info(checkpoint)
    file.write_text("[" * 10**6)
    with pytest.raises(CheckpointError, match="nested too deep"):
        read_info(checkpoint)


@pytest.mark.parametrize("length", [2**63, 2**40, 200 * 2**20, 8])
def test_weights_when_their_header_lies_about_its_length_then_are_refused(length: int, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(checkpoint)


def tree(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_predict_when_names_of_files_and_classes_are_hostile_then_writes_into_its_folder_only(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "deep" / "out"
    photos.mkdir()
    out.mkdir(parents=True)
    for name in ("...png", "..png", "..\\..\\up.png", "%2e%2e%2fup.png", "-o.png", "a\nb.png", "CON.png"):
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(photos / name, format="PNG")
    monkeypatch.chdir(tmp_path / "deep")
    before = tree(tmp_path)
    report = oddetr.predict(checkpoint, photos, out, threshold=0.0, formats="pictures,coco,csv,yolo")
    assert report.images + len(report.unreadable) == 7
    after = tree(tmp_path)
    assert {file: content for file, content in after.items() if out not in file.parents} == before
    assert all(file.parent in (out, out / "labels") for file in after if out in file.parents)


def test_names_when_they_are_dots_alone_then_become_no_folder() -> None:
    from oddetr.prediction.inputs import unique_names

    names = unique_names([Path("...mp4"), Path("..mp4"), Path("a/...avi")])
    assert not {"", ".", ".."} & set(names.values())
    assert len(set(names.values())) == 3


def test_saving_when_class_names_are_hostile_then_writes_into_its_folder_only(checkpoint: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    oddetr.Predictor.load(checkpoint).save_pretrained(tmp_path / "shared")
    new = {file for file in tree(tmp_path) if file not in before}
    assert {file.parent for file in new} == {tmp_path / "shared"}


def test_revision_when_it_leads_out_of_the_cache_then_is_refused(tmp_path: Path) -> None:
    from oddetr.checkpoints.hub import HubError, fetch

    for revision in ("../../up", "refs/../../../up", "..\\up"):
        with pytest.raises(HubError, match="is no revision"):
            fetch("user/cells", ["checkpoint.json"], revision=revision, cache_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_resumed_run_when_its_record_names_another_folder_then_writes_into_its_own(
    scenes: Path, tmp_path: Path
) -> None:
    run = oddetr.train(**tiny_arguments(scenes, tmp_path / "run") | {"epochs": 1})
    recorded = json.loads((run / "config.json").read_text()) | {"out": str(tmp_path / "elsewhere"), "epochs": 2}
    (run / "config.json").write_text(json.dumps(recorded))
    oddetr.train(data=str(scenes), out=run, resume=True)
    assert not (tmp_path / "elsewhere").exists()
    assert json.loads((run / "last" / "checkpoint.json").read_text())["epoch"] == 2


def test_json_when_larger_than_its_limit_then_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    with pytest.raises(ValueError, match="at most 7 are read"):
        read_json(file, 7)
    with file.open("r+b") as stream:
        stream.truncate(MOST_JSON + 1)
    with pytest.raises(ValueError, match=f"at most {MOST_JSON:,} are read"):
        read_json(file)


def test_events_when_their_file_is_larger_than_its_limit_then_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as stream:
        stream.truncate(MOST_EVENTS + 1)
    with pytest.raises(OSError, match=f"at most {MOST_EVENTS:,} are read"):
        read_events(tmp_path)


def by_pipe(file: Path) -> None:
    os.mkfifo(file)


def by_device(file: Path) -> None:
    file.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("evaluate {run}", "run/best/checkpoint.json"),
        ("predict {run} {image} --out {new}", "run/best/model.safetensors"),
        ("report {run}", "run/metrics.jsonl"),
        ("convert {strange} --to {new}", "strange"),
        ("convert {theirs} --to {new}", "theirs/config.json"),
        ("convert {theirs} --to {new}", "theirs/x.safetensors"),
        ("replay {strange}", "strange"),
        ("train --backbone-weights {strange} --epochs 1 --out {new}", "strange"),
        ("train --backbone-weights {weights} --epochs 1 --out {new}", "strange.safetensors"),
        ("train --out {run} --resume", "run/last/resume.ckpt"),
    ],
)
@pytest.mark.parametrize("put", [by_pipe, by_device])
def test_verb_when_a_file_is_a_pipe_or_a_device_then_is_refused_unopened(
    put: Callable[[Path], None],
    words: str,
    name: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pipe that is opened waits for ever for someone who writes to it; a device may have no end."""
    run, theirs, image = tmp_path / "run", tmp_path / "theirs", tmp_path / "a.png"
    (run / "config.json").write_text(json.dumps(TrainConfig(epochs=2).to_json()))
    shutil.copytree(checkpoint, run / "last")
    without_checksums(checkpoint)
    without_checksums(run / "last")
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"model_type": "deformable_detr"}))
    Image.new("RGB", (64, 64)).save(image)
    file = tmp_path / name
    file.unlink(missing_ok=True)
    put(file)
    places = {"run": run, "theirs": theirs, "image": image, "new": tmp_path / "new", "strange": tmp_path / "strange"}
    places["weights"] = tmp_path / "strange.safetensors"
    told = refused([word.format(**places) for word in words.split()], capsys)
    assert re.search(r"it is a (pipe|device), not a file|is missing", told), told


def test_weights_when_they_are_weights_then_are_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(3), "names": ["a"], "step": 4}, tmp_path / "weights.pth")
    content = read_weights_only(tmp_path / "weights.pth")
    assert content["weight"].tolist() == [0, 1, 2]
    assert (content["names"], content["step"]) == (["a"], 4)
    with pytest.raises(FileNotFoundError):
        read_weights_only(tmp_path / "nothing.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_when_tensors_share_their_values_then_are_read(zipped: bool, tmp_path: Path) -> None:
    """Views of one storage, tied weights, a tensor of no values and one of a single axis spread out."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "tied": whole, "turned": whole.T, "row": whole[1], "none": torch.zeros(0, 4)}
    state["spread"] = whole[None].expand(1, -1, -1)
    content = {"model": state, "args": argparse.Namespace(nheads=8, more=whole[2])}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = read_weights_only(tmp_path / "weights.pth")
    assert all(found["model"][name].equal(value) for name, value in state.items())


def deflated(file: Path) -> None:
    torch.save({"weight": torch.zeros(2**16)}, file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def overlapping(file: Path) -> None:
    """Its list of parts names the largest many times."""
    torch.save({"weight": torch.zeros(2**16)}, file)
    with zipfile.ZipFile(file, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        archive.filelist += [largest] * 3
        archive.comment = b"changed"


def spread(file: Path) -> None:
    torch.save({"weight": [{"inner": torch.zeros(1).expand(10**6, 10**6)}]}, file)


def spread_before_zip(file: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, file, _use_new_zipfile_serialization=False)


def spread_in_arguments(file: Path) -> None:
    torch.save({"model": {}, "args": argparse.Namespace(more=torch.zeros(1).expand(9))}, file)


def without_values(file: Path) -> None:
    torch.save({"weight": torch.zeros(10**6, 10**6, device="meta")}, file)


INFLATED = {
    deflated: "is compressed, which torch.save never does",
    overlapping: "is said to have",
    spread: "a tensor of 1000000 x 1000000 has only 4 bytes of values",
    spread_before_zip: "a tensor of 1000000 x 1000000 has only 4 bytes of values",
    spread_in_arguments: "a tensor of 9 has only 4 bytes of values",
    without_values: "holds no values",
}


@pytest.mark.parametrize("write", INFLATED)
def test_weights_when_they_are_more_than_their_file_then_are_refused(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pth"
    write(file)
    assert file.stat().st_size < 2**20
    with torch.serialization.safe_globals([argparse.Namespace]), pytest.raises(ValueError, match=INFLATED[write]):
        read_weights_only(file)
    assert INFLATED[write] in refused(["convert", str(file), "--to", str(tmp_path / "ours")], capsys)
    refused(["replay", str(file)], capsys)


def test_weights_when_lists_stand_in_one_another_without_end_then_are_looked_through_once(tmp_path: Path) -> None:
    content: list[Any] = [torch.zeros(2)]
    for _ in range(64):
        content = [content, content]
    content.append(content)
    torch.save(content, tmp_path / "weights.pth")
    assert len(read_weights_only(tmp_path / "weights.pth")) == 3
