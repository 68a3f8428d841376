"""True and false positives at IoU 0.5, and confusion between classes. The annotations here are of one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torchvision.ops import box_iou

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.detections import Detections

IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """The detections of an image, best first, without those in crowd regions.

    Attributes:
        right: which are true positives.
        labels: their classes.
        objects: number of objects in the image, without crowd regions.
    """

    scores: Float32[np.ndarray, " detections"]
    right: Bool[np.ndarray, " detections"]
    labels: Int64[np.ndarray, " detections"]
    objects: int

    def f1(self, threshold: float) -> float:
        """F1 at a score threshold: 2 right / (detections + objects); 1 without detections and objects."""
        shown = self.scores >= threshold
        both = int(shown.sum()) + self.objects
        return 2 * int(self.right[shown].sum()) / both if both else 1.0


def _ious(boxes: Float32[np.ndarray, "n 4"], others: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()


def judged(found: Detections, truth: Annotations) -> Judged:
    """Match detections to objects of their class, best first, each to the free object of highest IoU, at least 0.5."""
    found = found.top(len(found))
    ious = _ious(found.boxes, truth.boxes)
    ious[found.labels[:, None] != truth.labels] = 0
    ious[:, truth.crowd] = 0
    right = np.zeros(len(found), bool)
    for row in range(len(found) if len(truth.labels) else 0):
        best = int(ious[row].argmax())
        if ious[row, best] >= IOU:
            right[row] = True
            ious[:, best] = 0
    kept = right | ~_ignored(found, truth)
    return Judged(found.scores[kept], right[kept], found.labels[kept], int((~truth.crowd).sum()))


def _ignored(found: Detections, truth: Annotations) -> Bool[np.ndarray, " detections"]:
    """Which detections lie by half or more of their area in a crowd region of their class, as in COCO's evaluation."""
    boxes, regions = found.boxes[:, None], truth.boxes[truth.crowd]
    inner = np.minimum(boxes[..., 2:], regions[:, 2:]) - np.maximum(boxes[..., :2], regions[:, :2])
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=2)
    covered = inner.clip(0).prod(axis=2) / np.maximum(areas, 1e-9) >= IOU
    return (covered & (found.labels[:, None] == truth.labels[truth.crowd])).any(axis=1)


def best_threshold(images: Sequence[Judged]) -> tuple[float, float]:
    """The score threshold, in hundredths, with the highest F1 over all images, and that F1.

    Ties go to the highest threshold. (0.5, 0) if no detection is right.
    """
    together = _together(images)
    if not together.right.any():
        return 0.5, 0.0
    f1 = [together.f1(hundredths / 100) for hundredths in range(100)]
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return best / 100, f1[best]


def class_thresholds(truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections]) -> dict[str, float]:
    """Return for each class the score threshold, in hundredths, with the highest F1 over all images.

    Where several in a row have it, the middle one is taken, which is the safest on other images. A class of which no
    detection is right, or without objects, has the mean of the others. Empty if there are no others.

    Args:
        truth, detections: of the same images, those by original id.
    """
    images = [truth.take(np.array([index])) for index in range(len(truth))]
    together = _together([judged(detections[int(image.image_ids[0])], image) for image in images])
    objects = np.bincount(truth.labels[~truth.crowd], minlength=len(classes))
    known: dict[str, float] = {}
    for label, name in enumerate(classes.names):
        own = together.labels == label
        if together.right[own].any():
            one = Judged(together.scores[own], together.right[own], together.labels[own], int(objects[label]))
            f1 = np.array([one.f1(hundredths / 100) for hundredths in range(100)])
            first = int(f1.argmax())
            after = np.flatnonzero(f1[first:] < f1[first])
            known[name] = (first + int(after[0] if len(after) else 100 - first) // 2) / 100
    usual = round(float(np.mean([*known.values()])), 2) if known else 0.0
    return {name: known.get(name, usual) for name in classes.names} if known else {}


def _together(images: Sequence[Judged]) -> Judged:
    """The detections of several images, in no order."""
    return Judged(
        np.concatenate([np.zeros(0, np.float32), *(each.scores for each in images)]),
        np.concatenate([np.zeros(0, bool), *(each.right for each in images)]),
        np.concatenate([np.zeros(0, np.int64), *(each.labels for each in images)]),
        sum(each.objects for each in images),
    )


def confusion(found: Detections, truth: Annotations, classes: int) -> Int64[np.ndarray, "truth found"]:
    """The confusion matrix of an image: rows are true classes, columns predicted ones.

    Objects and detections are paired by falling IoU, at least 0.5, whatever their classes. The last column counts
    missed objects, the last row false positives.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    boxes, labels = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
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
    table[classes, :classes] = np.bincount(found.labels[~used & ~_ignored(found, truth)], minlength=classes)
    return table
