"""Folders and repositories of transformers' detectors: all weights are there, or the error says what is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oddetr.models.transformers.config import HuggingFaceConfig, load_pretrained
from oddetr.training.initial_weights import copy_weights
from tests.models.test_huggingface import MODELS

transformers = pytest.importorskip("transformers", minversion="5.23")

LAYER = "model.decoder.layers.1."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = MODELS["RT-DETR v2"]()
    model.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def changed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", MODELS)
def test_load_pretrained_when_the_folder_is_sound_then_loads_every_bit(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    found, names = load_pretrained(str(tmp_path))
    expected, given = model.state_dict(), found.saved.state_dict()
    assert expected.keys() == given.keys()
    assert all(value.equal(given[key]) for key, value in expected.items())
    assert len(names) == model.config.num_labels


def test_load_pretrained_when_weights_are_missing_or_left_over_then_names_them(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    assert sum(name.startswith(LAYER) for name in whole) == 27
    for change, words in (
        (lambda state: {n: v for n, v in state.items() if not n.startswith(LAYER)}, rf"27 missing \({LAYER}encoder"),
        (lambda state: state | {"model.more": torch.zeros(1)}, r"1 unexpected \(model.more\)"),
        (
            lambda state: state | {f"{LAYER}final_layer_norm.bias": torch.zeros(3)},
            r"1 of another .*norm.bias \(\(3,\), not",
        ),
    ):
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        changed(folder, change)
        with pytest.raises(ValueError, match=words):
            load_pretrained(str(folder))


def test_load_pretrained_when_class_outputs_do_not_fit_then_they_begin_anew(folder: Path) -> None:
    """Without heads, and of another number of classes than the configuration names: no class is known."""
    whole = load_file(folder / "model.safetensors")
    outputs = ("class_embed", "enc_score_head")
    for change in (
        lambda state: {n: v for n, v in state.items() if not any(each in n for each in outputs)},
        lambda state: {n: v[:1].clone() if any(each in n for each in outputs) else v for n, v in state.items()},
    ):
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        changed(folder, change)
        found, names = load_pretrained(str(folder))
        assert names == ()
        assert found.saved.state_dict()[f"{LAYER}final_layer_norm.bias"].equal(whole[f"{LAYER}final_layer_norm.bias"])


def test_load_pretrained_reads_heads_by_their_older_names(folder: Path) -> None:
    """Up to version 4 transformers kept a tied head under either name, and counters of frozen norms."""
    whole = load_file(folder / "model.safetensors")
    changed(
        folder, lambda state: {n.removeprefix("model.decoder.") if "_embed." in n else n: v for n, v in state.items()}
    )
    changed(folder, lambda state: state | {"model.backbone.norm.num_batches_tracked": torch.tensor(3)})
    found, names = load_pretrained(str(folder))
    head = "model.decoder.bbox_embed.0.layers.0.weight"
    assert found.saved.state_dict()[head].equal(whole[head])
    assert len(names) == 3


def test_a_folder_of_one_class_begins_a_detector_of_two(tmp_path: Path) -> None:
    model = MODELS["RT-DETR v2"]().config
    model.id2label, model.label2id = {0: "bolt"}, {"bolt": 0}
    type(MODELS["RT-DETR v2"]())(model).save_pretrained(tmp_path)
    source, names = load_pretrained(str(tmp_path))
    target = HuggingFaceConfig.read(str(tmp_path)).for_classes(("nut", "bolt")).build(2)
    assert copy_weights(target, ("nut", "bolt"), source, names) == 1
    mine, theirs = (each.model.model.enc_score_head.weight for each in (target, source))
    assert mine.shape[0] == 2
    assert mine[1].equal(theirs[0])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Path]], list[tuple[str, str, Any]]]:
    """Puts files in the place of a repository; returns what is asked for."""

    def put(files: dict[str, Path]) -> list[tuple[str, str, Any]]:
        asked: list[tuple[str, str, Any]] = []

        def download(repository: str, file: str, revision: str | None = None) -> str:
            asked.append((repository, file, revision))
            if file not in files:
                raise RemoteEntryNotFoundError(file, response=httpx.Response(404, request=httpx.Request("GET", "hub:")))
            return str(files[file])

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return asked

    return put


def test_a_name_with_a_revision_reads_every_file_of_that_revision(folder: Path, hub: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}))
    for name, revision in (("user/cells@v1", "v1"), ("user/cells", None)):
        asked = hub({file.name: file for file in folder.iterdir()})
        found, _ = load_pretrained(name)
        assert found.mean == (0.5, 0.5, 0.5)
        names = ("config.json", "preprocessor_config.json", "model.safetensors")
        assert asked == [("user/cells", file, revision) for file in names]
    with pytest.raises(ValueError, match="is no revision"):
        HuggingFaceConfig.read("user/cells@../other")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("best.pt", "probably of another library"),
        ("checkpoint.json", "checkpoint of this package: give it to --init"),
        ("adapter_config.json", "adapter"),
        ("model_index.json", "diffusers"),
    ],
)
def test_a_repository_without_config_says_what_it_is(there: str, words: str, hub: Any, tmp_path: Path) -> None:
    (tmp_path / there).write_text("{}")
    hub({there: tmp_path / there})
    for name, place in (("user/cells@v1", "repository"), (str(tmp_path), "folder")):
        with pytest.raises(OSError, match=f"no model {name} .*there is no config.json in the {place}.*{words}"):
            HuggingFaceConfig.read(name)


def test_a_repository_of_another_library_with_config_says_so(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    hub({"config.json": tmp_path / "config.json"})
    with pytest.raises(ValueError, match="has no model_type: it is not of transformers"):
        HuggingFaceConfig.read("timm/resnet18")
