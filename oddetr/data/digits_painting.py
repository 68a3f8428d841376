"""What the digit scenes are painted with: random numbers, patches, backgrounds, shapes and the scene.

Everything here gives the same bits on every machine. Random bits come straight from Philox, whose stream numpy
guarantees (a `Generator`'s it does not); floats see element-wise `+ - * /` and square root only, which IEEE 754 rounds
in one way; pixels are blended and summed as integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

MAX_COVERED = 0.25
"""The largest share of an object's ink, and of the smaller of two objects' boxes, that other things may cover."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels."""


class Dice:
    """Random numbers as a pure function of a key and a position.

    Args:
        key: two numbers >= 0: which stream.
        position: two numbers >= 0: where in the stream; positions are 2^128 numbers apart.
    """

    def __init__(self, key: tuple[int, int], position: tuple[int, int] = (0, 0)) -> None:
        self._bits = np.random.Philox(key=key, counter=[0, 0, *position])

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) / 2**53)

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.uniform() < probability

    def colour(self) -> list[int]:
        """Red, green and blue, each from 0 to 255."""
        return [self.integer(0, 255) for _ in range(3)]

    def bytes(self, *shape: int) -> UInt8[np.ndarray, "..."]:
        """Numbers from 0 to 255."""
        size = int(np.prod(shape))
        words = self._bits.random_raw(-(-size // 8)).astype("<u8")
        return words.view(np.uint8)[:size].reshape(shape)

    def order(self, size: int) -> Int64[np.ndarray, " size"]:
        """A permutation of 0..size-1."""
        return np.argsort(self._bits.random_raw(size), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Patch:
    """Something to paint, and where.

    Attributes:
        alpha: opacity, 0..256.
        ink: where the opacity is at least 1/2.
        box: the tightest rectangle around the ink, in the patch's pixels.
        top, left: the row and column of the scene where the patch starts.
    """

    alpha: Int32[np.ndarray, "height width"]
    ink: Bool[np.ndarray, "height width"]
    box: Box
    top: int
    left: int

    @classmethod
    def cut(cls, opacity: Float32[np.ndarray, "height width"]) -> "Patch | None":
        """The visible part of an opacity map (0..1); None if it has no ink."""
        alpha = np.floor(opacity * 256.0 + 0.5).astype(np.int32)
        if not (alpha >= 128).any():
            return None
        left, top, right, bottom = _span(alpha > 0)
        alpha = alpha[top:bottom, left:right]
        ink = alpha >= 128
        return cls(alpha, ink, _span(ink), top, left)

    @property
    def area(self) -> tuple[slice, slice]:
        """The rows and columns of the scene that the patch takes."""
        height, width = self.ink.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def placed(self, dice: Dice, size: int) -> "Patch":
        """The patch somewhere in a scene of this size."""
        height, width = self.ink.shape
        return replace(self, top=dice.integer(0, size - height), left=dice.integer(0, size - width))


def _span(mask: Bool[np.ndarray, "height width"]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def rotation(t: float) -> tuple[float, float]:
    """Cosine and sine of the angle a with `t = tan(a / 2)`: `(1 - t²) / (1 + t²)` and `2 t / (1 + t²)`."""
    return (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)


def stroke(dice: Dice, size: int) -> Patch | None:
    """A straight line, 40..110 px long and 1..2 px wide, cut to the scene."""
    length, width = dice.uniform(40.0, 110.0), dice.uniform(1.0, 2.0)
    columns, rows = _offsets(dice, size)
    cosine, sine = rotation(dice.uniform(-1.0, 1.0))
    across = np.abs(cosine * rows - sine * columns)
    along = np.abs(cosine * columns + sine * rows)
    return Patch.cut(np.clip(width / 2 + 0.5 - across, 0.0, 1.0) * np.clip(length / 2 + 0.5 - along, 0.0, 1.0))


def ellipse(dice: Dice, size: int) -> Patch | None:
    """A filled ellipse with radii of 6..28 px, cut to the scene."""
    a, b = dice.uniform(6.0, 28.0), dice.uniform(6.0, 28.0)
    columns, rows = _offsets(dice, size)
    columns, rows = columns / a, rows / b
    radius = np.sqrt(columns * columns + rows * rows)
    return Patch.cut(np.clip((1.0 - radius) * min(a, b) + 0.5, 0.0, 1.0))


def _offsets(dice: Dice, size: int) -> tuple[Float32[np.ndarray, " size"], Float32[np.ndarray, "size 1"]]:
    """Each pixel's distance from a random point of the scene, to the right and downwards."""
    x, y = dice.uniform(0.0, float(size)), dice.uniform(0.0, float(size))
    axis = np.arange(size, dtype=np.float32)
    return axis + (0.5 - x), (axis + (0.5 - y))[:, None]


def background(dice: Dice, size: int) -> Int32[np.ndarray, "3 size size"]:
    """A base colour of 40..215 per channel, in half of the scenes nearly grey, and two octaves of value noise."""
    base = [dice.integer(40, 215) for _ in range(3)]
    if dice.chance(0.5):
        base = [(value + 2 * base[0]) // 3 for value in base]
    pixels = np.broadcast_to(np.array(base, dtype=np.float32)[:, None, None], (3, size, size))
    for cells, amplitude in ((dice.integer(4, 9), dice.integer(0, 36)), (dice.integer(12, 31), dice.integer(0, 20))):
        grid = (dice.bytes(3, cells + 1, cells + 1).astype(np.float32) - 127.5) * (amplitude / 127.5)
        pixels = pixels + _stretch(grid, size)
    return np.clip(np.floor(pixels + 0.5), 0, 255).astype(np.int32)


def _stretch(grid: Float32[np.ndarray, "3 knots knots"], size: int) -> Float32[np.ndarray, "3 size size"]:
    """Both axes resampled linearly to `size` points."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * ((grid.shape[-1] - 1) / size)
    left = position.astype(np.int64)
    share = position - left.astype(np.float32)
    wide = grid[:, :, left] * (1.0 - share) + grid[:, :, left + 1] * share
    return wide[:, left] * (1.0 - share[:, None]) + wide[:, left + 1] * share[:, None]


def _shared(one: Box, other: Box) -> float:
    """The share of the smaller box that the other covers."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))


class Scene:
    """A picture being painted, which knows how much of each object is covered.

    Attributes:
        boxes, labels: of the objects, in the order of painting.
        ink: pixels of each object's ink.
        covered: how many of these something painted later covers.
        owner: for each pixel the object whose ink shows there, counted from 1, or 0.
    """

    def __init__(self, dice: Dice, size: int) -> None:
        self.dice, self.size = dice, size
        self.boxes: list[Box] = []
        self.labels: list[int] = []
        self.ink: list[int] = []
        self.covered: list[int] = []
        self._pixels = background(dice, size)
        self.owner = np.zeros((size, size), dtype=np.int64)

    def paint(self, patch: Patch, colour: Sequence[int], opacity: float = 1.0, owner: int = 0) -> None:
        """Blends a patch in; `owner` is the number of its object, 0 if it is none."""
        for index, count in enumerate(self._hidden(patch)):
            self.covered[index] += int(count)
        self.owner[patch.area][patch.ink] = owner
        pixels = self._pixels[:, *patch.area]
        difference = np.array(colour, dtype=np.int32)[:, None, None] - pixels
        pixels += (difference * ((patch.alpha * int(opacity * 256)) >> 8)) >> 8

    def allows(self, patch: Patch) -> bool:
        """Whether no object is covered too much if the patch is painted."""
        states = zip(self.covered, self._hidden(patch), self.ink, strict=True)
        return all(covered + int(more) <= MAX_COVERED * ink for covered, more, ink in states)

    def _hidden(self, patch: Patch) -> Int64[np.ndarray, " objects"]:
        """How many pixels of each object's visible ink the patch covers."""
        return np.bincount(self.owner[patch.area][patch.ink], minlength=len(self.ink) + 1)[1:]

    def contrasting(self, patch: Patch, low: int, high: int) -> list[int]:
        """A colour whose luminance lies `low..high` grey levels above or below the mean of what the patch covers."""
        beneath = self._pixels[:, *patch.area] * patch.ink
        mean = int(beneath.sum(dtype=np.int64)) // (3 * int(patch.ink.sum()))
        step, up = self.dice.integer(low, high), self.dice.chance(0.5)
        if mean + step > 245 or mean - step < 10:
            up = mean < 128
        middle = mean + step if up else mean - step
        return [min(255, max(0, middle + self.dice.integer(-30, 30))) for _ in range(3)]

    def add(self, label: int, patch: Patch, attempts: int) -> bool:
        """Paints an object at a random place where nothing is covered too much; False if no such place was found."""
        x0, y0, x1, y1 = patch.box
        for _ in range(attempts):
            patch = patch.placed(self.dice, self.size)
            box = (patch.left + x0, patch.top + y0, patch.left + x1, patch.top + y1)
            if all(_shared(box, other) <= MAX_COVERED for other in self.boxes) and self.allows(patch):
                self.paint(patch, self.contrasting(patch, 45, 150), owner=len(self.boxes) + 1)
                self.boxes.append(box)
                self.labels.append(label)
                self.ink.append(int(patch.ink.sum()))
                self.covered.append(0)
                return True
        return False

    def photograph(self) -> UInt8[np.ndarray, "size size 3"]:
        """The picture, in a quarter of the scenes blurred, with pixel noise of amplitude 0..20."""
        pixels = self._pixels
        if self.dice.chance(0.25):
            pixels = _blur(_blur(pixels).transpose(0, 2, 1)).transpose(0, 2, 1)
        amplitude = self.dice.integer(0, 20)
        noise = self.dice.bytes(3, self.size, self.size).astype(np.int32)
        noisy = pixels + ((noise * (2 * amplitude + 1)) >> 8) - amplitude
        return np.ascontiguousarray(np.clip(noisy, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _blur(planes: Int32[np.ndarray, "3 rows columns"]) -> Int32[np.ndarray, "3 rows columns"]:
    """The mean of each pixel and its two neighbours along the last axis."""
    padded = np.pad(planes, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:] + 1) // 3
