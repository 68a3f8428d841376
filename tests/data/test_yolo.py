"""YOLO: data.yaml in its many spellings, and everything that can be wrong in a label file."""

from pathlib import Path

import pytest

from oddetr.data.doctor.check import check
from oddetr.data.formats.reader import read_data
from oddetr.data.formats.yolo import label_file
from tests.data.builders import found, only, write_image, yolo

GOOD = "0 0.5 0.5 0.25 0.5\n"
LABELS = {"train/a.jpg": GOOD, "train/b.jpg": GOOD, "val/c.jpg": "1 0.5 0.5 0.5 0.5\n"}


def test_boxes_when_read_then_are_in_pixels(tmp_path: Path) -> None:
    folder = read_data(yolo(tmp_path, LABELS))

    truth = folder.splits["train"].truth
    assert folder.format == "YOLO"
    assert truth.boxes.tolist() == [[24, 12, 40, 36]] * 2
    assert truth.sizes.tolist() == [[48, 64]] * 2
    assert truth.annotation_ids.tolist() == [1, 2]


def test_boxes_when_images_have_several_sizes_then_are_of_their_own_image(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    write_image(root / "images/train/b.jpg", 128, 192)

    truth = read_data(root).splits["train"].truth

    assert truth.boxes.tolist() == [[24, 12, 40, 36], [48, 48, 80, 144]]


def test_boxes_when_the_image_is_turned_by_exif_then_are_of_the_turned_image(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    write_image(root / "images/val/c.jpg", orientation=6)

    data = read_data(root).splits["val"]

    assert data.truth.sizes.tolist() == [[64, 48]]
    assert data.truth.boxes.tolist() == [[12, 16, 36, 48]]
    assert data.sample(0).image.shape == (64, 48, 3)


def test_polygons_when_read_then_are_their_bounding_boxes(tmp_path: Path) -> None:
    folder = read_data(yolo(tmp_path, LABELS | {"val/c.jpg": "1 0.25 0.5 0.5 0.25 0.75 0.75\n\n"}))

    assert folder.splits["val"].truth.boxes.tolist() == [[16, 12, 48, 36]]


def test_scores_when_after_boxes_then_are_left_out_and_told_of(tmp_path: Path) -> None:
    folder = read_data(yolo(tmp_path, LABELS | {"val/c.jpg": "1 0.5 0.5 0.5 0.5 0.75\n0 0.5 0.5 0.25 0.5\n"}))

    assert folder.splits["val"].truth.boxes.tolist() == [[16, 12, 48, 36], [24, 12, 40, 36]]
    assert any(
        note.startswith("Labels with scores") and "of 1 images, labels/val/c.txt" in note for note in folder.notes
    )


@pytest.mark.parametrize(
    "names", ["names: [cat, dog]", "names:\n  0: cat\n  1: dog", "names:\n  1: dog\n  0: cat\nnc: 2"]
)
def test_names_when_a_list_or_a_table_then_are_the_classes(tmp_path: Path, names: str) -> None:
    folder = read_data(yolo(tmp_path, LABELS, f"train: images/train\nval: images/val\n{names}\n"))

    assert (folder.classes.names, folder.classes.ids) == (("cat", "dog"), (0, 1))


def test_ids_when_sparse_then_are_those_of_the_table(tmp_path: Path) -> None:
    labels = {"train/a.jpg": "5 0.5 0.5 0.5 0.5", "val/c.jpg": "9 0.5 0.5 0.5 0.5"}
    folder = read_data(yolo(tmp_path, labels, "train: images/train\nval: images/val\nnames: {9: dog, 5: cat}\n"))

    assert folder.classes.ids == (5, 9)
    assert folder.splits["val"].truth.labels.tolist() == [1]


@pytest.mark.parametrize(
    "entries",
    [
        "path: .\ntrain: images/train\nval: images/val",
        "path: ../datasets/pets\ntrain: images/train\nval: images/val",
        "path: images\ntrain: train\nvalid: val",
        "train: ../images/train\nval: ../images/val",
        "train: /content/pets/images/train\nval: /content/pets/images/val",
        "train: [images/train]\nval: [images/val]",
        "train: train.txt\nval: [val.txt]",
        "train: images/train\nval: images/val\ntest: images/test",
        "train: images/train\nval: images/val\ntest:",
    ],
)
def test_entries_when_spelled_in_any_usual_way_then_are_found(tmp_path: Path, entries: str) -> None:
    root = yolo(tmp_path, LABELS, f"{entries}\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("./images/train/b.jpg\nimages/train/a.jpg\n")
    (root / "val.txt").write_text("images\\val\\c.jpg\n")

    folder = read_data(root)

    files = {split: list(data.files) for split, data in folder.splits.items()}
    assert files == {"train": ["images/train/a.jpg", "images/train/b.jpg"], "val": ["images/val/c.jpg"]}
    assert [len(data.truth.boxes) for data in folder.splits.values()] == [2, 1]


def test_roboflows_paths_when_they_lead_up_then_are_found_below(tmp_path: Path) -> None:
    yolo(tmp_path, {}, "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\nnc: 1\n")
    for split in ("train", "valid"):
        write_image(tmp_path / split / "images/x.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels/x.txt").write_text(GOOD)

    folder = read_data(tmp_path)

    assert [data.files for data in folder.splits.values()] == [("train/images/x.jpg",), ("valid/images/x.jpg",)]
    assert any("../train/images" in note for note in folder.notes)
    assert any("there is no test split" in note for note in folder.notes)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.b.jpg", "labels/train/a.b.txt"),
        ("images/x/images/a.JPG", "images/x/labels/a.txt"),
        ("train/a.png", "train/a.txt"),
        ("images.png", "images.txt"),
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("IMAGES/a.jpg", "LABELS/a.txt"),
    ],
)
def test_label_file_when_asked_for_then_replaces_the_last_images(image: str, label: str) -> None:
    assert label_file(image) == label


@pytest.mark.parametrize(
    ("line", "kind", "severity"),
    [
        ("0 20 16 8 8", "pixel-coordinates", "error"),
        ("0 0.5 0.5 -0.2 0.2", "inverted-box", "error"),
        ("0 nan 0.5 0.2 0.2", "not-a-number", "error"),
        ("0 x 0.5 0.2 0.2", "not-a-number", "error"),
        ("0 1.5 0.5 0.2 0.2", "box-outside", "error"),
        ("0 0.5 0.5 0.2", "malformed-record", "error"),
        ("0 0.5 0.5 0.2 0.2 1.9", "malformed-record", "error"),
        ("2 0.5 0.5 0.2 0.2", "unknown-category", "error"),
        ("-1 0.5 0.5 0.2 0.2", "unknown-category", "error"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown-category", "error"),
        ("cat 0.5 0.5 0.2 0.2", "unknown-category", "error"),
        ("0 0.5 0.5 0 0.2", "zero-area-box", "warning"),
        ("0 0.9 0.5 0.4 0.2", "clipped-box", "warning"),
    ],
)
def test_line_when_faulty_then_names_file_and_line(tmp_path: Path, line: str, kind: str, severity: str) -> None:
    report = check(yolo(tmp_path, LABELS | {"train/b.jpg": f"\n{GOOD}{line}\n"}))

    fault = only(report, kind)
    assert (fault.severity, fault.file, fault.annotation) == (severity, "labels/train/b.txt", 3)
    assert report.ok == (severity == "warning")


def test_label_file_when_missing_then_image_is_one_without_objects(tmp_path: Path) -> None:
    report = check(yolo(tmp_path, LABELS | {"train/d.jpg": None, "train/e.jpg": ""}))

    fault = only(report, "image-without-label")
    assert (fault.severity, fault.file) == ("warning", "images/train/d.jpg")
    assert report.statistics["train"].empty_images == 2


def test_label_file_when_without_image_then_is_told(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "labels/train/z.txt").write_text(GOOD)
    (root / "labels/train/my_classes.txt").write_text(GOOD)
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")

    faults = sorted((fault.severity, fault.file) for fault in found(check(root), "label-without-image"))

    assert faults == [("warning", "labels/train/my_classes.txt"), ("warning", "labels/train/z.txt")]


def test_label_file_when_not_text_then_is_an_error(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS)
    (root / "labels/train/b.txt").write_bytes(b"\xff\xfe\x00")

    assert only(check(root), "malformed-file").file == "labels/train/b.txt"


@pytest.mark.parametrize("line", ["/etc/a.jpg", "../a.jpg", "images/../../a.jpg"])
def test_list_when_a_line_leads_out_of_the_folder_then_is_refused(tmp_path: Path, line: str) -> None:
    write_image(tmp_path / "a.jpg")
    root = yolo(tmp_path / "data", LABELS, "train: train.txt\nval: images/val\nnames: [cat, dog]\n")
    (root / "train.txt").write_text(f"images/train/a.jpg\n{line}\n")

    fault = only(check(root), "outside-folder")

    assert (fault.severity, fault.file, fault.annotation) == ("error", "train.txt", 2)


def test_list_when_it_names_missing_and_repeated_images_then_tells(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS, "train: train.txt\nval: images/val\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("images/train/a.jpg\nimages/train/z.jpg\n./images/train/a.jpg\n")

    report = check(root)

    assert only(report, "missing-image").file == "images/train/z.jpg"
    assert only(report, "repeated-image").annotation == 3
    assert only(report, "unlisted-image").file == "images/train/b.jpg"


def test_validation_when_it_is_the_training_set_then_is_told(tmp_path: Path) -> None:
    report = check(yolo(tmp_path, LABELS, "train: images/train\nval: images/train\nnames: [cat, dog]\n"))

    assert not found(report, "shared-image")
    assert report.folder is not None
    assert any("train and val have the same images" in note for note in report.folder.notes)
    assert report.ok


@pytest.mark.parametrize(
    ("yaml", "kind"),
    [
        ("names: [cat\ntrain: x", "malformed-file"),
        ("just text", "malformed-file"),
        ("names: [cat]", "malformed-file"),
        ("train: images/train\nval: images/val", "classes"),
        ("train: images/train\nval: images/val\nnames: []", "classes"),
        ("train: images/train\nval: images/val\nnames: [cat, cat]", "classes"),
        ("train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 3", "classes"),
        ("train: images/nowhere\nval: images/val\nnames: [cat, dog]", "missing-folder"),
        ("train: images/train\nval: [images/val, images/nowhere]\nnames: [cat, dog]", "missing-folder"),
    ],
)
def test_yaml_when_it_cannot_be_followed_then_is_an_error(tmp_path: Path, yaml: str, kind: str) -> None:
    fault = only(check(yolo(tmp_path, LABELS, yaml)), kind)

    assert (fault.severity, fault.file) == ("error", "data.yaml")


def test_images_when_there_are_none_anywhere_then_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("test: ../test/images\nnames: [cat]\n")

    assert "no image in any split" in only(check(tmp_path), "empty-split").message


@pytest.mark.parametrize("empty", [True, False])
def test_validation_when_its_folder_is_missing_or_empty_then_is_held_out_aloud(tmp_path: Path, empty: bool) -> None:
    images = {f"train/{index}.jpg": GOOD for index in range(20)}
    root = yolo(tmp_path, images, "train: ../images/train\nval: ../images/valid\nnames: [cat, dog]\n")
    if empty:
        (root / "images/valid").mkdir()

    report = check(root)

    assert report.ok, report.errors
    assert {split: numbers.images for split, numbers in report.statistics.items()} == {"train": 17, "val": 3}
    assert report.folder is not None
    assert any("../images/valid for val" in note for note in report.folder.notes)
    assert any("3 of the 20 training images" in note for note in report.folder.notes)


@pytest.mark.parametrize("labels", ["Labels", "labels"])
def test_labels_when_folders_are_capitalised_then_are_found(tmp_path: Path, labels: str) -> None:
    root = yolo(tmp_path, LABELS, "train: Images/train\nval: Images/val\nnames: [cat, dog]\n")
    (root / "images").rename(root / "Images")
    (root / "labels").rename(root / labels)

    report = check(root)

    assert report.ok, report.errors
    assert not found(report, "image-without-label")
    assert report.statistics["train"].objects == 2


def test_list_when_a_line_is_absolute_but_ends_in_the_folder_then_says_what_to_write(tmp_path: Path) -> None:
    root = yolo(tmp_path, LABELS, "train: train.txt\nval: images/val\nnames: [cat, dog]\n")
    (root / "train.txt").write_text("images/train/a.jpg\n/content/pets/images/train/b.jpg\n")

    assert "write images/train/b.jpg" in only(check(root), "outside-folder").message
