"""Pictures and tables of images: what they say, that they agree, and what is left when something goes wrong."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import oddetr
from oddetr import cli
from oddetr.data.dataset import ClassTable
from oddetr.data.formats.files import Files
from oddetr.data.formats.yolo import YOLO
from oddetr.evaluation.detections import Detections
from oddetr.prediction.inputs import View
from oddetr.prediction.outputs import COLUMNS, CsvTable
from oddetr.prediction.predictor import Predictor
from tests.prediction.blobs import CLASSES, blob_predictor, scattered


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Finds blobs, whatever the checkpoint."""
    predictor = blob_predictor()
    monkeypatch.setattr(Predictor, "load", lambda *_: predictor)
    return predictor


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images, of which the second shows nothing."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a.png", (90, 150)), ("b.png", (40, 40)), ("c, =1.png", (150, 80))):
        image = scattered(*size)[0] if name != "b.png" else np.zeros((*size, 3), np.uint8)
        Image.fromarray(image).save(folder / name)
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_predict_when_given_images_then_writes_pictures_and_tables_that_agree(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    report = oddetr.predict(
        trained, [str(scenes / "test")], tmp_path / "out", threshold=0.0, top_k=20, formats="csv,pictures,coco"
    )
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    rows = rows_of(tmp_path / "out" / "detections.csv")
    assert report.images == len(report.pictures) == len(content["images"]) == 4
    assert len(rows) == len(content["annotations"]) == report.objects == 4 * 20
    assert tuple(rows[0]) == COLUMNS
    assert content["annotations"][0].keys() == {"id", "image_id", "category_id", "bbox", "score"}
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for found, row in zip(content["annotations"], rows, strict=True):
        assert row["file"] == files[found["image_id"]]
        assert row["frame"] == row["seconds"] == ""
        assert int(row["class id"]) == found["category_id"]
        assert row["class name"] == names[found["category_id"]]
        assert [float(row[name]) for name in COLUMNS[5:]] == [found["score"], *found["bbox"]]
    for picture in report.pictures:
        with Image.open(picture) as drawn:
            assert min(drawn.size) >= 480
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".png", ".json", ".csv"}


def test_yolo_labels_are_a_data_set_that_train_reads(blobs: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second time over its own files
        oddetr.predict("any", pictures, out, formats="yolo")
    assert (out / "labels" / "b.txt").read_text() == ""
    shutil.copytree(pictures, out / "images")
    files = Files(out)
    folder = YOLO.read(files, "data.yaml")
    assert folder.classes.names == CLASSES.names
    assert not files.faults
    (split,) = folder.splits
    for index, file in enumerate(split.files):
        with Image.open(out / file) as image:
            (found,), size = blobs.detect([np.asarray(image)]), image.size
        ours = split.objects[split.objects["image"] == index]
        np.testing.assert_allclose(ours["box"], found.boxes / [*size, *size], atol=2e-6)
        assert ours["label"].tolist() == found.labels.tolist()
    (out / "data.yaml").write_text("names: [cat]")
    with pytest.raises(ValueError, match="already has labels of another origin"):
        oddetr.predict("any", pictures, out, formats="yolo")


def test_csv_when_names_are_odd_then_has_them_unchanged(tmp_path: Path) -> None:
    names = ("=1+1", '@a, "b"\n-c')
    table = CsvTable(tmp_path / "odd.csv", ClassTable(names, (1, 2)))
    found = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.arange(2))
    table.write(View(Path("+x, =1.png"), "+x", np.zeros((9, 9, 3), np.uint8)), found)
    table.close()
    written = [(row["file"], row["class name"]) for row in rows_of(tmp_path / "odd.csv")]
    assert written == [("+x, =1.png", name) for name in names]


def test_predict_when_classes_are_chosen_then_filters_before_top_k(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), str(scenes / "test"), "--out", str(tmp_path), "--threshold", "0"]
    assert cli.main([*arguments, "--classes", "7,3", "--top-k", "5", "--formats", "csv"]) == 0
    rows = rows_of(tmp_path / "detections.csv")
    assert len(rows) == 4 * 5
    assert {row["class name"] for row in rows} <= {"3", "7"}
    assert "20 objects in 4 images: csv in" in capsys.readouterr().out
    assert cli.main([*arguments, "--classes", "seven"]) == 1
    assert "The detector does not know the class 'seven'; there is" in capsys.readouterr().err


def test_predict_when_sliced_then_tables_have_places_in_the_whole_image(blobs: Predictor, tmp_path: Path) -> None:
    image, boxes = scattered(200, 330)
    Image.fromarray(image).save(tmp_path / "large.png")
    report = oddetr.predict("any", tmp_path / "large.png", tmp_path / "out", slice=90)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    found = [annotation["bbox"] for annotation in content["annotations"]]
    expected = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    assert sorted(found) == sorted(expected.tolist())
    with Image.open(report.pictures[0]) as picture:
        assert picture.size == (1760, 1067)
    oddetr.predict("any", tmp_path / "large.png", tmp_path / "best", slice=90, top_k=2)
    kept = json.loads((tmp_path / "best" / "detections.json").read_text())["annotations"]
    best = sorted((annotation["score"] for annotation in content["annotations"]), reverse=True)[:2]
    assert [annotation["score"] for annotation in kept] == best


def test_predict_when_an_option_is_wrong_then_says_so_and_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    for name, value, message in (
        ("threshold", 1.5, "The threshold is 1.5"),
        ("batch_size", 0, "batch_size is 0"),
        ("top_k", 0, "top_k is 0"),
        ("slice", 10, "slice is 10; it must be at least 32"),
        ("formats", "picture", "no format 'picture'; there are pictures, coco, csv"),
        ("formats", " ,", "No format is named"),
    ):
        with pytest.raises(ValueError, match=message):
            oddetr.predict("any", pictures, tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_predict_when_a_file_is_no_image_then_skips_it_and_says_so(
    blobs: Predictor, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    arguments = ["predict", "any", str(broken), str(pictures / "a.png"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert f"skipped: Cannot read the image {broken}" in told
    assert "objects in 1 images, 1 files skipped: pictures, coco in" in told
    assert cli.main(["predict", "any", str(broken), "--out", str(tmp_path / "out")]) == 1
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["images"] == []


def test_predict_when_interrupted_then_leaves_complete_files_of_results_so_far(
    blobs: Predictor,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    detect = type(blobs).detect

    def once(self: Predictor, *arguments: Any) -> Any:
        monkeypatch.setattr(type(blobs), "detect", stop)
        return detect(self, *arguments)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(blobs), "detect", once)
    out = tmp_path / "out"
    arguments = ["predict", "any", str(pictures), "--out", str(out), "--formats", "pictures,coco,csv"]
    assert cli.main([*arguments, "--batch-size", "1"]) == 130
    assert "Stopped after 1 images and 0 frames; they are in" in capsys.readouterr().out
    content = json.loads((out / "detections.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == ["a.png"]
    assert len(rows_of(out / "detections.csv")) == len(content["annotations"]) > 0
    written = sorted(file.name for file in out.iterdir())
    assert written == ["a.png", "detections.csv", "detections.json"]


def test_predict_when_there_is_a_terminal_then_shows_progress(blobs: Predictor, pictures: Path, tmp_path: Path) -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        oddetr.predict("any", pictures, tmp_path, console=Console(file=screen, force_terminal=terminal, width=100))
        assert ("a.png" in screen.getvalue()) == terminal


def test_predict_when_a_picture_would_replace_an_image_then_refuses(blobs: Predictor, tmp_path: Path) -> None:
    image = tmp_path / "scene.png"
    Image.fromarray(scattered(80, 80)[0]).save(image)
    content = image.read_bytes()
    with pytest.raises(ValueError, match="would be overwritten"):
        oddetr.predict("any", str(image), tmp_path)
    assert image.read_bytes() == content


def test_predict_when_repeated_below_its_images_then_skips_its_own_pictures(blobs: Predictor, pictures: Path) -> None:
    for _ in range(2):
        assert len(oddetr.predict("any", str(pictures), pictures / "found").pictures) == 3


def test_without_a_threshold_each_class_has_that_of_the_teachers_checkpoint(
    monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path
) -> None:
    """Scores lie between 0.5 and 0.6; the student's checkpoint holds none, and neither does that of an older oddetr."""
    plain = blob_predictor()
    known = replace(plain, info=replace(plain.info, thresholds={"grey": 0.4, "white": 0.9}))

    def found(predictor: Predictor, **options: Any) -> set[str]:
        monkeypatch.setattr(Predictor, "load", lambda *_: predictor)
        oddetr.predict("", [str(pictures)], tmp_path / "out", formats="csv", **options)
        return {row["class name"] for row in rows_of(tmp_path / "out" / "detections.csv")}

    assert found(known) == found(known, slice=64) == {"grey"}
    assert found(known, threshold=0.3) == found(plain) == found(replace(known, weights="student")) == {"grey", "white"}
