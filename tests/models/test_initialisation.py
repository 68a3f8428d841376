"""What golden files cannot show: initialisation, dropout and learning rates of the official detectors."""

import math

import pytest
import torch
from torch import nn

from oddetr.distillation import DistillationTask
from oddetr.models.deformable_attention import MultiScaleDeformableAttention
from oddetr.models.families.build import DetectorConfig
from oddetr.training.config import OptimizerConfig
from oddetr.training.module import parameter_groups
from tests.models.helpers import VARIANTS, small_batch, small_detector


def assert_xavier(linear: nn.Linear, least: float = 0.9) -> None:
    bound = math.sqrt(6 / (linear.in_features + linear.out_features))
    assert least * bound < linear.weight.abs().max() <= bound


def test_new_attention_is_uniform_and_its_offsets_lie_in_rings() -> None:
    attention = MultiScaleDeformableAttention(width=64, heads=8, levels=3, points=4)
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    for head in range(8):
        angle = 2 * math.pi * head / 8
        ray = torch.tensor([math.cos(angle), math.sin(angle)])
        ray /= ray.abs().max()
        for point in range(4):
            torch.testing.assert_close(offsets[head, :, point], (ray * (point + 1)).expand(3, 2), atol=1e-5, rtol=0)
    weights = attention.attention_weights
    for zero in (attention.sampling_offsets.weight, weights.weight, weights.bias):
        assert zero.count_nonzero() == 0
    for projection in (attention.value_proj, attention.output_proj):
        assert projection.bias.count_nonzero() == 0
        assert_xavier(projection)


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_heads_have_the_prior_and_the_official_box_bias(variant: str) -> None:
    detector = small_detector(variant)
    heads = list(detector.decoder.heads)
    assert len(heads) == (1 if variant in ("plain", "dino") else 2)
    for index, head in enumerate(heads):
        torch.testing.assert_close(head.classes.bias.sigmoid(), torch.full((3,), 0.01))
        last = head.boxes.layers[-1]
        size = -2.0 if index == 0 and variant not in ("two_stage", "dino") else 0.0
        assert last.weight.count_nonzero() == 0
        assert last.bias.tolist() == [0, 0, size, size]
        assert head.classes.weight.equal(heads[0].classes.weight)
        assert head.boxes.layers[0].weight.equal(heads[0].boxes.layers[0].weight)
    if variant in ("two_stage", "dino"):
        assert detector.query_source.head.boxes.layers[-1].bias.count_nonzero() == 0
        assert detector.query_source.head.classes.weight is not heads[0].classes.weight


def test_new_transformer_matrices_are_xavier() -> None:
    detector = small_detector("two_stage")
    linears = [
        module
        for part in (detector.encoder.layers, detector.decoder.layers)
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(("sampling_offsets", "attention_weights"))
    ]
    linears += [detector.query_source.token_projection, detector.query_source.position_projection]
    assert len(linears) == 16
    for linear in linears:
        assert_xavier(linear)
    assert detector.encoder.level_embed.std() > 0.7


def test_dropout_is_at_the_official_places() -> None:
    """Per layer: after attention, inside and after the feed-forward network; the decoder also after self-attention."""
    assert DetectorConfig().dropout == 0.1
    detector, batch = small_detector("plain", dropout=0.1).train(), small_batch()
    assert detector.decoder.layers[0].self_attn.dropout == 0.1
    counts = {"encoder": 0, "decoder": 0}
    for name in counts:
        for module in getattr(detector, name).modules():
            if isinstance(module, nn.Dropout):
                assert module.p == 0.1
                module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    torch.manual_seed(0)
    first = detector(batch.images, batch.padding_mask).content
    assert counts == {"encoder": 3 * 1, "decoder": 4 * 2}
    assert not first.equal(detector(batch.images, batch.padding_mask).content)
    torch.manual_seed(0)
    assert first.equal(detector(batch.images, batch.padding_mask).content)
    detector.eval()
    first, second = (detector(batch.images, batch.padding_mask).content for _ in range(2))
    assert first.equal(second)


@pytest.mark.parametrize("variant", ["plain", "two_stage"])
def test_each_parameter_learns_at_its_rate(variant: str) -> None:
    detector = small_detector(variant)
    detector.backbone.stages[0].requires_grad_(False)
    groups = parameter_groups(DistillationTask(detector, 1), OptimizerConfig(learning_rate=1e-3, backbone_factor=0.1))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    for name, parameter in detector.named_parameters():
        if name.startswith("backbone.stages.0"):
            assert id(parameter) not in rates
            continue
        slow = name.startswith("backbone.") or "sampling_offsets" in name or "reference_points" in name
        assert rates[id(parameter)] == pytest.approx(1e-4 if slow else 1e-3), name
