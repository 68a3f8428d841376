"""Deformable-DETR (arXiv 2010.04159): plain, with iterative box refinement, two-stage."""

from typing import Any

from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import ComposedDetector
from oddetr.models.families.config import DetectorConfig
from oddetr.models.families.parts import decoder_layers, pyramid_and_encoder
from oddetr.models.heads import PredictionHead
from oddetr.models.queries import LearnedQueries, TwoStageQueries


def deformable_detr(config: DetectorConfig, num_classes: int, backbone: Any) -> ComposedDetector:
    """Compose it around `backbone` (see `presets.compose`).

    Without refinement all layers share one head. Two-stage, the encoder has a head of its own, and the heads start
    without the official bias of -2 for widths and heights, since anchors bring sizes.
    """
    refine = config.variant != "plain"
    head = PredictionHead(config.width, num_classes)
    heads = head.copies(config.decoder_layers if refine else 1)
    if config.variant == "two_stage":
        queries = TwoStageQueries(config.num_queries, config.width, head)
    else:
        heads[0].start_with_size(-2.0)
        queries = LearnedQueries(config.num_queries, config.width)
    layers = decoder_layers(config)
    pyramid, encoder = pyramid_and_encoder(config, backbone.channels)
    decoder = DeformableDecoder(layers, heads, refine_anchors=refine)
    return ComposedDetector(backbone, pyramid, encoder, queries, decoder, top_k=config.top_k)


TINY = DetectorConfig(
    backbone="tf_efficientnet_lite0",
    width=128,
    ffn_width=512,
    encoder_layers=2,
    decoder_layers=3,
    num_queries=100,
    dropout=0.0,
)


def deformable_detr_tiny(**changes: Any) -> DetectorConfig:
    """Trains on two CPU cores: EfficientNet-Lite0, width 128, 2 encoder and 3 decoder layers, 100 queries.

    The `offline` extra brings the backbone's ImageNet weights without a download. No dropout: small runs are short.
    """
    return TINY.override(changes)


def deformable_detr_refine_tiny(**changes: Any) -> DetectorConfig:
    """`deformable_detr_tiny` with iterative box refinement."""
    return TINY.override({"variant": "refine"} | changes)


def deformable_detr_two_stage_tiny(**changes: Any) -> DetectorConfig:
    """`deformable_detr_tiny` with iterative box refinement and queries chosen from the encoder's proposals."""
    return TINY.override({"variant": "two_stage"} | changes)


def deformable_detr_r50(**changes: Any) -> DetectorConfig:
    """The paper's: ResNet-50, 4 levels, 6 + 6 layers, 300 queries."""
    return DetectorConfig().override(changes)


def deformable_detr_refine_r50(**changes: Any) -> DetectorConfig:
    """The paper's, with iterative box refinement."""
    return deformable_detr_r50(**{"variant": "refine"} | changes)


def deformable_detr_two_stage_r50(**changes: Any) -> DetectorConfig:
    """The paper's, with iterative box refinement and queries chosen from the encoder's proposals."""
    return deformable_detr_r50(**{"variant": "two_stage"} | changes)
