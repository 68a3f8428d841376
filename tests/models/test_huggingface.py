"""transformers' detectors through the adapter: their own outputs, groups that do not leak, and training by OD-DETR."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.extra import GroupsConfig
from oddetr.losses.detection import LossConfig
from oddetr.models.transformers.adapters import HuggingFaceDetector, adapt
from oddetr.models.transformers.config import HuggingFaceConfig
from oddetr.structures import Batch
from oddetr.training.config import OptimizerConfig
from oddetr.training.module import parameter_groups
from tests.models.helpers import small_batch

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
def test_groups_do_not_leak(name: str) -> None:
    detector, batch = adapted(name), batch_of(2, 1)
    with torch.no_grad():
        memory = detector.encode(batch.images, batch.padding_mask)
        own = detector.initial_queries(memory).queries
        padding = torch.tensor([[False, False, True], [True, True, True]])
        other = replace(
            own,
            content=torch.randn(2, 3, 32),
            anchors=torch.rand(2, 3, own.anchors.shape[-1]) * 0.5 + 0.2,
            position=None if own.position is None else torch.randn(2, 3, 32),
            identity=own.identity[:, :3],
            padding=padding,
        )
        together = detector.decode(memory, {"other": other, "own": own})
        alone = detector.decode(memory, {"own": own})["own"]
        short = replace(
            other,
            content=other.content[:, :2],
            anchors=other.anchors[:, :2],
            position=None if other.position is None else other.position[:, :2],
            identity=other.identity[:, :2],
            padding=None,
        )
        shorter = detector.decode(memory, {"short": short})["short"]
    for part in ("logits", "boxes", "content"):
        torch.testing.assert_close(getattr(together["own"], part), getattr(alone, part), atol=1e-5, rtol=1e-5)
        found, expected = getattr(together["other"], part)[:, 0, :2], getattr(shorter, part)[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert together["other"].logits.isfinite().all()


@pytest.mark.parametrize("groups", [GroupsConfig(one_to_one=1), GroupsConfig(one_to_many=4)], ids=str)
def test_extra_groups_are_refused(groups: GroupsConfig) -> None:
    with pytest.raises(ValueError, match=r"groups of queries \(--groups\) are not for detectors of transformers"):
        DistillationTask(adapted("deformable two-stage"), 10, groups=groups)


@pytest.mark.parametrize("name", MODELS)
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
def test_denoising_groups_attend_to_themselves_and_own_queries(name: str) -> None:
    """Each group of disturbed objects alone, beside the own queries, gives the same; these do not notice them."""
    detector, batch = adapted(name), batch_of(2, 1)
    with torch.no_grad():
        memory = detector.encode(batch.images, batch.padding_mask)
        own = detector.initial_queries(memory).queries
        detector.denoising.queries = 4
        group = detector.denoising(batch.truth)
        found = detector.decode(memory, {"own": own, "denoising": group.queries})
        alone = detector.decode(memory, {"own": own})["own"]
        torch.testing.assert_close(found["own"].logits, alone.logits, atol=1e-5, rtol=1e-5)
        assert group.repeats == 2
        for part in (slice(0, 4), slice(4, 8)):
            axes = {
                axis: getattr(group.queries, axis)[:, part] for axis in ("content", "anchors", "identity", "padding")
            }
            one = replace(group.queries, **axes, attention_mask=None)
            expected = detector.decode(memory, {"own": own, "one": one})["one"].logits
            real = ~axes["padding"]
            torch.testing.assert_close(
                found["denoising"].logits[:, :, part][:, real], expected[:, real], atol=1e-5, rtol=1e-5
            )
        blind = detector.decode(memory, {"own": own, "denoising": replace(group.queries, attends_to=())})["denoising"]
        one_group = detector.decode(memory, {"own": own, "denoising": replace(group.queries, attention_mask=None)})[
            "denoising"
        ]
    for other in (blind, one_group):
        assert not other.logits.allclose(found["denoising"].logits, atol=1e-4)


@pytest.mark.parametrize("name", ["RT-DETR", "D-FINE", "DEIMv2"])
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
    ("told", "mean"),
    [
        ({"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}, (0.5, 0.4, 0.3)),
        ({"do_normalize": False, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}, (0.0, 0.0, 0.0)),
        ({"image_mean": [0.5, 0.4, 0.3]}, (0.5, 0.4, 0.3)),
        ({}, (0.485, 0.456, 0.406)),
        (None, (0.485, 0.456, 0.406)),
    ],
)
def test_normalisation_is_the_image_processors(told: Any, mean: tuple, tmp_path: Path) -> None:
    MODELS["deformable"]().config.save_pretrained(tmp_path)
    if told is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    assert HuggingFaceConfig.read(str(tmp_path)).mean == mean


@pytest.mark.parametrize(
    ("name", "memory"),
    [*((name, "student") for name in MODELS), ("deformable two-stage", "teacher"), ("D-FINE", "teacher")],
)
def test_in_distillation_every_part_learns(name: str, memory: str) -> None:
    torch.manual_seed(0)
    task = DistillationTask(adapted(name), 10, DistillationConfig(memory=memory), LossConfig()).train()
    learned = [p for p in task.student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    for counts in ((2, 1), (0, 0)):
        optimizer.zero_grad()
        found = task(batch_of(*counts))
        found["loss"].backward()
        if sum(counts):
            assert not [n for n, p in task.student.named_parameters() if p.requires_grad and p.grad is None]
        assert all(p.grad is None or p.grad.isfinite().all() for p in learned)
        optimizer.step()
        task.update_teacher()
    assert found["loss"].isfinite()
    before = {n: p.clone() for n, p in task.teacher.detector.named_parameters()}
    weight = 9 / 12
    expected = {n: torch.lerp(before[n], p, weight) for n, p in task.student.named_parameters()}
    task.update_teacher()
    for n, p in task.teacher.detector.named_parameters():
        torch.testing.assert_close(p, expected[n])


def test_rt_detr_learns_proposals_and_denoising() -> None:
    task = DistillationTask(adapted("RT-DETR v2"), 10)
    found = task(batch_of(2, 1))
    assert {"loss_proposal_classes", "loss_denoising_l1", "loss_auxiliary_l1", "loss_prediction_l1"} <= found.keys()
    assert task.student.denoising.labels is task.student.model.model.denoising_class_embed


@pytest.mark.parametrize("name", ["deformable refine", "RT-DETR", "D-FINE", "DEIMv2"])
def test_from_pretrained_reads_a_saved_model(name: str, tmp_path: Path) -> None:
    task, batch = DistillationTask(adapted(name), 10), batch_of(2, 1)
    with torch.no_grad():
        for parameter in task.student.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.01)
    task.update_teacher()
    teacher = task.teacher.detector
    teacher.model.save_pretrained(tmp_path)
    again = adapt(type(teacher.model).from_pretrained(tmp_path)).eval()
    with torch.no_grad():
        found, expected = (each(batch.images, batch.padding_mask).logits for each in (again, teacher))
    torch.testing.assert_close(found, expected)


def test_without_transformers_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HuggingFaceConfig(MODELS["RT-DETR"]().config.to_dict())
    monkeypatch.setitem(sys.modules, "transformers", None)
    for ask in (lambda: HuggingFaceConfig.read("user/name"), lambda: config.build(CLASSES)):
        with pytest.raises(OSError, match="needs transformers: pip install transformers"):
            ask()


def test_an_unknown_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nowhere/none", str(tmp_path)):
        with pytest.raises(OSError, match=f"There is no model {name} of transformers"):
            HuggingFaceConfig.read(name)


def test_unsupported_models_are_refused() -> None:
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[32, 32]
    )
    with pytest.raises(ValueError, match="yolos cannot be trained here"):
        adapt(transformers.YolosForObjectDetection(config))
