"""DAB-Deformable-DETR (arXiv 2201.12329): learned anchor boxes, from which the decoder computes positions."""

from dataclasses import replace
from typing import Any

from oddetr.models.decoder import AnchorPosition, DeformableDecoder
from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.detector import ComposedDetector
from oddetr.models.families.config import DetectorConfig
from oddetr.models.families.deformable_detr import TINY
from oddetr.models.families.parts import decoder_layers, pyramid_and_encoder
from oddetr.models.heads import PredictionHead
from oddetr.models.queries import LearnedAnchors

EPS = 1e-3
"""Official distance of anchors from 0 and 1 where logits are taken of them; DINO's too."""
R50 = DetectorConfig(variant="dab", ffn_width=2048, dropout=0.0)
"""The official sizes: ResNet-50, 300 queries, wider layers than Deformable-DETR's, no dropout."""

VARIANTS = ("dab",)
PRESETS = {"dab_deformable_detr_tiny": replace(TINY, variant="dab"), "dab_deformable_detr_r50": R50}


def build(config: DetectorConfig, num_classes: int, backbone: Any) -> ComposedDetector:
    """Compose it around `backbone` (see `build.compose`)."""
    heads = PredictionHead(config.width, num_classes).copies(config.decoder_layers)
    heads[0].start_with_size(-2.0)
    queries = LearnedAnchors(config.num_queries, config.width)
    layers = decoder_layers(config)
    pyramid, encoder = pyramid_and_encoder(config, backbone.channels)
    position = AnchorPosition(config.width, scaled=True)
    decoder = DeformableDecoder(layers, heads, refine_anchors=True, position=position, eps=EPS)
    denoising = ContrastiveDenoising(num_classes, config.width, config.denoising) if config.denoising else None
    return ComposedDetector(backbone, pyramid, encoder, queries, decoder, denoising, config.top_k)
