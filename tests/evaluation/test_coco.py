import json
import math
from dataclasses import replace

import pytest

from oddetr.data.dataset import Annotations
from oddetr.evaluation.coco import evaluate_detections, metrics_without_duplicates
from oddetr.evaluation.detections import Detections
from tests.evaluation.builders import CELL, CLASSES, DUST, WORM, Box, annotations, found

BOX, ELSEWHERE, LARGE = (10.0, 10.0, 30.0, 30.0), (200.0, 200.0, 220.0, 220.0), (0.0, 0.0, 200.0, 200.0)
ONE = annotations((5, [(CELL, BOX)]), (6, []))
"""A cell on image 5, and an image without objects."""


def test_perfect_detections_score_one(capfd: pytest.CaptureFixture[str]) -> None:
    """The ids are as large as they come, and 0 is one; the size of an object is the area of its segment."""
    truth = annotations((2**62, [(CELL, BOX), (WORM, LARGE)]), (0, [(CELL, BOX)]), areas=[500.0, 40_000.0, 400.0])
    detections = {0: found((CELL, BOX, 0.3)), 2**62: found((CELL, BOX, 0.9), (WORM, LARGE, 0.8))}
    metrics = evaluate_detections(truth, CLASSES, detections)
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar) == (1, 1, 1, 1)
    assert (metrics.ap_small, metrics.ap_large) == (1, 1)
    assert metrics.per_class == pytest.approx({"cell": 1, "worm": 1, "dust": math.nan}, nan_ok=True)
    assert math.isnan(metrics.ap_medium)
    by_segment = evaluate_detections(annotations((5, [(CELL, LARGE)]), areas=[500.0]), CLASSES, {})
    assert by_segment.ap_small == 0
    assert math.isnan(by_segment.ap_large)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("detections", [{}, {5: found()}, {5: found((DUST, BOX, 0.9))}])
def test_scores_without_true_positives_are_zero_and_null_where_undefined(detections: dict[int, Detections]) -> None:
    written = json.loads(json.dumps(evaluate_detections(ONE, CLASSES, detections).to_json(), allow_nan=False))
    zero = dict.fromkeys(("AP", "AP50", "AP75", "APs", "AR"), 0)
    per_class = {"cell": 0, "worm": None, "dust": None}
    assert written == zero | {"APm": None, "APl": None, "per_class": per_class}


@pytest.mark.parametrize("detections", [{}, {5: found((CELL, BOX, 0.9))}])
@pytest.mark.parametrize("truth", [annotations((5, []), (6, [])), annotations((5, [(CELL, BOX)]), crowd=1)])
def test_metrics_are_nan_without_objects(truth: Annotations, detections: dict[int, Detections]) -> None:
    metrics = evaluate_detections(truth, CLASSES, detections)
    assert all(math.isnan(value) for value in (metrics.ap, metrics.ap50, metrics.ar, *metrics.per_class.values()))
    distinct = metrics_without_duplicates(truth, CLASSES, detections)
    assert replace(metrics, ap_without_duplicates=distinct.ap).to_json()["AP_without_duplicates"] is None


@pytest.mark.parametrize(
    ("truth", "detections", "most", "ap"),
    [
        (annotations((5, [(CELL, BOX), (CELL, LARGE)]), crowd=1), {5: [(CELL, (0, 0, 9, 9), 0.9)]}, 100, 1),
        (ONE, {5: [(CELL, ELSEWHERE, 0.9)]}, 100, 0.5),
        (ONE, {6: [(CELL, BOX, 0.9)]}, 100, 0.5),
        (ONE, {5: [(CELL, ELSEWHERE, 0.9), (WORM, BOX, 0.95)]}, 1, 0),
        (ONE, {5: [(CELL, ELSEWHERE, 0.9), (WORM, BOX, 0.95)]}, 2, 0.5),
    ],
    ids=["in a crowd", "better one misses", "on an empty image", "only the best counts", "the best two count"],
)
def test_ap_with_a_better_detection_that_is_wrong(truth: Annotations, detections: dict, most: int, ap: float) -> None:
    rows = {5: [(CELL, BOX, 0.8)]}
    given = {image: found(*detections.get(image, []), *rows.get(image, [])) for image in {*detections, *rows}}
    assert evaluate_detections(truth, CLASSES, given, most).ap == pytest.approx(ap)


@pytest.mark.parametrize(("right", "kept"), [(23.0, False), (21.0, True)], ids=["IoU 0.65", "IoU 0.55"])
def test_ap_without_duplicates_by_hand(right: float, kept: bool) -> None:
    """Two objects. Of three detections the second best is a worse box of the first object: up to recall 1/2 precision
    is 1, beyond that 2/3, at 51 and 50 of COCO's 101 recalls."""
    truth = annotations((5, [(CELL, BOX), (CELL, ELSEWHERE)]))
    detections = {5: found((CELL, BOX, 0.9), (CELL, (10, 10, right, 30), 0.8), (CELL, ELSEWHERE, 0.7))}
    metrics = evaluate_detections(truth, CLASSES, detections)
    assert metrics.ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    distinct = metrics_without_duplicates(truth, CLASSES, detections)
    assert distinct.ap == pytest.approx(metrics.ap if kept else 1.0)
    both = replace(metrics, ap_without_duplicates=distinct.ap).to_json()
    assert both == metrics.to_json() | {"AP_without_duplicates": distinct.ap}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((-1, BOX, 0.9), r"label outside 0\.\.2"),
        ((3, BOX, 0.9), r"label outside 0\.\.2"),
        ((CELL, BOX, math.nan), "box or a score"),
        ((CELL, (0.0, 0.0, math.inf, 1.0), 0.5), "box or a score"),
    ],
)
def test_image_of_an_invalid_detection_is_named(wrong: tuple[int, Box, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"image id 5 has a {message}"):
        evaluate_detections(ONE, CLASSES, {5: found(wrong)})
    with pytest.raises(ValueError, match=r"2 image\(s\).*image id 8"):
        evaluate_detections(ONE, CLASSES, {9: found(), 8: found()})
