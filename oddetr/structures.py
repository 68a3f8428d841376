"""What passes between the parts: batches, ground truth, memory, queries and predictions.

Axes, everywhere in the package: `batch` B, `layers` L (decoder layers), `queries` N, `classes` C, `width` D,
`objects` M (objects of an image, padded), `tokens` T (encoder positions of all levels), `levels`.

Boxes are (cx, cy, w, h) relative to the *unpadded* image unless a name says otherwise.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Weights = Literal["teacher", "student"]
"""Whose weights: the teacher's, the average of the student's over its last steps, which usually score higher and change
less; or the student's, as the optimizer left them."""
Assignment = Int64[Tensor, "*layers batch queries"]
"""For each query the index of its object in `GroundTruth`, or -1. Hungarian matching makes one; DN-DETR calls it V."""


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a batch of images, padded to the same number (at least 1) of objects.

    The first `counts[b]` objects of image b are real; the rest have label -1 and box 0. `counts` lives on the host, so
    that asking how many objects there are never waits for the device.
    """

    labels: Int64[Tensor, "batch objects"]
    boxes: Float[Tensor, "batch objects 4"]
    counts: tuple[int, ...]

    @property
    def valid(self) -> Bool[Tensor, "batch objects"]:
        """True at the real objects."""
        return self.labels >= 0

    @property
    def total(self) -> int:
        """Objects in the whole batch."""
        return sum(self.counts)

    @classmethod
    def stack(cls, labels: list[Int64[Tensor, " _"]], boxes: list[Float[Tensor, "_ 4"]]) -> "GroundTruth":
        """Pads the objects of B images into one value; `labels[b]` and `boxes[b]` belong to image b."""
        counts = tuple(len(image_labels) for image_labels in labels)
        width = max(1, *counts)
        padded_labels = torch.full((len(labels), width), -1, dtype=torch.int64)
        padded_boxes = torch.zeros(len(labels), width, 4)
        for index, (image_labels, image_boxes) in enumerate(zip(labels, boxes, strict=True)):
            padded_labels[index, : len(image_labels)] = image_labels
            padded_boxes[index, : len(image_boxes)] = image_boxes
        return cls(padded_labels, padded_boxes, counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "GroundTruth":
        """The same on another device."""
        return GroundTruth(
            self.labels.to(device, non_blocking=non_blocking),
            self.boxes.to(device, non_blocking=non_blocking),
            self.counts,
        )

    def pin_memory(self) -> "GroundTruth":
        """The same in page-locked host memory."""
        return GroundTruth(self.labels.pin_memory(), self.boxes.pin_memory(), self.counts)


@dataclass(frozen=True)
class Batch:
    """Images of one step, padded at the right and the bottom to a common size.

    Attributes:
        images: normalised pixels; 0 on padding.
        padding_mask: True on padding.
        truth: the objects to learn or to evaluate; crowd regions are not among them.
        image_ids: ids as the data set gave them; they name images in results and in errors.
        original_sizes: (height, width) in pixels of the images as evaluated, before resizing and padding.
        step_objects: objects in all parts (accumulated batches) of this optimizer step on this process;
            None where the batch is the whole step.
        step_images: images in all those parts; None likewise.
    """

    images: Float[Tensor, "batch 3 image_height image_width"]
    padding_mask: Bool[Tensor, "batch image_height image_width"]
    truth: GroundTruth
    image_ids: tuple[int, ...]
    original_sizes: Int64[Tensor, "batch 2"]
    step_objects: int | None = None
    step_images: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on another device; `original_sizes` stays on the host, where it is read."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            padding_mask=self.padding_mask.to(device, non_blocking=non_blocking),
            truth=self.truth.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        """The same in page-locked host memory; called by the data loader."""
        return replace(
            self,
            images=self.images.pin_memory(),
            padding_mask=self.padding_mask.pin_memory(),
            truth=self.truth.pin_memory(),
        )


@dataclass(frozen=True)
class Memory:
    """What the encoder gives: the tokens of all levels, one level after the other, each level row by row.

    Attributes:
        tokens: encoded features.
        padding_mask: True on padding.
        shapes: (height, width) of each level.
        valid_ratios: (width, height) of the image's unpadded part relative to the padded, per level, in (0, 1].
    """

    tokens: Float[Tensor, "batch tokens width"]
    padding_mask: Bool[Tensor, "batch tokens"]
    shapes: tuple[tuple[int, int], ...]
    valid_ratios: Float[Tensor, "batch levels 2"]


@dataclass(frozen=True)
class Queries:
    """What enters the decoder: one group, whose queries see one another in self-attention.

    Attributes:
        content: the state that the decoder's layers transform.
        anchors: where a query looks: points (cx, cy) or boxes (cx, cy, w, h), in [0, 1]; beyond 1 where a detector of
            transformers, which knows no padding, looks at it.
        position: position embedding that every layer adds to the content; None where the decoder computes it, layer by
            layer, from the anchors.
        identity: which query this is, across models and epochs: the slot for learned queries, the index of the
            encoder token for two-stage queries.
        padding: True on queries that only fill the group up; no other query sees them. None: there are none.
        blind: True where a query (row) does not see another (column) of the group. None: all see all.
        sees: the names of other groups of the same pass whose queries this group's see too.
    """

    content: Float[Tensor, "batch queries width"]
    anchors: Float[Tensor, "batch queries point_or_box"]
    position: Float[Tensor, "batch queries width"] | None
    identity: Int64[Tensor, "batch queries"]
    padding: Bool[Tensor, "batch queries"] | None = None
    blind: Bool[Tensor, "queries queries"] | None = None
    sees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """What leaves the decoder, stacked over its layers.

    Attributes:
        logits: class scores before the sigmoid.
        boxes: in [0, 1]; beyond 1 as anchors may be.
        content: the state that the next layer receives.
    """

    logits: Float[Tensor, "layers batch queries classes"]
    boxes: Float[Tensor, "layers batch queries 4"]
    content: Float[Tensor, "layers batch queries width"]


@dataclass(frozen=True)
class InitialQueries:
    """The detector's own queries and, for two-stage detectors, the encoder's predictions, which a loss supervises too.

    Attributes:
        proposals: one layer; of all tokens (Deformable-DETR), or of the chosen ones (DINO).
        class_agnostic: proposals find objects whatever their class: the first class means "is an object".
    """

    queries: Queries
    proposals: Predictions | None = None
    class_agnostic: bool = False


@dataclass(frozen=True)
class AssignedQueries:
    """A group of queries whose objects are known by construction.

    Attributes:
        queries: what is decoded; `padding` where an image has fewer objects than others.
        assignment: the object of each, -1 for those that are to find none; the same in all layers.
        repeats: how many queries are to find each object.
    """

    queries: Queries
    assignment: Int64[Tensor, "batch queries"]
    repeats: int
