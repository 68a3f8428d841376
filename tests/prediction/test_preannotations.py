"""Pre-annotations: the structure that Label Studio's and CVAT's own readers took (docs/labelling.md says which), places
in the upright image, and the names by which both find images."""

import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import oddetr
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.inputs import View
from oddetr.prediction.preannotations import Cvat, LabelStudio
from oddetr.prediction.predictor import Predictor
from tests.prediction.blobs import CLASSES, blob_predictor, scattered

ODD = "b & 100% #1+é.png"
"""A name that an address must escape."""
TOP_ROW_IS_RIGHT_SIDE = 6
"""An EXIF orientation: the image is stored on its left side."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of an image, and below it of the same stored on its side."""
    monkeypatch.setattr(Predictor, "load", lambda *_: blob_predictor())
    monkeypatch.chdir(tmp_path)
    image = Image.fromarray(scattered(90, 150)[0])
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    image.save(tmp_path / "photos" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = TOP_ROW_IS_RIGHT_SIDE
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photos" / "sub" / ODD, exif=exif)
    return Path("photos")


def boxes_of_scene() -> list[tuple[float, ...]]:
    return sorted(map(tuple, scattered(90, 150)[1].tolist()))


def test_label_studio_when_an_image_is_turned_then_has_the_boxes_of_the_upright_one(photos: Path) -> None:
    oddetr.predict("runs/mine", photos, "out", formats="labelstudio")
    tasks = json.loads(Path("out/labelstudio.json").read_text())
    addresses = [task["data"]["image"] for task in tasks]
    assert [unquote(each) for each in addresses] == [
        f"/data/local-files/?d=photos/{name}" for name in ("a.png", f"sub/{ODD}")
    ]
    assert not {*" &#+é"} & {*addresses[1]}
    for task in tasks:
        (prediction,) = task["predictions"]
        regions = prediction["result"]
        assert prediction["model_version"] == "runs/mine (teacher)"
        assert prediction["score"] == pytest.approx(np.mean([each["score"] for each in regions]), abs=1e-6)
        assert {each["id"] for each in regions} == {str(number) for number in range(len(regions))}
        assert {(each["original_width"], each["original_height"]) for each in regions} == {(150, 90)}
        values = [each["value"] for each in regions]
        corners = [
            (150 * box["x"], 90 * box["y"], 150 * (box["x"] + box["width"]), 90 * (box["y"] + box["height"]))
            for box in values
        ]
        np.testing.assert_allclose(np.array(sorted(corners)) / 100, boxes_of_scene(), atol=0.01)


def test_label_studio_when_written_then_names_exist_in_its_interface(photos: Path) -> None:
    oddetr.predict("any", photos, "out", formats="labelstudio")
    text = Path("out/labelstudio.xml").read_text()
    assert text.startswith("<View>"), "its parser refuses an XML declaration"
    interface = ElementTree.fromstring(text)
    image, control = interface.find("Image"), interface.find("RectangleLabels")
    assert [label.get("value") for label in control] == list(CLASSES.names)
    tasks = json.loads(Path("out/labelstudio.json").read_text())
    assert image.get("value") == f"${next(iter(tasks[0]['data']))}"
    regions = [region for task in tasks for region in task["predictions"][0]["result"]]
    assert {(region["from_name"], region["to_name"]) for region in regions} == {
        (control.get("name"), image.get("name"))
    }
    assert control.get("toName") == image.get("name")
    assert {region["type"] for region in regions} == {control.tag.lower()}
    assert {name for region in regions for name in region["value"]["rectanglelabels"]} <= {*CLASSES.names}


def test_label_studio_when_a_file_is_a_video_then_refuses_before_it_detects(photos: Path) -> None:
    (photos / "clip.mp4").touch()
    with pytest.raises(ValueError, match=r"clip\.mp4 is a video.*Leave labelstudio out.*ffmpeg -i clip\.mp4"):
        oddetr.predict("any", photos, "out", formats="csv,labelstudio")
    assert not Path("out").exists()


def test_cvat_when_an_image_is_turned_then_has_the_boxes_of_the_upright_one(photos: Path) -> None:
    oddetr.predict("any", photos, "out", formats="cvat,coco", threshold=0.0)
    document = ElementTree.parse("out/cvat.xml").getroot()
    assert document.findtext("version") == "1.1"
    labels = json.loads(Path("out/cvat_labels.json").read_text())
    assert [label["name"] for label in labels] == list(CLASSES.names)
    assert [name.text for name in document.iterfind("meta/task/labels/label/name")] == list(CLASSES.names)
    images = document.findall("image")
    assert [dict(image.attrib) for image in images] == [
        {"id": str(number), "name": name, "width": "150", "height": "90"}
        for number, name in enumerate(("a.png", f"sub/{ODD}"))
    ]
    scores = [each["score"] for each in json.loads(Path("out/detections.json").read_text())["annotations"]]
    assert [float(each.text) for each in document.iterfind("image/box/attribute[@name='score']")] == scores
    for image in images:
        corners = [tuple(float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")) for box in image]
        assert sorted(corners) == boxes_of_scene()
        assert {box.get("label") for box in image} <= {*CLASSES.names}


def test_cvat_when_there_are_videos_then_each_has_a_file_with_the_names_of_its_frames(tmp_path: Path) -> None:
    output = Cvat(tmp_path, CLASSES, tmp_path)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    for name in ("one", "two"):
        for frame in range(2):
            output.write(View(tmp_path / f"{name}.mp4", name, np.zeros((9, 9, 3), np.uint8), frame), nothing)
    output.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cvat_labels.json", "cvat_one.xml", "cvat_two.xml"]
    for name in ("one", "two"):
        images = ElementTree.parse(tmp_path / f"cvat_{name}.xml").getroot().findall("image")
        assert [image.get("id") for image in images] == ["0", "1"]
        assert [image.get("name") for image in images] == ["frame_000000", "frame_000001"]


def test_preannotations_when_names_are_odd_then_stay_readable(tmp_path: Path) -> None:
    classes = ClassTable(("<\"cat\" & 'dog'>", "bell\x07", "猫"), (1, 2, 3))
    found = Detections(np.ones((3, 4), np.float32), np.ones(3, np.float32), np.arange(3))
    for output in (Cvat(tmp_path, classes, tmp_path), LabelStudio(tmp_path, classes, tmp_path, "v")):
        output.write(View(tmp_path / "a\udce9\x01.png", "a", np.zeros((9, 9, 3), np.uint8)), found)
        output.close()
    expected = ["<\"cat\" & 'dog'>", "bell\\x07", "猫"]
    boxes = ElementTree.parse(tmp_path / "cvat.xml").getroot().findall("image/box")
    assert [box.get("label") for box in boxes] == expected
    labels = ElementTree.parse(tmp_path / "labelstudio.xml").getroot().findall("RectangleLabels/Label")
    assert [label.get("value") for label in labels] == expected
    (task,) = json.loads((tmp_path / "labelstudio.json").read_text())
    assert task["data"]["image"].endswith("/a%E9%01.png")
    regions = task["predictions"][0]["result"]
    assert [name for region in regions for name in region["value"]["rectanglelabels"]] == expected
