"""Checkpoints and folders of transformers from strangers: nothing is run or fetched, and memory is limited."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.checkpoints.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.families.presets import build_detector, count_values
from tests.strange import STRANGE_MODULE, Bomb, armed, changed, hostile_checkpoint, refused, rewritten


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    return armed(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return hostile_checkpoint(tmp_path / "run" / "best")


TIMM = "only names of timm's own models are taken"


def files_of_transformers(folder: Path, **content: Any) -> Path:
    """A folder as transformers reads it, without weights."""
    transformers = pytest.importorskip("transformers", reason="the transformers extra is not installed")
    folder.mkdir()
    transformers.DeformableDetrConfig().save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    return folder


def test_transformers_folder_when_its_weights_are_a_pickle_then_refuses_it(
    exploded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from oddetr.models.transformers.config import load_pretrained

    folder = files_of_transformers(tmp_path / "theirs")
    torch.save(Bomb(exploded), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"Only safetensors are: pickles.*model\.save_pretrained\(FOLDER\)"):
        load_pretrained(str(folder))
    assert "holds no *.safetensors" in refused(["convert", str(folder), "--to", str(tmp_path / "ours")], capsys)
    assert not exploded.exists()


@pytest.mark.parametrize("kind", ["deformable_detr", "strange"])
def test_transformers_folder_when_it_has_code_then_runs_none(
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
def test_checkpoint_when_its_backbone_is_remote_then_is_refused(
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
def test_transformers_folder_when_it_names_remote_parts_then_fetches_none(
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


def test_transformers_folder_when_old_then_uses_a_timm_backbone_offline(
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
        ("config.json", {"d_model": "x"}, "d_model"),
        ("config.json", {"d_model": 64}, "mismatch"),
        ("config.json", {"model_type": ["detr"]}, "cannot be trained here"),
        ("preprocessor_config.json", [], "no JSON object"),
        ("preprocessor_config.json", {"image_mean": 5}, "TypeError"),
        ("preprocessor_config.json", {"image_mean": ["a", "b", "c"]}, "three numbers"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "above 0"),
    ],
)
def test_transformers_folder_when_damaged_then_says_where(file: str, content: Any, told: str, theirs: Path) -> None:
    from oddetr.models.transformers.config import load_pretrained

    rewritten(theirs / file, content)
    with pytest.raises(ValueError, match=f"{theirs} of transformers cannot be read .*{told}"):
        load_pretrained(str(theirs))


def test_train_when_a_transformers_folder_is_damaged_then_says_why(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", f"hf:{theirs}", "--out", str(theirs / "run")]
    assert "it must be above 0" not in refused([*words, "--detector.d_model", "x"], capsys)
    rewritten(theirs / "preprocessor_config.json", {"image_std": [0, 0, 0]})
    assert "it must be above 0" in refused(words, capsys)


@pytest.mark.parametrize("whose", ["checkpoint", "theirs"])
def test_count_values_equals_the_number_of_parameters(whose: str, request: pytest.FixtureRequest) -> None:
    detector, info = load_checkpoint(request.getfixturevalue(whose))
    count = sum(parameter.numel() for parameter in detector.parameters())
    assert count_values(info.detector, len(info.classes)) == count


LARGER = r"(parameters or more, and model.safetensors has|it must be a whole number from . to)"


@pytest.mark.parametrize(
    "content",
    [
        {"d_model": 16_384},
        {"num_queries": 10**6},
        {"backbone_config": {"model_type": "resnet", "depths": [30] * 4}},
    ],
)
def test_transformers_checkpoint_when_larger_than_its_file_then_is_refused(
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
        ({"backbone": "resnet50", "use_timm_backbone": False, "backbone_kwargs": {"out_indices": [1]}}, None),
        ({"attn_implementation": "kernels-community/flash-attn", "use_kernels": True}, None),
        ({"_attn_implementation": "stranger/code"}, None),
    ],
)
def test_transformers_checkpoint_when_it_names_remote_parts_then_fetches_none(
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
def test_transformers_checkpoint_when_its_normalisation_is_wrong_then_is_refused(
    name: str, values: list[Any], theirs: Path
) -> None:
    changed(theirs, lambda known: known["detector"].update({name: values}))
    with pytest.raises(CheckpointError, match=f"{name} is .*; it must be"):
        read_info(theirs)


THIN = {"heads": 1, "ffn_width": 1, "levels": 3, "points": 1, "num_queries": 1}


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 3_200_000},
        {"encoder_layers": 10**9},
        {"denoising": 10**9},
        {"top_k": 10**9},
        {"points": 1000},
        THIN | {"width": 8192},
        THIN | {"width": 2048, "variant": "dino", "denoising": 1},
        {"backbone": "convnext_large"},
    ],
)
def test_checkpoint_when_larger_than_its_file_then_is_refused(sizes: dict[str, Any], checkpoint: Path) -> None:
    changed(checkpoint, lambda content: content["detector"].update({"variant": "plain"} | sizes))
    with pytest.raises(CheckpointError, match=LARGER):
        load_checkpoint(checkpoint)


def test_checkpoint_when_it_names_more_classes_than_it_holds_then_is_refused(checkpoint: Path) -> None:
    classes = {"names": [f"class {number}" for number in range(200_000)], "ids": [*range(200_000)]}
    changed(checkpoint, lambda content: content.update(classes=classes))
    with pytest.raises(CheckpointError, match=LARGER):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("image_size", 4097),
        ("image_size", "64"),
        ("epoch", "3"),
        ("mean", [0.5, 0.5]),
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
def test_checkpoint_when_a_value_has_the_wrong_type_then_is_refused(
    field: str, value: object, checkpoint: Path
) -> None:
    changed(checkpoint, lambda content: content.update({field: value}))
    with pytest.raises(CheckpointError, match=r"must|no run|no count|no number"):
        read_info(checkpoint)


def test_checkpoint_when_its_description_is_huge_or_deep_then_is_refused(checkpoint: Path) -> None:
    file = checkpoint / "checkpoint.json"
    with file.open("r+b") as stream:
        stream.truncate(2**30)
    with pytest.raises(CheckpointError, match="has 1,073,741,824 bytes; of such files at most 67,108,864 are read"):
        read_info(checkpoint)
    file.write_text("[" * 10**6)
    with pytest.raises(CheckpointError, match="nested too deep"):
        read_info(checkpoint)


@pytest.mark.parametrize("length", [2**63, 200 * 2**20, 8])
def test_safetensors_when_the_header_length_is_wrong_then_is_refused(length: int, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(checkpoint)
