"""Images dropped on the demo's page: refused or read, looked at, and shown by threshold and classes.

What was found on an image is kept, so that another threshold or choice of classes draws anew without the detector.
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

MOST_FILES = 20
"""Files looked at of one drop."""
MOST_PIXELS = 50_000_000
"""Pixels of an image; twice the 24 million of most cameras, and 150 MB when unpacked."""
HEADERS = ("class", "score", "left", "top", "right", "bottom")
"""Of the table."""


class Refused(ValueError):
    """A file that the demo does not take; the message says why, for the page."""


@dataclass(frozen=True)
class Found:
    """What the detector found on one file.

    Attributes:
        file: the image's file, as it was dropped.
        size: (height, width) in pixels as shown.
        detections: the best, best first, cut at the image's edges.
    """

    file: Path
    size: tuple[int, int]
    detections: Detections


@dataclass(frozen=True)
class Drop:
    """What one drop of files came to; the page keeps it.

    Attributes:
        weights: whose detector looked.
        found: of each file that could be read, in order.
        refused: why each of the others was refused.
    """

    weights: Weights = "teacher"
    found: tuple[Found, ...] = ()
    refused: tuple[str, ...] = ()


def open_image(file: Path, max_mb: float) -> UInt8[np.ndarray, "height width 3"]:
    """The image as `read_image` shows it, if the demo takes it.

    Args:
        max_mb: the most of the file, in MB (2^20 bytes).

    Raises:
        Refused: it is too large, too large when unpacked, of another type, or no image that can be read.
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
    if facts.too_large or height * width > MOST_PIXELS:
        shape = f"{width} x {height} pixels" if facts.size else "too many pixels"
        raise Refused(f"{name} has {shape}; at most {MOST_PIXELS // 10**6} million are taken. Make it smaller.")
    try:
        return read_image(file)
    except ImageError as error:
        raise Refused(str(error).replace(str(file), name)) from error


def detect(predictor: Predictor, file: Path, max_mb: float) -> Found:
    """Looks at one file.

    Raises:
        Refused: see `open_image`.
    """
    image = open_image(file, max_mb)
    height, width = image.shape[:2]
    (detections,) = predictor.detect([image])
    return Found(file, (height, width), detections.clipped(height, width))


def detect_all(predictor: Predictor, files: Sequence[Path], weights: Weights, max_mb: float, before: Drop) -> Drop:
    """Looks at the files that `before` does not know with these weights; says why some are refused."""
    known = {found.file: found for found in before.found if before.weights == weights}
    found: list[Found] = []
    refused: list[str] = []
    for file in files[:MOST_FILES]:
        try:
            found.append(known[file] if file in known else detect(predictor, file, max_mb))
        except Refused as reason:
            refused.append(str(reason))
    if len(files) > MOST_FILES:
        refused.append(f"Only the first {MOST_FILES} of {len(files)} files were looked at. Drop the others later.")
    return Drop(weights, tuple(found), tuple(refused))


def choose(detections: Detections, threshold: float, labels: Collection[int]) -> Detections:
    """Those with a score of at least `threshold`, of these classes; of all classes where `labels` is empty."""
    above = detections.above(threshold)
    return above.take(np.isin(above.labels, list(labels))) if labels else above


def draw(found: Found, chosen: Detections, classes: ClassTable, longer: int | None = None) -> Image.Image:
    """The image with the chosen detections, shrunk where its longer side is above `longer` pixels.

    Raises:
        Refused: the file is no longer kept.
    """
    picture = draw_detections(open_image(found.file, float("inf")), chosen, classes)
    if longer:
        picture.thumbnail((longer, longer), Image.Resampling.LANCZOS, reducing_gap=3)
    return picture


def tabulate(chosen: Detections, classes: ClassTable) -> list[tuple[str, ...]]:
    """A row of `HEADERS` for each, best first; boxes in pixels of the original image."""
    best = chosen.top(len(chosen))
    rows = zip(best.labels.tolist(), best.scores.tolist(), best.boxes.tolist(), strict=True)
    return [(classes.names[label], f"{score:.3f}", *(f"{side:.1f}" for side in box)) for label, score, box in rows]


def describe(found: Found, chosen: Detections, threshold: float) -> str:
    """One sentence on what is shown."""
    height, width = found.size
    objects = "1 object" if len(chosen) == 1 else f"{len(chosen) or 'no'} objects"
    advice = "" if len(chosen) else " Lower the threshold or choose other classes to see more."
    shown = f"{objects} with a score of at least {threshold:.2f}"
    return f"{found.file.name} ({width} x {height} pixels): {shown}.{advice}"
