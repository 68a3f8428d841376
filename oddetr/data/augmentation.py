"""Strong augmentation: that of RT-DETR and D-FINE (distortion, zoom-out, IoU-crop), mosaic and mixup.

The first three are SSD's (arXiv 1512.02325) as torchvision has them, with RT-DETR's settings (arXiv 2304.08069): black
around what is zoomed out, no object of less than a pixel. Mosaic is YOLOv4's (arXiv 2004.10934), mixup that of DEIM
(arXiv 2412.04234): the objects of both images count fully, though each image is half transparent. As in DEIM a mosaic
is neither zoomed out nor cropped. What differs from all of these: an object that a crop or a tile cuts counts if
`KEPT_SHARE` of its box is in view, as in all of our augmentation. (torchvision's IoU-crop asks for its centre instead,
which leaves objects without a label though almost half of each is shown.)

An example depends on its key alone: other images are drawn from the generator that the key has seeded, and whether
strong augmentation is over follows from the key's epoch, in processes that live on from epoch to epoch too. A mosaic
reads four images, mixup two, both at once up to eight, of which at most four are whole in memory at a time
(docs/performance.md has the times).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from oddetr.data.batches import TransformedDataset
from oddetr.data.dataset import Sample, Source
from oddetr.data.image_sizes import resized_shape
from oddetr.data.transforms import AugmentConfig, Example, TrainTransform, View, pick

LEAST_OBJECT = 1.0
"""Pixels that each side of an object must exceed (RT-DETR)."""
LEAST_CROPPED = 4
"""Pixels of an image's shorter side, below which torchvision's IoU-crop divides by zero."""
CENTRE = (0.3, 0.7)
"""Where the four images of a mosaic meet, relative to its sides: they are shown at about these scales."""
OPACITY = (0.45, 0.55)
"""Weights of an image in mixup (DEIM)."""
Other = Callable[[], Sample]
"""Reads another image of the data set, drawn at random."""


def training_data(
    source: Source,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: AugmentConfig,
    epochs: int,
    seed: int,
) -> TransformedDataset:
    """The training examples of a run of so many epochs; the other arguments are those of `TrainTransform`."""
    mild = TrainTransform(image_size, mean, std, source.flippable, augment)
    strong = StrongTransform(image_size, mean, std, source.flippable, augment)
    return AugmentedDataset(source, mild, strong, augment.strong_epochs(epochs), seed)


class AugmentedDataset(TransformedDataset):
    """Examples by (epoch, index), strongly augmented in the first `strong_epochs` epochs."""

    def __init__(
        self, source: Source, mild: TrainTransform, strong: "StrongTransform", strong_epochs: int, seed: int = 0
    ) -> None:
        super().__init__(source, mild, seed)
        self.strong, self.strong_epochs = strong, strong_epochs

    def example(self, epoch: int, index: int) -> Example:
        """Make an example; torch's generator is seeded already."""
        if epoch >= self.strong_epochs:
            return super().example(epoch, index)

        def other() -> Sample:
            place = (index + pick(1, len(self) - 1)) % len(self)
            return self.source.sample(place, epoch, self.strong.detail)

        sample = self.source.sample(index, epoch, self.strong.detail)
        return self.strong(sample, other if len(self) > 1 else None)


class StrongTransform(TrainTransform):
    """`TrainTransform` with strong augmentation; its arguments are the same."""

    _zoom_out, _iou_crop = v2.RandomZoomOut(p=1.0), v2.RandomIoUCrop()

    def __call__(self, sample: Sample, other: Other | None = None) -> Example:
        """One random view, maybe with other images in it.

        Args:
            other: None where there is no other image: then the tiles of a mosaic show this one, and mixup is left out.
        """
        view = self._framed(sample, other)
        if other is not None and _happens(self.augment.mixup):
            view = mixup(view, self._framed(other(), other), _uniform(*OPACITY))
        return self._example(sample, self._distorted(view).recognisable(LEAST_OBJECT))

    def _framed(self, sample: Sample, other: Other | None) -> View:
        if _happens(self.augment.mosaic):
            return self._mosaic(sample, other or (lambda: sample))
        view = self._oriented(sample)
        if _happens(self.augment.zoom_out):
            view = self._zoomed_out(view)
        return self._resized(self._cropped(view))

    def _cropped(self, view: View) -> View:
        if not self.augment.iou_crop:
            return super()._cropped(view)
        if not len(view.boxes) or min(view.shape) < LEAST_CROPPED or not _happens(self.augment.iou_crop):
            return view
        window = self._iou_crop.make_params([view.image, view.boxes])
        return view.crop(*(window[side] for side in ("top", "left", "height", "width"))) if window else view

    def _distorted(self, view: View) -> View:
        if not self.augment.distort:
            return super()._distorted(view)
        return replace(view, image=v2.RandomPhotometricDistort(p=self.augment.distort)(view.image))

    def _zoomed_out(self, view: View) -> View:
        """Up to 16 times the area, so an image of more than `detail` is shrunk to that first."""
        shape = resized_shape(*view.shape, self.detail)
        view = view.resize(*shape) if shape < view.shape else view
        image, boxes = self._zoom_out(view.image, view.boxes)
        return replace(view, image=image, boxes=boxes)

    def _mosaic(self, sample: Sample, other: Other) -> View:
        """Four images, `sample` at a random place among them, in the shape of this one."""
        own = self._oriented(sample)
        height, width = (max(2, side) for side in resized_shape(*own.shape, self._size()))
        row, column = (min(max(1, round(_uniform(*CENTRE) * side)), side - 1) for side in (height, width))
        place, tiles = pick(0, 3), []
        for number in range(4):
            view = own if number == place else self._oriented(other())
            below, right = divmod(number, 2)
            tiles.append(fitted(view, height - row if below else row, width - column if right else column))
        return mosaic(tiles)


def fitted(view: View, height: int, width: int) -> View:
    """The largest window of this shape, at a random place, in this size."""
    rows, columns = view.shape
    scale = max(height / rows, width / columns)
    high, wide = (max(1, round(side / scale)) for side in (height, width))
    return view.crop(pick(0, rows - high), pick(0, columns - wide), high, wide).resize(height, width)


def mosaic(tiles: list[View]) -> View:
    """Four views as one: in reading order, those of a row equally high, those of a column equally wide."""
    upper, lower = (torch.cat([tiles[first].image, tiles[first + 1].image], dim=2) for first in (0, 2))
    row, column = tiles[0].shape
    corners = [(0, 0), (column, 0), (0, row), (column, row)]
    boxes = [tile.boxes + torch.tensor(2 * corner) for tile, corner in zip(tiles, corners, strict=True)]
    return _joined(tv_tensors.Image(torch.cat([upper, lower], dim=1)), boxes, tiles)


def mixup(first: View, second: View, opacity: float) -> View:
    """A view laid over a window of another, with the objects of both.

    Args:
        opacity: of the first, in [0, 1]; of the second it is the rest.
    """
    second = fitted(second, *first.shape)
    image = torch.lerp(second.image.float(), first.image.float(), opacity).round().to(torch.uint8)
    return _joined(tv_tensors.Image(image), [first.boxes, second.boxes], [first, second])


def _joined(image: torch.Tensor, boxes: list[torch.Tensor], views: list[View]) -> View:
    """A view of the objects of several, whose boxes are in pixels of `image`."""
    joined = tv_tensors.BoundingBoxes(
        torch.cat([part.as_subclass(torch.Tensor) for part in boxes]),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=(image.shape[-2], image.shape[-1]),
    )  # pyright: ignore[reportCallIssue]
    labels, shares = torch.cat([view.labels for view in views]), torch.cat([view.shares for view in views])
    return View(image, joined, labels, shares)


def _happens(probability: float) -> bool:
    """Draws nothing where the probability is 0."""
    return probability > 0 and float(torch.rand(())) < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
