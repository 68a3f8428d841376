"""COCO's metrics of detections against annotations, equal to pycocotools' within 1e-6.

Memory stays small because COCO's evaluation treats each class for itself: only one class at a time becomes the Python
dicts that the evaluator wants; everything else stays in flat arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Bool, Float, Float64, Int64

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.detections import Detections

DUPLICATE_IOU = 0.6
"""Of two detections of a class with a greater IoU, the worse counts as a duplicate."""
_THRESHOLDS = 10
_RECALLS = 101
_SIZES = 4
_IOU_50, _IOU_75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(_SIZES)


@dataclass(frozen=True)
class Metrics:
    """COCO's detection metrics, in 0-1; NaN where they are not defined because nothing is there to be found.

    Attributes:
        ap: average precision, mean over IoU 0.50, 0.55, ... 0.95 and over the classes that have objects.
        ap50: the same at IoU 0.50 only.
        ap75: the same at IoU 0.75 only.
        ap_small: AP of objects up to 32² square pixels.
        ap_medium: AP of objects from 32² to 96² square pixels.
        ap_large: AP of objects from 96² square pixels.
        ar: average recall, mean over the same IoUs and classes.
        per_class: AP of each class by its name.
        ap_without_duplicates: AP after suppression of duplicates (`duplicates_suppressed`); None where not computed. No
            score of COCO: what it has above `ap` is what duplicate detections cost.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar: float
    per_class: dict[str, float]
    ap_without_duplicates: float | None = None

    def to_json(self) -> dict[str, float | dict[str, float | None] | None]:
        """Under COCO's names: AP, AP50, AP75, APs, APm, APl, AR and per_class {name: AP}; None where not defined; and
        AP_without_duplicates where it was computed."""
        duplicates = self.ap_without_duplicates
        return {
            "AP": _or_none(self.ap),
            "AP50": _or_none(self.ap50),
            "AP75": _or_none(self.ap75),
            "APs": _or_none(self.ap_small),
            "APm": _or_none(self.ap_medium),
            "APl": _or_none(self.ap_large),
            "AR": _or_none(self.ar),
            "per_class": {name: _or_none(value) for name, value in self.per_class.items()},
        } | ({} if duplicates is None else {"AP_without_duplicates": _or_none(duplicates)})


def evaluate_detections(
    truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections], max_detections: int = 100
) -> Metrics:
    """Compares what was found with what is there, as COCO does.

    Crowd regions are neither to be found nor held against a detection inside them. Of each class and image the best
    `max_detections` count. Sizes are those of `truth.areas`. Ground truth without any object gives NaN everywhere,
    no detection at all gives 0.

    To evaluate while detecting, collect a plain dict; processes exchange and merge theirs (`a | b`), and an image that
    two of them saw counts once.

    Args:
        truth: what is there; images without an entry in `detections` count as images where nothing was found.
        classes: the classes of both.
        detections: by the original image id.
        max_detections: per class and image.

    Raises:
        ValueError: detections of an unknown image, with a label outside the class table or with a non-finite number.
    """
    return scores_and_curves(truth, classes, detections, max_detections)[0]


def scores_and_curves(
    truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections], max_detections: int = 100
) -> tuple[Metrics, Float64[np.ndarray, "classes recalls"]]:
    """`evaluate_detections`, and the precision of each class at IoU 0.5 at the recalls 0, 0.01, ... 1, whose mean is
    its AP50; NaN for a class without objects."""
    _check(truth, classes, detections)
    there, found = _truth_objects(truth), _found_objects(truth, detections).best(max_detections)
    curves = [
        _evaluate_class(there.of_class(label), found.of_class(label), max_detections) for label in range(len(classes))
    ]
    precision, recall = (np.stack(values) for values in zip(*curves, strict=True))
    at_50 = precision[:, _IOU_50, :, _ALL]
    return _metrics(precision, recall, classes), np.where(at_50 < 0, np.nan, at_50)


def duplicates_suppressed(
    metrics: Metrics, truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections]
) -> Metrics:
    """The same metrics with `ap_without_duplicates`: AP of the detections that remain when, of those of one class with
    an IoU above 0.6 (`DUPLICATE_IOU`), only the best stays. So duplicates and finding can be told apart."""
    kept = {image: found.without_duplicates(DUPLICATE_IOU) for image, found in detections.items()}
    return replace(metrics, ap_without_duplicates=evaluate_detections(truth, classes, kept).ap)


def _metrics(
    precision: Float64[np.ndarray, "classes thresholds recalls sizes"],
    recall: Float64[np.ndarray, "classes thresholds sizes"],
    classes: ClassTable,
) -> Metrics:
    return Metrics(
        ap=_mean(precision[..., _ALL]),
        ap50=_mean(precision[:, _IOU_50, :, _ALL]),
        ap75=_mean(precision[:, _IOU_75, :, _ALL]),
        ap_small=_mean(precision[..., _SMALL]),
        ap_medium=_mean(precision[..., _MEDIUM]),
        ap_large=_mean(precision[..., _LARGE]),
        ar=_mean(recall[..., _ALL]),
        per_class={name: _mean(precision[label, ..., _ALL]) for label, name in enumerate(classes.names)},
    )


@dataclass(frozen=True)
class _Objects:
    """Objects of many images, flat.

    Attributes:
        images: the image's rank by original id: COCO visits images in that order, which decides between equal scores.
        labels: 0..K-1; ascending wherever `of_class` is asked.
        boxes: (left, top, width, height) in pixels.
        scores: 1 for ground truth.
        areas: in square pixels.
        crowd: True on regions to ignore.
    """

    images: Int64[np.ndarray, " objects"]
    labels: Int64[np.ndarray, " objects"]
    boxes: Float64[np.ndarray, "objects 4"]
    scores: Float64[np.ndarray, " objects"]
    areas: Float64[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]

    def take(self, which: Int64[np.ndarray, " _"] | slice) -> "_Objects":
        return _Objects(
            self.images[which],
            self.labels[which],
            self.boxes[which],
            self.scores[which],
            self.areas[which],
            self.crowd[which],
        )

    def best(self, count: int) -> "_Objects":
        """The `count` best of each class and image; of equal scores the earlier."""
        ordered = self.take(np.lexsort((-self.scores, self.images, self.labels)))
        new = np.diff(ordered.labels, prepend=-1).astype(bool) | np.diff(ordered.images, prepend=-1).astype(bool)
        starts = np.flatnonzero(new)
        rank = np.arange(len(new)) - np.repeat(starts, np.diff(starts, append=len(new)))
        return ordered.take(np.flatnonzero(rank < count))

    def of_class(self, label: int) -> "_Objects":
        start, end = np.searchsorted(self.labels, [label, label + 1])
        return self.take(slice(int(start), int(end)))

    def to_coco(self, images: list[int]) -> COCO:
        """As the evaluator wants them; ids count from 1, because 0 means "unmatched" to it."""
        columns = (self.images, self.boxes, self.scores, self.areas, self.crowd.astype(np.int64))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        annotations = [
            {
                "image_id": image,
                "bbox": box,
                "score": score,
                "area": area,
                "iscrowd": crowd,
                "category_id": 1,
                "id": id_,
            }
            for id_, (image, box, score, area, crowd) in enumerate(rows, start=1)
        ]
        return COCO(
            {"images": [{"id": image} for image in images], "annotations": annotations, "categories": [{"id": 1}]}
        )


def _truth_objects(truth: Annotations) -> _Objects:
    ranks = np.argsort(np.argsort(truth.image_ids))
    objects = _Objects(
        images=np.repeat(ranks, np.diff(truth.offsets)),
        labels=truth.labels,
        boxes=_to_xywh(truth.boxes),
        scores=np.ones(len(truth.labels)),
        areas=truth.areas.astype(np.float64),
        crowd=truth.crowd,
    )
    return objects.take(np.argsort(objects.labels, kind="stable"))


def _found_objects(truth: Annotations, detections: Mapping[int, Detections]) -> _Objects:
    found = list(detections.values())
    ranks = np.searchsorted(np.sort(truth.image_ids), np.array(list(detections), dtype=np.int64))
    boxes = _to_xywh(np.concatenate([np.zeros((0, 4), np.float32), *(one.boxes for one in found)]))
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in found)])
    return _Objects(
        images=np.repeat(ranks, np.array([len(one) for one in found], dtype=np.int64)),
        labels=labels,
        boxes=boxes,
        scores=np.concatenate([np.zeros(0), *(one.scores for one in found)]),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(len(labels), dtype=bool),
    )


def _evaluate_class(
    there: _Objects, found: _Objects, max_detections: int
) -> tuple[Float64[np.ndarray, "thresholds recalls sizes"], Float64[np.ndarray, "thresholds sizes"]]:
    """Precision at 101 recalls, and the recall reached, of one class; -1 where no object is to be found."""
    if len(there.labels) == 0:
        return np.full((_THRESHOLDS, _RECALLS, _SIZES), -1.0), np.full((_THRESHOLDS, _SIZES), -1.0)
    images: list[int] = np.union1d(there.images, found.images).tolist()
    evaluator: Any = COCOeval_faster(there.to_coco(images), found.to_coco(images), "bbox", print_function=_silent)
    evaluator.params.maxDets = [max_detections]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][:, :, 0, :, 0], evaluator.eval["recall"][:, 0, :, 0]


def _check(truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections]) -> None:
    unknown = sorted(set(detections) - set(truth.image_ids.tolist()))
    if unknown:
        raise ValueError(
            f"Detections are given for {len(unknown)} image(s) that the ground truth does not have, among them "
            f"image id {unknown[0]}. Evaluate with the annotations of the split that the detections were made on."
        )
    for image_id, found in detections.items():
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise ValueError(f"A detection on image id {image_id} has a box or a score that is not a finite number.")
        if len(found) and not 0 <= found.labels.min() <= found.labels.max() < len(classes):
            raise ValueError(
                f"A detection on image id {image_id} has a label outside 0..{len(classes) - 1}, the labels of the "
                f"{len(classes)} classes evaluated. Evaluate with the class table that the detector was trained with."
            )


def _to_xywh(boxes: Float[np.ndarray, "objects 4"]) -> Float64[np.ndarray, "objects 4"]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _mean(values: Float64[np.ndarray, "*any"]) -> float:
    """The mean of what is defined; NaN where nothing is."""
    defined = values[values >= 0]
    return float(defined.mean()) if defined.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _silent(*_: object) -> None:
    """Takes the evaluator's progress messages."""
