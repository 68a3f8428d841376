import numpy as np

from oddetr.evaluation.detections import Detections
from oddetr.prediction.slicing import detect_sliced, without_duplicates
from tests.prediction.blobs import blob_predictor, detect_calls, scattered


def test_detect_sliced_when_objects_lie_across_slices_then_finds_each_once() -> None:
    image, boxes = scattered(250, 420)
    predictor = blob_predictor()
    (whole,) = predictor.detect([image])
    assert len(whole) == len(boxes) > 50
    detect_calls.clear()
    found = detect_sliced(predictor, image, 120, threshold=0.4, batch_size=4)
    assert sorted(found.boxes.tolist()) == sorted(boxes.tolist())
    assert (np.diff(found.scores) <= 0).all()
    assert detect_calls[0] == [(250, 420)]
    assert [len(call) for call in detect_calls[1:]] == [4, 4, 4, 3]
    assert {size for call in detect_calls[1:] for size in call} == {(120, 120)}
    detect_calls.clear()
    detect_sliced(predictor, image[:100, :120], 120, threshold=0.4)
    assert detect_calls == [[(100, 120)]]


def test_detect_sliced_when_an_object_is_larger_than_a_slice_then_is_found_whole() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:180, 30:250] = 255
    found = detect_sliced(blob_predictor(), image, 100, threshold=0.4)
    assert found.boxes.tolist() == [[30, 40, 250, 180]]


def test_detect_sliced_when_nothing_is_there_or_wanted_then_is_empty() -> None:
    image, boxes = scattered(200, 200)
    predictor = blob_predictor()
    assert len(detect_sliced(predictor, np.zeros_like(image), 100, threshold=0.0)) == 0
    assert len(detect_sliced(predictor, image, 100, threshold=0.9)) == 0
    high = detect_sliced(predictor, image, 100, threshold=0.4, labels=[1])
    assert 0 < len(high) < len(boxes)
    assert set(high.labels.tolist()) == {1}


def test_without_duplicates_when_cut_boxes_score_higher_then_the_whole_box_stays() -> None:
    boxes = np.array(
        [[0, 0, 100, 40], [0, 0, 55, 40], [2, 0, 40, 41], [200, 0, 240, 40], [201, 0, 240, 40]], np.float32
    )
    labels = np.array([0, 0, 1, 0, 0])
    detections = Detections(boxes, np.array([0.6, 0.9, 0.8, 0.5, 0.7], np.float32), labels)
    found = without_duplicates(detections, np.array([False, True, True, False, False]))
    assert found.boxes.tolist() == boxes[[4, 0]].tolist()
    kept = without_duplicates(detections, np.zeros(5, bool))
    assert kept.boxes.tolist() == boxes[[1, 2, 4]].tolist()  # the larger IoU is 0.55
