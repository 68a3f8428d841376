"""True and false positives at IoU 0.5, and confusion between classes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torchvision.ops import box_iou

from oddetr.data.dataset import Annotations
from oddetr.evaluation.detections import Detections

IOU = 0.5


@dataclass(frozen=True)
class Objects:
    """The ground truth of one image: boxes (x0, y0, x1, y1) in pixels, labels, and which are crowd regions."""

    boxes: Float32[np.ndarray, "objects 4"]
    labels: Int64[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]

    @classmethod
    def of(cls, truth: Annotations, index: int) -> "Objects":
        """The objects of image `index`."""
        rows = truth.rows(index)
        return cls(truth.boxes[rows], truth.labels[rows], truth.crowd[rows])

    @property
    def count(self) -> int:
        """Number of objects, without crowd regions."""
        return int((~self.crowd).sum())


@dataclass(frozen=True)
class Judged:
    """The detections of an image, best first, without those in crowd regions: scores, and which are true positives."""

    scores: Float32[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    objects: int

    def f1(self, threshold: float) -> float:
        """F1 at a score threshold: 2 right / (detections + objects); 1 without detections and objects."""
        shown = self.scores >= threshold
        both = int(shown.sum()) + self.objects
        return 2 * int(self.right[shown].sum()) / both if both else 1.0


def _ious(boxes: Float32[np.ndarray, "n 4"], others: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()


def judged(found: Detections, there: Objects) -> Judged:
    """Match detections to objects of their class, best first, each to the free object of highest IoU, at least 0.5."""
    found = found.top(len(found))
    ious = _ious(found.boxes, there.boxes)
    ious[found.labels[:, None] != there.labels] = 0
    right = np.zeros(len(found), bool)
    ious[:, there.crowd] = 0
    for row in range(len(found) if there.count else 0):
        best = int(ious[row].argmax())
        if ious[row, best] >= IOU:
            right[row] = True
            ious[:, best] = 0
    kept = right | ~ignored(found, there)
    return Judged(found.scores[kept], right[kept], there.count)


def ignored(found: Detections, there: Objects) -> Bool[np.ndarray, " detections"]:
    """Which detections lie by half or more of their area in a crowd region of their class, as in COCO's evaluation."""
    boxes, regions = found.boxes, there.boxes[there.crowd]
    inner = np.minimum(boxes[:, None, 2:], regions[:, 2:]) - np.maximum(boxes[:, None, :2], regions[:, :2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    covered = inner.clip(0).prod(axis=2) / np.maximum(areas, 1e-9)[:, None] >= IOU
    return (covered & (found.labels[:, None] == there.labels[there.crowd])).any(axis=1)


def best_threshold(images: Iterable[Judged]) -> tuple[float, float]:
    """The score threshold, in hundredths, with the highest F1 over all images, and that F1.

    Ties go to the highest threshold. (0.5, 0) if no detection is right.
    """
    images = list(images)
    scores = np.concatenate([np.zeros(0, np.float32), *(each.scores for each in images)])
    right = np.concatenate([np.zeros(0, bool), *(each.right for each in images)])
    if not right.any():
        return 0.5, 0.0
    thresholds = (np.arange(100) / 100).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    shown = np.searchsorted(-scores[order], -thresholds, side="right")
    found = np.append(0, np.cumsum(right[order]))[shown]
    f1 = 2 * found / np.maximum(shown + sum(each.objects for each in images), 1)
    best = len(f1) - 1 - int(f1[::-1].argmax())
    return best / 100, float(f1[best])


def confusion(found: Detections, there: Objects, classes: int) -> Int64[np.ndarray, "truth found"]:
    """The confusion matrix of an image: rows are true classes, columns predicted ones.

    Objects and detections are paired by falling IoU, at least 0.5, whatever their classes. The last column counts
    missed objects, the last row false positives.
    """

    table = np.zeros((classes + 1, classes + 1), np.int64)
    real = ~there.crowd
    boxes, labels = there.boxes[real], there.labels[real]
    ious = _ious(found.boxes, boxes)
    used, taken = np.zeros(len(found), bool), np.zeros(len(labels), bool)
    for place in np.argsort(-ious, axis=None, kind="stable"):
        row, column = divmod(int(place), len(labels))
        if ious[row, column] < IOU:
            break
        if not used[row] and not taken[column]:
            used[row] = taken[column] = True
            table[labels[column], found.labels[row]] += 1
    table[:classes, classes] = np.bincount(labels[~taken], minlength=classes)
    table[classes, :classes] = np.bincount(found.labels[~used & ~ignored(found, there)], minlength=classes)
    return table
