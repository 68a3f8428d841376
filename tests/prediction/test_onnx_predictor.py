"""Exported files in the place of checkpoints: they find what PyTorch finds, and others are refused by name."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oddetr
from oddetr import cli
from oddetr.prediction.onnx import ExportError, difference
from oddetr.prediction.onnx_predictor import OnnxPredictor, fitting_shape
from oddetr.prediction.predictor import Predictor

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def noise(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(height + width).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_detect_when_images_are_resized_and_padded_then_finds_what_pytorch_finds(exported: Path, trained: Path) -> None:
    """Images of twice the file's size, of its own, and of its height but narrower; PyTorch pads in one batch, too."""
    images = [noise(192, 320), noise(96, 160), noise(96, 128)]
    predictor, file = Predictor.load(trained), OnnxPredictor.load(exported)
    assert file.classes == predictor.classes
    assert file.reading.grey_bits == (predictor.reading.grey_bits or 16)
    ours = predictor.detect(images, top_k=120)
    found = file.detect(images)
    assert file.detect([]) == []
    for image, one, other in zip(images, ours, found, strict=True):
        extent = np.array([*image.shape[1::-1]] * 2, np.float32)
        sides = [(each.boxes / extent, each.scores, each.labels) for each in (one, other)]
        assert difference(*sides) < 1e-4
    assert len(found[0]) == 100
    assert difference(sides[0], (sides[1][0] + np.float32(0.01), *sides[1][1:])) > 1e-3


def test_detect_when_classes_are_chosen_then_keeps_their_best(exported: Path) -> None:
    file = OnnxPredictor.load(exported)
    (every,) = file.detect([noise(96, 160)])
    (some,) = file.detect([noise(96, 160)], top_k=3, labels=[2, 5])
    chosen = every.take(np.isin(every.labels, [2, 5])).top(3)
    assert len(some) == 3
    np.testing.assert_array_equal(some.boxes, chosen.boxes)
    np.testing.assert_array_equal(some.labels, chosen.labels)


@pytest.mark.parametrize(
    ("shape", "into", "expected"),
    [((200, 100), (320, 320), (320, 160)), ((100, 400), (96, 160), (40, 160)), ((1, 5000), (96, 160), (1, 160))],
)
def test_fitting_shape_when_proportions_differ_then_fills_one_side(
    shape: tuple[int, int], into: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitting_shape(shape, into) == expected


def test_predict_when_given_an_exported_file_then_writes_what_the_checkpoint_writes(
    exported: Path, trained: Path, tmp_path: Path
) -> None:
    Image.fromarray(noise(192, 320)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--threshold", "0", "--formats", "coco"]
    found: list[dict] = []
    for name in (trained, exported):
        out = tmp_path / name.stem
        assert cli.main(["predict", str(name), *words, "--out", str(out)]) == 0
        found.append(json.loads((out / "detections.json").read_text()))
    assert found[0]["images"] == found[1]["images"]
    assert found[0]["categories"] == found[1]["categories"]
    scores = [[each["score"] for each in content["annotations"]] for content in found]
    assert len(scores[0]) == 100
    np.testing.assert_allclose(*scores, atol=1e-4)
    sliced = ["--slice", "160", "--runtime", "onnx", "--out", str(tmp_path / "sliced")]
    assert cli.main(["predict", str(exported), *words, *sliced]) == 0
    assert len(json.loads((tmp_path / "sliced" / "detections.json").read_text())["annotations"]) > 100


def write_foreign(file: Path, metadata: dict[str, str]) -> Path:
    """A model that gives back its images, with the metadata of some other tool."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, file)
    return file


def test_load_when_a_file_is_not_ours_then_says_what_it_lacks(
    exported: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.onnx").write_bytes(exported.read_bytes()[:1000])
    damaged = onnx.load(exported)
    onnx.helper.set_model_props(damaged, {"classes": '["a", "b"]', "class_ids": "[1, true]"})
    onnx.save(damaged, tmp_path / "damaged.onnx")
    for file, message in (
        (tmp_path / "missing.onnx", "There is no .*Write it first: oddetr export"),
        (tmp_path / "torn.onnx", "ONNX Runtime cannot read .*torn.onnx"),
        (write_foreign(tmp_path / "other.onnx", {}), "is not of oddetr export.* x in the place of images, sizes"),
        (tmp_path / "damaged.onnx", "is not of oddetr export, or damaged .*A class id is no whole number"),
    ):
        with pytest.raises(ExportError, match=message):
            oddetr.predict(file, exported, tmp_path / "out")
    for checkpoint, options, message in (
        (trained, {"runtime": "onnx"}, "is a checkpoint. Export it once .oddetr export .*model.onnx"),
        (exported, {"runtime": "torch"}, "is an exported file: PyTorch takes the checkpoint"),
        (exported, {"weights": "student"}, "Export the student's instead"),
    ):
        with pytest.raises(ValueError, match=message):
            oddetr.predict(checkpoint, exported, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="is an exported file, which `oddetr predict` takes"):
        oddetr.evaluate(exported)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="needs onnxruntime: pip install onnxruntime"):
        OnnxPredictor.load(exported)
    assert not (tmp_path / "out").exists()
