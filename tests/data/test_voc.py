"""Pascal VOC: its own layout, XML beside the images, and everything that can be wrong in a file."""

import time
from pathlib import Path

import pytest

from oddetr.data.doctor.check import check
from oddetr.data.formats.reader import read_data
from tests.data.builders import found, only, voc, voc_xml, write_image

LISTS = {"train": ["a", "b"], "val": ["c"]}


def test_coordinates_when_read_then_pixels_count_from_one_and_the_last_is_inside(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, LISTS, [("cat", (1, 11, 64, 30))]))

    truth = folder.splits["train"].truth
    assert folder.format == "Pascal VOC"
    assert truth.boxes.tolist() == [[0, 10, 64, 30]] * 2
    assert truth.areas.tolist() == [64 * 20] * 2


def test_classes_when_read_then_are_the_sorted_names_of_all_splits(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/c.xml", [("ant", (1, 1, 9, 9))])

    folder = read_data(root)

    assert folder.classes.names == ("ant", "cat")
    assert folder.classes.ids == (1, 2)
    assert folder.splits["val"].truth.labels.tolist() == [0]


def test_difficult_when_marked_then_is_a_region_to_ignore(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/b.xml", [("cat", (1, 1, 9, 9))], difficult=True)

    assert read_data(root).splits["train"].truth.crowd.tolist() == [False, True]


def test_trainval_list_when_there_is_no_train_list_then_is_train(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, {"trainval": ["a", "b", "c"], "test": ["d"]}))

    assert {name: len(data) for name, data in folder.splits.items()} == {"train": 2, "val": 1, "test": 1}


def test_lists_when_there_are_none_then_all_images_are_trained_on(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{name}.png")
        voc_xml(tmp_path / "annotations" / f"{name}.xml", [("cat", (1, 1, 9, 9))])

    folder = read_data(tmp_path)

    assert {name: len(data) for name, data in folder.splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize("base", ["images", "."])
def test_xml_when_beside_the_images_then_folders_are_splits(tmp_path: Path, base: str) -> None:
    for split, name in (("train", "a.JPG"), ("train", "b.jpg"), ("validation", "c.jpeg"), ("test", "d.png")):
        image = write_image(tmp_path / base / split / name)
        voc_xml(image.with_suffix(".xml"), [("cat", (1, 1, 9, 9))])

    folder = read_data(tmp_path)

    names = {split: [Path(file).name for file in data.files] for split, data in folder.splits.items()}
    assert names == {"train": ["a.JPG", "b.jpg"], "val": ["c.jpeg"], "test": ["d.png"]}
    assert [len(data.truth.boxes) for data in folder.splits.values()] == [2, 1, 1]


def test_names_when_not_latin_then_are_read(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, {"train": ["кот 1"], "val": ["ねこ"]}, [("猫", (1, 1, 9, 9))]))

    assert folder.classes.names == ("猫",)
    assert folder.splits["val"].sample(0).name == "JPEGImages/ねこ.jpg"


@pytest.mark.parametrize(
    ("box", "kind", "severity"),
    [
        ((30, 11, 20, 30), "inverted-box", "error"),
        ((11, 30, 20, 20), "inverted-box", "error"),
        (("nan", 11, 20, 30), "not-a-number", "error"),
        (("left", 11, 20, 30), "not-a-number", "error"),
        (("", 11, 20, 30), "not-a-number", "error"),
        ((90, 11, 99, 30), "box-outside", "error"),
        ((20, 11, 20, 30), "zero-area-box", "warning"),
        ((20, 11, 20, 11), "zero-area-box", "warning"),
        ((20, 11, 70, 30), "clipped-box", "warning"),
    ],
)
def test_box_when_faulty_then_names_file_and_object(
    tmp_path: Path, box: tuple[object, ...], kind: str, severity: str
) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/b.xml", [("cat", (11, 11, 30, 30)), ("cat", box)])

    fault = only(check(root), kind)

    assert (fault.severity, fault.file, fault.annotation) == (severity, "Annotations/b.xml", 2)
    assert fault.where == "Annotations/b.xml object 2"


def test_box_when_counted_from_zero_then_is_clipped_quietly(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, LISTS, [("cat", (0, 0, 9, 9))]))

    assert folder.splits["val"].truth.boxes.tolist() == [[0, 0, 9, 9]]
    assert not [fault for fault in folder.faults if fault.kind == "clipped-box"]


def test_boxes_when_all_are_shares_of_the_size_then_is_an_error(tmp_path: Path) -> None:
    report = check(voc(tmp_path, LISTS, [("cat", (0.1, 0.2, 0.7, 0.6))]))

    assert [fault.file for fault in found(report, "relative-coordinates")] == ["Annotations/a.xml", "Annotations/c.xml"]


@pytest.mark.parametrize("text", ["<annotation><object>", "", "no xml"])
def test_xml_when_broken_then_is_an_error(tmp_path: Path, text: str) -> None:
    root = voc(tmp_path, LISTS)
    (root / "Annotations/b.xml").write_text(text)

    assert only(check(root), "malformed-file").file == "Annotations/b.xml"


@pytest.mark.parametrize("body", ["<name>cat</name>", "<bndbox><xmin>1</xmin></bndbox>"])
def test_object_when_it_lacks_name_or_box_then_is_an_error(tmp_path: Path, body: str) -> None:
    root = voc(tmp_path, LISTS)
    (root / "Annotations/b.xml").write_text(f"<annotation><object>{body}</object></annotation>")

    fault = only(check(root), "malformed-record")

    assert (fault.file, fault.annotation) == ("Annotations/b.xml", 1)


def test_object_when_its_box_has_many_children_then_is_an_error_in_no_time(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    box = f"<bndbox>{''.join(f'<a{index}/>' for index in range(30_000))}<xmin/><xmin/></bndbox>"
    (root / "Annotations/b.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")

    begun = time.process_time()
    fault = only(check(root), "malformed-record")

    assert fault.message == "xmin stands twice in it"
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("size", [(0, 0), (-1, 5)])
def test_size_when_not_given_then_is_read_from_the_file(tmp_path: Path, size: tuple[int, int]) -> None:
    root = voc(tmp_path, LISTS)
    voc_xml(root / "Annotations/c.xml", [("cat", (1, 1, 9, 9))], *size)

    assert read_data(root).splits["val"].truth.sizes.tolist() == [[48, 64]]


def test_image_when_listed_but_missing_then_is_an_error(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "JPEGImages/b.jpg").unlink()

    report = check(root)

    assert only(report, "missing-image").file == "JPEGImages/b.jpg"
    assert only(report, "label-without-image").file == "Annotations/b.xml"


def test_image_when_without_xml_then_is_one_without_objects(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "Annotations/b.xml").unlink()

    report = check(root)

    fault = only(report, "image-without-label")
    assert (fault.severity, fault.file) == ("warning", "JPEGImages/b.jpg")
    assert report.statistics["train"].empty_images == 1


def test_image_when_in_no_list_then_is_told(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    write_image(root / "JPEGImages/d.jpg")
    voc_xml(root / "Annotations/d.xml", [("cat", (1, 1, 9, 9))])

    assert only(check(root), "unlisted-image").file == "JPEGImages/d.jpg"


def test_xml_when_beside_no_image_then_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        voc_xml(tmp_path / "train" / f"{name}.xml", [("cat", (1, 1, 9, 9))])
    write_image(tmp_path / "train/a.jpg")

    fault = only(check(tmp_path), "label-without-image")

    assert (fault.severity, fault.file) == ("warning", "train/b.xml")


def test_list_when_it_names_an_image_twice_then_uses_it_once(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "ImageSets/Main/train.txt").write_text("a\nb\na.jpg\n")

    report = check(root)

    fault = only(report, "repeated-image")
    assert (fault.severity, fault.file, fault.annotation) == ("warning", "ImageSets/Main/train.txt", 3)
    assert report.statistics["train"].images == 2


def test_objects_when_there_are_none_at_all_then_is_an_error(tmp_path: Path) -> None:
    assert only(check(voc(tmp_path, LISTS, [])), "classes").severity == "error"


@pytest.mark.parametrize("names", [("a/1.jpg", "b/1.jpg"), ("1.jpg", "1.png")])
def test_images_when_their_xml_cannot_tell_them_apart_then_are_errors(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in (*names, "2.jpg"):
        write_image(tmp_path / "JPEGImages" / name)
    for name in ("1", "2"):
        voc_xml(tmp_path / "Annotations" / f"{name}.xml", [("cat", (1, 1, 9, 9))])

    faults = found(check(tmp_path), "ambiguous-image")

    assert [(fault.severity, fault.file) for fault in faults] == [("error", f"JPEGImages/{name}") for name in names]
    assert all("Annotations/1.xml" in fault.message for fault in faults)


def test_images_when_many_may_have_one_xml_then_each_is_told_with_three_others(tmp_path: Path) -> None:
    for folder in "abcdef":
        write_image(tmp_path / "JPEGImages" / folder / "1.jpg")
    voc_xml(tmp_path / "Annotations" / "1.xml", [("cat", (1, 1, 9, 9))])

    faults = found(check(tmp_path), "ambiguous-image")

    named = [[f"JPEGImages/{folder}/1.jpg" for folder in others] for others in ("bcd", "acd", "abd", *["abc"] * 3)]
    assert [fault.message.partition(", as may ")[2].split(", ") for fault in faults] == named


def test_images_when_in_folders_like_those_of_their_xml_then_are_told_apart(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("val", "dog")):
        for stem in ("1", "2"):
            write_image(tmp_path / "JPEGImages" / split / f"{stem}.jpg")
            voc_xml(tmp_path / "Annotations" / split / f"{stem}.xml", [(name, (1, 1, 9, 9))])

    folder = read_data(tmp_path)

    files = {split: data.files for split, data in folder.splits.items()}
    assert files == {split: tuple(f"JPEGImages/{split}/{stem}.jpg" for stem in "12") for split in ("train", "val")}
    assert [set(data.truth.labels.tolist()) for data in folder.splits.values()] == [{0}, {1}]


def test_images_when_nested_deeper_than_their_xml_then_are_found_by_name(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    (root / "JPEGImages/camera").mkdir()
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/camera/b.jpg")

    report = check(root)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2


def test_xml_when_in_a_folder_next_to_the_images_of_its_split_then_is_found(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "images/1.jpg")
        voc_xml(tmp_path / split / "annotations/1.xml", [("cat", (1, 1, 9, 9))])

    folder = read_data(tmp_path)

    assert [data.files for data in folder.splits.values()] == [("train/images/1.jpg",), ("val/images/1.jpg",)]
    assert [len(data.truth.boxes) for data in folder.splits.values()] == [1, 1]


def test_list_when_two_images_have_its_name_then_is_an_error(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    for folder in ("x", "y"):
        write_image(root / "JPEGImages" / folder / "z.jpg")
        voc_xml(root / "Annotations" / folder / "z.xml", [("cat", (1, 1, 9, 9))])
    (root / "ImageSets/Main/val.txt").write_text("c\nz\n")

    fault = only(check(root), "ambiguous-image")

    assert fault.file == "ImageSets/Main/val.txt"
    assert "JPEGImages/x/z.jpg" in fault.message


def test_list_when_it_names_folders_then_is_followed(tmp_path: Path) -> None:
    root = voc(tmp_path, LISTS)
    for folder in ("x", "y"):
        write_image(root / "JPEGImages" / folder / "z.jpg")
        voc_xml(root / "Annotations" / folder / "z.xml", [("cat", (1, 1, 9, 9))])
    (root / "ImageSets/Main/val.txt").write_text("x/z\ny/z.jpg\n")

    assert read_data(root).splits["val"].files == ("JPEGImages/x/z.jpg", "JPEGImages/y/z.jpg")
