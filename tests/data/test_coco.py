"""COCO JSON: the official layout, Roboflow's, and everything that can be wrong in a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from oddetr.data.doctor.check import check
from oddetr.data.doctor.faults import DataError
from oddetr.data.formats.reader import read_data, read_folder
from tests.data.builders import CATS, coco, coco_file, coco_image, coco_object, found, only, write_image

TRAIN = "annotations/instances_train.json"


def test_boxes_when_read_then_are_corners_with_the_files_area_and_ids(tmp_path: Path) -> None:
    coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16), 7, area=111.5)])

    folder = read_data(tmp_path)

    truth = folder.splits["train"].truth
    row = truth.rows(1)
    assert folder.format == "COCO"
    assert truth.boxes[row].tolist() == [[8, 10, 28, 26]]
    assert truth.areas[row].tolist() == [111.5]
    assert truth.annotation_ids[row].tolist() == [5]
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.sizes.tolist() == [[48, 64], [48, 64]]


def test_area_when_missing_then_is_the_boxs(tmp_path: Path) -> None:
    coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16))])

    truth = read_data(tmp_path).splits["train"].truth

    assert truth.areas[truth.rows(1)].tolist() == [320]


def test_category_ids_when_sparse_then_become_labels_and_come_out_again(tmp_path: Path) -> None:
    coco(tmp_path, [coco_object(5, 2, category=7)], categories=CATS[::-1])

    folder = read_data(tmp_path)

    assert folder.classes.ids == (3, 7)
    assert folder.classes.names == ("cat", "dog")
    assert folder.splits["train"].truth.labels.tolist() == [0, 1]


def test_category_when_it_has_no_annotation_then_remains_a_class(tmp_path: Path) -> None:
    coco(tmp_path, categories=[*CATS, {"id": 0, "name": "bird", "supercategory": "animal"}])

    assert read_data(tmp_path).classes.names == ("bird", "cat", "dog")


def test_roboflows_project_category_when_unused_then_is_no_class(tmp_path: Path) -> None:
    dummy = {"id": 0, "name": "pets", "supercategory": "none"}
    for folder, id in (("train", 1), ("valid", 2)):
        coco_file(
            tmp_path / folder / "_annotations.coco.json",
            [coco_image(id, "x.jpg")],
            [coco_object(id, id)],
            [dummy, *CATS],
        )
        write_image(tmp_path / folder / "x.jpg")

    data = read_data(tmp_path)

    assert list(data.splits) == ["train", "val"]
    assert data.splits["val"].files == ("valid/x.jpg",)
    assert data.classes.names == ("cat", "dog")
    assert any("'pets'" in note for note in data.notes)


def test_roboflows_project_category_when_annotated_then_is_a_class(tmp_path: Path) -> None:
    dummy = {"id": 0, "name": "pets", "supercategory": "none"}
    coco(tmp_path, [coco_object(5, 2, category=0)], categories=[dummy, *CATS])

    assert read_data(tmp_path).classes.names == ("pets", "cat", "dog")


def test_crowd_when_read_then_stays_in_the_annotations_as_crowd(tmp_path: Path) -> None:
    coco(tmp_path, [coco_object(5, 2, iscrowd=1)])

    report = check(tmp_path)

    assert report.folder is not None
    assert report.folder.splits["train"].truth.crowd.tolist() == [False, True]
    assert report.statistics["train"].crowd == 1
    assert report.statistics["train"].objects == 1


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "images", "train", "."])
def test_images_when_in_any_usual_folder_then_are_found(tmp_path: Path, place: str) -> None:
    coco_file(tmp_path / "annotations/instances_train2017.json", [coco_image(1, "a.JPG")], [coco_object(1, 1)])
    image = write_image(tmp_path / place / "a.JPG")

    files = read_data(tmp_path).splits["train"].files

    assert [tmp_path / file for file in files] == [image]


def test_records_when_shuffled_then_data_is_the_same(tmp_path: Path) -> None:
    images = [coco_image(i, f"{name}.jpg") for i, name in enumerate("dbca", start=1)]
    objects = [coco_object(i, 1 + i % 4, (i, i, 9, 9), (3, 7)[i % 2]) for i in range(1, 20)]
    one, other = (read_data(coco(tmp_path / str(step), objects[::step], images[::step])) for step in (1, -1))

    first, second = one.splits["train"], other.splits["train"]
    assert first.files == second.files == tuple(f"train/{name}.jpg" for name in "abcd")
    for name in ("image_ids", "offsets", "boxes", "labels", "annotation_ids"):
        assert np.array_equal(getattr(first.truth, name), getattr(second.truth, name)), name


@pytest.mark.parametrize(
    ("written", "on_disk"), [("B\u00e4r", "Ba\u0308r"), ("Ba\u0308r", "B\u00e4r"), ("ねこ", "ねこ")]
)
def test_names_when_not_latin_then_are_found_in_either_unicode_form(tmp_path: Path, written: str, on_disk: str) -> None:
    coco(tmp_path, images=[coco_image(1, f"{written}.jpg")], written=False)
    write_image(tmp_path / f"train/{on_disk}.jpg")

    data = read_data(tmp_path).splits["train"]

    assert data.sample(0).image.shape == (48, 64, 3)


def test_size_when_not_in_the_json_then_is_read_from_the_file(tmp_path: Path) -> None:
    coco(tmp_path, images=[{"id": 1, "file_name": "a.jpg"}])

    assert read_data(tmp_path).splits["train"].truth.sizes.tolist() == [[48, 64]]


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((8, 8, -5, 4), "inverted-box"),
        ((8, 8, 5, -4), "inverted-box"),
        ((8, float("nan"), 5, 4), "not-a-number"),
        ((8, float("inf"), 5, 4), "not-a-number"),
        ((8, "9", 5, 4), "not-a-number"),
        ((8, None, 5, 4), "not-a-number"),
        ((8, 9, 5), "not-a-number"),
        ((64, 8, 5, 4), "box-outside"),
        ((-9, -9, 5, 4), "box-outside"),
    ],
)
def test_box_when_it_cannot_be_trusted_then_is_an_error(tmp_path: Path, box: tuple[object, ...], kind: str) -> None:
    report = check(coco(tmp_path, [coco_object(5, 2, box)]))

    fault = only(report, kind)
    assert (fault.severity, fault.file, fault.annotation) == ("error", TRAIN, 5)
    assert report.folder is not None
    assert report.folder.splits["train"].truth.annotation_ids.tolist() == [90]


@pytest.mark.parametrize("box", [(8, 8, 0, 4), (8, 8, 4, 0), (8, 8, 0, 0), (48, 8, 1e-9, 4)])
def test_box_when_without_area_then_is_left_out_aloud(tmp_path: Path, box: tuple[float, ...]) -> None:
    folder = read_data(coco(tmp_path, [coco_object(5, 2, box)]))

    assert folder.splits["train"].truth.annotation_ids.tolist() == [90]
    assert any("1 box without area, left out" in note and f"{TRAIN} annotation 5" in note for note in folder.notes)


def test_box_when_partly_outside_then_is_clipped_aloud(tmp_path: Path) -> None:
    folder = read_data(coco(tmp_path, [coco_object(5, 2, (-4, 40, 80, 20))]))

    truth = folder.splits["train"].truth
    assert truth.boxes[truth.rows(1)].tolist() == [[0, 40, 64, 48]]
    assert any("1 box partly outside its image, clipped" in note and "annotation 5" in note for note in folder.notes)


def test_box_when_outside_by_rounding_then_is_clipped_quietly(tmp_path: Path) -> None:
    folder = read_data(coco(tmp_path, [coco_object(5, 2, (44, 40, 20.01, 8.3))]))

    truth = folder.splits["train"].truth
    assert truth.boxes[truth.rows(1)].tolist() == [[44, 40, 64, 48]]
    assert not [fault for fault in folder.faults if fault.kind == "clipped-box"]


def test_boxes_when_all_are_shares_of_the_size_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(tmp_path / TRAIN, [coco_image(1, "a.jpg")], [coco_object(5, 1, (0.1, 0.2, 0.5, 0.5))])

    assert only(check(root), "relative-coordinates").file == TRAIN


def test_annotation_when_of_an_unknown_category_then_is_an_error(tmp_path: Path) -> None:
    fault = only(check(coco(tmp_path, [coco_object(5, 2, category=4)])), "unknown-category")

    assert (fault.severity, fault.file, fault.annotation) == ("error", TRAIN, 5)


def test_annotation_when_of_an_unknown_image_then_is_left_out_aloud(tmp_path: Path) -> None:
    fault = only(check(coco(tmp_path, [coco_object(5, 99)])), "unknown-image")

    assert (fault.severity, fault.file, fault.annotation) == ("warning", TRAIN, 5)


def test_ids_when_they_stand_twice_then_are_errors(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg"), coco_image(1, "b.jpg")]
    report = check(coco(tmp_path, [coco_object(5, 1), coco_object(5, 1)], images))

    assert "1 stands twice" in only(report, "duplicate-image-id").message
    assert only(report, "duplicate-annotation-id").annotation == 5
    assert len(report.errors) == 2


def test_file_name_when_listed_under_two_ids_then_is_an_error(tmp_path: Path) -> None:
    report = check(coco(tmp_path, images=[coco_image(1, "a.jpg"), coco_image(2, "a.jpg")]))

    assert "train/a.jpg is listed again as image id 2" in only(report, "duplicate-file-name").message


def test_image_when_missing_then_is_an_error_of_its_path(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "train/b.jpg").unlink()

    fault = only(check(root), "missing-image")

    assert (fault.severity, fault.file) == ("error", "train/b.jpg")


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../../a.jpg", "C:\\a.jpg", "..\\..\\a.jpg"])
def test_file_name_when_it_leads_out_of_the_folder_then_is_refused(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.jpg")
    root = coco(tmp_path / "data")
    coco_file(root / TRAIN, [coco_image(1, name), coco_image(2, "a.jpg")], [coco_object(5, 2)])

    fault = only(check(root), "outside-folder")

    assert (fault.severity, fault.file) == ("error", TRAIN)
    assert repr(name) in fault.message


def test_image_when_not_in_the_json_then_is_told(tmp_path: Path) -> None:
    root = coco(tmp_path)
    write_image(root / "train/extra.png")

    fault = only(check(root), "unlisted-image")

    assert (fault.severity, fault.file) == ("warning", "train/extra.png")


def test_records_when_malformed_then_are_errors_with_their_place(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg"), {"id": "two", "file_name": "b.jpg"}, {"id": 3}]
    objects = [coco_object(5, 1), {"id": 6, "bbox": [1, 2, 3, 4]}, {"image_id": 1, "category_id": 3}]
    root = coco(tmp_path)
    coco_file(root / TRAIN, images, [*objects, "nonsense"], [*CATS, {"name": "no id"}])

    report = check(root)

    places = [(fault.message.split()[0], fault.annotation) for fault in found(report, "malformed-record")]
    assert sorted(places, key=str) == [
        ("annotations[1]", 6),
        ("annotations[2]", None),
        ("annotations[3]", None),
        ("categories[2]", None),
        ("images[1]", None),
        ("images[2]", None),
    ]


def test_ids_when_whole_floats_then_are_accepted(tmp_path: Path) -> None:
    folder = read_data(coco(tmp_path, [coco_object(5, 2) | {"id": 5.0, "image_id": 2.0}]))

    assert folder.splits["train"].truth.annotation_ids.tolist() == [90, 5]


@pytest.mark.parametrize("text", ['{"images": [', "[]", '{"images": [], "annotations": 3, "categories": []}', ""])
def test_json_when_broken_then_is_an_error_and_the_rest_is_read(tmp_path: Path, text: str) -> None:
    root = coco(tmp_path)
    (root / "annotations/instances_val.json").write_text(text)

    report = check(root)

    assert only(report, "malformed-file").file == "annotations/instances_val.json"
    assert report.folder is not None
    assert list(report.folder.splits) == ["train"]


def test_json_when_no_file_can_be_read_then_data_error_names_it(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / TRAIN).write_text("{")

    with pytest.raises(DataError, match=r"instances_train\.json"):
        read_folder(tmp_path)
    assert only(check(tmp_path), "malformed-file").file == TRAIN


def test_categories_when_splits_disagree_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    val = root / "annotations/instances_val.json"
    content = json.loads(val.read_text())
    val.write_text(json.dumps(content | {"categories": [CATS[0], {"id": 7, "name": "hound"}]}))

    fault = only(check(root), "classes")

    assert (fault.severity, fault.file) == ("error", "annotations/instances_val.json")
    assert "'dog' (id 7), 'hound' (id 7)" in fault.message


def test_categories_when_a_name_stands_twice_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path, categories=[*CATS, {"id": 9, "name": "cat"}])

    assert "'cat' stands twice" in only(check(root), "classes").message


def test_split_when_two_files_define_it_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_train2014.json", [], [])

    assert "as does annotations/instances_train" in only(check(root), "duplicate-split").message


def test_split_when_it_has_no_image_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [], [])

    assert "val has no image" in only(check(root), "empty-split").message


def test_train_when_it_has_no_object_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / TRAIN, [coco_image(1, "a.jpg")], [])

    assert only(check(root), "no-objects").file == TRAIN


@pytest.mark.parametrize("area", [-1, 0, "big", "12", True, None, float("nan"), 64 * 48 + 1])
def test_area_when_no_image_can_hold_it_then_is_the_boxs(tmp_path: Path, area: object) -> None:
    truth = read_data(coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16), area=area)])).splits["train"].truth

    assert truth.areas[truth.rows(1)].tolist() == [320]


def test_images_when_splits_share_a_folder_then_each_split_has_its_own(tmp_path: Path) -> None:
    coco_file(tmp_path / TRAIN, [coco_image(1, "a.jpg")], [coco_object(1, 1)])
    coco_file(tmp_path / "annotations/instances_val.json", [coco_image(2, "b.jpg")], [coco_object(2, 2)])
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/{name}.jpg")

    report = check(tmp_path)

    assert report.ok, report.errors
    assert only(report, "unlisted-image").file == "images/c.jpg"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({}, "has no bbox"),
        ({"bbox": None}, "bbox is null"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]"),
        ({"bbox": ["1", "2", "3", "4"]}, 'bbox is ["1", "2", "3", "4"]'),
        ({"bbox": [float("nan"), 1, 2, 3]}, "bbox is [NaN, 1, 2, 3]"),
    ],
)
def test_box_when_it_is_no_four_numbers_then_is_shown_as_written(
    tmp_path: Path, box: dict[str, object], message: str
) -> None:
    record = {key: value for key, value in coco_object(5, 2).items() if key != "bbox"} | box

    fault = only(check(coco(tmp_path, [record])), "not-a-number")

    assert (fault.annotation, fault.message) == (5, message)


@pytest.mark.parametrize(("value", "crowd"), [(0, False), (1, True), (False, False), (True, True)])
def test_iscrowd_when_0_or_1_then_is_understood(tmp_path: Path, value: object, crowd: bool) -> None:
    folder = read_data(coco(tmp_path, [coco_object(5, 2, iscrowd=value)]))

    assert folder.splits["train"].truth.crowd.tolist() == [False, crowd]


@pytest.mark.parametrize("value", ["1", "0", 2, None, [1], 0.5])
def test_iscrowd_when_anything_else_then_is_an_error(tmp_path: Path, value: object) -> None:
    fault = only(check(coco(tmp_path, [coco_object(5, 2, iscrowd=value)])), "malformed-record")

    assert (fault.annotation, "iscrowd" in fault.message) == (5, True)


def test_split_when_none_has_an_image_then_is_told_once(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco_file(tmp_path / f"annotations/instances_{split}.json", [], [])

    assert "no image in any split" in only(check(tmp_path), "empty-split").message


def test_file_name_when_absolute_but_ends_in_the_folder_then_says_what_to_write(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / TRAIN, [coco_image(1, "C:\\data\\train\\a.jpg"), coco_image(2, "b.jpg")], [coco_object(5, 2)])

    assert "write a.jpg" in only(check(root), "outside-folder").message
