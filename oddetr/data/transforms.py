"""From a sample to the detector's input: resizing, DETR's augmentation, normalisation.

Sizes follow DETR, relative to the size of evaluation: DETR evaluates at a shorter side of 800 pixels and at most 1333
for the longer, trains at shorter sides of 480..800 and crops windows of 384..600 from images shrunk to 400, 500 or 600.
Randomness comes from torch's global generator, which the data set seeds for each item.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from oddetr.boxes import xyxy_to_cxcywh
from oddetr.data.dataset import Sample
from oddetr.data.image_sizes import resized_shape, scale_of

LEAST_SIDE = 32
"""The least shorter side, in pixels: the stride of the backbone's last map."""
MOST_SIDE = 4096
"""The largest: an image of `LONGEST` times that length takes 0.3 GiB, and about 1 GiB while it is made."""
SCALES = 11
"""Sizes to choose from in training."""
CROP_FROM = (0.5, 0.625, 0.75)
"""Shorter sides of the image that a crop is cut from, relative to the size of evaluation."""
CROP_SIDES = (0.48, 0.75)
"""Range of a crop's sides, relative to the size of evaluation."""
KEPT_SHARE = 0.25
"""A crop keeps an object if it shows at least this share of the box. DETR keeps every sliver, but a label for
what cannot be recognised is noise."""


@dataclass(frozen=True)
class AugmentConfig:
    """How training images vary.

    Attributes:
        flip: mirror half of the images left to right; "auto" asks the data set whether its classes allow it.
        min_scale: the smallest training size relative to the size of evaluation, in (0, 1]; 1 trains at one size.
            DETR: 480 / 800 = 0.6.
        crop: cut half of the images to a random window first (DETR). Off for scenes that a crop makes meaningless.
        photometric: vary brightness, contrast and saturation by up to 20 %. Hue stays: it costs more time than the rest
            together, and classes differ by colours.

    Raises:
        ValueError: `min_scale` is outside (0, 1].
    """

    flip: bool | Literal["auto"] = "auto"
    min_scale: float = 0.6
    crop: bool = True
    photometric: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.min_scale <= 1.0:
            raise ValueError(f"augment.min_scale must lie in (0, 1], not {self.min_scale}. DETR trains with 0.6.")


@dataclass(frozen=True)
class Example:
    """One image as the detector's input.

    Attributes:
        image: normalised.
        boxes: (cx, cy, w, h) relative to the image.
        labels: 0..K-1; without crowd regions.
        image_id: the original id.
        original_size: (height, width) in pixels before resizing, EXIF orientation applied.
    """

    image: Float32[Tensor, "3 height width"]
    boxes: Float32[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]
    image_id: int
    original_size: tuple[int, int]


def training_sizes(image_size: int, min_scale: float) -> list[int]:
    """`SCALES` shorter sides, evenly spaced in [min_scale, 1] × image_size, as multiples of 8; last `image_size`."""
    steps = torch.linspace(min_scale, 1.0, SCALES).tolist()
    return [min(image_size, max(8, 8 * round(step * image_size / 8))) for step in steps[:-1]] + [image_size]


def _open(sample: Sample) -> tuple[Tensor, Tensor, Int64[Tensor, " _"]]:
    """The image and its objects but crowds, as torchvision's transforms take them; boxes are clipped to the image."""
    image = tv_tensors.Image(torch.from_numpy(np.require(sample.image, requirements="W")).permute(2, 0, 1))
    real = torch.from_numpy(~sample.crowd)
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(sample.boxes)[real],
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=sample.image.shape[:2],
    )  # pyright: ignore[reportCallIssue]
    return image, F.clamp_bounding_boxes(boxes), torch.from_numpy(sample.labels)[real]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _pick(low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


class EvalTransform:
    """Resizes and normalises.

    Args:
        image_size: the shorter side, in pixels.
        mean, std: of the backbone's training images, per channel, for pixels in [0, 1].
    """

    def __init__(self, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.image_size = image_size
        self._mean, self._std = list(mean), list(std)

    @property
    def detail(self) -> int:
        """The least shorter side of images that are read at reduced size: twice that of evaluation, as augmentation
        shows windows at up to 1.6 times its scale, and resampling needs pixels to average."""
        return 2 * self.image_size

    def __call__(self, sample: Sample) -> Example:
        """The image and all its objects."""
        image, boxes, labels = _open(sample)
        image, boxes = self._resize(image, boxes, self.image_size)
        return self._finish(sample, image, boxes, labels)

    def _resize(self, image: Tensor, boxes: Tensor, shorter: int) -> tuple[Tensor, Tensor]:
        shape = list(resized_shape(image.shape[-2], image.shape[-1], shorter))
        return F.resize(image, shape, antialias=True).contiguous(), F.resize(boxes, shape)

    def _finish(self, sample: Sample, image: Tensor, boxes: Tensor, labels: Tensor) -> Example:
        pixels = F.normalize(F.to_dtype(image, torch.float32, scale=True), self._mean, self._std)
        height, width = image.shape[-2:]
        relative = xyxy_to_cxcywh(boxes.as_subclass(Tensor)) / torch.tensor([width, height, width, height])
        return Example(
            image=pixels.as_subclass(Tensor).contiguous(),
            boxes=relative,
            labels=labels,
            image_id=sample.image_id,
            original_size=sample.size,
        )


class TrainTransform(EvalTransform):
    """DETR's augmentation: flip, crop, resize, distort.

    Args:
        image_size, mean, std: see `EvalTransform`; the size is that of evaluation.
        flippable: whether the data set's classes survive mirroring.
        augment: what to vary.
    """

    def __init__(
        self,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        flippable: bool,
        augment: AugmentConfig = AugmentConfig(),
    ) -> None:
        super().__init__(image_size, mean, std)
        self.flip = flippable if augment.flip == "auto" else augment.flip
        self.crop = augment.crop
        self.sizes = training_sizes(image_size, augment.min_scale)
        self._distort = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2) if augment.photometric else None

    def __call__(self, sample: Sample) -> Example:
        """One random view; an object is among its objects if `KEPT_SHARE` of its box is in view."""
        image, boxes, labels = _open(sample)
        if self.flip and _pick(0, 1):
            image, boxes = F.horizontal_flip(image), F.horizontal_flip(boxes)
        areas = _area(boxes)
        if self.crop and _pick(0, 1):
            image, boxes = self._cut(image, boxes)
        shown = _area(boxes)
        image, boxes = self._resize(image, boxes, self.sizes[_pick(0, len(self.sizes) - 1)])
        if self._distort is not None:
            image = self._distort(image)
        kept = (shown > 0) & (shown >= KEPT_SHARE * areas)
        return self._finish(sample, image, boxes[kept], labels[kept])

    def _cut(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """DETR's resize, random crop, resize, without the first resampling: the window is cut from the original."""
        height, width = image.shape[-2:]
        scale = scale_of(height, width, CROP_FROM[_pick(0, len(CROP_FROM) - 1)] * self.image_size)
        low, high = (max(1, round(side * self.image_size / scale)) for side in CROP_SIDES)
        window = [_pick(min(low, side), min(high, side)) for side in (height, width)]
        top, left = _pick(0, height - window[0]), _pick(0, width - window[1])
        return F.crop(image, top, left, *window), F.crop(boxes, top, left, *window)
