"""Drawing of detections and ground truth."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
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


def contrast(first: Colour, second: Colour) -> float:
    """WCAG 2 contrast ratio, from 1 (equal) to 21 (black on white); text wants 4.5."""
    low, high = sorted(_luminance(colour) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def ink_on(background: Colour) -> Colour:
    """Black or white, whichever has more contrast."""
    return max((BLACK, WHITE), key=lambda ink: contrast(ink, background))


def draw_detections(
    image: UInt8[np.ndarray, "height width 3"],
    detections: Detections,
    classes: ClassTable,
    true_boxes: Float32[np.ndarray, "objects 4"] | None = None,
    true_labels: Int64[np.ndarray, " objects"] | None = None,
    enlarge: bool = True,
    slice_side: int | None = None,
) -> Image.Image:
    """Draws all detections (take `detections.above(threshold)` first), and the ground truth in white dashes.

    Args:
        image: RGB.
        detections: in pixels of `image`.
        classes: their names.
        true_boxes: (x0, y0, x1, y1) in pixels of `image`.
        true_labels: their labels, to draw their names.
        enlarge: enlarge small images to a shorter side of 480 pixels, so that names and scores can be read.
        slice_side: side of the slices that the detector saw, in pixels: these are enlarged to 480 instead (up to a
            longer side of 1920 of the image), and lines and letters suit their size.
    """
    picture, scale = _enlarged(image, slice_side) if enlarge else (Image.fromarray(image), 1.0)
    pen = _Pen.for_picture(picture, slice_side and round(slice_side * scale))
    found = detections.top(len(detections))
    boxes = _inside(found.boxes * scale, picture)
    truth = _inside((np.zeros((0, 4), np.float32) if true_boxes is None else true_boxes) * scale, picture)
    for box, label in zip(boxes[::-1], found.labels[::-1].tolist(), strict=True):
        pen.outline(box, class_colour(label))
    for box in truth:
        pen.dashes(box)
    for box, label, score in zip(boxes, found.labels.tolist(), found.scores.tolist(), strict=True):
        pen.name(f"{classes.names[label]} {score:.2f}", box, class_colour(label))
    if true_labels is not None:
        for box, label in zip(truth, true_labels.tolist(), strict=True):
            pen.name(classes.names[label], box, WHITE, below=True)
    pen.write_names()
    return picture


@dataclass
class _Pen:
    """Draws on one picture, with lines and letters that suit its size; labels are placed first and written at the end.

    Attributes:
        picture: drawn on in place.
        font: of the labels.
        line: width of a box's line in pixels.
        labels: placed so far, the most important first.
    """

    picture: Image.Image
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    line: int
    labels: list["_Label"] = field(default_factory=list)

    @classmethod
    def for_picture(cls, picture: Image.Image, slice_side: int | None = None) -> "_Pen":
        short = min(*picture.size, slice_side or math.inf)
        return cls(picture, ImageFont.load_default(max(13, round(short / 34))), max(2, round(short / 180)))

    @property
    def rim(self) -> int:
        """Width of the dark rim on either side of a line, which separates it from a background of its colour."""
        return max(1, self.line // 3)

    def outline(self, box: Box, colour: Colour) -> None:
        """Draws a box."""
        draw = ImageDraw.Draw(self.picture)
        corners = [*(box[:2] - self.rim), *(box[2:] + self.rim)]
        draw.rectangle(corners, outline=BLACK, width=self.line + 2 * self.rim)
        draw.rectangle(box.tolist(), outline=colour, width=self.line)

    def dashes(self, box: Box) -> None:
        """Draws a box in white dashes."""
        draw = ImageDraw.Draw(self.picture)
        for dash in _dashes(box, 4 * self.line):
            draw.line(dash, fill=BLACK, width=self.line + 2 * self.rim)
            draw.line(dash, fill=WHITE, width=self.line)

    def name(self, text: str, box: Box, colour: Colour, below: bool = False) -> None:
        """Places a label where it overlaps earlier ones least: at the box, above it by preference, or `below` it."""
        text = _shortened(text, self.font, self.picture.width - 2 * self.line)
        _, top, _, bottom = self.font.getbbox("Ág")
        size = np.array([self.font.getlength(text), bottom - top]) + 2 * self.line
        places = np.clip(_label_places(box, size, below), 0, np.maximum(np.array(self.picture.size) - size, 0))
        taken = np.array([label.rectangle for label in self.labels]).reshape(-1, 4)
        place = places[np.argmin(_overlaps(places, size, taken))]
        self.labels.append(_Label(text, np.concatenate([place, place + size]), colour))

    def write_names(self) -> None:
        """Writes the labels, the most important last, on top."""
        draw = ImageDraw.Draw(self.picture)
        _, top, _, _ = self.font.getbbox("Ág")
        for label in reversed(self.labels):
            draw.rectangle(label.rectangle.tolist(), fill=label.colour)
            left, upper = (label.rectangle[:2] + self.line).tolist()
            draw.text((left, upper - top), label.text, fill=ink_on(label.colour), font=self.font)


@dataclass(frozen=True)
class _Label:
    """A text and its rectangle (x0, y0, x1, y1) with its background colour."""

    text: str
    rectangle: Box
    colour: Colour


def _enlarged(image: UInt8[np.ndarray, "height width 3"], slice_side: int | None) -> tuple[Image.Image, float]:
    """The picture, enlarged until its shorter side (or a slice) has 480 pixels, or its longer one 1920; the scale."""
    picture = Image.fromarray(image)
    short = min(*picture.size, slice_side or math.inf)
    scale = max(1.0, min(_MIN_SHORT_SIDE / short, _MAX_LONG_SIDE / max(picture.size)))
    if scale == 1:
        return picture, scale
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC), scale


def _inside(boxes: Float[np.ndarray, "boxes 4"], picture: Image.Image) -> Float64[np.ndarray, "boxes 4"]:
    """Clips (x0, y0, x1, y1) to the picture; an empty or inverted box becomes a line or a point."""
    last = np.array([picture.width, picture.height] * 2) - 1.0
    boxes = np.clip(boxes.astype(np.float64), 0, last)
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _dashes(box: Box, length: int) -> Iterator[tuple[float, float, float, float]]:
    """Lines (x0, y0, x1, y1) of about `length`, with equal gaps, along the four edges; they include the corners."""
    x0, y0, x1, y1 = box.tolist()
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        dashes = max(1, round(math.dist(start, end) / length / 2))
        stops = np.linspace(start, end, 2 * dashes + 1)
        for (from_x, from_y), (to_x, to_y) in zip(stops[:-1:2].tolist(), stops[1::2].tolist(), strict=True):
            yield from_x, from_y, to_x, to_y


def _label_places(box: Box, size: Float64[np.ndarray, " 2"], below: bool) -> Float64[np.ndarray, "places 2"]:
    """Top left corners for a label of `size` (width, height) at a box, best first: outside the box, then inside."""
    (x0, y0, x1, y1), (width, height) = box, size
    above = [(x0, y0 - height), (x1 - width, y0 - height)]
    under = [(x0, y1), (x1 - width, y1)]
    within = [(x0, y0), (x0, y1 - height), (x1 - width, y0), (x1 - width, y1 - height)]
    beside = [(x1, y0), (x0 - width, y0)]
    return np.array([*(under if below else above), *(above if below else under), *within, *beside])


def _overlaps(
    places: Float64[np.ndarray, "places 2"], size: Float64[np.ndarray, " 2"], taken: Float64[np.ndarray, "labels 4"]
) -> Float64[np.ndarray, " places"]:
    """Area in pixels that a label of `size` at each place would share with the `taken` rectangles."""
    start = np.maximum(places[:, None], taken[:, :2])
    end = np.minimum(places[:, None] + size, taken[:, 2:])
    return np.maximum(end - start, 0).prod(axis=2).sum(axis=1)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    fitting = (text[:count] + "..." for count in range(len(text) - 1, 0, -1))
    return next((short for short in fitting if font.getlength(short) <= width), text[:1])


def _luminance(colour: Colour) -> float:
    """WCAG 2 relative luminance, in [0, 1]."""
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour))
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
