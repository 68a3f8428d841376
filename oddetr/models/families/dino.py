"""DINO (arXiv 2203.03605): mixed query selection, contrastive denoising, look forward twice."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from oddetr.models.decoder import AnchorPosition, DeformableDecoder
from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.detector import ComposedDetector
from oddetr.models.families.config import DetectorConfig
from oddetr.models.families.dab import EPS
from oddetr.models.families.dab import R50 as DAB_R50
from oddetr.models.families.deformable_detr import TINY
from oddetr.models.families.parts import decoder_layers, pyramid_and_encoder
from oddetr.models.heads import PredictionHead
from oddetr.models.position import sine_position_map
from oddetr.models.queries import MixedQueries

R50 = replace(DAB_R50, variant="dino", num_queries=900, denoising=100, top_k=300)
"""The official DINO with 4 scales."""

VARIANTS = ("dino",)
PRESETS = {
    "dino_tiny": replace(TINY, variant="dino", denoising=100),
    "dino_r50": R50,
    "dino_r50_5scale": replace(R50, levels=5, maps=4),  # from stride 4 on
}


def build(config: DetectorConfig, num_classes: int, backbone: Any) -> ComposedDetector:
    """Compose it around `backbone` (see `build.compose`); all decoder layers share one head."""
    head = PredictionHead(config.width, num_classes)
    heads = head.copies(1)
    queries = MixedQueries(config.num_queries, config.width, head)
    layers = decoder_layers(config)
    pyramid, encoder = pyramid_and_encoder(
        config, backbone.channels, partial(sine_position_map, temperature=20.0, centred=False)
    )
    decoder = DeformableDecoder(
        layers,
        heads,
        refine_anchors=True,
        position=AnchorPosition(config.width, scaled=False),
        norm=nn.LayerNorm(config.width),
        look_forward_twice=True,
        eps=EPS,
    )
    denoising = ContrastiveDenoising(num_classes, config.width, config.denoising) if config.denoising else None
    return ComposedDetector(backbone, pyramid, encoder, queries, decoder, denoising, config.top_k)
