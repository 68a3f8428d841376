"""transformers' Deformable-DETR of the same layers as one of ours."""

from typing import Any

import transformers

from oddetr.models.families.build import DetectorConfig

VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "two_stage": True},
}
"""Those of ours that transformers has too, and what it calls them."""


def deformable_detr(config: DetectorConfig, backbone: Any, classes: int) -> Any:
    """With random weights; `backbone`: a configuration of transformers."""
    layers = {"ffn_dim": config.ffn_width, "attention_heads": config.heads, "n_points": config.points}
    return transformers.DeformableDetrForObjectDetection(
        transformers.DeformableDetrConfig(
            backbone_config=backbone,
            num_labels=classes,
            num_queries=config.num_queries,
            two_stage_num_proposals=config.num_queries,
            d_model=config.width,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            activation_dropout=config.dropout,
            auxiliary_loss=True,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            **VARIANTS[config.variant],
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in layers.items()},
        )
    )
