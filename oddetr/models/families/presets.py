"""Detectors by name and size.

A preset is a function that gives a `DetectorConfig`; `build_detector` composes the detector that it describes.

    build_detector(deformable_detr_tiny(), num_classes=3)
    build_detector(deformable_detr_r50(variant="two_stage", num_queries=100), num_classes=80)
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from oddetr.common.text import KINDS
from oddetr.models.backbone import Backbone
from oddetr.models.decoder import AnchorPosition, DecoderLayer, DeformableDecoder
from oddetr.models.denoising import ContrastiveDenoising
from oddetr.models.detector import Detector
from oddetr.models.encoder import DeformableEncoder, FeaturePyramid
from oddetr.models.heads import PredictionHead
from oddetr.models.position import sine_position_map
from oddetr.models.queries import LearnedAnchors, LearnedQueries, MixedQueries, TwoStageQueries
from oddetr.models.transformers.config import HuggingFaceConfig

Variant = Literal["plain", "refine", "two_stage", "dab", "dino"]
_MOST = {
    "width": 8192,
    "heads": 256,
    "ffn_width": 65_536,
    "encoder_layers": 50,
    "decoder_layers": 50,
    "levels": 16,
    "points": 64,
    "num_queries": 10_000,
    "denoising": 10_000,
    "top_k": 10_000,
}
"""The largest sizes: a configuration may be anyone's, and is to be composed in a few seconds, if without memory."""
_FREE = 2**26
"""Values of buffers (positions, masks) that a detector may have whatever its weights are."""


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector is made of; defaults are Deformable-DETR's (arXiv 2010.04159).

    Attributes:
        variant: of Deformable-DETR `plain`; `refine`: iterative box refinement; `two_stage`: that, with queries chosen
            from the encoder. `dab`: DAB-Deformable-DETR. `dino`: DINO.
        backbone: a timm model name.
        pretrained: the backbone starts from ImageNet weights, so its batch norms and first layers are frozen.
        width: of tokens and queries; a multiple of 32 and of `heads`.
        heads: of every attention.
        ffn_width: hidden width of the feed-forward networks.
        encoder_layers, decoder_layers: how many.
        maps: of the backbone, the last at stride 32: 1 to 4; 3 are usual, 1 is single-scale Deformable-DETR.
        levels: of the pyramid: these, and coarser ones.
        points: that a query reads per head and level.
        num_queries: the most objects that can be found in an image.
        dropout: the probability, in [0, 1), in encoder and decoder.
        denoising: about how many disturbed objects of an image are found again in training (`ContrastiveDenoising`);
            0: none. Of `dab` and `dino` only, whose decoder computes positions from anchors.
        top_k: how many detections of an image are kept, unless a caller asks for another number; officially 100, and
            300 of DINO.

    Raises:
        ValueError: a size that is out of range; none may be larger than any detector needs (`_MOST`).
    """

    variant: Variant = "plain"
    backbone: str = "resnet50"
    pretrained: bool = True
    width: int = 256
    heads: int = 8
    ffn_width: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    maps: int = 3
    levels: int = 4
    points: int = 4
    num_queries: int = 300
    dropout: float = 0.1
    denoising: int = 0
    top_k: int = 100

    @property
    def class_agnostic(self) -> bool:
        """Whether the encoder's proposals are objects of any class."""
        return self.variant == "two_stage"

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant is {self.variant!r}; it must be one of {', '.join(get_args(Variant))}.")
        for field, most in _MOST.items():
            value = getattr(self, field)
            least = 0 if field == "denoising" else 1
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{field} is {value!r}; it must be a whole number from {least} to {most:,}.")
        if self.maps not in (1, 2, 3, 4) or self.levels < self.maps:
            raise ValueError(
                f"maps is {self.maps} and levels {self.levels}; there are 1 to 4 maps, and at least as many levels."
            )
        if self.width % 32 or self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of 32 and of heads ({self.heads}).")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1).")
        if self.denoising and self.variant not in ("dab", "dino"):
            raise ValueError(f"denoising is {self.denoising}; only the variants dab and dino have it: 0 for others.")

    def override(self, changes: dict[str, Any]) -> "DetectorConfig":
        """The same with some fields changed.

        Raises:
            ValueError: no such field, or a value that does not fit it.
        """
        fields = {field.name: field.type for field in dataclasses.fields(self)}
        for name, value in changes.items():
            if name not in fields:
                raise ValueError(f"A detector has no field {name!r}; it has {', '.join(fields)}.")
            kind = type(getattr(self, name))
            if not (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))) and not (
                kind is float and type(value) is int
            ):
                raise ValueError(f"detector.{name} is {value!r}; it must be {KINDS[kind.__name__]}.")
        return dataclasses.replace(self, **changes)


_TINY = DetectorConfig(
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
    return _TINY.override(changes)


def deformable_detr_refine_tiny(**changes: Any) -> DetectorConfig:
    """`deformable_detr_tiny` with iterative box refinement."""
    return _TINY.override({"variant": "refine"} | changes)


def deformable_detr_two_stage_tiny(**changes: Any) -> DetectorConfig:
    """`deformable_detr_tiny` with iterative box refinement and queries chosen from the encoder's proposals."""
    return _TINY.override({"variant": "two_stage"} | changes)


def dab_deformable_detr_tiny(**changes: Any) -> DetectorConfig:
    """DAB-Deformable-DETR of the sizes of `deformable_detr_tiny`."""
    return _TINY.override({"variant": "dab"} | changes)


def dino_tiny(**changes: Any) -> DetectorConfig:
    """DINO of the sizes of `deformable_detr_tiny`."""
    return _TINY.override({"variant": "dino", "denoising": 100} | changes)


def deformable_detr_r50(**changes: Any) -> DetectorConfig:
    """The paper's: ResNet-50, 4 levels, 6 + 6 layers, 300 queries."""
    return DetectorConfig().override(changes)


def deformable_detr_refine_r50(**changes: Any) -> DetectorConfig:
    """The paper's, with iterative box refinement."""
    return deformable_detr_r50(**{"variant": "refine"} | changes)


def deformable_detr_two_stage_r50(**changes: Any) -> DetectorConfig:
    """The paper's, with iterative box refinement and queries chosen from the encoder's proposals."""
    return deformable_detr_r50(**{"variant": "two_stage"} | changes)


def dab_deformable_detr_r50(**changes: Any) -> DetectorConfig:
    """DAB-Deformable-DETR as officially (arXiv 2201.12329): ResNet-50, 300 queries, wider layers, no dropout."""
    return deformable_detr_r50(**{"variant": "dab", "ffn_width": 2048, "dropout": 0.0} | changes)


def dino_r50(**changes: Any) -> DetectorConfig:
    """DINO with 4 scales as officially (arXiv 2203.03605): ResNet-50, 900 queries, 100 denoising queries, 300
    detections of an image."""
    return dab_deformable_detr_r50(**{"variant": "dino", "num_queries": 900, "denoising": 100, "top_k": 300} | changes)


def dino_r50_5scale(**changes: Any) -> DetectorConfig:
    """DINO with 5 scales as officially: from stride 4 on."""
    return dino_r50(**{"levels": 5, "maps": 4} | changes)


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
"""What the command line calls them by."""


def build_detector(config: "DetectorConfig | HuggingFaceConfig", num_classes: int) -> Detector:
    """Composes the detector, with random weights (`Backbone.load_imagenet` fills the backbone's).

    A detector of transformers has the classes that its configuration names.

    Raises:
        ValueError: no classes, or a backbone that timm cannot build.
    """
    if isinstance(config, HuggingFaceConfig):
        return config.build()
    return compose(config, num_classes, Backbone(config.backbone, config.pretrained, config.maps))


def count_values(config: "DetectorConfig | HuggingFaceConfig", num_classes: int) -> int:
    """The parameters of the detector, and the values of its buffers beyond `_FREE`, counted without memory for them.

    Raises:
        ValueError: see `build_detector`.
    """
    with torch.device("meta"):
        detector = build_detector(config, num_classes)
    buffers = sum(buffer.numel() for buffer in detector.buffers())
    return sum(parameter.numel() for parameter in detector.parameters()) + max(0, buffers - _FREE)


def compose(config: DetectorConfig, num_classes: int, backbone: Any) -> Detector:
    """`build_detector` around any backbone: a module with the attribute `channels`, images -> maps."""
    if num_classes < 1:
        raise ValueError(f"A detector needs at least one class, not {num_classes}.")
    sizes = (config.width, config.heads, config.levels, config.points, config.ffn_width)
    variant, queries, width = config.variant, config.num_queries, config.width
    head = PredictionHead(width, num_classes)
    heads = head.copies(1 if variant in ("plain", "dino") else config.decoder_layers)
    if variant == "two_stage":
        query_source = TwoStageQueries(queries, width, head)
    elif variant == "dino":
        query_source = MixedQueries(queries, width, head)
    else:
        heads[0].start_with_size(-2.0)
        query_source = (LearnedAnchors if variant == "dab" else LearnedQueries)(queries, width)
    layers = [DecoderLayer(*sizes, config.dropout) for _ in range(config.decoder_layers)]
    dino = variant == "dino"
    position_map = partial(sine_position_map, temperature=20.0, centred=False) if dino else sine_position_map
    return Detector(
        backbone=backbone,
        pyramid=FeaturePyramid(cast(list[int], backbone.channels), width, config.levels),
        encoder=DeformableEncoder(*sizes, config.encoder_layers, config.dropout, position_map),
        query_source=query_source,
        decoder=DeformableDecoder(
            layers,
            heads,
            refine_anchors=variant != "plain",
            position=AnchorPosition(width, scaled=variant == "dab") if variant in ("dab", "dino") else None,
            norm=nn.LayerNorm(width) if dino else None,
            look_forward_twice=dino,
            eps=1e-3 if variant in ("dab", "dino") else 1e-5,
        ),
        denoising=ContrastiveDenoising(num_classes, width, config.denoising) if config.denoising else None,
        top_k=config.top_k,
    )
