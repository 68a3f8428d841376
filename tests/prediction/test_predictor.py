import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import oddetr
from oddetr.checkpoints.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from oddetr.data.images import read_image
from oddetr.data.sources import open_sources
from oddetr.evaluation.postprocessing import postprocess
from oddetr.prediction.predictor import Predictor
from oddetr.structures import Predictions


def test_postprocess_when_scores_are_known_then_ranks_queries_and_classes_together() -> None:
    """Query 0 scores high for both classes: it gives two of the three best. Height 100, width 200 pixels.

    Only the last of two layers counts.
    """
    logits = torch.tensor([[[9.0, 9.0], [9.0, 9.0]], [[3.0, 2.0], [1.0, -5.0]]]).view(2, 1, 2, 2)
    boxes = torch.tensor([[[0.5] * 4] * 2, [[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.1, 0.1]]]).view(2, 1, 2, 4)
    predictions = Predictions(logits, boxes, torch.zeros(2, 1, 2, 1))
    (found,) = postprocess(predictions, torch.tensor([[100, 200]]), top_k=3)
    assert found.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid(), rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [[80, 30, 120, 70], [80, 30, 120, 70], [40, 20, 60, 30]], atol=1e-4)
    np.testing.assert_allclose(found.clipped(60, 50).boxes, [[50, 30, 50, 60], [50, 30, 50, 60], [40, 20, 50, 30]])


def test_postprocess_when_classes_are_chosen_then_only_these_are_ranked() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0], [1.0, -5.0, -1.0]]).view(1, 1, 2, 3)
    predictions = Predictions(logits, torch.full((1, 1, 2, 4), 0.5), torch.zeros(1, 1, 2, 1))
    (found,) = postprocess(predictions, torch.tensor([[100, 200]]), top_k=3, labels=[1, 2])
    assert found.labels.tolist() == [1, 2, 2]
    np.testing.assert_allclose(found.scores, torch.tensor([2.0, 0.0, -1.0]).sigmoid(), rtol=1e-6)


def test_predictor_when_images_of_one_size_are_batched_then_finds_the_same(trained: Path) -> None:
    images = [*np.random.default_rng(0).integers(0, 256, (2, 96, 150, 3), dtype=np.uint8)]
    predictor = Predictor.load(trained)
    assert predictor.detect([]) == []
    predictor.detector.top_k = 7
    together = predictor.detect(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor.detect([image])
        assert len(alone) == 7
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.05)
        assert len(predictor.detect([image], top_k=3)[0]) == 3


def test_evaluate_when_repeating_the_validation_of_training_then_writes_its_scores(
    trained: Path, tmp_path: Path
) -> None:
    described = json.loads((trained / "best" / "checkpoint.json").read_text())
    for weights in ("teacher", "student"):
        metrics = oddetr.evaluate(trained, weights=weights, json=tmp_path / "new" / "scores.json")
        assert metrics.ap == pytest.approx(described["metrics"][weights]["AP"], abs=1e-9)
    scores = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert scores.keys() == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "per_class", "AP_without_duplicates"}
    assert set(scores["per_class"]) == set("0123456789")
    assert (scores["AP"], scores["AP_without_duplicates"]) == (metrics.ap, metrics.ap_without_duplicates)


def test_evaluate_when_an_argument_is_wrong_then_says_so(trained: Path, real_data: Path) -> None:
    with pytest.raises(ValueError, match="The batch size is 0; it must be at least 1"):
        oddetr.evaluate("nowhere", batch_size=0)
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val, test"):
        oddetr.evaluate(trained, split="dev")
    with pytest.raises(ValueError, match="detector does not know: Platelets, RBC, WBC"):
        oddetr.evaluate(trained, data=str(real_data / "bccd"), split="test")


def test_evaluate_when_data_has_only_some_classes_reordered_then_scores_these(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(scenes, tmp_path / "scenes")
    for file in data.rglob("*.json"):
        content = json.loads(file.read_text())
        kept = [each for each in content["annotations"] if each["category_id"] % 2 == 0]
        order = [each for each in content["categories"] if each["id"] % 2 == 0][::-1]
        new = {each["id"]: number for number, each in enumerate(order, start=1)}
        content["annotations"] = [each | {"category_id": new[each["category_id"]]} for each in kept]
        content["categories"] = [{"id": new[each["id"]], "name": each["name"]} for each in order]
        file.write_text(json.dumps(content))
    predictor = Predictor.load(trained)
    source = open_sources(str(data))["val"]
    everything = dict(predictor.detect_source(open_sources(str(scenes))["val"]))

    metrics = oddetr.evaluate(trained, data=str(data))
    found = dict(predictor.detect_source(source))

    assert [*metrics.per_class] == [*source.classes.names] == ["8", "6", "4", "2", "0"]
    for image, detections in found.items():
        names = [source.classes.names[label] for label in detections.labels]
        expected = everything[image].above(float(detections.scores.min()))
        wanted = [predictor.classes.names[label] for label in expected.labels]
        common = [name for name in wanted if int(name) % 2 == 0]
        assert names[: len(common)] == common


def test_checkpoint_when_named_by_run_folder_or_file_then_is_found(trained: Path) -> None:
    detector, info = load_checkpoint(trained)
    assert (detector.training, info.epoch, len(info.classes)) == (False, 1, 10)
    for part, folder in (("", "best"), ("last", "last"), ("best/model.safetensors", "best")):
        assert find_checkpoint(trained / part) == trained / folder
    assert find_checkpoint(trained / "last" / "checkpoint.json") == trained / "last"


def test_checkpoint_when_it_cannot_be_read_then_says_what_to_do(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="after its first save"):
        find_checkpoint(tmp_path)
    for name in ("model.safetensors", "checkpoint.json"):
        (tmp_path / name).write_bytes((trained / "best" / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"no student\.safetensors in it, only model\.safetensors, the teacher's"):
        load_checkpoint(tmp_path, "student")
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not hold the teacher's weights, model\.safetensors does"):
        load_checkpoint(trained / "best" / "student.safetensors")


@pytest.mark.parametrize(("recorded", "asked"), [(10**9, 64), (3, 3), (None, 8)])
def test_detect_source_when_the_batch_size_is_recorded_then_takes_it_up_to_a_limit(
    recorded: int | None, asked: int, trained: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        "oddetr.prediction.predictor.make_loader", lambda _, __, size, workers: sizes.append(size) or []
    )
    predictor = Predictor.load(trained)
    predictor = replace(predictor, info=replace(predictor.info, configuration={"batch_size": recorded}))
    assert not [*predictor.detect_source(open_sources(str(scenes))["val"])]
    assert sizes == [asked]


def test_grey_images_of_16_bits_are_read_as_in_training(finished: Path, tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((40, 60), 4095, dtype=np.uint16))
    deep.save(tmp_path / "deep.png")
    predictor = Predictor.load(finished)
    trained_on_12 = replace(predictor, info=replace(predictor.info, configuration={"grey_bits": 12}))

    usual, scaled = (read_image(tmp_path / "deep.png", each.reading) for each in (predictor, trained_on_12))

    assert (usual.max(), scaled.min()) == (15, 255)
