"""Images dropped on the demo's page: checked, run through the detector, and drawn by threshold and classes.

Detections are kept, so that another threshold or choice of classes needs no detector.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oddetr.data.dataset import ClassTable
from oddetr.data.images import EXTENSIONS, MOST_PIXELS_ALONE, ImageError, read_image, read_size
from oddetr.evaluation.detections import Detections
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.predictor import Predictor
from oddetr.structures import Weights

MAX_FILES = 20
"""Files processed of one drop."""
MAX_PIXELS = 50_000_000
"""Pixels of an image: twice the 24 million of most cameras, and 150 MB in memory."""
HEADERS = ("class", "score", "left", "top", "right", "bottom")
"""Columns of the table."""


class Refused(ValueError):
    """The demo does not accept a file; the page shows the message."""


@dataclass(frozen=True)
class Found:
    """The detections on one file.

    Attributes:
        file: the dropped image.
        size: (height, width) in pixels, upright.
        detections: best first, clipped to the image.
    """

    file: Path
    size: tuple[int, int]
    detections: Detections


@dataclass(frozen=True)
class Drop:
    """Results of one drop of files; the page keeps it.

    Attributes:
        weights: of the detector.
        found: detections on each accepted file, in order.
        refused: the reason for each file that was not accepted.
    """

    weights: Weights = "teacher"
    found: tuple[Found, ...] = ()
    refused: tuple[str, ...] = ()


def open_image(file: Path, max_mb: float) -> UInt8[np.ndarray, "height width 3"]:
    """Reads an RGB image by `read_image`, within the demo's limits.

    Args:
        max_mb: largest accepted file, in MB (2^20 bytes).

    Raises:
        Refused: the file is too large, has too many pixels, is of another type, or is no readable image.
    """
    name = file.name
    if file.suffix.lower() not in EXTENSIONS:
        raise Refused(f"{name} is no image of a known type. Known are {', '.join(sorted(EXTENSIONS))}.")
    if not file.is_file():
        raise Refused(f"{name} is no longer kept here. Drop it again.")
    if file.stat().st_size > max_mb * 2**20:
        raise Refused(f"{name} has {file.stat().st_size / 2**20:.1f} MB; at most {max_mb:g} MB are taken.")
    facts = read_size(file, MOST_PIXELS_ALONE)
    height, width = facts.size or (0, 0)
    if facts.too_large or height * width > MAX_PIXELS:
        shape = f"{width} x {height} pixels" if facts.size else "too many pixels"
        raise Refused(f"{name} has {shape}; at most {MAX_PIXELS // 10**6} million are taken. Make it smaller.")
    try:
        return read_image(file)
    except ImageError as error:
        raise Refused(str(error).replace(str(file), name)) from error


def detect(predictor: Predictor, file: Path, max_mb: float) -> Found:
    """Detects on one file.

    Raises:
        Refused: see `open_image`.
    """
    image = open_image(file, max_mb)
    height, width = image.shape[:2]
    (detections,) = predictor.detect([image])
    return Found(file, (height, width), detections.clipped(height, width))


def detect_all(predictor: Predictor, files: Sequence[Path], weights: Weights, max_mb: float, before: Drop) -> Drop:
    """Detects on all files, reusing what `before` has of the same weights; records why some are refused."""
    known = {found.file: found for found in before.found if before.weights == weights}
    found: list[Found] = []
    refused: list[str] = []
    for file in files[:MAX_FILES]:
        try:
            found.append(known[file] if file in known else detect(predictor, file, max_mb))
        except Refused as reason:
            refused.append(str(reason))
    if len(files) > MAX_FILES:
        refused.append(f"Only the first {MAX_FILES} of {len(files)} files were processed. Drop the others later.")
    return Drop(weights, tuple(found), tuple(refused))


def choose(detections: Detections, threshold: float, labels: Collection[int]) -> Detections:
    """Filters by a minimum score and by classes; an empty `labels` keeps all classes."""
    above = detections.above(threshold)
    return above.take(np.isin(above.labels, list(labels))) if labels else above


def draw(found: Found, chosen: Detections, classes: ClassTable, longer: int | None = None) -> Image.Image:
    """Draws the chosen detections on their image, shrunk to a longer side of at most `longer` pixels.

    Raises:
        Refused: the file was deleted meanwhile.
    """
    picture = draw_detections(open_image(found.file, float("inf")), chosen, classes)
    if longer:
        picture.thumbnail((longer, longer), Image.Resampling.LANCZOS, reducing_gap=3)
    return picture


def tabulate(chosen: Detections, classes: ClassTable) -> list[tuple[str, ...]]:
    """Makes a row of `HEADERS` for each detection, best first; boxes in pixels of the original image."""
    best = chosen.top(len(chosen))
    rows = zip(best.labels.tolist(), best.scores.tolist(), best.boxes.tolist(), strict=True)
    return [(classes.names[label], f"{score:.3f}", *(f"{side:.1f}" for side in box)) for label, score, box in rows]


def describe(found: Found, chosen: Detections, threshold: float) -> str:
    """Summarises what is shown in one sentence."""
    height, width = found.size
    objects = "1 object" if len(chosen) == 1 else f"{len(chosen) or 'no'} objects"
    advice = "" if len(chosen) else " Lower the threshold or choose other classes to see more."
    shown = f"{objects} with a score of at least {threshold:.2f}"
    return f"{found.file.name} ({width} x {height} pixels): {shown}.{advice}"
