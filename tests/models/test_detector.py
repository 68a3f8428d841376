import dataclasses

import pytest
import torch

from oddetr.models.decoder import DeformableDecoder
from oddetr.models.deformable_attention import MultiScaleDeformableAttention, level_sizes
from oddetr.models.encoder import FeaturePyramid
from oddetr.models.families.build import PRESETS, DetectorConfig, build_detector
from tests.models.helpers import VARIANTS, assert_frozen_encoder_stays, small_batch, small_detector


@pytest.mark.parametrize("variant", VARIANTS)
def test_detector_predicts_from_every_layer(variant: str) -> None:
    detector, batch = small_detector(variant), small_batch()
    memory = detector.encode(batch.images, batch.padding_mask)
    torch.testing.assert_close(memory.valid_ratios[0], torch.ones(4, 2))
    assert memory.valid_ratios[1, 0].tolist() == [0.5, 1.0]
    assert memory.tokens.shape[1] == sum(h * w for h, w in memory.shapes) == memory.padding_mask.shape[1]
    predictions = detector(batch.images, batch.padding_mask)
    assert predictions.logits.shape == (2, 2, 6, 3)
    assert predictions.boxes.shape == (2, 2, 6, 4)
    assert predictions.content.shape == (2, 2, 6, 32)
    assert ((predictions.boxes >= 0) & (predictions.boxes <= 1)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_do_not_depend_on_padding(variant: str) -> None:
    """Only a mask that is not honoured connects padding and image here."""
    detector, batch = small_detector(variant).eval(), small_batch()
    with torch.no_grad():
        for layer in (*detector.encoder.layers, *detector.decoder.layers):
            attention = getattr(layer, "cross_attn", layer.self_attn)
            attention.sampling_offsets.weight.normal_()
            attention.sampling_offsets.bias.normal_(std=3)
    # GroupNorm and the extra level's 3x3 convolution see the padding officially too: start after them.
    maps = detector.pyramid(detector.backbone(batch.images))
    changed = [level.clone() for level in maps]
    for level in changed:
        level[-1, :, :, level.shape[-1] // 2 + (level.shape[-1] == 1) :] += 5
    memory, other = (detector.encoder(levels, batch.padding_mask) for levels in (maps, changed))
    outputs = [detector.decode(m, {"own": detector.initial_queries(m).queries})["own"] for m in (memory, other)]
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(outputs[0], name), getattr(outputs[1], name), atol=1e-6, rtol=0)


def test_refined_anchors_carry_no_gradient() -> None:
    detector, batch = small_detector("refine"), small_batch()
    predictions = detector(batch.images, batch.padding_mask)
    first_head = detector.decoder.heads[0].boxes.layers[-1].bias
    own, later = (torch.autograd.grad(predictions.boxes[i].sum(), first_head, retain_graph=True)[0] for i in (0, 1))
    assert own.count_nonzero() == 4
    assert later.count_nonzero() == 0


def test_identity_is_the_slot_or_the_token() -> None:
    batch = small_batch()
    learned, chosen = (
        detector.initial_queries(detector.encode(batch.images, batch.padding_mask))
        for detector in (small_detector("plain"), small_detector("two_stage"))
    )
    assert learned.queries.identity.equal(torch.arange(6).expand(2, -1))
    assert learned.proposals is None
    boxes = chosen.proposals.boxes[0].gather(1, chosen.queries.identity[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(boxes, chosen.queries.anchors)
    assert not chosen.queries.anchors.requires_grad


def test_two_stage_gives_at_most_one_query_per_token() -> None:
    batch = small_batch()
    predictions = small_detector("two_stage", num_queries=500)(batch.images, batch.padding_mask)
    assert predictions.logits.shape[2] == 64 + 16 + 4 + 1


@pytest.mark.parametrize("name", ["deformable_detr_tiny", "dab_deformable_detr_tiny", "dino_r50_5scale"])
def test_presets_have_their_sizes(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        detector = build_detector(config, num_classes=7)
    assert len(detector.encoder.layers) == config.encoder_layers
    assert len(detector.decoder.layers) == config.decoder_layers
    assert detector.decoder.heads[0].classes.out_features == 7
    assert detector.decoder.refine_anchors is (config.variant != "plain")


def test_detectors_have_the_published_number_of_parameters() -> None:
    """The official training prints `number of params: 39847265` (ResNet-50, 91 classes, plain variant); DINO has 47
    million, frozen ones included (table 1 of arXiv 2203.03605)."""
    with torch.device("meta"):
        plain, dino = (build_detector(PRESETS[name], 91) for name in ("deformable_detr_r50", "dino_r50"))
    assert sum(p.numel() for p in plain.parameters() if p.requires_grad) == 39_847_265
    assert round(sum(p.numel() for p in dino.parameters()) / 1e6) == 47


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, "multiple of 32"),
        ({"heads": 7}, "of heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_queries": 0}, "from 1 to 65,536"),
        ({"denoising": 10**9}, "from 0 to 65,536"),
        ({"maps": 5, "levels": 5}, "1 to 4 maps"),
        ({"maps": 4, "levels": 3}, "as many levels"),
        ({"denoising": 100}, "variants dab and dino"),
    ],
)
def test_wrong_sizes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DetectorConfig(), **changes)


def test_wrong_overrides_are_refused() -> None:
    for changes, message in (({"num_querys": 5}, "no field"), ({"num_queries": "many"}, "must be a whole number")):
        with pytest.raises(ValueError, match=message):
            DetectorConfig().override(changes)


def test_parts_that_do_not_fit_are_refused() -> None:
    """For those who compose a detector by hand: configurations check their fields before."""
    with pytest.raises(ValueError, match="A pyramid of 2 levels cannot hold the backbone's 3 maps"):
        FeaturePyramid([4, 8, 12], width=32, levels=2)
    with pytest.raises(ValueError, match=r"The width \(48\) must be a multiple of 32"):
        FeaturePyramid([4, 8, 12], width=48, levels=3)
    with pytest.raises(ValueError, match=r"The width \(32\) must be a multiple of the number of heads \(5\)"):
        MultiScaleDeformableAttention(width=32, heads=5, levels=4, points=2)
    with pytest.raises(ValueError, match="A detector needs at least one class, not 0"):
        small_detector(num_classes=0)
    decoder = small_detector("refine").decoder
    with pytest.raises(ValueError, match="A decoder of 2 layers takes 1 or 2 heads, not 3"):
        DeformableDecoder([*decoder.layers], [*decoder.heads, decoder.heads[0]], refine_anchors=True)


def test_level_sizes_cached_in_inference_serve_training() -> None:
    learned = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        cached = level_sizes(((17, 19),), learned)
    assert level_sizes(((17, 19),), learned) is cached
    assert level_sizes(((17, 19),), learned.double()).dtype == torch.float64
    (learned / cached).sum().backward()
    torch.testing.assert_close(learned.grad, torch.tensor([1 / 19, 1 / 17]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_encoder_stays_and_the_rest_learns(variant: str) -> None:
    assert_frozen_encoder_stays(small_detector(variant), small_batch((2, 1)))


def test_a_frozen_backbone_leaves_the_encoder_to_learn() -> None:
    detector = small_detector()
    detector.freeze("backbone")

    learned = {name.partition(".")[0] for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert learned == {"pyramid", "encoder", "query_source", "decoder"}
    assert [part.training for part in (detector.train(), detector.backbone, detector.encoder)] == [True, False, True]
