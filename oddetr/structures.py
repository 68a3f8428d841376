"""The values that modules exchange: batches, ground truth, encoder memory, queries and predictions.

Axes, throughout the package: `batch`, `layers` (decoder layers), `queries`, `classes`, `width` (channels),
`objects` (objects of an image, padded), `tokens` (encoder tokens of all levels), `levels`.

Boxes are (cx, cy, w, h) relative to the *unpadded* image unless a name says otherwise.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Weights = Literal["teacher", "student"]
"""Which weights to use: the student's, which the optimizer updates, or the teacher's, their moving average, which
usually scores higher and is more stable."""
Assignment = Int64[Tensor, "*layers batch queries"]
"""For each query the index of its object in `GroundTruth`, or -1. DN-DETR calls it V."""
Images = Float[Tensor, "batch 3 image_height image_width"]
"""Normalised pixels; 0 on padding."""
PaddingMask = Bool[Tensor, "batch image_height image_width"]
"""True on padding."""
Anchors = Float[Tensor, "batch queries point_or_box"]
"""Reference points (cx, cy) or boxes (cx, cy, w, h)."""
Embeddings = Float[Tensor, "batch queries width"]
"""A vector for each query."""
Shapes = tuple[tuple[int, int], ...]
"""(height, width) of each level."""


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a batch of images, padded to the same number (at least 1) per image.

    The first `counts[b]` objects of image b are real; padding has label -1 and a zero box. `counts` stays on the host,
    so that reading it does not synchronise with the device.
    """

    labels: Int64[Tensor, "batch objects"]
    boxes: Float[Tensor, "batch objects 4"]
    counts: tuple[int, ...]

    @property
    def valid(self) -> Bool[Tensor, "batch objects"]:
        """True for real objects, False for padding."""
        return self.labels >= 0

    @property
    def total(self) -> int:
        """Number of objects in the batch."""
        return sum(self.counts)

    @classmethod
    def stack(cls, labels: list[Int64[Tensor, " _"]], boxes: list[Float[Tensor, "_ 4"]]) -> "GroundTruth":
        """Pad and stack the labels and boxes of each image, of at least one, on the device that they are on."""
        counts = tuple(len(image_labels) for image_labels in labels)
        width, device = max(1, *counts), labels[0].device
        padded_labels = torch.full((len(labels), width), -1, dtype=torch.int64, device=device)
        padded_boxes = torch.zeros(len(labels), width, 4, device=device)
        for index, (image_labels, image_boxes) in enumerate(zip(labels, boxes, strict=True)):
            padded_labels[index, : len(image_labels)] = image_labels
            padded_boxes[index, : len(image_boxes)] = image_boxes
        return cls(padded_labels, padded_boxes, counts)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "GroundTruth":
        """Copy to another device."""
        return GroundTruth(
            self.labels.to(device, non_blocking=non_blocking),
            self.boxes.to(device, non_blocking=non_blocking),
            self.counts,
        )

    def pin_memory(self) -> "GroundTruth":
        """Copy to page-locked host memory."""
        return GroundTruth(self.labels.pin_memory(), self.boxes.pin_memory(), self.counts)


@dataclass(frozen=True)
class Batch:
    """A batch of images, padded at the right and the bottom to a common size.

    Attributes:
        truth: the objects to learn or to evaluate, without crowd regions.
        image_ids: the data set's ids, which results and errors refer to.
        original_sizes: (height, width) in pixels before resizing and padding, on the host.
        step_objects: objects in all accumulated batches of this optimizer step on this process; None where the batch
            is the whole step.
    """

    images: Images
    padding_mask: PaddingMask
    truth: GroundTruth
    image_ids: tuple[int, ...]
    original_sizes: Int64[Tensor, "batch 2"]
    step_objects: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Copy to another device, except `original_sizes`, which is read on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            padding_mask=self.padding_mask.to(device, non_blocking=non_blocking),
            truth=self.truth.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        """Copy to page-locked host memory; called by the data loader."""
        return replace(
            self,
            images=self.images.pin_memory(),
            padding_mask=self.padding_mask.pin_memory(),
            truth=self.truth.pin_memory(),
        )


@dataclass(frozen=True)
class Memory:
    """The encoder's output: the tokens of all levels, concatenated level by level, each in row-major order.

    Attributes:
        tokens: encoded features.
        padding_mask: True on padding.
        shapes: (height, width) of each level.
        valid_ratios: (width, height) of the unpadded part over that of the padded image, per level, in (0, 1].
    """

    tokens: Float[Tensor, "batch tokens width"]
    padding_mask: Bool[Tensor, "batch tokens"]
    shapes: Shapes
    valid_ratios: Float[Tensor, "batch levels 2"]


@dataclass(frozen=True)
class Queries:
    """One group of decoder queries, which attend to one another in self-attention.

    Attributes:
        content: content embeddings, which the decoder layers update.
        anchors: reference points (cx, cy) or boxes (cx, cy, w, h), in [0, 1]. Those of transformers' detectors, which
            ignore padding, may exceed 1.
        position: position embeddings that every layer adds to the content; None where each decoder layer computes them
            from the anchors.
        identity: what identifies a query across models and epochs: the slot of learned queries, the index of the
            encoder token of two-stage queries.
        padding: True for queries that only pad the group; no other query attends to them. None: no padding.
        attention_mask: of self-attention within the group: True where the query of the row must not attend to that of
            the column. None: no mask.
        attends_to: names of other groups in the same decoder pass whose queries this group attends to as well.
    """

    content: Embeddings
    anchors: Anchors
    position: Embeddings | None
    identity: Int64[Tensor, "batch queries"]
    padding: Bool[Tensor, "batch queries"] | None = None
    attention_mask: Bool[Tensor, "queries queries"] | None = None
    attends_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """The decoder's predictions, stacked over its layers.

    Attributes:
        logits: class scores before the sigmoid.
        boxes: predicted boxes, in [0, 1]; like anchors they may exceed 1 in transformers' detectors.
        content: content embeddings after each layer.
    """

    logits: Float[Tensor, "layers batch queries classes"]
    boxes: Float[Tensor, "layers batch queries 4"]
    content: Float[Tensor, "layers batch queries width"]


@dataclass(frozen=True)
class InitialQueries:
    """The detector's own queries, and the encoder's proposals of two-stage detectors, which have a loss of their own.

    Attributes:
        queries: the queries to decode.
        proposals: predictions of one layer, for all tokens (Deformable-DETR) or for the selected ones (DINO).
        class_agnostic: whether proposals are scored for objectness, by the first class.
    """

    queries: Queries
    proposals: Predictions | None = None
    class_agnostic: bool = False


@dataclass(frozen=True)
class AssignedQueries:
    """A group of queries whose assignment is known by construction, as in denoising.

    Attributes:
        queries: the queries to decode; `padding` fills up images with fewer objects than others.
        assignment: each query's object, -1 for background; the same in all layers.
        repeats: number of queries per object.
    """

    queries: Queries
    assignment: Int64[Tensor, "batch queries"]
    repeats: int
