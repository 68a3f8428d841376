"""Detections and errors of a run's best detector on the validation images."""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from rich.console import Console

from oddetr.data.dataset import Annotations, Source
from oddetr.data.doctor.statistics import LARGE, SMALL
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.sources import open_sources
from oddetr.evaluation.coco import Metrics, metrics_without_duplicates, scores_and_curves
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.matches import Judged, best_threshold, confusion, judged
from oddetr.prediction.predictor import Predictor


@dataclass(frozen=True)
class Findings:
    """Results of the best teacher on the first validation images.

    Attributes:
        source: all validation images.
        truth: the ground truth of the first.
        detections: by original image id.
        metrics: COCO's metrics.
        distinct: the same without duplicate detections.
        precision: of each class at IoU 0.5 and recalls 0, 0.01, ... 1; NaN for classes without objects.
        threshold: the score threshold with the highest F1 over all images.
        f1: that F1.
        confusion: at that threshold; see `oddetr.evaluation.matches.confusion`.
        judged: true and false positives of each image.
        errors: missed objects and wrong detections of each image and class, at that threshold.
    """

    source: Source
    truth: Annotations
    detections: dict[int, Detections]
    metrics: Metrics
    distinct: Metrics
    precision: Float64[np.ndarray, "classes 101"]
    threshold: float
    f1: float
    confusion: Int64[np.ndarray, "truth found"]
    judged: tuple[Judged, ...]
    errors: Int64[np.ndarray, "images classes"]

    @property
    def objects_by_size(self) -> dict[str, int]:
        """Number of small, medium and large objects, by COCO's definition."""
        areas = self.truth.areas[~self.truth.crowd]
        small, large = int((areas < SMALL).sum()), int((areas >= LARGE).sum())
        return {"small": small, "medium": len(areas) - small - large, "large": large}

    @property
    def objects_by_class(self) -> Int64[np.ndarray, " classes"]:
        """Number of objects of each class."""
        return np.bincount(self.truth.labels[~self.truth.crowd], minlength=len(self.source.classes))

    def worst_of_classes(self, most: int) -> dict[str, int]:
        """The image with most errors of each class that has any, of the `most` classes with most errors."""
        total = self.errors.sum(axis=0)
        chosen = [label for label in np.argsort(-total, kind="stable")[:most].tolist() if total[label]]
        return {self.source.classes.names[label]: int(self.errors[:, label].argmax()) for label in sorted(chosen)}

    def ranked(self) -> Int64[np.ndarray, " images"]:
        """The images from the best F1 to the worst; among equals those with more objects are closer to the ends."""
        f1 = np.array([each.f1(self.threshold) for each in self.judged])
        objects = np.array([each.objects for each in self.judged])
        return np.lexsort((np.where(f1 >= 0.5, -objects, objects), -f1))


def findings(run: Path, most: int, allow_outside: bool = False, console: Console | None = None) -> Findings:
    """Run the best teacher of `run` on the first `most` validation images, with progress on `console`.

    Args:
        allow_outside: read files outside the data's folder as well. The checkpoint's own setting is not trusted.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        DataError, OSError, ValueError: the data is gone or has changed.
    """
    predictor = Predictor.load(run)
    data = predictor.info.configuration.get("data")
    if not data:
        raise ValueError("the checkpoint does not say what it was trained on")
    source = open_sources(str(data), reading=ReadingConfig.recorded(predictor.info.configuration, allow_outside)).get(
        "val"
    )
    if source is None:
        raise ValueError("the data has no val split any more")
    if source.classes.names != predictor.classes.names:
        raise ValueError("the data has other classes now")
    truth, classes = source.annotations(), source.classes
    truth = truth.take(np.arange(min(most, len(truth))))
    detections = dict(islice(predictor.detect_source(source, console=console), len(truth)))
    metrics, precision = scores_and_curves(truth, classes, detections)
    distinct = metrics_without_duplicates(truth, classes, detections)
    metrics = replace(metrics, ap_without_duplicates=distinct.ap)
    pairs = [(detections[int(image)], truth.take(np.array([index]))) for index, image in enumerate(truth.image_ids)]
    verdicts = tuple(judged(found, objects) for found, objects in pairs)
    threshold, f1 = best_threshold(verdicts)
    table = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    errors = np.zeros((len(truth), len(classes)), np.int64)
    for index, (found, objects) in enumerate(pairs):
        one = confusion(found.above(threshold), objects, len(classes))
        table += one
        errors[index] = (one.sum(axis=0) + one.sum(axis=1) - 2 * np.diag(one))[:-1]
    return Findings(source, truth, detections, metrics, distinct, precision, threshold, f1, table, verdicts, errors)
