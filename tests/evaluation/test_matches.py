import numpy as np
import pytest

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.evaluation.matches import Judged, best_threshold, class_thresholds, confusion, judged
from tests.evaluation.builders import annotations
from tests.evaluation.builders import found as found_rows


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    return found_rows(*((label, box, score) for *box, score, label in rows))


def there(*rows: tuple[float, float, float, float, int], crowd: int = 0) -> Annotations:
    """The last `crowd` rows are regions to ignore."""
    return annotations((1, [(label, box) for *box, label in rows]), crowd=crowd)


def test_only_the_best_detection_of_class_and_place_is_right() -> None:
    result = judged(found((0, 0, 10, 10, 0.5, 1), (0, 0, 10, 9, 0.9, 1)), there((0, 0, 10, 10, 1)))
    assert result.scores.tolist() == pytest.approx([0.9, 0.5])
    assert result.right.tolist() == [True, False]
    wrong = judged(found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1)), there((0, 0, 10, 10, 1)))
    assert not wrong.right.any()
    assert wrong.f1(0.85) == 0.0


def test_detection_in_a_crowd_of_its_class_is_ignored() -> None:
    result = judged(found((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.8, 1)), there((0, 0, 100, 40, 1), crowd=1))
    assert result.scores.tolist() == pytest.approx([0.8])
    assert result.objects == 0
    other_class = judged(found((0, 0, 10, 10, 0.9, 0)), there((0, 0, 100, 40, 1), crowd=1))
    assert other_class.right.tolist() == [False]


def test_f1_is_1_without_objects_and_detections() -> None:
    assert judged(found(), there()).f1(0.5) == 1.0
    assert judged(found((0, 0, 5, 5, 0.6, 0)), there()).f1(0.5) == 0.0
    assert judged(found((0, 0, 5, 5, 0.4, 0)), there()).f1(0.5) == 1.0


@pytest.mark.parametrize(
    ("scores", "right", "objects", "expected"),
    [
        ([0.9, 0.6, 0.3], [True, True, False], 2, (0.6, 1.0)),
        ([0.7, 0.7, 0.7], [True, False, False], 1, (0.7, 0.5)),
        ([0.6251, 0.6249, 0.3], [True, True, False], 2, (0.62, 1.0)),
        ([], [], 3, (0.5, 0.0)),
    ],
    ids=["least score of the right ones", "equal scores together", "two digits", "none right"],
)
def test_best_threshold(scores: list[float], right: list[bool], objects: int, expected: tuple[float, float]) -> None:
    """The detections are spread over two images."""
    images = [
        Judged(np.array(scores[part], np.float32), np.array(right[part], bool), np.zeros(len(right[part]), int), count)
        for part, count in ((slice(1), objects), (slice(1, None), 0))
    ]
    assert best_threshold(images) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("detections", "objects", "expected"),
    [
        (
            [(0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.9, 1), (80, 80, 90, 90, 0.9, 0)],
            there((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1)),
            [[0, 1, 0], [0, 1, 1], [1, 0, 0]],
        ),
        (
            [(0, 0, 10, 8, 0.9, 0), (0, 0, 10, 10, 0.2, 1)],
            there((0, 0, 10, 10, 1)),
            [[0, 0, 0], [0, 1, 0], [1, 0, 0]],
        ),
        ([(0, 0, 10, 10, 0.9, 0)], there((0, 0, 100, 100, 0), crowd=1), [[0, 0, 0]] * 3),
        ([(0, 0, 10, 10, 0.9, 1)], there((0, 0, 100, 100, 0), crowd=1), [[0, 0, 0], [0, 0, 0], [0, 1, 0]]),
    ],
    ids=["pairs, misses, false positives", "the closest is paired", "in a crowd", "in another class's crowd"],
)
def test_confusion(detections: list, objects: Annotations, expected: list) -> None:
    assert confusion(found(*detections), objects, classes=2).tolist() == expected


def test_each_class_has_the_middle_of_its_best_thresholds_and_the_others_the_mean() -> None:
    """Class a: right at 0.8 and 0.6, wrong at 0.2: from 0.21 to 0.60 all is right. Class b: right at 0.1. Class c is
    found wrongly, d not at all."""
    truth = there((0, 0, 10, 10, 0), (20, 20, 30, 30, 0), (40, 40, 50, 50, 1))
    detections = found(
        (0, 0, 10, 10, 0.8, 0), (20, 20, 30, 30, 0.6, 0), (60, 60, 70, 70, 0.2, 0), (40, 40, 50, 50, 0.1, 1),
        (40, 40, 50, 50, 0.9, 2),
    )  # fmt: skip
    classes = ClassTable(("a", "b", "c", "d"), (1, 2, 3, 4))
    expected = {"a": 0.41, "b": 0.05, "c": 0.23, "d": 0.23}
    assert class_thresholds(truth, classes, {1: detections}) == pytest.approx(expected)
    assert class_thresholds(there(), classes, {1: detections}) == {}
