"""How a data set is read where its owner has a choice."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MOST_PIXELS = 89_478_485
"""Of an image in a data set, by default: Pillow warns of more."""


@dataclass(frozen=True)
class ReadingConfig:
    """How to read a data set.

    Attributes:
        allow_outside: also read what paths and links name outside of the folder; it is refused otherwise.
        ignore_exif: take images as stored, not turned by their EXIF orientation: for boxes that were drawn so.
        crowds_as_objects: learn COCO's crowd regions and VOC's difficult objects like any other.
        most_pixels: of an image; larger ones are refused.
        skip_broken: leave out images with errors of their own, instead of refusing the data set.
        grey_bits: bits of grey images of 16 bits that hold values: 12 of a 12-bit camera; None: found in the images.

    Raises:
        ValueError: a number is out of range.
    """

    allow_outside: bool = False
    ignore_exif: bool = False
    crowds_as_objects: bool = False
    most_pixels: int = MOST_PIXELS
    skip_broken: bool = False
    grey_bits: int | None = None

    def __post_init__(self) -> None:
        if self.most_pixels < 1:
            raise ValueError(f"most_pixels is {self.most_pixels}; it must be at least 1.")
        if self.grey_bits is not None and not 8 <= self.grey_bits <= 16:
            raise ValueError(f"grey_bits is {self.grey_bits}; it must be 8 to 16 bits.")

    @classmethod
    def recorded(cls, configuration: Mapping[str, Any], allow_outside: bool) -> "ReadingConfig":
        """What the configuration of a run says. That it allowed to read outside of its data is not believed.

        A run of oddetr 0.1 took all 16 bits of grey images; an empty configuration is that of a converted checkpoint.

        Raises:
            ValueError: a value is of another type, or out of range.
        """
        values = ({"grey_bits": 16} if configuration else {}) | dict(configuration)
        known: dict[str, Any] = {part.name: values[part.name] for part in fields(cls) if part.name in values}
        wrong = next((name for name, value in known.items() if not isinstance(value, int | None)), None)
        if wrong is not None:
            raise ValueError(f"The configuration is damaged: {wrong} is {known[wrong]!r}.")
        return cls(**known | {"allow_outside": allow_outside})


AS_USUAL = ReadingConfig()
