import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.drawing import PALETTE, WHITE, _Pen, class_colour, contrast, draw_detections, ink_on

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


def test_picture_when_drawn_then_leaves_the_array_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    before = image.copy()
    assert np.array_equal(np.asarray(draw_detections(image, found(), CLASSES)), before)
    draw_detections(image, found((10, 10, 300, 300)), CLASSES)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("size", "scale"), [(480, 1), (120, 4)])
def test_box_when_drawn_then_in_its_colour_at_its_place(size: int, scale: int) -> None:
    box = (20.0, 40.0, 80.0, 90.0)
    picture = draw_detections(grey(size, size), found(box), CLASSES)
    for x, y in ((20, 65), (80, 65), (50, 90)):
        near = picture.crop((x * scale - 4, y * scale - 4, x * scale + 5, y * scale + 5))
        assert class_colour(0) in {colour for _, colour in near.getcolors()}
    assert picture.getpixel((65 * scale, 65 * scale)) == GREY


def test_truth_when_given_then_dashed_in_white() -> None:
    truth = np.array([[100, 100, 400, 300]], dtype=np.float32)
    picture = draw_detections(grey(480, 480), found(), CLASSES, truth)
    edge = [picture.getpixel((x, 100)) for x in range(100, 400)]
    assert 0.3 < edge.count(WHITE) / len(edge) < 0.7
    assert edge.count(GREY) > 60


def test_truth_when_labelled_then_named_in_white() -> None:
    truth = np.array([[100, 100, 400, 300]], dtype=np.float32)
    without, named = (
        np.asarray(draw_detections(grey(480, 480), found(), CLASSES, truth, labels)) for labels in (None, np.array([1]))
    )
    rows, columns = np.nonzero((without != named).any(axis=2))
    assert rows.min() >= 295
    assert 95 <= columns.min() < columns.max() < 200


coordinate = st.floats(-50, 700, width=32)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=6))
def test_boxes_when_outside_empty_or_inverted_then_drawn_without_error(boxes) -> None:
    truth = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    draw_detections(grey(480, 600), found(*boxes), CLASSES, truth, np.zeros(len(truth), dtype=np.int64))


@settings(deadline=None, max_examples=20)
@given(
    box=st.tuples(st.floats(0, 599), st.floats(0, 479), st.floats(0, 599), st.floats(0, 479)),
    text=st.sampled_from(["a", "worm 0.50", "a name much too long " * 10]),
    below=st.booleans(),
)
def test_label_when_box_is_anywhere_then_inside_the_picture(box, text: str, below: bool) -> None:
    pen = _Pen.for_picture(Image.new("RGB", (600, 480)))
    x0, y0, x1, y1 = box
    pen.name(text, np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]), WHITE, below)
    left, top, right, bottom = pen.labels[0].rectangle
    assert 0 <= left < right <= 600
    assert 0 <= top < bottom <= 480


def test_labels_when_boxes_coincide_then_do_not_overlap() -> None:
    pen = _Pen.for_picture(Image.new("RGB", (600, 480)))
    for index in range(6):
        pen.name(f"cell 0.{index}0", np.array([200.0, 200.0, 380.0, 330.0]), WHITE)
    rectangles = [label.rectangle for label in pen.labels]
    for index, one in enumerate(rectangles):
        for other in rectangles[:index]:
            assert (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).min() <= 1e-9


def test_names_when_not_latin_then_drawn_without_error() -> None:
    classes = ClassTable(names=("细胞", "ver à soie 🐛"), ids=(0, 1))
    draw_detections(grey(480, 480), found((10, 50, 90, 90), (100, 100, 200, 200)), classes)


def test_label_colours_when_written_on_then_contrast_is_enough_for_text() -> None:
    assert contrast((0, 0, 0), WHITE) == pytest.approx(21)
    assert min(contrast(ink_on(colour), colour) for colour in (*PALETTE, WHITE)) >= 4.5
