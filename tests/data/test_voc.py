"""Pascal VOC: its own layout and XML beside images, and where faults are. tests/data/corpus.py has more of these."""

from pathlib import Path

import pytest

from oddetr.data.doctor.check import check
from oddetr.data.reader import read_data
from tests.data.builders import found, only, voc, voc_xml, write_image

LISTS = {"train": ["a", "b"], "val": ["c"]}
CAT = [("cat", (1, 1, 9, 9))]


def annotated(root: Path, image: str, label: str, name: str = "cat") -> None:
    """An image and its XML file, with an object of a class."""
    write_image(root / image)
    voc_xml(root / label, [(name, (1, 1, 9, 9))])


def test_pixels_count_from_one_and_the_last_is_inside(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, LISTS, [("cat", (1, 11, 64, 30))]))

    truth = folder.splits["train"].truth
    assert folder.format == "Pascal VOC"
    assert truth.boxes.tolist() == [[0, 10, 64, 30]] * 2
    assert truth.areas.tolist() == [64 * 20] * 2


def test_coordinates_count_from_zero_where_a_box_begins_there(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, LISTS, [("cat", (0, 5, 20, 30))]))

    assert folder.splits["val"].truth.boxes.tolist() == [[0, 5, 20, 30]]
    assert any("count from 0" in note for note in folder.notes)
    assert not [fault for fault in folder.faults if fault.kind == "clipped-box"]


def test_classes_are_the_sorted_names_of_all_splits(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": ["кот 1"], "val": ["ねこ"]}, [("猫", (1, 1, 9, 9))])
    voc_xml(root / "Annotations/ねこ.xml", [("ant", (1, 1, 9, 9))])

    folder = read_data(root)

    assert (folder.classes.names, folder.classes.ids) == (("ant", "猫"), (1, 2))
    assert folder.splits["val"].truth.labels.tolist() == [0]
    assert folder.splits["val"].sample(0).name == "JPEGImages/ねこ.jpg"


def test_difficult_objects_are_regions_to_ignore(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/b.xml", CAT, difficult=True)

    assert read_data(root).splits["train"].truth.crowd.tolist() == [False, True]


def test_without_a_train_list_trainval_is_train(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, {"trainval": ["a", "b", "c"], "test": ["d"]}))

    assert {name: len(data) for name, data in folder.splits.items()} == {"train": 2, "val": 1, "test": 1}


def test_without_lists_all_images_are_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        annotated(tmp_path, f"images/{name}.png", f"annotations/{name}.xml")

    folder = read_data(tmp_path)

    assert {name: len(data) for name, data in folder.splits.items()} == {"train": 2, "val": 1}


def test_without_lists_folders_of_images_are_splits(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("val", "dog")):
        for stem in ("1", "2"):
            annotated(tmp_path, f"JPEGImages/{split}/{stem}.jpg", f"Annotations/{split}/{stem}.xml", name)

    folder = read_data(tmp_path)

    files = {split: data.files for split, data in folder.splits.items()}
    assert files == {split: tuple(f"JPEGImages/{split}/{stem}.jpg" for stem in "12") for split in ("train", "val")}
    assert [set(data.truth.labels.tolist()) for data in folder.splits.values()] == [{0}, {1}]


@pytest.mark.parametrize("base", ["images", "."])
def test_folders_of_images_and_xml_are_splits(tmp_path: Path, base: str) -> None:
    for file in ("train/a.JPG", "train/b.jpg", "validation/c.jpeg", "test/d.png"):
        annotated(tmp_path / base, file, str(Path(file).with_suffix(".xml")))
    voc_xml(tmp_path / base / "train/z.xml", CAT)

    report = check(tmp_path)

    assert report.folder is not None
    names = {split: [Path(file).name for file in data.files] for split, data in report.folder.splits.items()}
    assert names == {"train": ["a.JPG", "b.jpg"], "val": ["c.jpeg"], "test": ["d.png"]}
    assert [len(data.truth.boxes) for data in report.folder.splits.values()] == [2, 1, 1]
    assert only(report, "label-without-image").file.endswith("train/z.xml")


def test_images_and_xml_in_one_folder_are_trained_on(tmp_path: Path) -> None:
    for name in "abc":
        annotated(tmp_path, f"{name}.jpg", f"{name}.xml")

    assert {name: len(data) for name, data in read_data(tmp_path).splits.items()} == {"train": 2, "val": 1}


def test_xml_may_be_in_a_folder_next_to_the_images_of_its_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        annotated(tmp_path, f"{split}/images/1.jpg", f"{split}/annotations/1.xml")

    folder = read_data(tmp_path)

    assert [data.files for data in folder.splits.values()] == [("train/images/1.jpg",), ("val/images/1.jpg",)]
    assert [len(data.truth.boxes) for data in folder.splits.values()] == [1, 1]


def test_a_faulty_box_is_reported_with_file_and_object(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/b.xml", [("cat", (11, 11, 30, 30)), ("cat", ("left", 11, 20, 30))])

    report = check(root)

    fault = only(report, "not-a-number")
    assert (fault.where, fault in report.errors) == ("Annotations/b.xml object 2", True)


def test_boxes_that_all_lie_in_one_pixel_are_relative(tmp_path: Path) -> None:
    report = check(voc(tmp_path, LISTS, [("cat", (0.1, 0.2, 0.7, 0.6))]))

    assert [fault.file for fault in found(report, "relative-coordinates")] == ["Annotations/a.xml", "Annotations/c.xml"]


def test_a_size_that_the_xml_does_not_give_is_read_from_the_image(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/c.xml", CAT, 0, 0)

    assert read_data(root).splits["val"].truth.sizes.tolist() == [[48, 64]]


def test_a_list_reports_missing_repeated_and_unlisted_images(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/d.jpg")
    (root / "ImageSets/Main/train.txt").write_text("a\nb\na.jpg\n")

    report = check(root)

    assert only(report, "missing-image").file == "JPEGImages/b.jpg"
    assert only(report, "label-without-image").file == "Annotations/b.xml"
    assert only(report, "unlisted-image").file == "JPEGImages/d.jpg"
    assert (only(report, "repeated-image").file, only(report, "repeated-image").place) == (
        "ImageSets/Main/train.txt",
        3,
    )
    assert report.statistics["train"].images == 1


def test_data_without_any_object_is_an_error(tmp_path: Path) -> None:
    report = check(voc(tmp_path, LISTS, []))

    assert only(report, "classes") in report.errors


@pytest.mark.parametrize("names", [("a/1.jpg", "b/1.jpg"), ("1.jpg", "1.png"), tuple(f"{n}/1.jpg" for n in "abcdef")])
def test_images_of_one_xml_file_are_errors_that_name_three_others(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in (*names, "2.jpg"):
        write_image(tmp_path / "JPEGImages" / name)
    for name in ("1", "2"):
        voc_xml(tmp_path / "Annotations" / f"{name}.xml", CAT)

    report = check(tmp_path)

    images = [f"JPEGImages/{name}" for name in names]
    faults = found(report, "ambiguous-image")
    assert [fault.file for fault in faults] == images
    for fault in faults:
        others = fault.message.partition(", as may ")[2].split(", ")
        assert "Annotations/1.xml" in fault.message
        assert others == [image for image in images if image != fault.file][:3]
        assert fault in report.errors


def test_images_are_matched_by_name_if_their_folders_differ(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "JPEGImages/camera").mkdir()
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/camera/b.jpg")

    report = check(root)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2


def test_a_list_must_name_folders_where_names_are_not_enough(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    for folder in ("x", "y"):
        annotated(root, f"JPEGImages/{folder}/z.jpg", f"Annotations/{folder}/z.xml")
    (root / "ImageSets/Main/val.txt").write_text("c\nz\n")

    fault = only(check(root), "ambiguous-image")
    assert fault.file == "ImageSets/Main/val.txt"
    assert "JPEGImages/x/z.jpg" in fault.message

    (root / "ImageSets/Main/val.txt").write_text("x/z\ny/z.jpg\n")
    assert read_data(root).splits["val"].files == ("JPEGImages/x/z.jpg", "JPEGImages/y/z.jpg")
