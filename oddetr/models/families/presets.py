"""Detectors by name and size.

A preset is a function that gives a `DetectorConfig`; `build_detector` composes the detector that it describes.

    build_detector(deformable_detr_tiny(), num_classes=3)
    build_detector(deformable_detr_r50(variant="two_stage", num_queries=100), num_classes=80)
"""

from collections.abc import Callable
from typing import Any

import torch

from oddetr.models.detector import Detector
from oddetr.models.families.config import DetectorConfig, Variant
from oddetr.models.families.dab import dab_deformable_detr, dab_deformable_detr_r50, dab_deformable_detr_tiny
from oddetr.models.families.deformable_detr import (
    deformable_detr,
    deformable_detr_r50,
    deformable_detr_refine_r50,
    deformable_detr_refine_tiny,
    deformable_detr_tiny,
    deformable_detr_two_stage_r50,
    deformable_detr_two_stage_tiny,
)
from oddetr.models.families.dino import dino, dino_r50, dino_r50_5scale, dino_tiny
from oddetr.models.interface import DetectorSpec
from oddetr.models.transformers.config import HuggingFaceConfig

__all__ = [
    "BUILDERS",
    "PRESETS",
    "DetectorConfig",
    "Variant",
    "build_detector",
    "compose",
    "count_values",
    "dab_deformable_detr_r50",
    "dab_deformable_detr_tiny",
    "deformable_detr_r50",
    "deformable_detr_refine_r50",
    "deformable_detr_refine_tiny",
    "deformable_detr_tiny",
    "deformable_detr_two_stage_r50",
    "deformable_detr_two_stage_tiny",
    "dino_r50",
    "dino_r50_5scale",
    "dino_tiny",
    "read_config",
]

BUILDERS: dict[Variant, Callable[[DetectorConfig, int, Any], Detector]] = {
    "plain": deformable_detr,
    "refine": deformable_detr,
    "two_stage": deformable_detr,
    "dab": dab_deformable_detr,
    "dino": dino,
}

PRESETS: dict[str, Callable[..., DetectorConfig]] = {
    preset.__name__: preset
    for preset in (
        deformable_detr_tiny,
        deformable_detr_refine_tiny,
        deformable_detr_two_stage_tiny,
        dab_deformable_detr_tiny,
        dino_tiny,
        deformable_detr_r50,
        deformable_detr_refine_r50,
        deformable_detr_two_stage_r50,
        dab_deformable_detr_r50,
        dino_r50,
        dino_r50_5scale,
    )
}
"""By their names on the command line."""

_FREE = 2**26
"""Values of buffers (positions, masks) that a detector may have whatever its weights are."""


def read_config(values: dict[str, Any]) -> DetectorSpec:
    """The configuration that `DetectorSpec.to_plain` gave, also by way of JSON.

    Raises:
        TypeError, ValueError: the values are of no detector.
    """
    return HuggingFaceConfig.from_plain(values) if is_complete(values) else DetectorConfig(**values)


def is_complete(values: dict[str, Any]) -> bool:
    """Whether `values` describe a detector of transformers as a whole; else they may be changes to a preset."""
    return "content" in values


def build_detector(config: DetectorSpec, num_classes: int) -> Detector:
    """Build the detector with random weights (`Backbone.load_imagenet` fills the backbone's).

    A detector of transformers has the classes that its configuration names.

    Raises:
        ValueError: no classes, or a backbone that timm cannot build.
    """
    return config.build(num_classes)


def compose(config: DetectorConfig, num_classes: int, backbone: Any) -> Detector:
    """`build_detector` around any backbone: a module with the attribute `channels`, images -> maps."""
    if num_classes < 1:
        raise ValueError(f"A detector needs at least one class, not {num_classes}.")
    return BUILDERS[config.variant](config, num_classes, backbone)


def count_values(config: DetectorSpec, num_classes: int) -> int:
    """Count the detector's parameters, and the values of its buffers beyond `_FREE`, without memory for them.

    Raises:
        ValueError: see `build_detector`.
    """
    with torch.device("meta"):
        detector = build_detector(config, num_classes)
    buffers = sum(buffer.numel() for buffer in detector.buffers())
    return sum(parameter.numel() for parameter in detector.parameters()) + max(0, buffers - _FREE)
