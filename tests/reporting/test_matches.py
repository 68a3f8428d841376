import numpy as np
import pytest

from oddetr.evaluation.detections import Detections
from oddetr.reporting.matches import Judged, Objects, best_threshold, confusion, judged


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def there(*rows: tuple[float, float, float, float, int], crowd: int = 0) -> Objects:
    """The last `crowd` rows are regions to ignore."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    ignore = np.arange(len(table)) >= len(table) - crowd
    return Objects(table[:, :4], table[:, 4].astype(np.int64), ignore)


def test_judged_when_an_object_is_found_twice_then_the_better_score_is_right() -> None:
    result = judged(found((0, 0, 10, 10, 0.5, 1), (0, 0, 10, 9, 0.9, 1)), there((0, 0, 10, 10, 1)))

    assert result.scores.tolist() == pytest.approx([0.9, 0.5])
    assert result.right.tolist() == [True, False]


def test_judged_when_class_or_place_is_wrong_then_it_is_not_right() -> None:
    result = judged(found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1)), there((0, 0, 10, 10, 1)))

    assert not result.right.any()
    assert result.f1(0.85) == 0.0


def test_judged_when_detection_lies_in_a_crowd_then_it_does_not_count() -> None:
    result = judged(found((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.8, 1)), there((0, 0, 100, 40, 1), crowd=1))

    assert result.scores.tolist() == pytest.approx([0.8])
    assert result.objects == 0


def test_judged_when_detection_lies_in_a_crowd_of_another_class_then_it_is_wrong_as_in_coco() -> None:
    result = judged(found((0, 0, 10, 10, 0.9, 0)), there((0, 0, 100, 40, 1), crowd=1))

    assert result.right.tolist() == [False]


def test_judged_when_nothing_is_there_and_nothing_found_then_f1_is_1() -> None:
    assert judged(found(), there()).f1(0.5) == 1.0
    assert judged(found((0, 0, 5, 5, 0.6, 0)), there()).f1(0.5) == 0.0
    assert judged(found((0, 0, 5, 5, 0.4, 0)), there()).f1(0.5) == 1.0


def test_best_threshold_when_wrong_ones_score_lower_then_it_is_the_least_score_of_the_right_ones() -> None:
    images = [
        Judged(np.array([0.9, 0.3], np.float32), np.array([True, False]), 1),
        Judged(np.array([0.6], np.float32), np.array([True]), 1),
    ]

    assert best_threshold(images) == pytest.approx((0.6, 1.0))


def test_best_threshold_when_scores_are_equal_then_they_are_shown_together() -> None:
    images = [Judged(np.array([0.7, 0.7, 0.7], np.float32), np.array([True, False, False]), 1)]

    assert best_threshold(images) == pytest.approx((0.7, 0.5))


def test_best_threshold_when_scores_have_many_digits_then_is_one_that_can_be_typed() -> None:
    images = [Judged(np.array([0.6251, 0.6249, 0.3], np.float32), np.array([True, True, False]), 2)]

    assert best_threshold(images) == pytest.approx((0.62, 1.0))


def test_best_threshold_when_nothing_is_right_then_is_a_half() -> None:
    assert best_threshold([Judged(np.zeros(0, np.float32), np.zeros(0, bool), 3)]) == (0.5, 0.0)


def test_confusion_when_classes_are_mixed_up_then_counts_pairs_misses_and_inventions() -> None:
    table = confusion(
        found((0, 0, 10, 10, 0.9, 1), (20, 0, 30, 10, 0.9, 1), (80, 80, 90, 90, 0.9, 0)),
        there((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 1)),
        classes=2,
    )

    assert table.tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_confusion_when_two_are_near_an_object_then_the_closer_has_it() -> None:
    table = confusion(found((0, 0, 10, 8, 0.9, 0), (0, 0, 10, 10, 0.2, 1)), there((0, 0, 10, 10, 1)), classes=2)

    assert table.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_confusion_when_there_is_a_crowd_then_what_is_in_it_is_no_invention() -> None:
    table = confusion(found((0, 0, 10, 10, 0.9, 0)), there((0, 0, 100, 100, 0), crowd=1), classes=1)

    assert table.tolist() == [[0, 0], [0, 0]]


def test_confusion_when_a_crowd_is_of_another_class_then_what_is_in_it_is_an_invention() -> None:
    table = confusion(found((0, 0, 10, 10, 0.9, 1)), there((0, 0, 100, 100, 0), crowd=1), classes=2)

    assert table.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
