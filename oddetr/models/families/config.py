"""What a detector composed of our own parts is made of."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from oddetr.common.text import KINDS
from oddetr.models.backbone import Backbone
from oddetr.models.detector import Detector

Variant = Literal["plain", "refine", "two_stage", "dab", "dino"]
NAMES: dict[Variant, str] = {
    "plain": "Deformable-DETR",
    "refine": "Deformable-DETR with iterative box refinement",
    "two_stage": "two-stage Deformable-DETR",
    "dab": "DAB-Deformable-DETR",
    "dino": "DINO",
}
_LARGEST = 65_536
"""Upper limit of all whole numbers: more than any detector needs."""


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector is made of (a `DetectorSpec`); defaults are Deformable-DETR's (arXiv 2010.04159).

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
        levels: of the pyramid: the maps, and coarser levels.
        points: that a query samples per head and level.
        num_queries: the most objects that can be found in an image.
        dropout: the probability, in [0, 1), in encoder and decoder.
        denoising: about how many noised objects per image the detector is trained to find again
            (`ContrastiveDenoising`); 0: none. For `dab` and `dino` only, whose decoder computes positions from anchors.
        top_k: how many detections of an image are kept unless a caller asks for another number; officially 100, and
            300 for DINO.

    Raises:
        ValueError: a value is out of range.
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

    def __post_init__(self) -> None:
        if self.variant not in NAMES:
            raise ValueError(f"variant is {self.variant!r}; it must be one of {', '.join(NAMES)}.")
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "denoising" else 1
            if field.type is int and (type(value) is not int or not least <= value <= _LARGEST):
                raise ValueError(f"{field.name} is {value!r}; it must be a whole number from {least} to {_LARGEST:,}.")
        if self.maps > 4 or self.levels < self.maps:
            raise ValueError(
                f"maps is {self.maps} and levels {self.levels}; there are 1 to 4 maps, and at least as many levels."
            )
        if self.width % 32 or self.width % self.heads:
            raise ValueError(f"width is {self.width}; it must be a multiple of 32 and of heads ({self.heads}).")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1).")
        if self.denoising and self.variant not in ("dab", "dino"):
            raise ValueError(f"denoising is {self.denoising}; only the variants dab and dino have it: 0 for others.")

    @property
    def family(self) -> str:
        return {"dab": "dab-deformable-detr", "dino": "dino"}.get(self.variant, "deformable-detr")

    @property
    def summary(self) -> str:
        return (
            f"{NAMES[self.variant]} ({self.backbone}, {self.encoder_layers} + {self.decoder_layers} layers, "
            f"width {self.width}, {self.num_queries} queries)"
        )

    @property
    def class_agnostic(self) -> bool:
        return self.variant == "two_stage"

    def override(self, changes: dict[str, Any]) -> "DetectorConfig":
        """Change some fields; raises ValueError for an unknown field or a value that does not fit."""
        fields = [field.name for field in dataclasses.fields(self)]
        for name, value in changes.items():
            if name not in fields:
                raise ValueError(f"A detector has no field {name!r}; it has {', '.join(fields)}.")
            kind = type(getattr(self, name))
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"detector.{name} is {value!r}; it must be {KINDS[kind.__name__]}.")
        return dataclasses.replace(self, **changes)

    def for_classes(self, names: Sequence[str]) -> "DetectorConfig":
        """Return itself, which holds no classes."""
        return self

    def without_paths(self) -> "DetectorConfig":
        """Return itself, which holds no paths."""
        return self

    def to_plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def build(self, num_classes: int) -> Detector:
        """Build it; raises ValueError for no classes, or for a backbone that timm cannot build."""
        from oddetr.models.families.build import compose  # the builders read this configuration

        return compose(self, num_classes, Backbone(self.backbone, self.pretrained, self.maps))
