"""From a sample to the detector's input: resizing, DETR's augmentation, normalisation.

Sizes follow DETR, relative to the size of evaluation: DETR evaluates at a shorter side of 800 pixels and at most 1333
for the longer, trains at shorter sides of 480..800 and crops windows of 384..600 from images shrunk to 400, 500 or 600.
Randomness comes from torch's global generator, which the data set seeds for each item.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import box_area
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
STRONG = ("distort", "zoom_out", "iou_crop", "mosaic", "mixup")
"""Fields of `AugmentConfig` that are off after `strong_until`; see `oddetr.data.augmentation`."""


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
        rotate: turn images by 0, 90, 180 or 270 degrees, each as often: for pictures without an up, as through a
            microscope or from the air. With `flip` they are mirrored in all directions.
        distort: strong: in place of `photometric`, the probability of each of larger changes of brightness, contrast,
            saturation, hue and the order of the colour channels (RT-DETR: 0.5). 0 is off, here and below.
        zoom_out: strong: the probability that an image is shown up to 4 times smaller on black (RT-DETR: 0.5).
        iou_crop: strong: the probability of a window that shows the centre of an object, in place of `crop`
            (RT-DETR: 0.8).
        mosaic: strong: the probability of a mosaic of four images, in place of zoom-out and crops (DEIM: 0.5).
        mixup: strong: the probability that two images are laid over each other (DEIM: 0.5).
        strong_until: strong ones end after the last whole epoch of this part of the run (D-FINE: 72 of 80 epochs;
            DEIM ends mosaic and mixup after half).

    Raises:
        ValueError: a value is out of range.
    """

    flip: bool | Literal["auto"] = "auto"
    min_scale: float = 0.6
    crop: bool = True
    photometric: bool = True
    rotate: bool = False
    distort: float = 0.0
    zoom_out: float = 0.0
    iou_crop: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    strong_until: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.min_scale <= 1.0:
            raise ValueError(f"augment.min_scale must lie in (0, 1], not {self.min_scale}. DETR trains with 0.6.")
        for name in (*STRONG, "strong_until"):
            value, what = getattr(self, name), "a probability" if name in STRONG else "a part of the run"
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"augment.{name} is {value!r}; it is {what}, in [0, 1].")

    @property
    def strong(self) -> bool:
        """Whether any strong augmentation is on."""
        return any(getattr(self, name) for name in STRONG)

    @property
    def most_images(self) -> int:
        """The most images that an example is made of."""
        return (4 if self.mosaic else 1) * (2 if self.mixup else 1)

    def strong_epochs(self, epochs: int) -> int:
        """The epochs with strong augmentation in a run of so many: the first ones."""
        return math.floor(self.strong_until * epochs + 1e-6) if self.strong else 0


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


def pick(low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


@dataclass(frozen=True)
class View:
    """An image, or a part of one, on its way to an `Example`, with its objects; none of them is a crowd region.

    Attributes:
        image: RGB.
        boxes: (x0, y0, x1, y1) in pixels, clipped to the image.
        labels: 0..K-1.
        shares: of each object's box that is in view, in [0, 1]; NaN for a box without area.
    """

    image: UInt8[Tensor, "3 height width"]
    boxes: Float32[Tensor, "objects 4"]
    labels: Int64[Tensor, " objects"]
    shares: Float32[Tensor, " objects"]

    @classmethod
    def of(cls, sample: Sample) -> "View":
        """The whole image and its objects but crowds."""
        image = tv_tensors.Image(torch.from_numpy(np.require(sample.image, requirements="W")).permute(2, 0, 1))
        real = torch.from_numpy(~sample.crowd)
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(sample.boxes)[real],
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=sample.image.shape[:2],
        )  # pyright: ignore[reportCallIssue]
        return cls(image, F.clamp_bounding_boxes(boxes), torch.from_numpy(sample.labels)[real], torch.ones(len(boxes)))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    def changed(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> "View":
        """What one of torchvision's functions makes of image and boxes."""
        image, boxes = (function(part, *arguments, **options) for part in (self.image, self.boxes))
        return replace(self, image=image, boxes=boxes)

    def crop(self, top: int, left: int, height: int, width: int) -> "View":
        """The window of this size, in pixels, whose first pixel is (top, left)."""
        window = self.changed(F.crop, top, left, height, width)
        return replace(window, shares=self.shares * (box_area(window.boxes) / box_area(self.boxes)))

    def resize(self, height: int, width: int) -> "View":
        """The same at another size."""
        image = F.resize(self.image, [height, width], antialias=True).contiguous()
        return replace(self, image=image, boxes=F.resize(self.boxes, [height, width]))

    def recognisable(self, least: float = 0.0) -> "View":
        """Only the objects that show `KEPT_SHARE` of their box, and that in more than `least` x `least` pixels."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        kept = (self.shares >= KEPT_SHARE) & (sides > least).all(dim=1)
        boxes = tv_tensors.wrap(self.boxes[kept], like=self.boxes)  # pyright: ignore[reportCallIssue]
        return replace(self, boxes=boxes, labels=self.labels[kept], shares=self.shares[kept])


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
        view = View.of(sample)
        return self._example(sample, view.resize(*resized_shape(*view.shape, self.image_size)))

    def _example(self, sample: Sample, view: View) -> Example:
        pixels = F.normalize(F.to_dtype(view.image, torch.float32, scale=True), self._mean, self._std)
        height, width = view.shape
        relative = xyxy_to_cxcywh(view.boxes.as_subclass(Tensor)) / torch.tensor([width, height, width, height])
        return Example(
            image=pixels.as_subclass(Tensor).contiguous(),
            boxes=relative,
            labels=view.labels,
            image_id=sample.image_id,
            original_size=sample.size,
        )


class TrainTransform(EvalTransform):
    """DETR's augmentation, and quarter turns: flip, rotate, crop, resize, distort.

    Args:
        image_size, mean, std: see `EvalTransform`; the size is that of evaluation.
        flippable: whether the data set's classes survive mirroring.
        augment: what to vary; strong augmentation is that of `oddetr.data.augmentation`.
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
        self.augment = augment
        self.sizes = training_sizes(image_size, augment.min_scale)
        self._distort = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2) if augment.photometric else None

    def __call__(self, sample: Sample) -> Example:
        """One random view; an object is among its objects if `KEPT_SHARE` of its box is in view."""
        return self._example(sample, self._distorted(self._resized(self._cropped(self._oriented(sample)))))

    def _oriented(self, sample: Sample) -> View:
        view = View.of(sample)
        if self.flip and pick(0, 1):
            view = view.changed(F.horizontal_flip)
        turns = pick(0, 3) if self.augment.rotate else 0
        return view.changed(F.rotate, 90.0 * turns, expand=True) if turns else view

    def _cropped(self, view: View) -> View:
        return self._cut(view) if self.augment.crop and pick(0, 1) else view

    def _resized(self, view: View) -> View:
        view = view.recognisable()
        return view.resize(*resized_shape(*view.shape, self._size()))

    def _size(self) -> int:
        return self.sizes[pick(0, len(self.sizes) - 1)]

    def _distorted(self, view: View) -> View:
        return view if self._distort is None else replace(view, image=self._distort(view.image))

    def _cut(self, view: View) -> View:
        """DETR's resize, random crop, resize, without the first resampling: the window is cut from the original."""
        height, width = view.shape
        scale = scale_of(height, width, CROP_FROM[pick(0, len(CROP_FROM) - 1)] * self.image_size)
        low, high = (max(1, round(side * self.image_size / scale)) for side in CROP_SIDES)
        window = [pick(min(low, side), min(high, side)) for side in (height, width)]
        top, left = pick(0, height - window[0]), pick(0, width - window[1])
        return view.crop(top, left, *window)
