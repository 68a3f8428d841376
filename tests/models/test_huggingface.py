"""transformers' detectors through the adapter: their own outputs, groups that do not leak, and training by OD-DETR."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.losses.detection import LossConfig
from oddetr.models.heads import PRIOR
from oddetr.models.transformers.adapters import HuggingFaceDetector, adapt
from oddetr.models.transformers.config import HuggingFaceConfig
from oddetr.structures import Batch
from oddetr.training.config import OptimizerConfig
from oddetr.training.module import parameter_groups
from tests.models.helpers import (
    ap50_of_two_scenes,
    assert_frozen_encoder_stays,
    assert_predictions_close,
    other_group,
    part_of,
    small_batch,
)
from tests.models.test_denoising import assert_groups_attend_to_themselves_and_own_queries

transformers = pytest.importorskip("transformers", minversion="5.23")

CLASSES = 3
STAGES = {"out_features": ["stage2", "stage3", "stage4"], "embedding_size": 8, "depths": [1, 1, 1, 1]}
REAL_TIME = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "encoder_ffn_dim": 48,
    "d_model": 32,
    "num_queries": 6,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_labels": CLASSES,
    "anchor_image_size": None,
    "num_denoising": 10,
    "hidden_expansion": 1.0,
}


def resnet() -> Any:
    return transformers.RTDetrResNetConfig(**STAGES, hidden_sizes=[8, 16, 24, 32], layer_type="basic")


def hgnet() -> Any:
    blocks = {
        "stage_in_channels": [8, 16, 16, 24],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 24, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 3, 3],
        "stage_numb_of_layers": [1, 1, 1, 1],
    }
    return transformers.HGNetV2Config(**STAGES, hidden_sizes=[16, 16, 24, 32], stem_channels=[3, 8, 8], **blocks)


def deformable(**more: Any) -> Any:
    sizes = {"layers": 2, "ffn_dim": 48, "attention_heads": 4, "n_points": 2}
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(**STAGES, hidden_sizes=[8, 16, 24, 32], layer_type="basic"),
        num_labels=CLASSES,
        num_queries=6,
        two_stage_num_proposals=6,
        d_model=32,
        dropout=0.0,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
        **more,
    )
    return transformers.DeformableDetrForObjectDetection(config)


def real_time(kind: str, backbone: Any, **more: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, **REAL_TIME | more)
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


MODELS = {
    "deformable": lambda: deformable(),
    "deformable refine": lambda: deformable(with_box_refine=True),
    "deformable two-stage": lambda: deformable(with_box_refine=True, two_stage=True),
    "RT-DETR": lambda: real_time("RTDetr", resnet()),
    "RT-DETR v2": lambda: real_time("RTDetrV2", resnet()),
    "D-FINE": lambda: real_time("DFine", hgnet(), hidden_size=32),
    "DEIMv2": lambda: real_time("Deimv2", hgnet(), hidden_size=32),
}


def adapted(name: str) -> HuggingFaceDetector:
    """With noise on every parameter, or boxes would stay where they start."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return adapt(model).eval()


def batch_of(*counts: int) -> Batch:
    """Without padding, which RT-DETR and its descendants do not know."""
    batch = small_batch(counts)
    return replace(batch, padding_mask=torch.zeros_like(batch.padding_mask))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_models_own(name: str) -> None:
    detector = adapted(name)
    for batch in (batch_of(2, 1), small_batch((2, 1)))[: 1 + detector.knows_padding]:
        with torch.no_grad():
            theirs = detector.model(batch.images, (~batch.padding_mask).long())
            ours = detector(batch.images, batch.padding_mask)
        torch.testing.assert_close(ours.logits[-1], theirs.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.boxes[-1], theirs.pred_boxes, atol=1e-5, rtol=1e-5)
        assert ours.content.shape == (*ours.logits.shape[:3], 32)


@pytest.mark.parametrize("name", ["RT-DETR", "D-FINE"])
def test_boxes_are_relative_to_the_unpadded_part(name: str) -> None:
    """56 pixels wide, the image is padded to 64 by the adapter; the model's own boxes are relative to 64."""
    detector = adapted(name)
    images = torch.rand(1, 3, 64, 56)
    with torch.no_grad():
        ours = detector(images, torch.zeros(1, 64, 56, dtype=torch.bool))
        theirs = detector.model(torch.nn.functional.pad(images, (0, 8)))
    expected = theirs.pred_boxes * torch.tensor([64 / 56, 1, 64 / 56, 1])
    torch.testing.assert_close(ours.boxes[-1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_groups_do_not_change_one_another(name: str) -> None:
    detector, batch = adapted(name), batch_of(2, 1)
    memory = detector.encode(batch.images, batch.padding_mask)
    own = detector.initial_queries(memory).queries
    other = other_group(own, 3, own.anchors.shape[-1])
    padded = replace(other, padding=torch.tensor([[False, False, True], [True, True, True]]))
    together = detector.decode(memory, {"other": padded, "own": own})
    assert_predictions_close(together["own"], detector.decode(memory, {"own": own})["own"], 1e-5)
    shorter = detector.decode(memory, {"short": part_of(other, 0, 2)})["short"]
    torch.testing.assert_close(together["other"].logits[:, 0, :2], shorter.logits[:, 0], atol=1e-5, rtol=1e-5)
    assert together["other"].logits.isfinite().all()


def test_extra_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups of queries \(--groups\) are not for detectors of transformers"):
        DistillationTask(adapted("deformable two-stage"), 10, groups=GroupsConfig(one_to_many=4))


@pytest.mark.parametrize("name", ["deformable refine", "deformable two-stage", "RT-DETR", "D-FINE"])
def test_boxes_are_added_to_anchors_in_float32(name: str) -> None:
    """Else they would lie on bfloat16's grid, 1/256 of an image near 1, or move with another group's precision."""
    detector, batch = adapted(name), batch_of(2, 1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        memory = detector.encode(batch.images, batch.padding_mask)
        initial = detector.initial_queries(memory)
        own = initial.queries
        other = replace(own, anchors=own.anchors.float())
        alone = detector.decode(memory, {"own": own})["own"]
        together = detector.decode(memory, {"own": own, "other": other})["own"]
    assert own.anchors.dtype == torch.float32
    for boxes in (alone.boxes, initial.proposals.boxes if initial.proposals else alone.boxes):
        assert (boxes == boxes.bfloat16()).float().mean() < 0.5
    torch.testing.assert_close(together.boxes, alone.boxes, atol=2e-4, rtol=0)


def test_rt_detr_keeps_as_many_detections_as_queries() -> None:
    model = MODELS["RT-DETR"]()
    model.config.num_queries = 300
    assert (adapt(model).top_k, adapted("deformable").top_k) == (300, 100)


@pytest.mark.parametrize("name", ["RT-DETR v2", "D-FINE"])
@torch.no_grad()
def test_denoising_groups_attend_to_themselves_and_own_queries(name: str) -> None:
    detector = adapted(name)
    detector.denoising.queries = 4
    assert_groups_attend_to_themselves_and_own_queries(detector, 1e-5)


@pytest.mark.parametrize("name", ["RT-DETR", "DEIMv2"])
def test_only_the_backbone_learns_at_its_rate(name: str) -> None:
    """What follows it, the hybrid encoder and the projections, learns at the main rate."""
    detector = adapted(name)
    groups = parameter_groups(DistillationTask(detector, 1), OptimizerConfig(learning_rate=1e-3, backbone_factor=0.1))
    (slow,) = (group["params"] for group in groups if group["name"] == "backbone")
    names = {id(parameter): key for key, parameter in detector.named_parameters()}
    found = {names[id(parameter)] for parameter in slow}
    learning = {key for key, parameter in detector.named_parameters() if parameter.requires_grad}
    assert found == {key for key in learning if ".backbone." in key or ".conv_encoder.model." in key}


@pytest.mark.parametrize(
    ("processor", "mean"),
    [
        ({"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}, (0.5, 0.4, 0.3)),
        ({"do_normalize": False, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}, (0.0, 0.0, 0.0)),
        ({"image_mean": [0.5, 0.4, 0.3]}, (0.5, 0.4, 0.3)),
        ({}, (0.485, 0.456, 0.406)),
        (None, (0.485, 0.456, 0.406)),
    ],
)
def test_normalisation_is_the_image_processors(processor: Any, mean: tuple, tmp_path: Path) -> None:
    MODELS["deformable"]().config.save_pretrained(tmp_path)
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert HuggingFaceConfig.read(str(tmp_path)).mean == mean


@pytest.mark.parametrize(
    ("name", "memory"), [*((name, "student") for name in MODELS), ("deformable two-stage", "teacher")]
)
def test_in_distillation_every_part_learns(name: str, memory: str) -> None:
    torch.manual_seed(0)
    task = DistillationTask(adapted(name), 10, DistillationConfig(memory=memory), LossConfig()).train()
    learned = {name: p for name, p in task.student.named_parameters() if p.requires_grad}
    for counts in ((0, 0), (2, 1)):
        task.zero_grad()
        found = task(batch_of(*counts))
        found["loss"].backward()
        assert found["loss"].isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learned.values())
    assert not [name for name, p in learned.items() if p.grad is None]


def from_random_weights(name: str) -> HuggingFaceDetector:
    """Of ten classes, from its configuration alone."""
    torch.manual_seed(0)
    content = MODELS[name]().config.to_dict() | {"num_queries": 12, "two_stage_num_proposals": 12}
    return HuggingFaceConfig(content).for_classes("0123456789").build(10)


def test_random_hgnet_keeps_the_scale_of_its_maps_through_depthwise_convolutions() -> None:
    torch.manual_seed(0)
    folder = Path(__file__).parents[2] / "recipes" / "compare" / "d_fine_tiny"
    detector = HuggingFaceConfig.read(str(folder)).for_classes("0123456789").build(10)
    maps = [values for values, _ in detector.backbone(torch.rand(2, 3, 128, 128), torch.ones(2, 128, 128))]
    assert len(maps) == 3
    assert all(0.1 < values.std() < 10 for values in maps)


@pytest.mark.parametrize("name", MODELS)
def test_random_weights_show_the_image_and_expect_few_objects(name: str) -> None:
    detector = from_random_weights(name)
    biases = [value for key, value in detector.state_dict().items() if key in detector.class_rows() and "bias" in key]
    assert biases
    assert all(value.sigmoid().allclose(torch.tensor(PRIOR)) for value in biases)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)
    images = small_batch((1, 1)).images
    with torch.no_grad():
        tokens = detector.train().encode(images, torch.zeros(2, 64, 64, dtype=torch.bool)).tokens
    assert (tokens[0] - tokens[1]).std() > 0.05 * tokens.std()


@pytest.mark.parametrize(
    "name", [name if "two" in name else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_training_from_random_weights_overfits_two_scenes(name: str) -> None:
    """The teacher detects the objects of two digit scenes after some steps of a plain PyTorch loop."""
    steps, rate = (250, 8e-3) if name == "D-FINE" else (200, 4e-3)
    assert ap50_of_two_scenes(DistillationTask(from_random_weights(name), steps), rate) > 0.7


def test_rt_detr_learns_proposals_and_denoising() -> None:
    task = DistillationTask(adapted("RT-DETR v2"), 10)
    found = task(batch_of(2, 1))
    assert {"loss_proposal_classes", "loss_denoising_l1", "loss_auxiliary_l1", "loss_prediction_l1"} <= found.keys()
    assert task.student.denoising.labels is task.student.model.model.denoising_class_embed


@pytest.mark.parametrize("name", ["deformable refine", "D-FINE"])
def test_from_pretrained_reads_a_saved_model(name: str, tmp_path: Path) -> None:
    detector, batch = DistillationTask(adapted(name), 10).teacher.detector, batch_of(2, 1)
    detector.model.save_pretrained(tmp_path)
    again = adapt(type(detector.model).from_pretrained(tmp_path)).eval()
    with torch.no_grad():
        found, expected = (each(batch.images, batch.padding_mask).logits for each in (again, detector))
    torch.testing.assert_close(found, expected)


def test_without_transformers_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HuggingFaceConfig(MODELS["RT-DETR"]().config.to_dict())
    monkeypatch.setitem(sys.modules, "transformers", None)
    for ask in (lambda: HuggingFaceConfig.read("user/name"), lambda: config.build(CLASSES)):
        with pytest.raises(OSError, match="needs transformers: pip install transformers"):
            ask()


def test_unknown_and_unsupported_models_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, words in (
        ("nowhere/none", "The model {} of .* cannot be had"),
        (str(tmp_path), "There is no model {} of"),
    ):
        with pytest.raises(OSError, match=words.format(name)):
            HuggingFaceConfig.read(name)
    with pytest.raises(ValueError, match=r"yolos cannot be trained here: .* Supported: deformable_detr, rt_detr"):
        HuggingFaceConfig({"model_type": "yolos"})


@pytest.mark.parametrize("name", ["deformable two-stage", "RT-DETR", "D-FINE", "DEIMv2"])
def test_a_frozen_encoder_stays_and_the_rest_learns(name: str) -> None:
    assert_frozen_encoder_stays(adapted(name).train(), batch_of(2, 1))
