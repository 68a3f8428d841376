import json
import sys

import numpy as np
import pytest

from oddetr.evaluation.detections import Detections
from tests.evaluation.builders import CELL, CLASSES, DUST, WORM, found

BOX = (10.0, 10.0, 30.0, 30.0)
SOME = found((CELL, (10, 20, 60, 70), 0.5), (WORM, (30.5, 40, 90, 80), 0.9), (DUST, (0, 0, 5, 5), 0.5))


def test_above_keeps_the_order_and_top_sorts_with_the_earlier_of_equals_first() -> None:
    assert SOME.above(0.6).labels.tolist() == [WORM]
    assert SOME.above(0.5).labels.tolist() == [CELL, WORM, DUST]
    assert len(SOME.above(0.95)) == 0
    assert SOME.top(2).labels.tolist() == [WORM, CELL]
    assert SOME.top(9).labels.tolist() == [WORM, CELL, DUST]


def test_coco_results_have_original_ids_and_xywh_boxes() -> None:
    some = found((CELL, (1.004, 2, 11.126, 5), 0.1234567), (DUST, BOX, 1.0))
    assert json.loads(json.dumps(some.to_coco(31, CLASSES))) == [
        {"image_id": 31, "category_id": 7, "bbox": [1.0, 2.0, 10.12, 3.0], "score": 0.123457},
        {"image_id": 31, "category_id": 4, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 1.0},
    ]
    assert found().to_coco(31, CLASSES) == []


def test_without_duplicates_is_class_wise_nms() -> None:
    """IoU with the first box, which is 10 x 10, and the next best of its class: 0.6 and 0.7; another class has the same
    box. Of a chain, each with IoU 0.7 of the one before, the middle one goes, and so the last one stays."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 6, 10], [0, 0, 7, 10], [0, 0, 10, 10], [0, 0, 4.9, 10]], np.float32)
    some = Detections(boxes[:4], np.array([0.75, 0.5, 0.25, 1.0], np.float32), np.array([1, 1, 1, 0]))
    kept = some.without_duplicates(0.65)
    assert [kept.scores.tolist(), kept.labels.tolist()] == [[1.0, 0.75, 0.5], [0, 1, 1]]
    chain = Detections(boxes[[0, 2, 4]], np.array([0.75, 0.5, 0.25], np.float32), np.array([1, 1, 1]))
    assert chain.without_duplicates(0.65).boxes.tolist() == boxes[[0, 4]].tolist()
    assert len(found().without_duplicates(0.65)) == 0


def test_supervision_draws_the_detections_and_converts_them_back() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    theirs = SOME.to_supervision(CLASSES)
    assert theirs.data["class_name"].tolist() == ["cell", "worm", "dust"]
    scene = np.zeros((100, 100, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), theirs)
    assert drawn[20, 15:60].any(axis=1).all()
    assert not drawn[25:35, 15:25].any()
    assert supervision.LabelAnnotator().annotate(scene.copy(), theirs).any()
    back = Detections.from_supervision(theirs[theirs.confidence >= 0.6])
    for ours, expected in zip(vars(back).values(), vars(SOME.above(0.6)).values(), strict=True):
        assert ours.tolist() == expected.tolist()
    for nothing in (found().to_supervision(CLASSES), supervision.Detections.empty()):
        assert len(Detections.from_supervision(nothing)) == 0


def test_supervision_without_scores_or_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    with pytest.raises(ValueError, match="have no confidence"):
        Detections.from_supervision(supervision.Detections(np.zeros((1, 4)), class_id=np.array([0])))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install supervision"):
        SOME.to_supervision(CLASSES)
