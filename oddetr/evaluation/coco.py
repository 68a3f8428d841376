"""COCO's detection metrics, equal to those of pycocotools within 1e-6.

COCO evaluates classes independently. To save memory, one class at a time becomes the Python dicts that the evaluator
reads; the rest stays in flat arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float64

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.detections import Detections, xyxy_to_xywh

DUPLICATE_IOU = 0.6
"""Above this IoU, the lower-scoring of two detections of one class counts as a duplicate."""
_THRESHOLDS, _RECALLS, _SIZES = 10, 101, 4
_IOU_50, _IOU_75 = 0, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(_SIZES)
_NAMES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
    "ar": "AR",
}
"""COCO's names of the metrics."""


@dataclass(frozen=True)
class Metrics:
    """COCO's detection metrics, in [0, 1]; NaN where there are no objects to detect.

    Attributes:
        ap: average precision, mean over IoU 0.50, 0.55, ... 0.95 and over the classes that have objects.
        ap50, ap75: AP at IoU 0.50 and 0.75.
        ap_small, ap_medium, ap_large: AP of objects up to 32², up to 96² and from 96² square pixels.
        ar: average recall, mean over the same IoUs and classes.
        per_class: AP by class name.
        ap_without_duplicates: AP after class-wise non-maximum suppression at `DUPLICATE_IOU`; None where not computed.
            It is not one of COCO's metrics; what it exceeds `ap` by is the cost of duplicate detections.
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
        """The metrics under COCO's names, `per_class` and, if computed, `AP_without_duplicates`; None for NaN."""
        scores = {name: getattr(self, field) for field, name in _NAMES.items()}
        if self.ap_without_duplicates is not None:
            scores["AP_without_duplicates"] = self.ap_without_duplicates
        return _null_for_nan(scores) | {"per_class": _null_for_nan(self.per_class)}


def evaluate_detections(
    truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections], max_detections: int = 100
) -> Metrics:
    """Evaluate detections as COCO does.

    Crowd regions are neither objects to detect nor false positives. Object sizes come from `truth.areas`. Ground truth
    without objects gives NaN everywhere; no detections give 0.

    Args:
        truth: the ground truth.
        classes: the classes of both.
        detections: by original image id; an image without an entry counts as one without detections.
        max_detections: the best per class and image that count.

    Raises:
        ValueError: detections of an unknown image, with a label outside the class table or with a non-finite number.
    """
    return scores_and_curves(truth, classes, detections, max_detections)[0]


def scores_and_curves(
    truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections], max_detections: int = 100
) -> tuple[Metrics, Float64[np.ndarray, "classes recalls"]]:
    """Like `evaluate_detections`, and also return the precision of each class at IoU 0.5 and recalls 0, 0.01, ... 1.

    It is NaN for a class without objects. The mean of a row is the AP50 of the class.
    """
    _check(truth, classes, detections)
    objects, found = _truth_columns(truth), _found_columns(truth, detections)
    curves = [_evaluate_class(objects, found, label, max_detections) for label in range(len(classes))]
    precision, recall = (np.stack(values) for values in zip(*curves, strict=True))
    metrics = Metrics(
        ap=_mean(precision[..., _ALL]),
        ap50=_mean(precision[:, _IOU_50, :, _ALL]),
        ap75=_mean(precision[:, _IOU_75, :, _ALL]),
        ap_small=_mean(precision[..., _SMALL]),
        ap_medium=_mean(precision[..., _MEDIUM]),
        ap_large=_mean(precision[..., _LARGE]),
        ar=_mean(recall[..., _ALL]),
        per_class={name: _mean(precision[label, ..., _ALL]) for label, name in enumerate(classes.names)},
    )
    at_50 = precision[:, _IOU_50, :, _ALL]
    return metrics, np.where(at_50 < 0, np.nan, at_50)


def metrics_without_duplicates(
    truth: Annotations, classes: ClassTable, detections: Mapping[int, Detections]
) -> Metrics:
    """Evaluate the detections after class-wise non-maximum suppression at `DUPLICATE_IOU`."""
    kept = {image: found.without_duplicates(DUPLICATE_IOU) for image, found in detections.items()}
    return evaluate_detections(truth, classes, kept)


_Columns = dict[str, np.ndarray]
"""Objects or detections of many images, in flat arrays under the evaluator's names, but `category_id` is the label.

`bbox` is (left, top, width, height) in pixels; `image_id` is the rank by original id: COCO visits images in that order,
which breaks ties between scores.
"""


def _truth_columns(truth: Annotations) -> _Columns:
    ranks = np.argsort(np.argsort(truth.image_ids))
    return {
        "image_id": ranks[truth.owners],
        "category_id": truth.labels,
        "bbox": xyxy_to_xywh(truth.boxes),
        "score": np.ones(len(truth.labels)),
        "area": truth.areas.astype(np.float64),
        "iscrowd": truth.crowd.astype(np.int64),
    }


def _found_columns(truth: Annotations, detections: Mapping[int, Detections]) -> _Columns:
    found = list(detections.values())
    ranks = np.searchsorted(np.sort(truth.image_ids), np.array(list(detections), dtype=np.int64))
    boxes = xyxy_to_xywh(np.concatenate([np.zeros((0, 4), np.float32), *(one.boxes for one in found)]))
    return {
        "image_id": np.repeat(ranks, np.array([len(one) for one in found], dtype=np.int64)),
        "category_id": np.concatenate([np.zeros(0, np.int64), *(one.labels for one in found)]),
        "bbox": boxes,
        "score": np.concatenate([np.zeros(0), *(one.scores for one in found)]),
        "area": boxes[:, 2] * boxes[:, 3],
        "iscrowd": np.zeros(len(boxes), np.int64),
    }


def _of_class(columns: _Columns, label: int) -> list[dict[str, Any]]:
    """The annotations of one class, which becomes category 1. Their ids start at 1: 0 means "unmatched" there."""
    chosen = columns["category_id"] == label
    rows = zip(*(column[chosen].tolist() for column in columns.values()), strict=True)
    one_class = (dict(zip(columns, row, strict=True)) for row in rows)
    return [row | {"category_id": 1, "id": number} for number, row in enumerate(one_class, start=1)]


def _evaluate_class(
    truth: _Columns, detections: _Columns, label: int, max_detections: int
) -> tuple[Float64[np.ndarray, "thresholds recalls sizes"], Float64[np.ndarray, "thresholds sizes"]]:
    """Precision at 101 recalls, and maximum recall, of one class; -1 where there are no objects."""
    objects, found = _of_class(truth, label), _of_class(detections, label)
    if not objects:
        return np.full((_THRESHOLDS, _RECALLS, _SIZES), -1.0), np.full((_THRESHOLDS, _SIZES), -1.0)
    images = [{"id": image} for image in sorted({row["image_id"] for row in (*objects, *found)})]
    sides = [COCO({"images": images, "annotations": rows, "categories": [{"id": 1}]}) for rows in (objects, found)]
    evaluator: Any = COCOeval_faster(sides[0], sides[1], "bbox", print_function=lambda *_: None)
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
                f"A detection on image id {image_id} has a label outside 0..{len(classes) - 1}. Evaluate with the "
                "class table that the detector was trained with."
            )


def _mean(values: Float64[np.ndarray, "*any"]) -> float:
    """The mean of the non-negative values; NaN if there are none."""
    defined = values[values >= 0]
    return float(defined.mean()) if defined.size else math.nan


def _null_for_nan(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
