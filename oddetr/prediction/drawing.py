"""Drawing of detections."""

import math

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections

Colour = tuple[int, int, int]
Box = Float64[np.ndarray, " 4"]
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito's colours, which the colour-blind can tell apart; they repeat from the eighth class on."""

_MIN_SHORT_SIDE = 480
_MAX_LONG_SIDE = 1920


def class_colour(label: int) -> Colour:
    """The colour of class `label` in every picture."""
    return PALETTE[label % len(PALETTE)]


def ink_on(background: Colour) -> Colour:
    """Black or white, whichever has more contrast (WCAG 2, with its luminance approximated by a gamma of 2.2)."""
    weights = (0.2126, 0.7152, 0.0722)
    luminance = sum(weight * (part / 255) ** 2.2 for weight, part in zip(weights, background, strict=True))
    return BLACK if luminance > 0.179 else WHITE


def draw_detections(
    image: UInt8[np.ndarray, "height width 3"],
    detections: Detections,
    classes: ClassTable,
    scores: bool = True,
    enlarge: bool = True,
    slice_side: int | None = None,
) -> Image.Image:
    """Draws all detections (take `detections.above(threshold)` first), the best on top.

    Args:
        image: RGB.
        detections: in pixels of `image`.
        classes: their names.
        scores: write each score behind the name.
        enlarge: enlarge small images to a shorter side of 480 pixels, so that names and scores can be read.
        slice_side: side of the slices that the detector saw, in pixels: these are enlarged to 480 instead (up to a
            longer side of 1920 of the image), and lines and letters suit their size.
    """
    picture = Image.fromarray(image)
    short = min(*picture.size, slice_side or math.inf)
    scale = max(1.0, min(_MIN_SHORT_SIDE / short, _MAX_LONG_SIDE / max(picture.size))) if enlarge else 1.0
    if scale > 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    found = detections.top(len(detections))
    boxes = np.clip(found.boxes * scale, 0, np.array([picture.width, picture.height] * 2) - 1.0)
    boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])  # an empty or inverted box becomes a line or a point
    labels = found.labels.tolist()
    texts = [
        f"{classes.names[label]} {score:.2f}" if scores else classes.names[label]
        for label, score in zip(labels, found.scores.tolist(), strict=True)
    ]
    colours = [class_colour(label) for label in labels]
    _outline(picture, boxes, colours, line := max(2, round(short * scale / 180)))
    _write(picture, boxes, texts, colours, ImageFont.load_default(max(13, round(short * scale / 34))), line)
    return picture


def _outline(picture: Image.Image, boxes: Float64[np.ndarray, "boxes 4"], colours: list[Colour], line: int) -> None:
    """Draws the boxes, `line` pixels wide, between dark rims that separate them from a background of their colour."""
    draw = ImageDraw.Draw(picture)
    rim = max(1, line // 3)
    for box, colour in zip(boxes[::-1], colours[::-1], strict=True):
        draw.rectangle([*(box[:2] - rim), *(box[2:] + rim)], outline=BLACK, width=line + 2 * rim)
        draw.rectangle(box.tolist(), outline=colour, width=line)


def _write(
    picture: Image.Image,
    boxes: Float64[np.ndarray, "boxes 4"],
    texts: list[str],
    colours: list[Colour],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    margin: int,
) -> None:
    """Writes a label at each box, where it overlaps those of better detections least."""
    draw = ImageDraw.Draw(picture)
    _, top, _, bottom = font.getbbox("Ág")
    placed = np.zeros((0, 4))
    for box, text in zip(boxes, texts, strict=True):
        size = np.array([font.getlength(text), bottom - top]) + 2 * margin
        placed = np.concatenate([placed, [place_label(box, size, placed, picture.size)]])
    for rectangle, text, colour in reversed(list(zip(placed, texts, colours, strict=True))):
        draw.rectangle(rectangle.tolist(), fill=colour)
        left, upper = (rectangle[:2] + margin).tolist()
        draw.text((left, upper - top), text, fill=ink_on(colour), font=font)


def place_label(
    box: Box, size: Float64[np.ndarray, " 2"], taken: Float64[np.ndarray, "labels 4"], picture: tuple[int, int]
) -> Box:
    """Rectangle for a label of `size` (width, height) at a box: above it by preference, else below, within or beside,
    where it shares the smallest area with the `taken` rectangles; inside the `picture` (width, height)."""
    (x0, y0, x1, y1), (width, height) = box, size
    above = [(x0, y0 - height), (x1 - width, y0 - height)]
    below = [(x0, y1), (x1 - width, y1)]
    within = [(x0, y0), (x0, y1 - height), (x1 - width, y0), (x1 - width, y1 - height)]
    beside = [(x1, y0), (x0 - width, y0)]
    starts = np.clip([*above, *below, *within, *beside], 0, np.maximum(np.array(picture) - size, 0))
    ends = starts + size
    shared = np.minimum(ends[:, None], taken[:, 2:]) - np.maximum(starts[:, None], taken[:, :2])
    best = np.argmin(shared.clip(0).prod(axis=2).sum(axis=1))
    return np.concatenate([starts[best], ends[best]])
