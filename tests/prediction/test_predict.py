"""Pictures and tables of images: what they say, that they agree, and what is left when something goes wrong."""

import csv
import io
import json
import shutil
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
from oddetr.prediction.outputs import COLUMNS, CsvTable, Result
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


def test_predict_when_given_images_then_writes_pictures_and_coco_json(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    report = oddetr.predict(trained, [str(scenes / "test")], tmp_path / "out", threshold=0.0)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert report.images == len(report.pictures) == len(content["images"]) == 4
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    assert len(content["annotations"]) == report.objects == 4 * 100
    first = content["annotations"][0]
    assert first.keys() == {"id", "image_id", "category_id", "bbox", "score"}
    assert {found["image_id"] for found in content["annotations"]} == {image["id"] for image in content["images"]}
    for picture in report.pictures:
        with Image.open(picture) as drawn:
            assert min(drawn.size) >= 480
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".png", ".json"}


def test_predict_when_all_tables_are_written_then_they_agree(trained: Path, scenes: Path, tmp_path: Path) -> None:
    oddetr.predict(trained, scenes / "test", tmp_path, threshold=0.0, top_k=20, formats="csv,yolo,coco")
    content = json.loads((tmp_path / "detections.json").read_text())
    rows = rows_of(tmp_path / "detections.csv")
    assert len(rows) == len(content["annotations"]) == 4 * 20
    assert tuple(rows[0]) == COLUMNS
    files = {image["id"]: image for image in content["images"]}
    lines: list[list[float]] = []
    for image in files.values():
        text = (tmp_path / "labels" / f"{Path(image['file_name']).stem}.txt").read_text()
        lines += [[float(word) for word in line.split()] for line in text.splitlines()]
    names = {category["id"]: category["name"] for category in content["categories"]}
    order = [category["id"] for category in content["categories"]]
    for found, row, (label, x, y, width, height, score) in zip(content["annotations"], rows, lines, strict=True):
        image = files[found["image_id"]]
        assert row["file"] == image["file_name"]
        assert row["frame"] == row["seconds"] == ""
        assert int(row["class id"]) == found["category_id"] == order[int(label)]
        assert row["class name"] == names[found["category_id"]]
        assert [float(row[name]) for name in COLUMNS[5:]] == [found["score"], *found["bbox"]]
        assert score == found["score"]
        scale = np.array([image["width"], image["height"]] * 2)
        box = np.array([x - width / 2, y - height / 2, width, height]) * scale
        np.testing.assert_allclose(box, found["bbox"], atol=0.011)


def test_predict_when_yolo_is_written_then_our_reader_reads_the_same_boxes(
    blobs: Predictor, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # a second time, over its own
        oddetr.predict("any", pictures, out, formats=["yolo"])
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


def test_predict_when_out_holds_others_labels_then_refuses(blobs: Predictor, pictures: Path, tmp_path: Path) -> None:
    truth = tmp_path / "labels" / "a.txt"
    truth.parent.mkdir()
    truth.write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(ValueError, match=r"holds labels, which oddetr predict did not write"):
        oddetr.predict("any", pictures, tmp_path, formats="yolo")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    with pytest.raises(ValueError, match=r"holds data\.yaml, which"):
        oddetr.predict("any", pictures, tmp_path, formats="yolo")
    assert truth.read_text() == "0 0.5 0.5 0.1 0.1"


def test_predict_when_names_are_odd_then_csv_has_them_unchanged(
    blobs: Predictor, pictures: Path, tmp_path: Path
) -> None:
    oddetr.predict("any", pictures, tmp_path / "out", formats="csv")
    rows = rows_of(tmp_path / "out" / "detections.csv")
    assert {Path(row["file"]).name for row in rows} == {"a.png", "c, =1.png"}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["detections.csv"]
    names = ("=1+1", '@a, "b"\n-c')
    table = CsvTable(tmp_path / "odd.csv", ClassTable(names, (1, 2)))
    found = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.arange(2))
    table.write(Result(View(Path("+x.png"), np.zeros((9, 9, 3), np.uint8)), "+x", found))
    table.close()
    assert [(row["file"], row["class name"]) for row in rows_of(tmp_path / "odd.csv")] == [("+x.png", n) for n in names]


def test_predict_when_classes_are_chosen_then_filters_before_top_k(
    trained: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), str(scenes / "test"), "--out", str(tmp_path), "--threshold", "0"]
    assert cli.main([*arguments, "--classes", "7,3", "--top-k", "5", "--formats", "csv"]) == 0
    rows = rows_of(tmp_path / "detections.csv")
    assert len(rows) == 4 * 5
    assert {row["class name"] for row in rows} <= {"3", "7"}
    assert "20 objects in 4 images: csv in" in capsys.readouterr().out
    assert cli.main([*arguments, "--classes", "3", "--top-k", "1000", "--formats", "csv"]) == 0
    assert len(rows_of(tmp_path / "detections.csv")) == 4 * 12  # of each query
    assert cli.main([*arguments, "--classes", "seven"]) == 1
    assert "The detector does not know the class 'seven'; there is" in capsys.readouterr().err


def test_predict_when_top_k_is_given_then_keeps_the_best_of_each_image(
    blobs: Predictor, pictures: Path, tmp_path: Path
) -> None:
    for side in (None, 60):
        scores: list[list[str]] = []
        for top_k in (None, 2):
            oddetr.predict("any", pictures / "a.png", tmp_path, formats="csv", top_k=top_k, slice=side)
            scores.append([row["score"] for row in rows_of(tmp_path / "detections.csv")])
        assert len(scores[0]) > 2
        assert scores[1] == sorted(scores[0], key=float, reverse=True)[:2]


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


def test_predict_when_an_option_is_wrong_then_says_so_and_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    for name, value, message in (
        ("threshold", 1.5, "The threshold is 1.5"),
        ("batch_size", 0, "The batch size is 0"),
        ("top_k", 0, "top_k is 0"),
        ("slice", 10, "Slices of 10 pixels are too small: a side needs 32"),
        ("formats", "picture", r"no format 'picture' \(is it pictures\?\); there are pictures, coco, csv, yolo"),
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
    arguments = ["predict", "any", str(pictures), "--out", str(out), "--formats", "pictures,coco,csv,yolo"]
    assert cli.main([*arguments, "--batch-size", "1"]) == 130
    assert "Stopped after 1 images and 0 frames; they are in" in capsys.readouterr().out
    content = json.loads((out / "detections.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == ["a.png"]
    assert len(rows_of(out / "detections.csv")) == len(content["annotations"]) > 0
    written = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    assert written == ["a.png", "data.yaml", "detections.csv", "detections.json", "labels/a.txt"]


def test_predict_when_there_is_a_terminal_then_shows_progress(blobs: Predictor, pictures: Path, tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    oddetr.predict("any", pictures, tmp_path / "out", batch_size=1, console=screen)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "/3" in shown
    assert "left" in shown
    silent = Console(file=io.StringIO())
    oddetr.predict("any", pictures, tmp_path / "out", console=silent)
    assert isinstance(silent.file, io.StringIO)
    assert silent.file.getvalue() == ""


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
