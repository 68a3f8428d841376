import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import oddetr
from oddetr import cli
from oddetr.checkpoints.checkpoint import CheckpointInfo, load_checkpoint
from oddetr.data.dataset import ClassTable
from oddetr.models.detector import ComposedDetector, Detector
from oddetr.prediction import onnx as export
from oddetr.prediction.predictor import Predictor
from oddetr.structures import Predictions
from tests.models.helpers import SMALL, hollow, small_detector

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLE = Path(__file__).parents[2] / "examples" / "detect_with_onnxruntime.py"
NAMES = ("cat", "dog", "Katze ä")
INFO = CheckpointInfo(SMALL, ClassTable(NAMES, (1, 7, 9)), 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def decided(variant: str) -> Detector:
    """A small detector whose queries differ clearly."""
    detector = small_detector(variant).eval()
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "heads" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return detector


def test_export_when_done_then_file_has_standard_operators_and_classes(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", export.OPSET)]
    assert json.loads({each.key: each.value for each in model.metadata_props}["classes"]) == list("0123456789")


def test_example_when_run_without_torch_then_prints_what_predict_finds(
    exported: Path, trained: Path, tmp_path: Path
) -> None:
    """A photo stored on its side, twice as large as the file's images and narrower: turned, resized, padded."""
    picture = tmp_path / "a photo.png"
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    shown = Image.fromarray(small).resize((256, 192), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    shown.transpose(Image.Transpose.ROTATE_90).save(picture, exif=exif)
    script = EXAMPLE.read_text().replace("score >= thresholds[label]", "score > 0.0")
    assert "torch" not in script.partition('"""\n\n')[2]
    call = [sys.executable, "-c", script, exported, picture]
    lines = subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()
    predictor = Predictor.load(trained)
    resized = np.asarray(shown.resize((128, 96), Image.Resampling.BILINEAR))
    found = predictor.detect([np.zeros((96, 160, 3), np.uint8), resized])[1]
    assert len(lines) == len(found.scores)
    names, scores, _, *boxes = zip(*(line.replace(",", "").split() for line in lines), strict=True)
    np.testing.assert_allclose(np.array(scores, float), found.scores, atol=1e-3)
    assert sorted(names) == sorted(map(str, found.labels))
    distances = np.abs(np.array(boxes, float).T[:, None] - 2 * found.boxes).max(axis=2)
    assert np.mean(distances.min(axis=1) < 1.01) > 0.9  # where two score alike, either may come first


@pytest.mark.slow
def test_export_when_run_by_openvino_then_finds_what_pytorch_finds(exported: Path, trained: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    compiled = openvino.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images, sizes = export._example(3, (96, 160))
    results = compiled({"images": images.numpy(), "sizes": sizes.numpy()})
    found = [results[name] for name in export.WithProcessing.outputs]
    detector, info = load_checkpoint(trained)
    with torch.no_grad():
        ours = [each.numpy() for each in export.WithProcessing(detector, info, 500)(images, sizes)]
    for image in zip(*ours, *found, strict=True):
        assert export.difference(image[:3], image[3:]) < 1e-3


@pytest.mark.parametrize("variant", ["dino", pytest.param("dab", marks=pytest.mark.slow)])
def test_write_onnx_when_of_any_detector_then_agrees_with_pytorch(variant: str, tmp_path: Path) -> None:
    """DINO's queries are the two-stage detector's too, and DAB's boxes are refined as the refined detector's."""
    report = export.write_onnx(decided(variant), INFO, tmp_path / "model.onnx", (64, 96), top_k=7)
    assert report.difference <= export.TOLERANCE
    assert report.outputs["labels"] == "int64 ['batch', 7]"
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}


def test_export_when_the_file_differs_from_pytorch_then_is_not_written(
    exported: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the trained detector, and is compared with another; an earlier file stays."""
    detector, info = load_checkpoint(trained)
    detector.load_state_dict({name: value * 1.1 for name, value in detector.state_dict().items()})
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an earlier one")
    monkeypatch.setattr(export, "_write", lambda module, examples, file, *_: shutil.copy(exported, file))
    with pytest.raises(export.ExportError, match=r"differ by .* more than 1e-04: .*model.onnx is not written"):
        export.write_onnx(detector, info, file, (96, 160))
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    assert file.read_bytes() == b"an earlier one"


def test_export_when_onnxruntime_cannot_read_the_optimized_file_then_writes_a_plain_one(
    exported: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: torch.nn.Module, examples: object, file: Path, metadata: object, optimize: bool) -> None:
        file.write_bytes(b"broken" if optimize or never else exported.read_bytes())

    monkeypatch.setattr(export, "_write", broken)
    never = False
    assert oddetr.export(trained, tmp_path / "a.onnx", 96, 160).difference <= export.TOLERANCE
    never = True
    with pytest.raises(export.ExportError, match="ONNX Runtime cannot run"):
        oddetr.export(trained, tmp_path / "b.onnx", 96, 160)


def test_difference_when_equal_scores_are_swapped_then_is_zero_and_else_not() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.1, 0.1]], np.float32)
    scores, labels = np.array([0.9, 0.9, 0.3, 0.1], np.float32), np.array([0, 1, 1, 0])
    ours = (boxes, scores, labels)
    kept = (boxes[:3], scores[:3], labels[:3])

    def difference(order: list[int], **changes: np.ndarray) -> float:
        found = dict(zip(("boxes", "scores", "labels"), (part[order] for part in kept), strict=True)) | changes
        return export.difference(ours, tuple(found.values()))

    assert difference([0, 1, 2]) == difference([1, 0, 2]) == 0
    assert difference([2, 1, 0]) == pytest.approx(0.6)
    assert difference([0, 1, 2], boxes=boxes[:3] + np.float32(0.01)) == pytest.approx(0.01)
    assert difference([0, 1, 2], labels=np.array([1, 1, 1])) == pytest.approx(0.5)  # from the second's box
    assert difference([0, 1, 2], scores=np.array([0.9, np.nan, 0.3])) == np.inf
    one = tuple(part[:1] for part in ours)
    assert export.difference(ours, (one[0] + np.float32(0.2), *one[1:])) == pytest.approx(0.2)


def test_export_when_asked_for_the_impossible_then_says_what(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for height in (0, 16):
        with pytest.raises(ValueError, match=f"{height} x 96 pixels are too small: a side needs 32"):
            oddetr.export(trained, tmp_path / "a.onnx", height=height)
    with pytest.raises(ValueError, match=r"is a folder. Give the file to write: .*model.onnx"):
        oddetr.export(trained, tmp_path)
    with pytest.raises(ValueError, match="top_k is 0"):
        oddetr.export(trained, tmp_path / "a.onnx", top_k=0)
    assert cli.main(["export", str(tmp_path / "nothing")]) == 1
    assert "There is no" in capsys.readouterr().err

    class Stubborn(ComposedDetector):
        def forward(self, images: torch.Tensor, padding_mask: torch.Tensor) -> Predictions:
            raise NotImplementedError("not today")

    with pytest.raises(export.ExportError, match=r"cannot export this detector .*not today"):
        export.write_onnx(hollow(Stubborn), INFO, tmp_path / "a.onnx", (64, 64))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "a.onnx")]) == 1
    assert "Export needs onnxscript: pip install onnx onnxscript onnxruntime." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_when_called_from_the_shell_then_prints_inputs_and_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stub(checkpoint: Path, out: str, top_k: int, **_: Any) -> export.ExportReport:
        Path(out).touch()
        return export.ExportReport(Path(out), {"images": "uint8"}, {"labels": f"int64 ['batch', {top_k}]"}, 1e-6)

    monkeypatch.setattr(export, "export", functools.wraps(export.export)(stub))
    assert cli.main(["export", "run", "--out", str(tmp_path / "a.onnx"), "--top-k", "7"]) == 0
    told = capsys.readouterr().out
    for fact in ("opset 18", "1e-06", "in  images       uint8", "out labels       int64 ['batch', 7]"):
        assert fact in told


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("RT-DETR v2", (64, 96)), ("deformable refine", (240, 323))])
def test_write_onnx_when_of_transformers_then_agrees_with_pytorch(
    name: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own resizing takes row 179 of 240 for 180, where the last image's padding begins."""
    pytest.importorskip("transformers", minversion="5.23")
    from tests.models.test_huggingface import adapted

    monkeypatch.setenv("TRANSFORMERS_DISABLE_TORCH_CHECK", "0")
    report = export.write_onnx(adapted(name), INFO, tmp_path / "model.onnx", size, top_k=7)
    assert report.difference <= export.TOLERANCE
    assert os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] == "0"
