"""What every family of detectors knows about itself, so that no other module asks which family it is."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from oddetr.models.detector import Detector


@runtime_checkable
class DetectorSpec(Protocol):
    """What a detector is made of: `DetectorConfig` for our presets, `HuggingFaceConfig` for transformers' models."""

    @property
    def family(self) -> str:
        """A tag for model cards: deformable-detr, dino, rt_detr."""
        ...

    @property
    def summary(self) -> str:
        """The kind of detector and its sizes, in words."""
        ...

    @property
    def num_queries(self) -> int | None:
        """The most objects that can be found in an image; None where the option `num_queries` does not change it."""
        ...

    @property
    def class_agnostic(self) -> bool:
        """Whether the encoder proposes objects of any class: its first output means "is an object"."""
        ...

    @property
    def pretrained(self) -> bool:
        """Whether the backbone starts from ImageNet weights (`Backbone.load_imagenet`)."""
        ...

    def override(self, changes: dict[str, Any]) -> "DetectorSpec":
        """The same with some fields changed; raises ValueError for an unknown field or a value that does not fit."""
        ...

    def for_classes(self, names: Sequence[str]) -> "DetectorSpec":
        """The same for a data set with these classes."""
        ...

    def without_paths(self) -> "DetectorSpec":
        """The same without paths of this machine, to be shared."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, which `families.build.read_config` reads."""
        ...

    def build(self, num_classes: int) -> Detector:
        """The detector with random weights; raises ValueError or OSError where it cannot be built."""
        ...
