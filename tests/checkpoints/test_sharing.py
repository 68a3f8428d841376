"""Save, card, upload and download by the Hub's conventions. There is no network: the hub is a folder."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import oddetr
import oddetr.prediction.onnx
from oddetr import Predictor, cli
from oddetr.checkpoints.checkpoint import CheckpointError, CheckpointInfo, find_checkpoint, load_checkpoint, read_info
from oddetr.checkpoints.sharing import without_paths
from oddetr.data.dataset import ClassTable
from oddetr.models.transformers.config import HuggingFaceConfig
from tests.helpers import without_checksums
from tests.models.helpers import SMALL, small_detector
from tests.strange import Bomb, armed

CPU = torch.device("cpu")
SAVED = {"README.md", "checkpoint.json", "model.safetensors"}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(2)]


def assert_same_detections(found: Predictor, expected: Predictor) -> None:
    for ours, theirs in zip(found.detect(images()), expected.detect(images()), strict=True):
        for part in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
        assert len(np.unique(ours.scores)) > 10, "equal scores would tell nothing"


@pytest.fixture(scope="module")
def saved(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "saved"
    Predictor.load(trained).save_pretrained(folder, student=True)
    return folder


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Makes a folder the repository user/cells; what was asked for is listed in what it returns."""

    def serve(repository: Path = saved) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, *, allow_patterns: list[str], **more: Any) -> str:
            asked.append({"repo_id": repo_id, "allow_patterns": allow_patterns, **more})
            folder = tmp_path / "snapshot"
            folder.mkdir(exist_ok=True)
            for file in huggingface_hub.utils.filter_repo_objects(
                sorted(names(repository)), allow_patterns=allow_patterns
            ):
                shutil.copy(repository / file, folder / file)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return serve


def test_detections_after_saving_and_loading_are_equal_to_the_bit(saved: Path, trained: Path) -> None:
    assert names(saved) == SAVED | {"student.safetensors"}
    for weights in ("teacher", "student"):
        again = Predictor.from_pretrained(saved, weights=weights)
        assert_same_detections(again, Predictor.load(trained, weights))


def test_detections_of_a_saved_transformers_detector_are_equal_to_the_bit(tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5.23")
    from tests.models.test_huggingface import adapted

    detector = adapted("RT-DETR v2")
    detector.config._name_or_path = str(tmp_path)
    made_of = HuggingFaceConfig(detector.config.to_dict() | {"_name_or_path": str(tmp_path)})
    info = CheckpointInfo(made_of, ClassTable(("/m/01", "b", "c"), (1, 2, 3)), 64, detector.mean, detector.std)
    info = replace(info, configuration={"data": str(tmp_path), "detector": {"_name_or_path": str(tmp_path)}})
    predictor = Predictor(detector, info, CPU)
    predictor.save_pretrained(tmp_path / "saved")
    assert names(tmp_path / "saved") == SAVED | {"config.json"}
    assert_same_detections(Predictor.from_pretrained(tmp_path / "saved"), predictor)
    assert read_info(tmp_path / "saved").classes.names == ("/m/01", "b", "c")
    for file in ("README.md", "checkpoint.json", "config.json"):
        assert str(tmp_path) not in (tmp_path / "saved" / file).read_text()


def test_saved_folder_holds_no_path_of_this_machine(saved: Path, trained: Path, scenes: Path) -> None:
    assert str(scenes) in (trained / "best" / "checkpoint.json").read_text()
    for file in ("README.md", "checkpoint.json"):
        told = (saved / file).read_text()
        assert scenes.name in told
        assert str(scenes.parent) not in told
        assert str(trained.parent) not in told


@pytest.mark.parametrize("path", ["/home/me/cells", "C:\\data\\cells", "../../cells/", "~/cells"])
def test_without_paths_keeps_only_the_last_part(path: str) -> None:
    run = info(data=path, init=path, model=f"hf:{path}", trainer={"plugins": [path], "devices": 2})
    found = without_paths(run).configuration
    assert found["data"] == found["init"] == "cells"
    if not path.startswith(".."):
        assert found["trainer"] == {"plugins": ["cells"], "devices": 2}
        assert found["model"] == "hf:cells"
    on_the_hub = info(init="hf:user/cells", model="hf:PekingU/rtdetr_v2_r18vd")
    assert without_paths(on_the_hub) == on_the_hub


def info(
    classes: tuple[str, ...] = ("a", "b", "c"), scores: dict[str, Any] | None = None, **run: Any
) -> CheckpointInfo:
    table = ClassTable(classes, tuple(range(7, 7 + len(classes))))
    return CheckpointInfo(SMALL, table, 64, (0.5,) * 3, (0.2,) * 3, metrics=scores or {}, configuration=run)


def test_card_holds_the_scores(saved: Path, scenes: Path) -> None:
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    metrics = read_info(saved).metrics
    assert card.data.library_name == "oddetr"
    assert card.data.pipeline_tag == "object-detection"
    assert card.data.get("license") is None
    assert {"od-detr", "deformable-detr"} <= set(card.data.tags)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert set(results) == {"AP", "AP50", "AP75"}
    for name, result in results.items():
        assert result.metric_value == round(metrics["teacher"][name], 4)
        assert (result.dataset_name, result.dataset_split) == (scenes.name, "val")
    for name in ("AP", "AP50", "AR"):
        scores = " | ".join(f"{metrics[whose][name]:.3f}" for whose in ("teacher", "student"))
        assert f"| {name} | {scores} |" in card.text
    for name, score in metrics["teacher"]["per_class"].items():
        assert f"| {name} | {name} | {'-' if score is None else f'{score:.3f}'} |" in card.text
    assert "Training images: 8.\nValidation images: 4." in card.text
    assert "matching (weight 1), prediction (weight 0.3)" in card.text
    assert "It returns up to 100 detections per image" in card.text


def test_card_python_example_runs(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    assert 'from_pretrained("saved")' in program
    Image.fromarray(images()[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(program.replace('"saved"', repr(str(saved))), {})
    assert len(capsys.readouterr().out.splitlines()) == 100


HOSTILE = ("a|b", "new\nline", "<script>alert(1)</script>", "--- {x}: [y] # 'z' \"", "{{ 7 * 7 }} `code` *b* \\")


def test_card_when_class_names_are_hostile_then_stays_well_formed(tmp_path: Path) -> None:
    per_class = {name: 0.1 * index for index, name in enumerate(HOSTILE)}
    scores = {"AP": 0.2, "AP50": 0.3, "AP75": None, "per_class": per_class}
    information = info(
        HOSTILE, {"teacher": scores, "student": scores}, data="---\nname: {x}", trainer={"limit_val_batches": 3}
    )
    detector = small_detector("plain", num_classes=len(HOSTILE))
    Predictor(detector, information, CPU).save_pretrained(tmp_path / "sa'v\"ed", license="other: [x]")
    card = huggingface_hub.ModelCard.load(tmp_path / "sa'v\"ed" / "README.md")
    assert card.data.license == "other: [x]"
    assert card.data.eval_results[0].dataset_name == "---\nname: {x}"
    assert {result.metric_type for result in card.data.eval_results} == {"AP", "AP50"}
    rows = [row for row in card.text.splitlines() if re.match(r"\| \d+ \| ", row)]
    assert [row.split(" | ")[0] for row in rows] == [f"| {number}" for number in range(7, 12)]
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows] == [4] * 5
    assert "<script>" not in card.text
    assert "{{ 7 \\* 7 }} \\`code\\`" in rows[4]
    assert "on the validation split (its first 3 batches)" in card.text
    assert "AP75" not in card.text


def test_card_when_the_run_is_unknown_then_invents_nothing(tmp_path: Path) -> None:
    Predictor(small_detector("plain"), info(), CPU).save_pretrained(tmp_path / "saved")
    card = huggingface_hub.ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.eval_results is None
    assert "od-detr" not in card.data.tags
    headings = re.findall(r"^## (.*)", card.text, re.MULTILINE)
    assert headings == ["What it detects", "How to use it", "Limits", "Versions"]
    assert "| 7 | a |\n" in card.text
    assert not re.search(r"None|teacher|trained (with|on)", card.text)


def test_card_names_the_distillation_and_the_detectors_number_of_detections(tmp_path: Path) -> None:
    """DINO keeps 300 detections of an image."""
    weights = {"matching": {"weight": 1}, "prediction": {"weight": 0}, "auxiliary": {"weight": 0.5}}
    run = info(epochs=12, distillation={"enabled": True, **weights}, data="digits", digits={"fresh": True})
    Predictor(small_detector("dino", top_k=300), run, CPU).save_pretrained(tmp_path / "saved")
    card = huggingface_hub.ModelCard.load(tmp_path / "saved" / "README.md")
    assert "On, from an EMA teacher: matching (weight 1), auxiliary (weight 0.5)." in card.text
    assert "oddetr's built-in digit scenes, drawn anew in each epoch" in card.text
    assert "It returns up to 300 detections per image" in card.text


def test_save_pretrained_replaces_only_its_own_files(trained: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(trained)
    before = names(trained / "last")
    with pytest.raises(ValueError, match="not written by save_pretrained"):
        predictor.save_pretrained(trained / "last")
    assert names(trained / "last") == before
    predictor.save_pretrained(tmp_path, student=True)
    (tmp_path / "notes.txt").write_text("mine")
    predictor.save_pretrained(tmp_path)
    assert names(tmp_path) == SAVED | {"notes.txt"}
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(ValueError, match=r"holds .*README\.md"):
        predictor.save_pretrained(tmp_path)


def test_save_pretrained_of_the_student_saves_the_teacher_too(trained: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(trained, "student")
    predictor.save_pretrained(tmp_path / "saved")
    assert_same_detections(Predictor.from_pretrained(tmp_path / "saved", weights="student"), predictor)
    assert names(tmp_path / "saved") == SAVED | {"student.safetensors"}
    with pytest.raises(ValueError, match="has no teacher's weights"):
        replace(predictor, checkpoint=None).save_pretrained(tmp_path / "other")


def test_from_pretrained_fetches_only_the_files_it_reads(hub: Callable[..., Any], trained: Path) -> None:
    asked = hub()
    found = Predictor.from_pretrained("user/cells", revision="v1", token="hf_x", cache_dir="cache")
    assert_same_detections(found, Predictor.load(trained))
    (call,) = asked
    assert call["allow_patterns"] == ["checkpoint.json", "config.json", "model.safetensors"]
    assert call.items() >= {"repo_id": "user/cells", "revision": "v1", "token": "hf_x", "cache_dir": "cache"}.items()
    load_checkpoint(Path("hf:user/cells@v2"), "student")
    assert asked[1]["revision"] == "v2"
    assert "student.safetensors" in asked[1]["allow_patterns"]


def test_verbs_read_a_saved_folder_and_a_name_on_the_hub(
    saved: Path,
    hub: Callable[..., Any],
    scenes: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = hub()
    metrics = oddetr.evaluate(saved, data=str(scenes), batch_size=4)
    assert metrics.ap == pytest.approx(read_info(saved).metrics["teacher"]["AP"], abs=1e-9)
    report, exported = oddetr.prediction.onnx.ExportReport(tmp_path / "model.onnx", {}, {}, 0.0), list[Any]()
    monkeypatch.setattr(oddetr.prediction.onnx, "write_onnx", lambda *given: (exported.append(given[0]), report)[1])
    assert oddetr.export("hf:user/cells", tmp_path / "model.onnx") == report
    weights = exported[0].state_dict()
    assert all(value.equal(weights[name]) for name, value in load_checkpoint(saved)[0].state_dict().items())
    pictures = ["predict", "hf:user/cells", str(scenes / "test"), "--out", str(tmp_path / "found")]
    assert cli.main(pictures) == 0, capsys.readouterr().err
    arguments = {name: value for name, value in tiny.items() if name not in ("model", "detector")}
    run = find_checkpoint(oddetr.train(**arguments | {"init": "hf:user/cells", "epochs": 1}))
    assert read_info(run).detector == read_info(saved).detector
    assert read_info(run).configuration["init"] == "hf:user/cells"
    assert {call["repo_id"] for call in asked} == {"user/cells"}


def test_from_pretrained_neither_fetches_nor_opens_pickles(
    hub: Callable[..., Any], saved: Path, tmp_path: Path
) -> None:
    repository, exploded = tmp_path / "repository", armed(tmp_path)
    shutil.copytree(saved, repository)
    pickles = ("resume.ckpt", "pytorch_model.bin", "model.pth", "model.pkl", "checkpoint.pt")
    for name in pickles:
        (repository / name).write_bytes(pickle.dumps(Bomb(exploded)))
    hub(repository)
    Predictor.from_pretrained("user/cells")
    assert not set(pickles) & names(tmp_path / "snapshot")
    Predictor.from_pretrained(repository)
    (repository / "model.safetensors").write_bytes(pickle.dumps(Bomb(exploded)))
    for name in (repository, "user/cells"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            Predictor.from_pretrained(name)
    assert not exploded.exists()


def test_from_pretrained_when_the_repository_is_none_then_says_so(hub: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "config.json").write_text("{}")
    hub(tmp_path / "repository")
    with pytest.raises(CheckpointError, match=r"user/cells on the Hub has no checkpoint\.json and no model\.safetens"):
        Predictor.from_pretrained("user/cells")


def test_old_description_without_image_counts_is_read(saved: Path, tmp_path: Path) -> None:
    content = json.loads((saved / "checkpoint.json").read_text())
    assert content.pop("images") == {"train": 8, "val": 4}
    (tmp_path / "checkpoint.json").write_text(json.dumps(content))
    without_checksums(tmp_path)
    assert read_info(tmp_path).images == {}
