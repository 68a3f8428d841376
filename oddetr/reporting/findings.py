"""Detections and errors of a run's best detector on the validation images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from rich.console import Console

from oddetr.data.dataset import Annotations, ClassTable, Sample, Source
from oddetr.data.doctor.statistics import LARGE, SMALL
from oddetr.data.sources import open_sources
from oddetr.evaluation.coco import Metrics, duplicates_suppressed, scores_and_curves
from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor
from oddetr.reporting.matches import Judged, Objects, best_threshold, confusion, judged


@dataclass(frozen=True)
class First:
    """The first `count` images of a `Source`."""

    source: Source
    count: int

    @property
    def classes(self) -> ClassTable:
        """The source's."""
        return self.source.classes

    @property
    def flippable(self) -> bool:
        """The source's."""
        return self.source.flippable

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        """The source's."""
        return self.source.sample(index, epoch, shorter)

    def annotations(self) -> Annotations:
        """The ground truth of these images."""
        return self.source.annotations().take(np.arange(self.count))


@dataclass(frozen=True)
class Findings:
    """Results of the best teacher on the first validation images.

    Attributes:
        source: the images.
        of: number of images in the whole split.
        truth: the ground truth of the images.
        detections: by original image id.
        metrics: COCO's metrics.
        precision: of each class at IoU 0.5 and recalls 0, 0.01, ... 1; NaN for classes without objects.
        threshold: the score threshold with the highest F1 over all images.
        f1: that F1.
        confusion: at that threshold; see `oddetr.reporting.matches.confusion`.
        judged: true and false positives of each image.
    """

    source: Source
    of: int
    truth: Annotations
    detections: dict[int, Detections]
    metrics: Metrics
    precision: Float64[np.ndarray, "classes 101"]
    threshold: float
    f1: float
    confusion: Int64[np.ndarray, "truth found"]
    judged: tuple[Judged, ...]

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

    def ranked(self) -> Int64[np.ndarray, " images"]:
        """The images from the best F1 to the worst; among equals those with more objects are closer to the ends."""
        f1 = np.array([each.f1(self.threshold) for each in self.judged])
        objects = np.array([each.objects for each in self.judged])
        return np.lexsort((np.where(f1 >= 0.5, -objects, objects), -f1))


def findings(run: Path, most: int, allow_outside: bool = False, console: Console | None = None) -> Findings:
    """Run the best teacher of `run` on the first `most` validation images, with progress on `console`.

    Args:
        run: the run's folder.
        most: maximum number of images.
        allow_outside: read files outside the data's folder as well. The checkpoint's own setting is not trusted.
        console: where to show progress.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        DataError, OSError, ValueError: the data is gone or has changed.
    """

    predictor = Predictor.load(run)
    run_of = predictor.info.configuration
    if not run_of.get("data"):
        raise ValueError("the checkpoint does not say what it was trained on")
    sources = open_sources(str(run_of["data"]), allow_outside=allow_outside)
    source = sources.get("val")
    if source is None:
        raise ValueError("the data has no val split any more")
    if source.classes.names != predictor.classes.names:
        raise ValueError("the data has other classes now")
    of = len(source)
    source = First(source, min(most, of))
    truth = source.annotations()
    detections = dict(predictor.detect_source(source, console=console))
    metrics, precision = scores_and_curves(truth, source.classes, detections)
    metrics = duplicates_suppressed(metrics, truth, source.classes, detections)
    pairs = [(detections[int(image)], Objects.of(truth, index)) for index, image in enumerate(truth.image_ids)]
    verdicts = tuple(judged(found, there) for found, there in pairs)
    threshold, f1 = best_threshold(verdicts)
    table = sum(
        (confusion(found.above(threshold), there, len(source.classes)) for found, there in pairs),
        np.zeros((len(source.classes) + 1,) * 2, np.int64),
    )
    return Findings(source, of, truth, detections, metrics, precision, threshold, f1, table, verdicts)
