import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.drawing import PALETTE, class_colour, draw_detections, ink_on, place_label
from tests.helpers import contrast

CLASSES = ClassTable(names=("cell", "worm"), ids=(7, 1))
GREY = (90, 90, 90)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def found(*boxes: tuple[float, float, float, float], score: float = 0.9) -> Detections:
    return Detections(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), score, dtype=np.float32),
        labels=np.arange(len(boxes)) % 2,
    )


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((128, 128), (480, 480)), ((64, 32), (960, 480)), ((600, 800), (600, 800)), ((1000, 10), (1920, 19))],
)
def test_picture_when_small_then_enlarged_and_when_large_then_kept(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    picture = draw_detections(grey(*size), found(), CLASSES)
    assert (picture.height, picture.width) == drawn


@pytest.mark.parametrize(("size", "scale"), [(480, 1), (120, 4)])
def test_box_when_drawn_then_in_its_colour_at_its_place(size: int, scale: int) -> None:
    box = (20.0, 40.0, 80.0, 90.0)
    image = grey(size, size)
    picture = draw_detections(image, found(box), CLASSES)
    for x, y in ((20, 65), (80, 65), (50, 90)):
        near = picture.crop((x * scale - 4, y * scale - 4, x * scale + 5, y * scale + 5))
        assert class_colour(0) in {colour for _, colour in near.getcolors()}
    assert picture.getpixel((65 * scale, 65 * scale)) == GREY
    assert (image == GREY).all()


def test_names_when_scores_are_left_out_then_only_the_label_differs() -> None:
    cells = found((100, 100, 400, 300))
    with_score, without = (
        np.asarray(draw_detections(grey(480, 480), cells, CLASSES, scores=scores)) for scores in (True, False)
    )
    rows, columns = np.nonzero((with_score != without).any(axis=2))
    assert rows.max() <= 105
    assert 95 <= columns.min() < columns.max() < 200


coordinate = st.floats(-50, 700, width=32)


@settings(max_examples=10)
@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=6))
def test_boxes_when_outside_empty_or_inverted_then_drawn_without_error(boxes) -> None:
    draw_detections(grey(480, 600), found(*boxes), CLASSES)


def test_labels_when_boxes_coincide_then_lie_inside_the_picture_and_do_not_overlap() -> None:
    for box in ((0, 0, 10, 10), (590, 470, 599, 479), (0, 0, 599, 479), (200, 200, 380, 330)):
        size, placed = np.array([60.0, 20.0]), np.zeros((0, 4))
        for _ in range(3):
            placed = np.concatenate([placed, [place_label(np.array(box, np.float64), size, placed, (600, 480))]])
        assert (placed[:, :2] >= 0).all()
        assert (placed[:, 2:] <= (600, 480)).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):  # of the last box, which has room around it
        shared = np.minimum(placed[one, 2:], placed[other, 2:]) - np.maximum(placed[one, :2], placed[other, :2])
        assert shared.min() <= 1e-9


def test_names_when_not_latin_or_too_long_then_drawn_without_error() -> None:
    classes = ClassTable(names=("细胞 " * 100, "ver à soie 🐛"), ids=(0, 1))
    draw_detections(grey(480, 480), found((10, 50, 90, 90), (100, 100, 200, 200)), classes)


def test_label_colours_when_written_on_then_contrast_is_enough_for_text() -> None:
    assert all(contrast(colour, ink_on(colour)) >= 4.5 for colour in PALETTE)
