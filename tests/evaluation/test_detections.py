import sys

import numpy as np
import pytest

from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections

CLASSES = ClassTable(("cat", "dog"), (3, 7))


def detections(count: int = 3) -> Detections:
    boxes = np.array([[10, 20, 60, 70], [30.5, 40, 90, 80], [0, 0, 5, 5]], np.float32)
    return Detections(boxes, np.array([0.9, 0.5, 0.25], np.float32), np.array([1, 0, 1])).take(np.arange(count))


def test_without_duplicates_is_class_wise_nms() -> None:
    """IoU with the first box, which is 10 x 10, and the next best of its class: 0.6 and 0.7; another class has the same
    box. Of a chain, each with IoU 0.7 of the one before, the middle one goes, and so the last one stays."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 6, 10], [0, 0, 7, 10], [0, 0, 10, 10], [0, 0, 4.9, 10]], np.float32)
    found = Detections(boxes[:4], np.array([0.75, 0.5, 0.25, 1.0], np.float32), np.array([1, 1, 1, 0]))
    kept = found.without_duplicates(0.65)
    assert [kept.scores.tolist(), kept.labels.tolist()] == [[1.0, 0.75, 0.5], [0, 1, 1]]
    chain = Detections(boxes[[0, 2, 4]], np.array([0.75, 0.5, 0.25], np.float32), np.array([1, 1, 1]))
    assert chain.without_duplicates(0.65).boxes.tolist() == boxes[[0, 4]].tolist()
    assert len(found.take(np.arange(0)).without_duplicates(0.65)) == 0


def test_supervision_round_trip() -> None:
    pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    found = detections().to_supervision(CLASSES)
    assert found.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert found[found.class_id == 0].xyxy.tolist() == [[30.5, 40, 90, 80]]
    back = Detections.from_supervision(found[found.confidence >= 0.5])
    for ours, theirs in zip(
        (back.boxes, back.scores, back.labels), (found.xyxy, found.confidence, found.class_id), strict=True
    ):
        assert ours.tolist() == theirs[:2].tolist()


def test_supervision_draws_boxes_and_names() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    scene, found = np.zeros((100, 100, 3), np.uint8), detections().to_supervision(CLASSES)
    boxes = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), found)
    assert boxes[20, 15:60].any(axis=1).all()
    assert not boxes[25:35, 15:25].any()
    names = supervision.LabelAnnotator().annotate(scene.copy(), found)
    assert names.any()
    other = detections().to_supervision(ClassTable(("cat", "a longer name"), (3, 7)))
    assert (supervision.LabelAnnotator().annotate(scene.copy(), other) != names).any()


def test_supervision_of_no_detections() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    found = detections(0).to_supervision(CLASSES)
    assert len(found) == 0
    supervision.BoxAnnotator().annotate(np.zeros((10, 10, 3), np.uint8), found)
    for each in (found, supervision.Detections.empty()):
        assert len(Detections.from_supervision(each)) == 0


def test_supervision_without_scores_or_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (the supervision extra)")
    bare = supervision.Detections(np.zeros((1, 4)), class_id=np.array([0]))
    with pytest.raises(ValueError, match="have no confidence"):
        Detections.from_supervision(bare)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install supervision"):
        detections().to_supervision(CLASSES)
