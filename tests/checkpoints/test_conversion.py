"""Official checkpoints and transformers' folders, made here with random weights, become ours."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import oddetr
from oddetr.checkpoints.checkpoint import load_checkpoint
from oddetr.checkpoints.foreign import describe_state
from oddetr.cli import main
from oddetr.models.detector import Detector
from oddetr.models.families.build import DetectorConfig, build_detector
from tests.checkpoints.test_foreign import official_state
from tests.models.helpers import small_batch

SIZES = {
    "backbone": "resnet18",
    "width": 32,
    "heads": 4,
    "ffn_width": 48,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 6,
    "points": 2,
    "dropout": 0.0,
}
ARGUMENTS = argparse.Namespace(nheads=4, num_queries=6, dropout=0.0, lr=1e-4)


def small(variant: str, classes: int, **changes: Any) -> Detector:
    torch.manual_seed(1)
    denoising = 100 if variant == "dino" else 0
    detector = build_detector(DetectorConfig(variant=variant, denoising=denoising, **SIZES | changes), classes).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    return detector


def official(detector: Detector, variant: str) -> dict[str, Tensor]:
    """Its weights under the official names; frozen norms count no batches."""
    body = {f"backbone.0.{name.removeprefix('backbone.')}": value for name, value in detector.state_dict().items()}
    body = {name: value for name, value in body.items() if name.startswith("backbone.0.body.")}
    return official_state(detector, variant) | {n: v for n, v in body.items() if not n.endswith("num_batches_tracked")}


def saved(folder: Path, state: dict[str, Tensor], **more: Any) -> Path:
    file = folder / "checkpoint.pth"
    torch.save({"model": state, "args": ARGUMENTS, "epoch": 49, "optimizer": {"state": {}}} | more, file)
    return file


def names_file(folder: Path, count: int) -> Path:
    file = folder / "classes.txt"
    file.write_text("\n".join(f"thing {index}" for index in range(count)) + "\n")
    return file


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("plain", {"maps": 1, "levels": 1, "points": 4}),
        ("refine", {}),
        ("two_stage", {}),
        ("dab", {}),
        ("dino", {"maps": 4, "levels": 5, "points": 4}),
    ],
)
def test_converted_official_file_detects_the_same(variant: str, sizes: dict[str, int], tmp_path: Path) -> None:
    detector, batch = small(variant, 4, **sizes), small_batch((2, 1), size=64)
    file = saved(tmp_path, official(detector, variant))
    oddetr.convert(file, tmp_path / "ours", classes=names_file(tmp_path, 4))
    converted, info = load_checkpoint(tmp_path / "ours")
    assert info.classes.names == tuple(f"thing {index}" for index in range(4))
    assert info.image_size == 800
    denoising = 100 if variant == "dino" else 0
    top_k = 300 if variant == "dino" else 100
    assert info.detector == DetectorConfig(variant=variant, denoising=denoising, top_k=top_k, **SIZES | sizes)
    assert converted.top_k == top_k
    with torch.no_grad():
        expected, found = (each(batch.images, batch.padding_mask) for each in (detector, converted))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_converted_coco_file_has_80_classes_with_the_same_scores(tmp_path: Path) -> None:
    """The 91 outputs are numbered by COCO's ids; two-stage proposals are ranked by output 0, which is no class."""
    detector, batch = small("two_stage", 91), small_batch((2, 1), size=64)
    oddetr.convert(saved(tmp_path, official(detector, "two_stage")), tmp_path / "ours")
    converted, info = load_checkpoint(tmp_path / "ours")
    assert len(info.classes) == 80
    assert (info.classes.names[0], info.classes.ids[0]) == ("person", 1)
    assert (info.classes.names[-1], info.classes.ids[-1]) == ("toothbrush", 90)
    assert info.classes.ids[11] == 13
    with torch.no_grad():
        expected, found = (each(batch.images, batch.padding_mask) for each in (detector, converted))
    torch.testing.assert_close(found.logits, expected.logits[..., list(info.classes.ids)])
    torch.testing.assert_close(found.boxes, expected.boxes)


def test_converted_coco_file_of_dino_keeps_the_rows_of_80_classes(tmp_path: Path) -> None:
    """DINO ranks proposals by their best class, so without unused classes the proposals may differ."""
    detector = small("dino", 91)
    oddetr.convert(saved(tmp_path, official(detector, "dino")), tmp_path / "ours")
    converted, info = load_checkpoint(tmp_path / "ours")
    rows = list(info.classes.ids)
    for mine, theirs in zip(converted.decoder.heads, detector.decoder.heads, strict=True):
        assert mine.classes.weight.equal(theirs.classes.weight[rows])
    assert converted.query_source.head.classes.bias.equal(detector.query_source.head.classes.bias[rows])
    labels = converted.denoising.labels.weight
    assert labels[:-1].equal(detector.denoising.labels.weight[rows])
    assert labels[-1].equal(detector.denoising.labels.weight[-1])


def test_converted_backbone_gives_the_maps_of_torchvision(tmp_path: Path) -> None:
    detector = small("refine", 4, backbone="resnet50")
    state = {name: v for name, v in official(detector, "refine").items() if not name.startswith("backbone.")}
    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    body = {f"backbone.0.body.{name}": value for name, value in theirs.state_dict().items()}
    state |= {n: v for n, v in body.items() if ".fc." not in n and not n.endswith("num_batches_tracked")}
    oddetr.convert(saved(tmp_path, state), tmp_path / "ours", classes=names_file(tmp_path, 4))
    converted, info = load_checkpoint(tmp_path / "ours")
    assert info.detector.backbone == "resnet50"
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = converted.backbone(images)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for index, layer in enumerate((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
            x = layer(x)
            if index:
                torch.testing.assert_close(maps[index - 1], x, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "two_stage"])
def test_converted_transformers_folder_detects_the_same(variant: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.23")
    torch.manual_seed(0)
    sizes = {"layers": 2, "ffn_dim": 48, "attention_heads": 4, "n_points": 2}
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.TimmBackboneConfig(
            backbone="resnet18", out_indices=[2, 3, 4], use_pretrained_backbone=False
        ),
        id2label={0: "cat", 1: "dog", 2: "cow"},
        label2id={"cat": 0, "dog": 1, "cow": 2},
        num_queries=6,
        two_stage_num_proposals=6,
        d_model=32,
        with_box_refine=variant != "plain",
        two_stage=variant == "two_stage",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
    )
    theirs = transformers.DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    theirs.save_pretrained(tmp_path / "theirs")
    theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path / "theirs").eval()
    oddetr.convert(tmp_path / "theirs", tmp_path / "ours")
    converted, info = load_checkpoint(tmp_path / "ours")
    assert info.classes.names == ("cat", "dog", "cow")
    batch = small_batch((2, 1), size=96)
    with torch.no_grad():
        found = converted(batch.images, batch.padding_mask)
        expected = theirs(batch.images, (~batch.padding_mask).long())
    torch.testing.assert_close(found.logits[-1], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official(small("refine", 4), "refine")


def test_convert_prints_what_it_found_and_replaces_only_checkpoints(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, names, mine = saved(tmp_path, state), names_file(tmp_path, 4), tmp_path / "mine" / "thesis.txt"
    words = ["convert", str(file), "--to", str(tmp_path / "ours"), "--classes", str(names)]
    for _ in range(2):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert "(resnet18, " in printed
        assert "6 queries), 4 classes: " in printed
    with pytest.raises(ValueError, match="--data"):
        oddetr.evaluate(tmp_path / "ours")
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(FileExistsError, match="something other than a checkpoint"):
        oddetr.convert(file, mine.parent, classes=names)
    assert mine.read_text() == "years of work"


ATTENTION = "transformer.decoder.layers.0.cross_attn.attention_weights.weight"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1], "holds no state dict.*found list"),
        (
            {"weights": {}, "epoch": 1},
            "nor under ema_state_dict, .*, model, .*; found the keys weights, ep",
        ),
        ({"model": {7: torch.zeros(1)}}, "holds no state dict"),
        ({"model": {"conv.weight": torch.zeros(1)}}, "level_embed is missing; conv.weight"),
        ({"args": {"nheads": 0}}, "nheads is 0"),
        ({"args": {"nheads": 3}}, "3 heads.* of 4 levels cannot share"),
        ({"args": argparse.Namespace(dilation=True, nheads=4)}, "DC5"),
        ({"transformer.level_embed": torch.zeros(4)}, "level_embed has 1 axes"),
        ({ATTENTION: None}, "attention_weights.weight is missing"),
        ({"backbone.0.body.layer1.0.conv1.weight": None}, "Only ResNet backbones"),
        ({"backbone.0.body.layer3.0.conv1.weight": None}, "does not fit"),
        ({"transformer.more": torch.zeros(1)}, "Unexpected key"),
        ({"input_proj.0.0.weight": torch.tensor(0.0)}, "IndexError"),
        ({"args": {"nheads": 4, "dropout": None}}, "TypeError"),
    ],
    ids=str,
)
def test_convert_when_the_file_is_malformed_then_says_where(
    content: Any, match: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    if isinstance(content, dict) and "args" in content:
        content = {"model": state} | content
    elif isinstance(content, dict) and not {"model", "weights"} & content.keys():
        content = {name: value for name, value in (state | content).items() if value is not None}
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=match):
        oddetr.convert(tmp_path / "bad.pth", tmp_path / "ours", classes=names_file(tmp_path, 4))
    assert not (tmp_path / "ours").exists()


def test_convert_when_a_file_is_missing_or_an_option_wrong_then_says_so(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    file, ours = saved(tmp_path, state), tmp_path / "ours"
    with pytest.raises(ValueError, match="4 class outputs, and its classes are not known"):
        oddetr.convert(file, ours)
    with pytest.raises(ValueError, match="3 names were given"):
        oddetr.convert(file, ours, classes=names_file(tmp_path, 3))
    with pytest.raises(ValueError, match="There is no"):
        oddetr.convert(tmp_path / "nothing.pth", ours)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="cannot be read as weights only"):
        oddetr.convert(tmp_path / "empty.pth", ours)
    for content, words in (("[]", "no folder of transformers"), ('{"model_type": "bert"}', "holds a bert")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=words):
            oddetr.convert(tmp_path, ours)
    with pytest.raises(ValueError, match="image_size is 4097; it must lie in 32-4,096"):
        oddetr.convert(tmp_path, ours, image_size=4097)


@pytest.mark.parametrize("key", [None, "ema_model"])
def test_convert_finds_the_state_dict_and_drops_module_prefixes(
    key: str | None, state: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {f"module.{name}": value for name, value in state.items()}
    state["module.backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save({key: state, "args": ARGUMENTS} if key else {**state}, tmp_path / "c.pth")
    oddetr.convert(tmp_path / "c.pth", tmp_path / "ours", classes=names_file(tmp_path, 4))
    converted, info = load_checkpoint(tmp_path / "ours")
    assert converted.decoder.heads[0].classes.weight.equal(state["module.class_embed.0.weight"])
    # The weights alone do not show the number of heads: 8, as officially.
    assert (info.detector.heads, info.detector.points) == ((4, 2) if key else (8, 1))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("model_state_dict",), ""),
        (("state_dict",), "model."),
        (("ema", "module"), "module."),
        (("ema", "state_dict"), "module._orig_mod."),
        (("ema_state_dict",), "_orig_mod.module."),
        (("params",), "model._orig_mod."),
        (("state_dict", "model"), "module.model."),
    ],
)
def test_convert_unwraps_what_other_training_code_saves(
    names: tuple[str, ...], prefix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Averaged weights come first; an `ema` that has none is passed over."""
    content: Any = {f"{prefix}{name}": value for name, value in state.items()}
    for name in reversed(names):
        content = {name: content}
    other = {name: torch.zeros_like(value) for name, value in state.items()} if names[0].startswith("ema") else None
    content = ({"model": other} if other else {"ema": {"decay": torch.tensor(0.9)}}) | content
    torch.save(content | {"hyper_parameters": vars(ARGUMENTS), "epoch": 3}, tmp_path / "c.pth")
    oddetr.convert(tmp_path / "c.pth", tmp_path / "ours", classes=names_file(tmp_path, 4))
    converted, info = load_checkpoint(tmp_path / "ours")
    assert converted.decoder.heads[0].classes.weight.equal(state["class_embed.0.weight"])
    assert info.detector.heads == 4


def test_convert_reads_official_names_from_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "c.safetensors")
    oddetr.convert(tmp_path / "c.safetensors", tmp_path / "ours", classes=names_file(tmp_path, 4))
    head = load_checkpoint(tmp_path / "ours")[0].decoder.heads[0]
    assert head.classes.weight.equal(state["class_embed.0.weight"])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.decoder.dec_score_head.0.weight", r"looks like RT-DETR\. .*--model hf:PekingU/rtdetr_r50vd"),
        ("decoder.decoder.layers.0.cross_attn.num_points_scale", r"RT-DETR v2\. .*hf:PekingU/rtdetr_v2"),
        ("decoder.decoder.lqe_layers.0.x", r"D-FINE\. .*--model hf:ustc-community/"),
        ("backbone.0.projector.x", "RF-DETR"),
        ("transformer.enc_out_class_embed.0.weight", "RF-DETR"),
        ("class_embed.weight", r"DETR\. It cannot be converted; train"),
        ("model.22.cv2.0.0.conv.weight", "YOLO"),
        ("module.roi_heads.box_predictor.weight", "Faster R-CNN"),
        ("bbox_head.cls_branches.0.weight", "MMDetection"),
        ("model.encoder_input_proj.0.0.weight", "transformers. Give its folder"),
        ("decoder.heads.0.classes.weight", "this package. Give its folder to --init"),
        ("layer1.0.conv1.weight", "backbone alone.*--backbone-weights"),
    ],
)
def test_convert_when_the_file_is_of_another_detector_then_names_it(key: str, words: str, tmp_path: Path) -> None:
    torch.save({"model": {key: torch.zeros(2, 2)}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=f"level_embed is missing.* looks like .*{words.removeprefix('looks like ')}"):
        oddetr.convert(tmp_path / "c.pth", tmp_path / "ours")


def test_convert_when_the_file_is_a_stand_in_then_says_how_to_get_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    whole = saved(tmp_path, state).read_bytes()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    older = (tmp_path / "old.pth").read_bytes()
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 166\n", "run git lfs pull"),
        (b"\n<!DOCTYPE html><html>Log in</html>", "is an HTML page"),
        (whole[:500], "is torn: its end is missing. Download it again"),
        (whole[:-10], "is torn"),
        (older[:-10], "is torn"),
    ):
        (tmp_path / "c.pth").write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            oddetr.convert(tmp_path / "c.pth", tmp_path / "ours")
        assert "state_dict" not in str(caught.value)
    torch.save(nn.Linear(2, 2), tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"something else \(torch.*Linear\).* Save its state dict alone"):
        oddetr.convert(tmp_path / "c.pth", tmp_path / "ours")


def test_describe_state_keeps_the_last_denoising_label_as_unknown() -> None:
    state = official(small("dino", 4), "dino")
    state["label_enc.weight"] = torch.arange(12.0)[:, None].expand(12, 32)
    assert describe_state(state, vars(ARGUMENTS)).state["label_enc.weight"][:, 0].tolist() == [0, 1, 2, 3, 11]
