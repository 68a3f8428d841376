"""Checkpoints and folders of transformers from strangers: nothing is run or fetched."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.checkpoints.checkpoint import CheckpointError, CheckpointInfo, load_checkpoint, read_info, save_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.families.build import build_detector
from tests.models.helpers import SMALL
from tests.strange import STRANGE_MODULE, Bomb, armed, changed, hostile_checkpoint, refused, rewritten


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    return armed(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return hostile_checkpoint(tmp_path / "run" / "best")


TIMM, ELSEWHERE = "only names of timm's own models are taken", "elsewhere|there is no backbone_config"


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
        assert HuggingFaceConfig.read(str(folder)).family == kind
    assert not exploded.exists()


@pytest.mark.parametrize("name", ["hf-hub:stranger/model", "local-dir:/tmp/model"])
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


@pytest.mark.parametrize("whole_folder", [True, False], ids=["folder", "checkpoint"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"backbone_config": None, "backbone": "bert-base-uncased", "use_timm_backbone": False}, ELSEWHERE),
        ({"model_type": "rt_detr", "backbone_config": None, "backbone": "bert-base-uncased"}, ELSEWHERE),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:stranger/model"}}, TIMM),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "stranger/model"}}, TIMM),
        ({"attn_implementation": "kernels-community/flash-attn", "use_kernels": True}, None),
        ({"_attn_implementation": "stranger/code"}, None),
        ({"fusion_config": {"patch_embeddings": True}, "dtype": "float99", "transformers_weights": "../up"}, None),
    ],
)
def test_transformers_detector_when_it_names_remote_parts_then_fetches_none(
    changes: dict[str, Any], problem: str | None, whole_folder: bool, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of transformers, and a checkpoint of ours."""
    from oddetr.models.transformers.config import load_pretrained

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    if whole_folder:
        rewritten(theirs / "config.json", changes)
    else:
        changed(theirs, lambda known: known["detector"]["content"].update(changes))
    load = (lambda: load_pretrained(str(theirs))) if whole_folder else (lambda: load_checkpoint(theirs))
    if problem is None:
        assert load()[0].config.backbone_config.model_type == "resnet"
    else:
        with pytest.raises(ValueError, match=problem):
            load()


def test_transformers_folder_when_quantised_then_is_refused(theirs: Path) -> None:
    from oddetr.models.transformers.config import load_pretrained

    rewritten(theirs / "config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(ValueError, match="quantised"):
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
    ("file", "content", "problem"),
    [
        ("config.json", [], "no JSON object"),
        ("config.json", {"d_model": "x"}, "d_model"),
        ("config.json", {"d_model": 64}, "mismatch"),
        ("config.json", {"model_type": ["detr"]}, "cannot be trained here"),
        ("preprocessor_config.json", {"image_mean": 5}, "TypeError"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "above 0"),
    ],
)
def test_transformers_folder_when_damaged_then_says_where(file: str, content: Any, problem: str, theirs: Path) -> None:
    from oddetr.models.transformers.config import load_pretrained

    rewritten(theirs / file, content)
    with pytest.raises(ValueError, match=f"{theirs} of transformers cannot be read .*{problem}"):
        load_pretrained(str(theirs))


def test_train_when_a_transformers_folder_is_damaged_then_says_why(
    theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", f"hf:{theirs}", "--out", str(theirs / "run")]
    assert "it must be above 0" not in refused([*words, "--detector.d_model", "x"], capsys)
    rewritten(theirs / "preprocessor_config.json", {"image_std": [0, 0, 0]})
    assert "it must be above 0" in refused(words, capsys)


SIZE = "it is at most|it must be a whole number from . to"


@pytest.mark.parametrize("content", [{"d_model": 10**9}, {"encoder_layers": 10**9}])
def test_transformers_checkpoint_when_a_size_is_absurd_then_is_refused(content: dict[str, Any], theirs: Path) -> None:
    changed(theirs, lambda known: known["detector"]["content"].update(content))
    with pytest.raises(CheckpointError, match=SIZE):
        load_checkpoint(theirs)


@pytest.mark.parametrize("sizes", [{"width": 3_200_000}, {"encoder_layers": 10**9}, {"top_k": 10**9}])
def test_checkpoint_when_a_size_is_absurd_then_is_refused(sizes: dict[str, Any], checkpoint: Path) -> None:
    changed(checkpoint, lambda content: content["detector"].update(sizes))
    with pytest.raises(CheckpointError, match=SIZE):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 4097),
        ("image_size", "64"),
        ("epoch", "3"),
        ("std", [0, 1, 1]),
        ("images", {"train": "many"}),
        ("metrics", {"teacher": 0.5}),
        ("configuration", {"optimizer": []}),
        ("configuration", {"batch_size": "8"}),
        ("configuration", {"accumulate": 0}),
    ],
)
def test_checkpoint_when_a_value_has_the_wrong_type_then_is_refused(
    field: str, value: object, checkpoint: Path
) -> None:
    changed(checkpoint, lambda content: content.update({field: value}))
    with pytest.raises(CheckpointError, match=r"must|no run|no count|no number"):
        read_info(checkpoint)


@pytest.mark.parametrize("length", [2**63, 8])
def test_safetensors_when_the_header_length_is_wrong_then_is_refused(length: int, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("thresholds", [{"cat": 0.5}, {"cat": 0.5, "dog": 2.0}, {"cat": 0.5, "dog": "0.5"}])
def test_thresholds_that_are_not_a_share_for_each_class_are_refused(thresholds: dict[str, Any]) -> None:
    info = CheckpointInfo(SMALL, ClassTable(("cat", "dog"), (0, 1)), 64, (0.5,) * 3, (0.5,) * 3)
    content = json.loads(json.dumps(info.to_json()))
    assert CheckpointInfo.from_json(content | {"thresholds": {"cat": 0.5, "dog": 1}}).thresholds["dog"] == 1.0
    with pytest.raises(ValueError, match="thresholds must be a number in 0-1 for each class"):
        CheckpointInfo.from_json(content | {"thresholds": thresholds})
