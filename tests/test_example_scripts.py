"""The scripts in examples/ for what comes after training: each under 60 lines, and run here.

Packages that are not on PyPI (Label Studio's ML backend), need a database (FiftyOne) or take minutes (NNCF) are stood
in for by the few names that a script uses; docs/labelling.md and docs/deploy.md say how the
scripts were tried with the real ones.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddetr.prediction.predictor import Predictor
from tests.helpers import load_script
from tests.prediction.blobs import CLASSES, blob_predictor, scattered

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
AFTER_TRAINING = ("fastapi_service", "fiftyone_errors", "label_studio_backend", "openvino_int8")


def imported(name: str) -> Any:
    """A script of examples/ as a module, new each time."""
    return load_script(EXAMPLES / f"{name}.py")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a module of these names in the place of a package, installed or not."""

    def put(package: str, **names: Any) -> None:
        module = ModuleType(package)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, package, module)

    return put


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of blobs, 90 pixels high and 150 wide, for detectors that find blobs."""
    monkeypatch.setattr(Predictor, "load", lambda *_: blob_predictor())
    monkeypatch.setenv("CHECKPOINT", "runs/mine")
    Image.fromarray(scattered(90, 150)[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def boxes_of_photo() -> list[list[float]]:
    """(left, top, width, height) in pixels."""
    boxes = scattered(90, 150)[1]
    return sorted(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist())


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_example_when_it_is_for_after_training_then_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


def test_service_when_sent_an_image_then_answers_what_is_on_it_and_else_refuses(photo: Path) -> None:
    testclient = pytest.importorskip("fastapi.testclient", reason="FastAPI and httpx are not installed")
    service = imported("fastapi_service")
    client = testclient.TestClient(service.app)
    found = client.post("/detect", content=photo.read_bytes()).json()
    assert sorted(each["box"] for each in found) == boxes_of_photo()
    assert found[0].keys() == {"class", "score", "box"}
    assert {each["class"] for each in found} <= {*client.get("/classes").json()} == {*CLASSES.names}
    scores = sorted(each["score"] for each in found)
    some = client.post("/detect", params={"threshold": scores[-1]}, content=photo.read_bytes()).json()
    assert 0 < len(some) < len(found)
    for content, parameters, status in (
        (b"no image", {}, 415),
        (bytes(service.LARGEST + 1), {}, 413),
        (photo.read_bytes(), {"threshold": 2}, 422),
    ):
        assert client.post("/detect", params=parameters, content=content).status_code == status


def test_label_studio_backend_when_asked_for_tasks_then_predicts_labels_of_the_project(
    photo: Path, stand_in: Callable[..., None]
) -> None:
    class Base:
        label_interface = SimpleNamespace(get_control=lambda name: SimpleNamespace(labels=labels[name]))

        def get_first_tag_occurence(self, control: str, image: str) -> tuple[str, str, str]:
            return {"RectangleLabels": "kinds"}[control], {"Image": "picture"}[image], "url"

        def get_local_path(self, url: str, task_id: int) -> str:
            return {("/data/1.png", 7): str(photo)}[url, task_id]

    labels = {"kinds": ["other", "white", "grey"]}
    stand_in("label_studio_ml")
    stand_in("label_studio_ml.api", init_app=None)
    stand_in("label_studio_ml.model", LabelStudioMLBase=Base)
    stand_in("label_studio_ml.response", ModelResponse=SimpleNamespace)
    backend = imported("label_studio_backend").Backend()
    tasks = [{"id": 7, "data": {"url": "/data/1.png"}}]
    response = backend.predict(tasks, context={}, user="any")
    (prediction,) = response.predictions
    assert prediction["model_version"] == response.model_version == "runs/mine"
    sides = [[region["value"][side] for side in ("x", "y", "width", "height")] for region in prediction["result"]]
    pixels = np.array(sides) * [150, 90, 150, 90] / 100
    np.testing.assert_allclose(sorted(pixels.tolist()), boxes_of_photo(), atol=0.01)
    assert {(each["from_name"], each["to_name"]) for each in prediction["result"]} == {("kinds", "picture")}
    labels["kinds"] = ["white"]
    (prediction,) = backend.predict(tasks).predictions
    assert {name for each in prediction["result"] for name in each["value"]["rectanglelabels"]} == {"white"}
    labels["kinds"] = ["other"]
    with pytest.raises(ValueError, match="No label of the project is a class of runs/mine"):
        backend.predict(tasks)


def test_fiftyone_when_given_a_split_then_has_detections_beside_its_objects(
    photo: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Sample(dict):
        filepath = str(photo)

    class Dataset(list):
        @classmethod
        def from_dir(cls, **given: Any) -> "Dataset":
            asked.update(given)
            return cls([Sample()])

        def iter_samples(self, progress: bool, autosave: bool) -> Iterator[Sample]:
            assert autosave
            yield from self

        def evaluate_detections(self, found: str, gt_field: str, eval_key: str) -> SimpleNamespace:
            assert (found, gt_field, eval_key) == ("found", asked["label_field"], "match")
            return SimpleNamespace(print_report=lambda: print("a report"))

        def sort_by(self, field: str, reverse: bool) -> "Dataset":
            assert (field, reverse) == ("match_fn", True)
            return self

    asked: dict[str, Any] = {}
    types = SimpleNamespace(COCODetectionDataset="COCO")
    stand_in(
        "fiftyone",
        types=types,
        Dataset=Dataset,
        DatasetView=Dataset,
        Detection=SimpleNamespace,
        Detections=SimpleNamespace,
    )
    (sample,) = imported("fiftyone_errors").load("runs/mine", "images", "labels.json", threshold=0.0)
    assert (asked["dataset_type"], asked["data_path"], asked["labels_path"]) == ("COCO", "images", "labels.json")
    assert "a report" in capsys.readouterr().out
    found = sample["found"].detections
    pixels = np.array([each.bounding_box for each in found]) * [150, 90, 150, 90]
    np.testing.assert_allclose(sorted(pixels.tolist()), boxes_of_photo(), atol=1e-4)
    assert {each.label for each in found} <= {*CLASSES.names}
    assert all(0.5 < each.confidence <= 1 for each in found)


def test_int8_when_ap_falls_too_far_then_is_not_written(
    exported: Path,
    scenes: Path,
    tmp_path: Path,
    stand_in: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NNCF is stood in for, OpenVINO is not: its model is scored and written, and calibration gets its inputs."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")

    def quantize(model: Any, calibration: list[dict[str, np.ndarray]], model_type: str) -> Any:
        assert len(calibration) == 8
        assert {name: value.shape for name, value in calibration[0].items()} == {
            "images": (1, 96, 160, 3),
            "sizes": (1, 2),
        }
        return model

    stand_in("nncf", Dataset=list, ModelType=SimpleNamespace(TRANSFORMER="transformer"), quantize=quantize)
    script = imported("openvino_int8")
    out = tmp_path / "int8.xml"
    monkeypatch.setattr(sys, "argv", ["openvino_int8.py", str(exported), str(scenes), "--out", str(out)])
    script.main()
    scores = [float(word) for word in capsys.readouterr().out.replace(",", "").split() if word[0].isdigit()]
    assert scores[0] == scores[1]
    assert out.stat().st_size > 0
    out.unlink()
    monkeypatch.setattr(script, "average_precision", lambda *_: next(aps))
    aps = iter([0.5, 0.48])
    with pytest.raises(SystemExit, match=r"int8 loses more than 0\.01 of AP"):
        script.main()
    assert not out.exists()
