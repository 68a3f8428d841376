"""Deformable-DETR (arXiv 2010.04159): plain, with iterative box refinement, two-stage."""

from dataclasses import replace
from typing import Any

from oddetr.models.decoder import DeformableDecoder
from oddetr.models.detector import ComposedDetector
from oddetr.models.families.config import DetectorConfig
from oddetr.models.families.parts import decoder_layers, pyramid_and_encoder
from oddetr.models.heads import PredictionHead
from oddetr.models.queries import LearnedQueries, TwoStageQueries

TINY = DetectorConfig(
    backbone="tf_efficientnet_lite0",
    width=128,
    ffn_width=512,
    encoder_layers=2,
    decoder_layers=3,
    num_queries=100,
    dropout=0.0,
)
"""Trains on two CPU cores. The `offline` extra brings the backbone's ImageNet weights without a download. No dropout:
small runs are short."""
R50 = DetectorConfig()
"""The paper's: ResNet-50, 4 levels, 6 + 6 layers, 300 queries."""

VARIANTS = ("plain", "refine", "two_stage")
PRESETS = {
    "deformable_detr_tiny": TINY,
    "deformable_detr_refine_tiny": replace(TINY, variant="refine"),
    "deformable_detr_two_stage_tiny": replace(TINY, variant="two_stage"),
    "deformable_detr_r50": R50,
    "deformable_detr_refine_r50": replace(R50, variant="refine"),
    "deformable_detr_two_stage_r50": replace(R50, variant="two_stage"),
}


def build(config: DetectorConfig, num_classes: int, backbone: Any) -> ComposedDetector:
    """Compose it around `backbone` (see `build.compose`).

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
