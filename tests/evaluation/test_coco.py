import json
import math

import numpy as np
import pytest

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.coco import duplicates_suppressed, evaluate_detections
from oddetr.evaluation.detections import Detections

CLASSES = ClassTable(names=("cell", "worm", "dust"), ids=(7, 1, 4))
CELL, WORM, DUST = range(3)


Objects = list[tuple[int, tuple[float, ...]]]


def annotations(
    *images: tuple[int, Objects], areas: list[float] | None = None, crowd: list[bool] | None = None
) -> Annotations:
    """Images as (image id, [(label, xyxy box), ...])."""
    objects = [one for _, image in images for one in image]
    boxes = np.array([box for _, box in objects], dtype=np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Annotations(
        image_ids=np.array([image_id for image_id, _ in images]),
        sizes=np.full((len(images), 2), 300),
        offsets=np.cumsum([0, *(len(image) for _, image in images)]),
        boxes=boxes,
        labels=np.array([label for label, _ in objects], dtype=np.int64),
        areas=sides.prod(axis=1) if areas is None else np.array(areas, dtype=np.float32),
        crowd=np.array([False] * len(objects) if crowd is None else crowd, dtype=bool),
        annotation_ids=np.arange(len(objects)),
    )


def found(*rows: tuple[int, tuple[float, ...], float]) -> Detections:
    """Detections as (label, xyxy box, score)."""
    return Detections(
        boxes=np.array([box for _, box, _ in rows], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in rows], dtype=np.float32),
        labels=np.array([label for label, *_ in rows], dtype=np.int64),
    )


BOX, ELSEWHERE = (10.0, 10.0, 30.0, 30.0), (200.0, 200.0, 220.0, 220.0)
LARGE = (0.0, 0.0, 200.0, 200.0)


def test_perfect_detections_score_one() -> None:
    truth = annotations((5, [(CELL, BOX), (WORM, LARGE)]), (2, [(CELL, BOX)]))
    metrics = evaluate_detections(
        truth, CLASSES, {5: found((CELL, BOX, 0.9), (WORM, LARGE, 0.8)), 2: found((CELL, BOX, 0.3))}
    )
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar) == (1, 1, 1, 1)
    assert (metrics.ap_small, metrics.ap_large) == (1, 1)
    assert math.isnan(metrics.ap_medium)
    assert metrics.per_class["cell"] == metrics.per_class["worm"] == 1
    assert math.isnan(metrics.per_class["dust"])


def test_json_has_cocos_names_and_null_where_undefined() -> None:
    truth = annotations((5, [(CELL, BOX)]))
    written = json.loads(json.dumps(evaluate_detections(truth, CLASSES, {}).to_json(), allow_nan=False))
    assert written == {
        "AP": 0,
        "AP50": 0,
        "AP75": 0,
        "APs": 0,
        "APm": None,
        "APl": None,
        "AR": 0,
        "per_class": {"cell": 0, "worm": None, "dust": None},
    }


@pytest.mark.parametrize("detections", [{}, {5: found()}, {5: found((DUST, BOX, 0.9))}])
def test_ap_is_zero_without_true_positives(detections: dict[int, Detections]) -> None:
    metrics = evaluate_detections(annotations((5, [(CELL, BOX)]), (6, [])), CLASSES, detections)
    assert (metrics.ap, metrics.ap50, metrics.ar, metrics.per_class["cell"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("detections", [{}, {5: found((CELL, BOX, 0.9))}])
@pytest.mark.parametrize("truth", [annotations((5, []), (6, [])), annotations((5, [(CELL, BOX)]), crowd=[True])])
def test_metrics_are_nan_without_objects(truth: Annotations, detections: dict[int, Detections]) -> None:
    metrics = evaluate_detections(truth, CLASSES, detections)
    assert all(math.isnan(value) for value in (metrics.ap, metrics.ap50, metrics.ar, *metrics.per_class.values()))
    suppressed = duplicates_suppressed(metrics, truth, CLASSES, detections)
    assert suppressed.to_json()["AP_without_duplicates"] is None


def test_detection_in_a_crowd_is_ignored() -> None:
    truth = annotations((5, [(CELL, BOX), (CELL, (200, 200, 280, 280))]), crowd=[False, True])
    inside = found((CELL, ELSEWHERE, 0.9), (CELL, BOX, 0.8))
    assert evaluate_detections(truth, CLASSES, {5: inside}).ap == 1


def test_ap_is_half_if_the_better_detection_misses() -> None:
    truth = annotations((5, [(CELL, BOX)]))
    assert evaluate_detections(
        truth, CLASSES, {5: found((CELL, ELSEWHERE, 0.9), (CELL, BOX, 0.8))}
    ).ap == pytest.approx(0.5)


def test_detection_on_an_image_without_objects_counts() -> None:
    truth = annotations((5, [(CELL, BOX)]), (6, []))
    missed = {5: found((CELL, BOX, 0.8)), 6: found((CELL, BOX, 0.9))}
    assert evaluate_detections(truth, CLASSES, missed).ap == pytest.approx(0.5)


def test_object_size_is_the_area_of_its_segment() -> None:
    truth = annotations((5, [(CELL, LARGE)]), areas=[500.0])
    metrics = evaluate_detections(truth, CLASSES, {5: found((CELL, LARGE, 0.9))})
    assert metrics.ap_small == 1
    assert math.isnan(metrics.ap_large)


def test_only_the_best_detections_count() -> None:
    truth = annotations((5, [(CELL, BOX)]))
    detections = {5: found((CELL, BOX, 0.5), (CELL, ELSEWHERE, 0.9), (WORM, BOX, 0.95))}
    assert evaluate_detections(truth, CLASSES, detections, max_detections=1).ap == 0
    assert evaluate_detections(truth, CLASSES, detections, max_detections=2).ap == pytest.approx(0.5)


@pytest.mark.parametrize(("right", "kept"), [(23.0, False), (21.0, True)], ids=["IoU 0.65", "IoU 0.55"])
def test_ap_without_duplicates_by_hand(right: float, kept: bool) -> None:
    """Two objects. Of three detections the second best is a worse box of the first object: up to recall 1/2 precision
    is 1, beyond that 2/3, at 51 and 50 of COCO's 101 recalls."""
    truth = annotations((5, [(CELL, BOX), (CELL, ELSEWHERE)]))
    detections = {5: found((CELL, BOX, 0.9), (CELL, (10, 10, right, 30), 0.8), (CELL, ELSEWHERE, 0.7))}
    metrics = evaluate_detections(truth, CLASSES, detections)
    assert metrics.ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    suppressed = duplicates_suppressed(metrics, truth, CLASSES, detections)
    without = metrics.ap if kept else 1.0
    assert suppressed.to_json() == metrics.to_json() | {"AP_without_duplicates": pytest.approx(without)}


def test_huge_image_ids_stay_apart() -> None:
    truth = annotations((2**62, [(CELL, BOX)]), (2**62 + 1, [(CELL, ELSEWHERE)]))
    detections = {2**62 + 1: found((CELL, ELSEWHERE, 0.9)), 2**62: found((CELL, BOX, 0.9))}
    assert evaluate_detections(truth, CLASSES, detections).ap == 1


def test_evaluation_prints_nothing_and_counts_annotation_id_zero(capfd: pytest.CaptureFixture[str]) -> None:
    truth = annotations((0, [(CELL, BOX)]))
    assert truth.annotation_ids[0] == 0
    assert evaluate_detections(truth, CLASSES, {0: found((CELL, BOX, 0.9))}).ap == 1
    assert capfd.readouterr() == ("", "")


def test_unknown_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"2 image\(s\).*image id 8"):
        evaluate_detections(annotations((5, [])), CLASSES, {9: found(), 8: found()})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((-1, BOX, 0.9), r"label outside 0\.\.2"),
        ((3, BOX, 0.9), r"label outside 0\.\.2"),
        ((CELL, BOX, math.nan), "box or a score"),
        ((CELL, (0.0, 0.0, math.inf, 1.0), 0.5), "box or a score"),
    ],
)
def test_image_of_an_invalid_detection_is_named(wrong: tuple[int, tuple[float, ...], float], message: str) -> None:
    with pytest.raises(ValueError, match=f"image id 5 has a {message}"):
        evaluate_detections(annotations((5, [])), CLASSES, {5: found(wrong)})


def test_above_keeps_the_order() -> None:
    some = found((CELL, BOX, 0.5), (WORM, BOX, 0.9), (DUST, BOX, 0.2))
    assert some.above(0.5).labels.tolist() == [CELL, WORM]
    assert len(some.above(0.95)) == 0


def test_top_puts_the_earlier_of_equals_first() -> None:
    some = found((CELL, BOX, 0.5), (WORM, BOX, 0.9), (DUST, BOX, 0.5))
    assert some.top(2).labels.tolist() == [WORM, CELL]
    assert some.top(9).labels.tolist() == [WORM, CELL, DUST]


def test_coco_results_have_original_ids_and_xywh_boxes() -> None:
    some = found((CELL, (1.004, 2, 11.126, 5), 0.1234567), (DUST, BOX, 1.0))
    assert json.loads(json.dumps(some.to_coco(31, CLASSES))) == [
        {"image_id": 31, "category_id": 7, "bbox": [1.0, 2.0, 10.12, 3.0], "score": 0.123457},
        {"image_id": 31, "category_id": 4, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 1.0},
    ]
    assert found().to_coco(31, CLASSES) == []
