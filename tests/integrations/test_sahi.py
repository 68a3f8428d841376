import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddetr.prediction.predictor import Predictor
from tests.prediction.blobs import blob_predictor, detect_calls, scattered

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    sahi_predict = pytest.importorskip("sahi.predict", reason="SAHI is not installed (the sahi extra)")
from oddetr.integrations.sahi import OddetrDetectionModel


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAHI hides GPUs from the process: only for the test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sahi_when_slicing_a_large_image_then_finds_objects_at_their_places(tmp_path: Path, batch_size: int) -> None:
    image, boxes = scattered(250, 420)
    Image.fromarray(image).save(tmp_path / "large.png")
    model = OddetrDetectionModel(model=blob_predictor(), device="cpu", confidence_threshold=0.4)
    result = sahi_predict.get_sliced_prediction(
        str(tmp_path / "large.png"), model, slice_height=120, slice_width=120, batch_size=batch_size, verbose=0
    )
    found = result.object_prediction_list
    assert sorted(list(each.bbox.to_xyxy()) for each in found) == sorted(boxes.tolist())
    named = {(each.category.id, each.category.name) for each in found}
    assert named == {(3, "grey"), (7, "white")}
    assert max(len(call) for call in detect_calls) == batch_size
    coco = result.to_coco_predictions(image_id=5)
    assert {each["category_id"] for each in coco} == {3, 7}


def test_sahi_when_predicting_a_whole_image_then_finds_what_the_predictor_finds(trained: Path, scenes: Path) -> None:
    file = next((scenes / "test").iterdir())
    model = OddetrDetectionModel(model_path=str(trained), device="cpu", confidence_threshold=0.0)
    assert model.num_categories == 10
    assert model.category_names == list("0123456789")
    assert not model.has_mask
    found = sahi_predict.get_prediction(str(file), model).object_prediction_list
    with Image.open(file) as image:
        (expected,) = Predictor.load(trained).detect([np.asarray(image.convert("RGB"))])
    np.testing.assert_allclose([each.score.value for each in found], expected.scores, atol=1e-5)
    expected = expected.clipped(image.height, image.width)
    np.testing.assert_allclose([each.bbox.to_xyxy() for each in found], expected.boxes, atol=0.05)
    smaller = OddetrDetectionModel(model_path=str(trained), device="cpu", image_size=64)
    assert smaller.model is not None
    assert smaller.model.info.image_size == 64


def test_sahi_when_nothing_is_found_or_given_then_says_so() -> None:
    model = OddetrDetectionModel(model=blob_predictor(), device="cpu")
    empty = np.zeros((200, 200, 3), np.uint8)
    result = sahi_predict.get_sliced_prediction(empty, model, slice_height=100, slice_width=100, verbose=0)
    assert result.object_prediction_list == []
    with pytest.raises(ValueError, match="Give model_path"):
        OddetrDetectionModel(device="cpu")
    with pytest.raises(ValueError, match="No detector is loaded"):
        OddetrDetectionModel(device="cpu", load_at_init=False).perform_inference(empty)
