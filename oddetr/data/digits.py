"""Handwritten digits scattered over cluttered scenes: the built-in data set, and the project's frozen yardstick.

The digits are the 1797 real ones of scikit-learn (`load_digits`, 8×8 pixels, 17 grey levels), split into
60 % train, 20 % val and 20 % test, class by class, so that no sample is shared. A scene is made in this order:

| step       | recipe                                                                                                |
|------------|-------------------------------------------------------------------------------------------------------|
| background | base colour 40..215 per channel (half of the scenes: nearly grey); value noise per channel on grids   |
|            | of 4..9 and of 12..31 cells, amplitudes up to 36 and 20 grey levels                                   |
| clutter    | 0..3 ellipses (radii 6..28 px) and 0..4 strokes (40..110 px long, 1..2 px wide), any colour, opacity  |
|            | 0.25..0.75; 0..3 scrambled digits (4×4 tiles, reordered) of 10..40 px, 30..90 grey levels off         |
|            | what they cover                                                                                       |
| digits     | 1..12; height 10 + 50 u^1.5 px (u uniform; median 28), width × 0.75..1.25, turned by up to 17°, soft  |
|            | to sharp edge; luminance 45..150 grey levels off the mean of what it covers, each channel ±30;        |
|            | a digit that finds no place in 12 attempts is left out (the first always finds one)                   |
| occluders  | 0..2 opaque strokes, each only where it respects the limit                                            |
| camera     | blur by a 3×3 box with probability 0.25, then uniform pixel noise of amplitude 0..20                  |

The limit: all later things together cover at most 25 % of a digit's ink (`MAX_COVERED`), and two digits' boxes share
at most 25 % of the smaller one. A box is the tightest whole-pixel rectangle around a digit's ink (opacity of at least
1/2), covered ink included; digits lie inside the scene.

Val and test are frozen: 500 scenes each, the same on every machine (see `painting`); the tests hold their hashes.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from oddetr.data.dataset import Annotations, ClassTable, Sample
from oddetr.data.digits_painting import Dice, Patch, Scene, ellipse, rotation, stroke

Split = Literal["train", "val", "test"]

FIXED_LENGTH = 500
"""Scenes in val and in test."""
MAX_OBJECTS = 12
MIN_HEIGHT, MAX_HEIGHT = 10.0, 60.0
"""Of a digit before it is turned, in pixels."""
_CLASSES = ClassTable(tuple("0123456789"), tuple(range(10)))
_CELLS, _ZOOM, _MARGIN = 8, 4, 2
_ATTEMPTS = 12
_SPLIT_STREAM = 3  # of the random numbers that split the digits; 0, 1, 2 are the splits' scenes


@dataclass(frozen=True)
class DigitBank:
    """All digits, enlarged.

    Attributes:
        ink: 0..255; 4 pixels to a cell of the original, and 2 empty cells around.
        labels: 0..9.
        splits: which digits belong to which split.
    """

    ink: UInt8[np.ndarray, "digits 48 48"]
    labels: Int64[np.ndarray, " digits"]
    splits: dict[str, Int64[np.ndarray, " _"]]


@cache
def digit_bank() -> DigitBank:
    """Reads and enlarges the digits, once per process."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits: Any = load_digits()
    labels = digits.target.astype(np.int64)
    cells = digits.images.astype(np.float64) / 16.0
    ink = _enlarge(_enlarge(cells).transpose(0, 2, 1)).transpose(0, 2, 1)
    levels = np.floor(np.clip(ink, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return DigitBank(np.ascontiguousarray(levels), labels, _share_out(labels))


def _share_out(labels: Int64[np.ndarray, " digits"]) -> dict[str, Int64[np.ndarray, " _"]]:
    dice = Dice(key=(0, _SPLIT_STREAM))
    parts: dict[str, list[Int64[np.ndarray, " _"]]] = {"train": [], "val": [], "test": []}
    for label in range(len(_CLASSES)):
        members = np.flatnonzero(labels == label)
        members = members[dice.order(len(members))]
        fifth = len(members) // 5
        parts["val"].append(members[:fifth])
        parts["test"].append(members[fifth : 2 * fifth])
        parts["train"].append(members[2 * fifth :])
    return {split: np.sort(np.concatenate(members)) for split, members in parts.items()}


def _enlarge(images: Float64[np.ndarray, "digits rows columns"]) -> Float64[np.ndarray, "digits more_rows columns"]:
    """Rows `_ZOOM` times as many, by Catmull-Rom interpolation, with `_MARGIN` empty cells before and after."""
    padded = np.pad(images, ((0, 0), (_MARGIN + 2, _MARGIN + 2), (0, 0)))
    rows = images.shape[1] + 2 * _MARGIN
    enlarged = np.empty((len(images), rows * _ZOOM, images.shape[2]))
    for phase in range(_ZOOM):
        offset = (phase + 0.5) / _ZOOM - 0.5
        first, t = (0, offset + 1.0) if offset < 0 else (1, offset)
        weights = (
            ((2.0 - t) * t - 1.0) * t / 2.0,
            ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
            ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
            (t - 1.0) * t * t / 2.0,
        )
        taps = [weight * padded[:, first + tap : first + tap + rows] for tap, weight in enumerate(weights)]
        enlarged[:, phase::_ZOOM] = taps[0] + taps[1] + taps[2] + taps[3]
    return enlarged


def _draw(dice: Dice, ink: UInt8[np.ndarray, "side side"], height: float) -> Patch:
    """A digit of about `height` pixels, turned and stretched at random.

    The pixel at (x, y) from the patch's centre shows the digit's cell R⁻¹ (x, y) / (scale · (aspect, 1)).
    """
    scale, aspect = height / _CELLS, dice.uniform(0.75, 1.25)
    cosine, sine = rotation(dice.uniform(-0.15, 0.15))
    sharpness, threshold = dice.uniform(1.5, 3.0), dice.uniform(0.35, 0.55)
    reach = int(height * 0.75) + 2
    axis = np.arange(-reach, reach + 1, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    centre = (len(ink) - 1) / 2
    values = _bilinear(
        ink,
        (cosine * y - sine * x) * (_ZOOM / scale) + centre,
        (cosine * x + sine * y) * (_ZOOM / (scale * aspect)) + centre,
    )
    patch = Patch.cut(np.clip((values / 255.0 - threshold) * sharpness + 0.5, 0.0, 1.0))
    assert patch is not None, "a handwritten digit has ink"
    return patch


def _bilinear(
    image: UInt8[np.ndarray, "side side"],
    rows: Float32[np.ndarray, "height width"],
    columns: Float32[np.ndarray, "height width"],
) -> Float32[np.ndarray, "height width"]:
    """The image at fractional positions; its border continues outwards."""
    side = len(image)
    rows, columns = np.clip(rows, 0.0, side - 1.001), np.clip(columns, 0.0, side - 1.001)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = rows - top.astype(np.float32), columns - left.astype(np.float32)
    levels, corner = image.reshape(-1).astype(np.float32), top * side + left
    upper = levels.take(corner) * (1.0 - right) + levels.take(corner + 1) * right
    lower = levels.take(corner + side) * (1.0 - right) + levels.take(corner + side + 1) * right
    return upper * (1.0 - down) + lower * down


def _scramble(ink: UInt8[np.ndarray, "side side"]) -> UInt8[np.ndarray, "side side"]:
    """A digit in 4×4 tiles: tile (7 k + 5) mod 16 takes the place of tile k, every other one turned by a quarter.

    That leaves strokes, but no digit.
    """
    middle = slice(_MARGIN * _ZOOM, -_MARGIN * _ZOOM)
    side = _CELLS * _ZOOM // 4
    tiles = ink[middle, middle].reshape(4, side, 4, side).swapaxes(1, 2).reshape(16, side, side)
    tiles = tiles[(7 * np.arange(16) + 5) % 16]
    tiles[::2] = np.rot90(tiles[::2], axes=(1, 2))
    scrambled = np.zeros_like(ink)
    scrambled[middle, middle] = tiles.reshape(4, 4, side, side).swapaxes(1, 2).reshape(4 * side, 4 * side)
    return scrambled


def _clutter(scene: Scene, bank: DigitBank, members: Int64[np.ndarray, " _"]) -> None:
    dice, size = scene.dice, scene.size
    shapes = [ellipse(dice, size) for _ in range(dice.integer(0, 3))]
    shapes += [stroke(dice, size) for _ in range(dice.integer(0, 4))]
    for shape in shapes:
        if shape is not None:
            scene.paint(shape, dice.colour(), dice.uniform(0.25, 0.75))
    for _ in range(dice.integer(0, 3)):
        digit = members[dice.integer(0, len(members) - 1)]
        patch = _draw(dice, _scramble(bank.ink[digit]), dice.uniform(MIN_HEIGHT, 40.0)).placed(dice, size)
        scene.paint(patch, scene.contrasting(patch, 30, 90))


def compose(
    dice: Dice,
    split: Split,
    size: int,
    objects: tuple[int, int] = (1, MAX_OBJECTS),
    heights: tuple[float, float] = (MIN_HEIGHT, MAX_HEIGHT),
) -> Scene:
    """Paints a scene, all but the camera; see `DigitScenes`. No digit is larger than half the scene."""
    bank, scene = digit_bank(), Scene(dice, size)
    members = bank.splits[split]
    _clutter(scene, bank, members)
    least, tallest = heights[0], min(heights[1], size / 2)
    for _ in range(dice.integer(*objects)):
        digit, share = members[dice.integer(0, len(members) - 1)], dice.uniform()
        height = least + (tallest - least) * share * math.sqrt(share)
        scene.add(int(bank.labels[digit]), _draw(dice, bank.ink[digit], height), _ATTEMPTS)
    for _ in range(dice.integer(0, 2)):
        shape = stroke(dice, size)
        if shape is not None and scene.allows(shape):
            scene.paint(shape, dice.colour())
    return scene


class DigitScenes:
    """Scenes of handwritten digits, made when asked for; a `Source`.

    Args:
        split: whose handwriting. Val and test have 500 scenes, the same for every seed.
        length: scenes; for train only.
        seed: which training scenes, >= 0.
        fresh: draw other training scenes in every epoch.
        size: height and width in pixels, at least 64. The published hashes are for 128.
        objects: the fewest and the most digits of a scene; a few find no place where they are many.
        heights: of the smallest and the largest digit before it is turned, in pixels.

    Raises:
        ValueError: an argument is out of its range.
    """

    classes = _CLASSES
    """The digits; label = id = value."""
    flippable = False
    """A mirrored digit is no digit."""

    def __init__(
        self,
        split: Split = "train",
        length: int | None = None,
        seed: int = 0,
        fresh: bool = False,
        size: int = 128,
        objects: tuple[int, int] = (1, MAX_OBJECTS),
        heights: tuple[float, float] = (MIN_HEIGHT, MAX_HEIGHT),
    ) -> None:
        if split not in get_args(Split):
            raise ValueError(f"Digit scenes have the splits train, val and test, not {split!r}.")
        if split != "train" and (fresh or length not in (None, FIXED_LENGTH)):
            raise ValueError(f"The {split} scenes are fixed: {FIXED_LENGTH}, never fresh. Leave out length and fresh.")
        if size < 64 or seed < 0 or (length is not None and length < 1):
            raise ValueError(f"Need size >= 64, seed >= 0, length >= 1; got size={size}, seed={seed}, length={length}.")
        if not 1 <= objects[0] <= objects[1] or not 4 <= heights[0] <= min(heights[1], size / 2):
            raise ValueError(
                f"Need 1 <= fewest <= most objects, and heights from 4 pixels to half the scene ({size / 2:g}), the "
                f"smaller first; got objects={objects}, heights={heights}."
            )
        self.split: Split = split
        self.size = size
        self.objects, self.heights = objects, heights
        self.fresh = fresh
        self._length = length or (2000 if split == "train" else FIXED_LENGTH)
        self._seed = seed if split == "train" else 0

    def __len__(self) -> int:
        return self._length

    def sample(self, index: int, epoch: int = 0, shorter: int | None = None) -> Sample:
        """Scene `index`: a function of (seed, split, index) and, if fresh, epoch. Never at reduced size.

        Raises:
            IndexError: there is no such scene.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"Scene {index} of {self._length} {self.split} scenes does not exist.")
        key = (self._seed, get_args(Split).index(self.split))
        dice = Dice(key, position=(index, epoch if self.fresh else 0))
        scene = compose(dice, self.split, self.size, self.objects, self.heights)
        return Sample(
            image=scene.photograph(),
            boxes=np.array(scene.boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(scene.labels, dtype=np.int64),
            crowd=np.zeros(len(scene.labels), dtype=np.bool_),
            image_id=index,
            name=f"digits-{self.split}-{index:06d}",
        )

    def annotations(self) -> Annotations:
        """The ground truth of all scenes (epoch 0); draws them once, about 3 ms each, and caches."""
        return self._annotations

    @cached_property
    def _annotations(self) -> Annotations:
        samples = [(sample.boxes, sample.labels) for sample in map(self.sample, range(self._length))]
        boxes = np.concatenate([boxes for boxes, _ in samples])
        counts = [len(labels) for _, labels in samples]
        return Annotations(
            image_ids=np.arange(self._length, dtype=np.int64),
            sizes=np.full((self._length, 2), self.size, dtype=np.int64),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=boxes,
            labels=np.concatenate([labels for _, labels in samples]),
            areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            crowd=np.zeros(len(boxes), dtype=np.bool_),
            annotation_ids=np.arange(1, len(boxes) + 1, dtype=np.int64),
        )
