"""YOLO: data.yaml in its many spellings, and where faults are. tests/data/corpus.py has more broken files."""

from pathlib import Path

import pytest

from oddetr.data.doctor.check import check
from oddetr.data.formats.yolo_folders import label_file
from oddetr.data.reader import read_data
from tests.data.builders import found, only, write_image, yolo

GOOD = "0 0.5 0.5 0.25 0.5\n"
LABELS = {"train/a.jpg": GOOD, "train/b.jpg": GOOD, "val/c.jpg": "1 0.5 0.5 0.5 0.5\n"}


def test_boxes_are_in_pixels_of_their_own_image_as_shown(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    write_image(root / "images/train/b.jpg", 128, 192)
    write_image(root / "images/val/c.jpg", orientation=6)

    folder = read_data(root)

    train, val = folder.splits["train"].truth, folder.splits["val"]
    assert folder.format == "YOLO"
    assert train.boxes.tolist() == [[24, 12, 40, 36], [48, 48, 80, 144]]
    assert train.sizes.tolist() == [[48, 64], [192, 128]]
    assert val.truth.sizes.tolist() == [[64, 48]]
    assert val.truth.boxes.tolist() == [[12, 16, 36, 48]]
    assert val.sample(0).image.shape == (64, 48, 3)


def test_polygons_become_their_bounding_boxes_and_scores_are_ignored(tmp_path: Path) -> None:
    labels = "1 0.25 0.5 0.5 0.25 0.75 0.75\n\n1 0.5 0.5 0.5 0.25 0.75\n0 0.5 0.5 0.25 0.5\n"
    folder = read_data(yolo(tmp_path, LABELS | {"val/c.jpg": labels}))

    assert folder.splits["val"].truth.boxes.tolist() == [[16, 12, 48, 36], [16, 18, 48, 30], [24, 12, 40, 36]]
    assert any("The last of 1 lines with 5 numbers after the class are scores" in note for note in folder.notes)
    assert any("1 lines are read as the corners of polygons" in note for note in folder.notes)


@pytest.mark.parametrize(
    ("names", "ids"),
    [("[cat, dog]", (0, 1)), ("\n  1: dog\n  0: cat\nnc: 2", (0, 1)), ("{9: dog, 5: cat}", (5, 9))],
)
def test_names_are_a_list_or_a_table_of_ids(tmp_path: Path, names: str, ids: tuple[int, int]) -> None:
    labels = {"train/a.jpg": f"{ids[0]} 0.5 0.5 0.5 0.5", "val/c.jpg": f"{ids[1]} 0.5 0.5 0.5 0.5"}
    folder = read_data(yolo(tmp_path, labels, f"train: images/train\nval: images/val\nnames: {names}\n"))

    assert (folder.classes.names, folder.classes.ids) == (("cat", "dog"), ids)
    assert folder.splits["val"].truth.labels.tolist() == [1]


@pytest.mark.parametrize(
    "entries",
    [
        "path: ../datasets/pets\ntrain: images/train\nval: images/val",
        "path: images\ntrain: train\nvalid: val",
        "train: /content/pets/images/train\nval: ../images/val",
        "train: [images/train]\nval: [images/val]",
        "train: train.txt\nval: [val.txt]",
        "train: images/train\nval: images/val\ntest: images/test",
        "train: images/train\nval: images/val\ntest:",
    ],
)
def test_places_are_found_in_any_usual_spelling(tmp_path: Path, entries: str) -> None:
    root = yolo(tmp_path, LABELS, f"{entries}\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("./images/train/b.jpg\nimages/train/a.jpg\n")
    (root / "val.txt").write_text("images\\val\\c.jpg\n")

    folder = read_data(root)

    files = {split: list(data.files) for split, data in folder.splits.items()}
    assert files == {"train": ["images/train/a.jpg", "images/train/b.jpg"], "val": ["images/val/c.jpg"]}
    assert [len(data.truth.boxes) for data in folder.splits.values()] == [2, 1]


def test_roboflow_paths_that_lead_up_are_found_below(tmp_path: Path) -> None:
    yolo(tmp_path, {}, "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\nnc: 1\n")
    for split in ("train", "valid"):
        write_image(tmp_path / split / "images/x.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/x.txt").write_text(GOOD)

    folder = read_data(tmp_path)

    assert [data.files for data in folder.splits.values()] == [("train/images/x.jpg",), ("valid/images/x.jpg",)]
    assert any("../train/images" in note for note in folder.notes)
    assert any("there is no test split" in note for note in folder.notes)


def test_a_yaml_of_another_name_is_found_by_its_keys(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "data.yaml").rename(root / "pets.yaml")
    (root / "broken.yaml").write_text("names: [")

    report = check(root)

    assert report.folder is not None
    assert (report.folder.format, report.errors) == ("YOLO", ())


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.b.jpg", "labels/train/a.b.txt"),
        ("images/x/images/a.JPG", "images/x/labels/a.txt"),
        ("train/a.png", "train/a.txt"),
        ("images.png", "images.txt"),
        ("IMAGES/a.jpg", "LABELS/a.txt"),
    ],
)
def test_the_label_file_replaces_the_last_folder_called_images(image: str, label: str) -> None:
    assert label_file(image) == label


@pytest.mark.parametrize("labels", ["Labels", "labels"])
def test_folders_may_be_capitalised(tmp_path: Path, labels: str) -> None:
    root = yolo(tmp_path, LABELS, "train: Images/train\nval: Images/val\nnames: [cat, dog]\n")
    (root / "images").rename(root / "Images")
    (root / "labels").rename(root / labels)

    report = check(root)

    assert report.ok, report.errors
    assert not found(report, "image-without-label")
    assert report.statistics["train"].objects == 2


@pytest.mark.parametrize(
    ("line", "kind"), [("2 0.5 0.5 0.2 0.2", "unknown-category"), ("0 0.9 0.5 0.4 0.2", "clipped-box")]
)
def test_a_faulty_line_is_reported_with_file_and_line(tmp_path: Path, line: str, kind: str) -> None:
    report = check(yolo(tmp_path, LABELS | {"train/b.jpg": f"\n{GOOD}{line}\n"}))

    assert only(report, kind).where == "labels/train/b.txt line 3"
    assert report.ok == (kind == "clipped-box")


def test_images_without_labels_and_labels_without_images_are_reported(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS | {"train/d.jpg": None, "train/e.jpg": ""})
    for name in ("z.txt", "my_classes.txt", "classes.txt"):
        (root / "labels/train" / name).write_text(GOOD)

    report = check(root)

    assert only(report, "image-without-label").file == "images/train/d.jpg"
    assert report.statistics["train"].empty_images == 2
    lone = sorted(fault.file for fault in found(report, "label-without-image"))
    assert lone == ["labels/train/my_classes.txt", "labels/train/z.txt"]
    assert report.ok


def test_a_list_reports_lines_that_it_cannot_use(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS, "train: train.txt\nval: images/val\nnames: [cat, dog]\n")
    lines = ("images/train/a.jpg", "images/train/z.jpg", "./images/train/a.jpg", "D:\\pets\\images\\train\\b.jpg")
    (root / "train.txt").write_text("\n".join(lines))

    report = check(root)

    assert only(report, "missing-image").file == "images/train/z.jpg"
    assert only(report, "repeated-image").place == 3
    assert report.statistics["train"].images == 2


def test_a_missing_place_of_a_split_that_has_others_is_an_error(tmp_path: Path) -> None:
    yaml = "train: images/train\nval: [images/val, images/nowhere]\nnames: [cat, dog]"

    fault = only(check(yolo(tmp_path, LABELS, yaml)), "missing-folder")

    assert fault.file == "data.yaml"
    assert "val: images/nowhere" in fault.message


def test_validation_on_the_training_images_is_noted(tmp_path: Path) -> None:
    report = check(yolo(tmp_path, LABELS, "train: images/train\nval: images/train\nnames: [cat, dog]\n"))

    assert not found(report, "shared-image")
    assert report.folder is not None
    assert any("train and val have the same images" in note for note in report.folder.notes)
    assert report.ok


@pytest.mark.parametrize("is_there", [True, False])
def test_validation_is_held_out_if_its_folder_is_missing_or_empty(tmp_path: Path, is_there: bool) -> None:
    images = {f"train/{index}.jpg": GOOD for index in range(20)}
    root = yolo(tmp_path, images, "train: ../images/train\nval: ../images/valid\nnames: [cat, dog]\n")
    if is_there:
        (root / "images/valid").mkdir()

    report = check(root)

    assert report.ok, report.errors
    assert {split: numbers.images for split, numbers in report.statistics.items()} == {"train": 17, "val": 3}
    assert report.folder is not None
    assert any("../images/valid for val" in note for note in report.folder.notes)
    assert any("3 of the 20 training images" in note for note in report.folder.notes)


def test_class_numbers_from_1_are_one_error_with_the_cure(tmp_path: Path) -> None:
    labels = {"train/a.jpg": "1 0.5 0.5 0.25 0.5", "val/c.jpg": "2 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.1"}

    report = check(yolo(tmp_path, labels))

    assert [fault.kind for fault in report.errors] == ["classes"]
    assert "run from 1 to 2, but the names count from 0" in only(report, "classes").message


def test_labels_are_found_by_name_where_none_is_at_its_place(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "labels").rename(root / "annotations")

    folder = read_data(root)

    assert [len(data.truth.boxes) for data in folder.splits.values()] == [2, 1]
    assert any("taken from annotations/train" in note for note in folder.notes)


@pytest.mark.parametrize(("names", "is_error"), [("[dog, cat]", True), ("[cat, dog]", False)])
def test_two_yaml_files_must_name_the_same_classes(tmp_path: Path, names: str, is_error: bool) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "data.yaml").rename(root / "a.yaml")
    (root / "b.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")

    assert len(found(check(root), "classes")) == is_error
    assert check(root / "b.yaml").ok


def test_classes_are_numbered_where_only_their_count_is_given(tmp_path: Path) -> None:
    folder = read_data(yolo(tmp_path, LABELS, "train: images/train\nval: images/val\nnc: 2\n"))

    assert folder.classes.names == ("class_0", "class_1")


def test_the_keys_of_darknet_may_be_capitalised_and_roboflow_lists_classes(tmp_path: Path) -> None:
    for split, text in (("train", GOOD), ("valid", GOOD)):
        write_image(tmp_path / split / f"{split}.jpg")
        (tmp_path / split / f"{split}.txt").write_text(text)
        (tmp_path / split / "_darknet.labels").write_text("cat\ndog\n")
    assert {name: len(data) for name, data in read_data(tmp_path).splits.items()} == {"train": 1, "val": 1}

    (tmp_path / "obj.data").write_text("classes = 2\nTrain = train.txt\nValid = valid.txt\nNames = obj.names\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text(f"data/{split}/{split}.jpg\n")
    assert {name: len(data) for name, data in read_data(tmp_path).splits.items()} == {"train": 1, "val": 1}
