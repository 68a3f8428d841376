"""Images dropped on the demo's page: run through the detector, and drawn by threshold and classes.

Detections are kept, so that another threshold or choice of classes needs no detector.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from oddetr.data.dataset import ClassTable
from oddetr.data.images import ImageError, read_image
from oddetr.data.reading_config import AS_USUAL, ReadingConfig
from oddetr.evaluation.detections import Detections
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.predictor import Predictor

MAX_FILES = 20
"""Files processed of one drop."""
SCREEN = 1600
"""Maximum longer side of the picture on the page, in pixels."""
HEADERS = ("class", "score", "left", "top", "right", "bottom")
"""Columns of the table."""


@dataclass(frozen=True)
class Found:
    """The detections on one file.

    Attributes:
        file: the dropped image.
        size: (height, width) in pixels, upright.
        detections: best first, clipped to the image.
        reading: how the detector reads images.
    """

    file: Path
    size: tuple[int, int]
    detections: Detections
    reading: ReadingConfig = AS_USUAL


def detect(predictor: Predictor, file: Path) -> Found:
    """Detects on one file; raises `ImageError` where it cannot be read."""
    image = read_image(file, predictor.reading)
    height, width = image.shape[:2]
    (detections,) = predictor.detect([image])
    return Found(file, (height, width), detections.clipped(height, width), predictor.reading)


def detect_all(
    predictor: Predictor, files: Sequence[Path], before: Sequence[Found] = ()
) -> tuple[list[Found], list[str]]:
    """Detects on all files, reusing what `before` has of them; also gives the reasons why files are left out."""
    known = {each.file: each for each in before}
    found: list[Found] = []
    refused: list[str] = []
    for file in files[:MAX_FILES]:
        try:
            found.append(known.get(file) or detect(predictor, file))
        except ImageError as error:
            refused.append(str(error).replace(str(file), file.name))
    if len(files) > MAX_FILES:
        refused.append(f"Only the first {MAX_FILES} of {len(files)} files were processed. Drop the others later.")
    return found, refused


def choose(detections: Detections, threshold: float, labels: Collection[int]) -> Detections:
    """Filters by a minimum score and by classes; an empty `labels` keeps all classes."""
    above = detections.above(threshold)
    return above.take(np.isin(above.labels, list(labels))) if labels else above


def draw(found: Found, chosen: Detections, classes: ClassTable) -> Image.Image:
    """Draws the chosen detections on their image, shrunk to a longer side of `SCREEN`; raises `ImageError` where the
    file was deleted meanwhile."""
    picture = draw_detections(read_image(found.file, found.reading), chosen, classes)
    picture.thumbnail((SCREEN, SCREEN), Image.Resampling.LANCZOS, reducing_gap=3)
    return picture


def tabulate(chosen: Detections, classes: ClassTable) -> list[list[str]]:
    """Makes a row of `HEADERS` for each detection; boxes in pixels of the original image."""
    rows = zip(chosen.labels.tolist(), chosen.scores.tolist(), chosen.boxes.tolist(), strict=True)
    return [[classes.names[label], f"{score:.3f}", *(f"{side:.1f}" for side in box)] for label, score, box in rows]


def describe(found: Found, chosen: Detections, threshold: float) -> str:
    """Summarises what is shown in one sentence."""
    height, width = found.size
    objects = "1 object" if len(chosen) == 1 else f"{len(chosen) or 'no'} objects"
    advice = "" if len(chosen) else " Lower the threshold or choose other classes to see more."
    shown = f"{objects} with a score of at least {threshold:.2f}"
    return f"{found.file.name} ({width} x {height} pixels): {shown}.{advice}"
