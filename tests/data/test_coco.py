"""COCO JSON: the official layout and Roboflow's, and where faults are. tests/data/corpus.py has more broken files."""

import json
from pathlib import Path

import numpy as np
import pytest

from oddetr.data.doctor.check import check
from oddetr.data.faults import DataError
from oddetr.data.reader import read_data, read_folder
from tests.data.builders import CATS, coco, coco_file, coco_image, coco_object, found, only, write_image

TRAIN = "annotations/instances_train.json"
PROJECT = {"id": 0, "name": "pets", "supercategory": "none"}


def test_boxes_become_corners_and_category_ids_become_labels(tmp_path: Path) -> None:
    thing = coco_object(5, 2, (8, 10, 20, 16), 7, area=111.5) | {"id": 5.0, "image_id": 2.0}
    folder = read_data(coco(tmp_path, [thing], categories=[*CATS[::-1], {"id": 9, "name": "unused"}]))

    truth = folder.splits["train"].truth
    assert (folder.format, folder.classes.ids, folder.classes.names) == ("COCO", (3, 7, 9), ("cat", "dog", "unused"))
    assert truth.labels.tolist() == [0, 1]
    assert truth.boxes[1].tolist() == [8, 10, 28, 26]
    assert truth.areas.tolist() == [320, 111.5]
    assert truth.annotation_ids.tolist() == [90, 5]
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.sizes.tolist() == [[48, 64], [48, 64]]


@pytest.mark.parametrize("area", [None, 0, "wide", True, float("nan"), 64 * 48 + 1])
def test_an_area_that_no_image_holds_is_replaced_by_the_box_area(tmp_path: Path, area: object) -> None:
    truth = read_data(coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16), area=area)])).splits["train"].truth

    assert truth.areas[1] == 320


def test_the_project_category_of_roboflow_is_no_class(tmp_path: Path) -> None:
    for folder, id in (("train", 1), ("valid", 2)):
        file = tmp_path / folder / "_annotations.coco.json"
        coco_file(file, [coco_image(id, "x.jpg")], [coco_object(id, id)], [PROJECT, *CATS])
        write_image(tmp_path / folder / "x.jpg")

    data = read_data(tmp_path)

    assert list(data.splits) == ["train", "val"]
    assert data.splits["val"].files == ("valid/x.jpg",)
    assert data.classes.names == ("cat", "dog")
    assert any("'pets'" in note for note in data.notes)


def test_the_project_category_of_roboflow_is_a_class_if_it_has_objects(tmp_path: Path) -> None:
    coco(tmp_path, [coco_object(5, 2, category=0)], categories=[PROJECT, *CATS])

    assert read_data(tmp_path).classes.names == ("pets", "cat", "dog")


@pytest.mark.parametrize(("value", "crowd"), [(0, False), (1, True), (True, True)])
def test_crowds_are_kept_but_are_no_objects(tmp_path: Path, value: object, crowd: bool) -> None:
    report = check(coco(tmp_path, [coco_object(5, 2, iscrowd=value)]))

    assert report.folder is not None
    assert report.folder.splits["train"].truth.crowd.tolist() == [False, crowd]
    assert (report.statistics["train"].crowd, report.statistics["train"].objects) == (crowd, 2 - crowd)


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "images", "train", "."])
def test_images_are_found_in_any_usual_folder(tmp_path: Path, place: str) -> None:
    coco_file(tmp_path / "annotations/instances_train2017.json", [coco_image(1, "a.JPG")], [coco_object(1, 1)])
    image = write_image(tmp_path / place / "a.JPG")

    files = read_data(tmp_path).splits["train"].files

    assert [tmp_path / file for file in files] == [image]


def test_splits_may_share_a_folder_of_images(tmp_path: Path) -> None:
    coco_file(tmp_path / TRAIN, [coco_image(1, "a.jpg")], [coco_object(1, 1)])
    coco_file(tmp_path / "annotations/instances_val.json", [coco_image(2, "b.jpg")], [coco_object(2, 2)])
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/{name}.jpg")

    report = check(tmp_path)

    assert report.ok, report.errors
    assert only(report, "unlisted-image").file == "images/c.jpg"


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    images = [coco_image(i, f"{name}.jpg") for i, name in enumerate("dbca", start=1)]
    objects = [coco_object(i, 1 + i % 4, (i, i, 9, 9), (3, 7)[i % 2]) for i in range(1, 20)]
    one, other = (read_data(coco(tmp_path / str(step), objects[::step], images[::step])) for step in (1, -1))

    first, second = one.splits["train"], other.splits["train"]
    assert first.files == second.files == tuple(f"train/{name}.jpg" for name in "abcd")
    for name in ("image_ids", "offsets", "boxes", "labels", "annotation_ids"):
        assert np.array_equal(getattr(first.truth, name), getattr(second.truth, name)), name


def test_a_size_that_the_json_does_not_give_is_read_from_the_image(tmp_path: Path) -> None:
    coco(tmp_path, images=[{"id": 1, "file_name": "a.jpg"}])

    assert read_data(tmp_path).splits["train"].truth.sizes.tolist() == [[48, 64]]


@pytest.mark.parametrize(
    ("box", "kind", "is_error", "message"),
    [
        ((8, 8, -5, 4), "inverted-box", True, "left 8, top 8, right 3, bottom 12 in train/b.jpg of 64x48 pixels"),
        (("1", None, 5, 4), "not-a-number", True, "bbox is ['1', None, 5, 4]"),
        ((8, 8, 0, 4), "zero-area-box", False, "left 8, top 8, right 8, bottom 12"),
        ((48, 8, 1e-9, 4), "zero-area-box", False, "left 48"),
    ],
)
def test_a_box_that_is_left_out_is_reported_as_written(
    tmp_path: Path, box: tuple[object, ...], kind: str, is_error: bool, message: str
) -> None:
    report = check(coco(tmp_path, [coco_object(5, 2, box)]))

    fault = only(report, kind)
    assert (fault.file, fault.place, fault in report.errors) == (TRAIN, 5, is_error)
    assert message in fault.message
    assert report.folder is not None
    assert report.folder.splits["train"].truth.annotation_ids.tolist() == [90]


@pytest.mark.parametrize(
    ("box", "clipped", "is_reported"),
    [((-4, 40, 80, 20), [0, 40, 64, 48], True), ((44, 40, 20.01, 8.3), [44, 40, 64, 48], False)],
)
def test_a_box_partly_outside_is_clipped_and_reported_unless_by_rounding(
    tmp_path: Path, box: tuple[float, ...], clipped: list[float], is_reported: bool
) -> None:
    report = check(coco(tmp_path, [coco_object(5, 2, box)]))

    assert report.folder is not None
    assert report.folder.splits["train"].truth.boxes[1].tolist() == clipped
    assert len(found(report, "clipped-box")) == is_reported


def test_boxes_that_all_lie_in_one_pixel_are_relative(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(tmp_path / TRAIN, [coco_image(1, "a.jpg")], [coco_object(5, 1, (0.1, 0.2, 0.5, 0.5))])

    assert only(check(root), "relative-coordinates").file == TRAIN


def test_malformed_records_are_errors_with_their_place(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg"), {"id": None, "file_name": "b.jpg"}, {"id": 3}]
    objects = [coco_object(5, 1), {"id": 6, "bbox": [1, 2, 3, 4]}, {"image_id": 1, "category_id": 3}]
    root = coco(tmp_path)
    coco_file(root / TRAIN, images, [*objects, "nonsense"], [*CATS, {"name": "no id"}])

    places = [(fault.message.split()[0], fault.place) for fault in found(check(root), "malformed-record")]

    assert sorted(places, key=str) == [
        ("annotations[1]", 6),
        ("annotations[2]", None),
        ("annotations[3]", None),
        ("categories[2]", None),
        ("images[1]", None),
        ("images[2]", None),
    ]


def test_the_other_splits_are_read_if_one_json_is_broken(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "annotations/instances_val.json").write_text("{")

    report = check(root)
    assert only(report, "malformed-file").file == "annotations/instances_val.json"
    assert report.folder is not None
    assert list(report.folder.splits) == ["train"]
    (root / TRAIN).write_text("{")
    with pytest.raises(DataError, match=r"instances_train\.json"):
        read_folder(tmp_path)


def test_class_tables_that_differ_are_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    val = root / "annotations/instances_val.json"
    val.write_text(json.dumps(json.loads(val.read_text()) | {"categories": [CATS[0], CATS[1] | {"name": "hound"}]}))

    fault = only(check(root), "classes")

    assert fault.file == "annotations/instances_val.json"
    assert "id 7 is 'hound', but 'dog' in annotations/instances_train.json" in fault.message


def test_files_of_one_split_are_joined_unless_they_name_the_same_images(tmp_path: Path) -> None:
    root = coco(tmp_path)
    second = root / "annotations/instances_train_set2.json"
    write_image(root / "images/train_set2/a.jpg")
    coco_file(second, [coco_image(1, "a.jpg")], [coco_object(90, 1, (1, 2, 3, 4), 7)])

    folder = read_data(root)

    train = folder.splits["train"]
    assert train.files == ("images/train_set2/a.jpg", "train/a.jpg", "train/b.jpg")
    assert train.truth.boxes.tolist() == [[1, 2, 4, 6], [8, 8, 28, 24]]
    assert len(set(train.truth.image_ids.tolist())) == 3
    assert any("are read as one split, with new image ids: train" in note for note in folder.notes)

    coco_file(second, [coco_image(1, "b.jpg")], [coco_object(90, 1, (1, 2, 3, 4), 7)])
    assert "names 1 images of annotations/instances_train.json again" in only(check(root), "duplicate-split").message


def test_a_file_that_names_no_split_is_train_if_there_is_no_other(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")]
    for image in images:
        write_image(tmp_path / "images" / image["file_name"])
    coco_file(tmp_path / "annotations/boxes.json", images, [coco_object(1, 1)])
    assert set(read_folder(tmp_path).splits) == {"train", "val"}

    coco_file(tmp_path / "annotations/train.json", images, [coco_object(1, 1)])
    assert any("boxes.json was not read" in note for note in read_folder(tmp_path).notes)


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [], [])
    assert "val has no image" in only(check(root), "empty-split").message

    coco_file(root / TRAIN, [], [])
    assert "no image in any split" in only(check(root), "empty-split").message


def test_missing_and_unlisted_images_are_reported_by_their_path(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "train/b.jpg").rename(root / "train/extra.png")

    report = check(root)

    assert (only(report, "missing-image").file, only(report, "unlisted-image").file) == (
        "train/b.jpg",
        "train/extra.png",
    )
    assert [fault.kind for fault in report.errors] == ["missing-image"]
