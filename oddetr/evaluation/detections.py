"""The detections of one image, as prediction, evaluation, drawing and files exchange them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from oddetr.data.dataset import ClassTable

if TYPE_CHECKING:
    import supervision


class CocoResult(TypedDict):
    """One entry of a COCO results file; `bbox` is (left, top, width, height) in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True)
class Detections:
    """The detections of one image, in any order.

    Attributes:
        boxes: (x0, y0, x1, y1) in pixels of the original image.
        scores: in [0, 1].
        labels: class indices, 0..K-1.
    """

    boxes: Float32[np.ndarray, "detections 4"]
    scores: Float32[np.ndarray, " detections"]
    labels: Int64[np.ndarray, " detections"]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Int64[np.ndarray, " chosen"] | Bool[np.ndarray, " detections"]) -> "Detections":
        """Select by indices, in their order, or by a mask."""
        return Detections(self.boxes[which], self.scores[which], self.labels[which])

    def above(self, threshold: float | Float64[np.ndarray, " classes"]) -> "Detections":
        """Select the detections that score at least `threshold`, or their class's, in the same order."""
        return self.take(self.scores >= (threshold if isinstance(threshold, int | float) else threshold[self.labels]))

    def top(self, count: int) -> "Detections":
        """The `count` best, best first; ties keep their order."""
        return self.take(np.argsort(-self.scores, kind="stable")[:count])

    def among(self, labels: Sequence[int]) -> "Detections":
        """Count the labels by their places in `labels`, which holds them all."""
        return replace(self, labels=np.array([labels.index(label) for label in self.labels], np.int64))

    def without_duplicates(self, iou: float) -> "Detections":
        """Class-wise non-maximum suppression at `iou`, in [0, 1]; best first."""
        import torch
        from torchvision.ops import batched_nms

        boxes, scores, labels = (torch.from_numpy(part) for part in (self.boxes, self.scores, self.labels))
        return self.take(batched_nms(boxes, scores, labels, iou).numpy())

    def clipped(self, height: int, width: int) -> "Detections":
        """Clip the boxes to an image of this size, in pixels."""
        extent = np.array([width, height, width, height], np.float32)
        return Detections(self.boxes.clip(0, extent), self.scores, self.labels)

    def to_coco(self, image_id: int, classes: ClassTable) -> list[CocoResult]:
        """Convert to entries of a COCO results file, with original class ids, ready for `json.dump`.

        Coordinates are rounded to 1/100 pixel and scores to six digits to keep files small.
        """
        boxes = xyxy_to_xywh(self.boxes).round(2).tolist()
        scores = self.scores.astype(np.float64).round(6).tolist()
        return [
            {"image_id": image_id, "category_id": classes.ids[label], "bbox": box, "score": score}
            for label, box, score in zip(self.labels.tolist(), boxes, scores, strict=True)
        ]

    def to_supervision(self, classes: ClassTable) -> "supervision.Detections":
        """Convert to `supervision.Detections`, with `class_id` 0..K-1 and `data["class_name"]`.

        Raises:
            ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs supervision: pip install supervision.") from error
        names = np.array(classes.names)[self.labels]
        return supervision.Detections(
            self.boxes.copy(), confidence=self.scores.copy(), class_id=self.labels.copy(), data={"class_name": names}
        )

    @classmethod
    def from_supervision(cls, found: "supervision.Detections") -> "Detections":
        """Convert from `supervision.Detections`, whose `class_id` is the label, 0..K-1.

        Raises:
            ValueError: it has no scores or no classes.
        """
        scores, labels = found.confidence, found.class_id
        if len(found) == 0:
            scores, labels = np.zeros(0), np.zeros(0)
        if scores is None or labels is None:
            missing = "confidence" if scores is None else "class_id"
            raise ValueError(f"These detections have no {missing}. Set it: every detection has a score and a label.")
        return cls(found.xyxy.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64))


def xyxy_to_xywh(boxes: Float32[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, "boxes 4"]:
    """Convert (x0, y0, x1, y1) to (left, top, width, height)."""
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
