"""Detectors by name and size.

A preset is a `DetectorConfig`; `build_detector` composes the detector that it describes.

    build_detector(PRESETS["deformable_detr_tiny"], num_classes=3)
    build_detector(PRESETS["deformable_detr_two_stage_r50"].override({"num_queries": 100}), num_classes=80)
"""

from typing import Any

from oddetr.models.detector import Detector
from oddetr.models.detector_spec import DetectorSpec
from oddetr.models.families import dab, deformable_detr, dino
from oddetr.models.families.config import DetectorConfig, Variant
from oddetr.models.transformers.config import HuggingFaceConfig

__all__ = ["PRESETS", "DetectorConfig", "Variant", "build_detector", "compose", "read_config"]

FAMILIES = (deformable_detr, dab, dino)
"""A module for each family: its variants, its presets, and `build`, which composes its detectors."""
PRESETS: dict[str, DetectorConfig] = {name: preset for family in FAMILIES for name, preset in family.PRESETS.items()}
"""The presets by their names on the command line.

`tiny`: EfficientNet-Lite0, width 128, 2 encoder and 3 decoder layers, 100 queries, no dropout; trains on two CPU cores.
`r50`: ResNet-50 in the sizes of the papers.
"""


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
    family = next(family for family in FAMILIES if config.variant in family.VARIANTS)
    return family.build(config, num_classes, backbone)
