"""The data doctor: image files, statistics, the printed report, and what training is told."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from oddetr.data import images
from oddetr.data.doctor.check import check, load_data
from oddetr.data.doctor.faults import DataError
from oddetr.data.doctor.statistics import Range
from oddetr.data.formats.reader import read_data, read_folder
from oddetr.data.images import ImageError, read_image
from oddetr.data.sources import DigitsConfig, open_sources, open_training_sources
from tests.data.builders import coco, coco_file, coco_image, coco_object, found, only, voc, voc_xml, write_image, yolo


def test_image_when_truncated_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    content = (root / "train/b.jpg").read_bytes()
    (root / "train/b.jpg").write_bytes(content[: len(content) // 2])

    fault = only(check(root), "unreadable-image")

    assert (fault.severity, fault.file) == ("error", "train/b.jpg")
    assert "truncated" in fault.message


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff"])
def test_image_when_no_image_then_is_an_error(tmp_path: Path, content: bytes) -> None:
    root = coco(tmp_path)
    (root / "train/b.jpg").write_bytes(content)

    assert only(check(root), "unreadable-image").file == "train/b.jpg"


def test_image_when_no_image_and_its_size_is_needed_then_is_an_error_once(tmp_path: Path) -> None:
    root = yolo(tmp_path, {f"{name}.jpg": "0 0.5 0.5 0.5 0.5" for name in ("train/a", "train/b", "val/c")})
    (root / "images/train/b.jpg").write_bytes(b"no image")

    report = check(root)

    assert only(report, "unreadable-image").file == "images/train/b.jpg"
    assert report.statistics["train"].images == 1


@pytest.mark.parametrize("pillows", [64 * 48 + 1, None])
@pytest.mark.parametrize("factor", [1, 3])
def test_image_when_a_decompression_bomb_then_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, pillows: int | None
) -> None:
    """Also where another library has set Pillow's bound."""
    root = coco(tmp_path)
    write_image(root / "train/b.jpg", 64 * 2, 48 * factor)
    monkeypatch.setattr(images, "MOST_PIXELS", 64 * 48 + 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)

    report = check(root)

    assert only(report, "image-too-large").file == "train/b.jpg"
    assert not report.ok


def test_warnings_when_checked_then_are_as_before(tmp_path: Path) -> None:
    before = list(warnings.filters)

    check(coco(tmp_path))

    assert warnings.filters == before


def test_size_when_the_file_has_another_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    write_image(root / "train/b.jpg", 32, 24)

    fault = only(check(root), "wrong-size")

    assert (fault.severity, fault.file) == ("error", "train/b.jpg")
    assert "32x24 pixels, but its annotations say 64x48" in fault.message


def test_size_when_the_annotations_are_of_the_image_before_exif_then_says_so(tmp_path: Path) -> None:
    root = coco(tmp_path)
    write_image(root / "train/b.jpg", 64, 48, orientation=6)

    assert "EXIF orientation turns it" in only(check(root), "wrong-size").message


def test_size_when_the_annotations_are_of_the_image_after_exif_then_is_right(tmp_path: Path) -> None:
    root = coco(tmp_path, images=[coco_image(1, "a.jpg", 48, 64)], written=False)
    write_image(root / "train/a.jpg", 64, 48, orientation=6)

    report = check(root)

    assert report.ok, report.errors
    assert report.folder is not None
    assert report.folder.splits["train"].sample(0).image.shape == (64, 48, 3)


def test_image_when_turned_by_exif_then_is_read_as_shown(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)

    image = read_image(tmp_path / "a.png")

    assert image.shape == (64, 48, 3)
    assert image[:32].min() == 255
    assert image[32:].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_image_when_of_any_mode_then_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    if mode.startswith("I"):
        values = np.full((4, 6), 128 << 8, dtype=np.uint16 if mode == "I;16" else np.int32)
        image = Image.fromarray(values)
    else:
        image = Image.new("RGB", (6, 4), (128, 128, 128)).convert(mode)
    image.save(tmp_path / "a.tif")

    pixels = read_image(tmp_path / "a.tif")

    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    if mode != "1":
        assert np.abs(pixels.astype(int) - 128).max() <= (26 if mode == "P" else 1)


def test_image_when_of_a_palette_with_transparency_then_is_read(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4), (10, 200, 30)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes([0] * 256))

    assert read_image(tmp_path / "a.png").shape == (4, 6, 3)


@pytest.mark.parametrize("content", [None, b"no image"])
def test_image_when_it_cannot_be_read_then_the_error_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)

    with pytest.raises(ImageError, match=r"a\.jpg"):
        read_image(tmp_path / "a.jpg")


def test_image_when_val_has_a_copy_of_a_training_image_then_is_told(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "val/v.jpg").write_bytes((root / "train/b.jpg").read_bytes())

    report = check(root)

    fault = only(report, "shared-image")
    assert (fault.severity, fault.file) == ("warning", "val/v.jpg")
    assert "train/b.jpg" in fault.message
    assert report.ok


def test_statistics_when_taken_then_count_objects_images_and_sizes(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg", 64, 48), coco_image(2, "b.jpg", 200, 100), coco_image(3, "c.jpg", 100, 100)]
    objects = [
        coco_object(1, 2, (0, 0, 10, 10)),
        coco_object(2, 2, (0, 0, 50, 50), 7),
        coco_object(3, 2, (0, 0, 99, 99)),
    ]

    numbers = check(coco(tmp_path, [*objects, coco_object(4, 2, iscrowd=1)], images)).statistics["train"]

    assert (numbers.images, numbers.empty_images, numbers.objects, numbers.crowd) == (3, 1, 4, 1)
    assert numbers.per_class == (3, 1)
    assert (numbers.small, numbers.medium, numbers.large) == (2, 1, 1)
    assert numbers.widths == Range(64.0, 100.0, 200.0)
    assert numbers.heights == Range(48.0, 100.0, 100.0)
    assert numbers.objects_per_image == Range(0.0, 4 / 3, 3.0)


def test_data_when_loaded_to_train_then_is_clean_and_tells_all(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, 0, 4))])
    (root / "val/v.jpg").write_bytes((root / "train/b.jpg").read_bytes())

    folder = load_data(root)

    assert folder.splits["train"].truth.annotation_ids.tolist() == [90]
    assert any("without area" in note for note in folder.notes)
    assert any("also trained on" in note and "val/v.jpg" in note for note in folder.notes)


def test_data_when_loaded_with_errors_then_the_error_lists_them_and_points_to_check(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))])
    (root / "train/a.jpg").write_bytes(b"no image")

    with pytest.raises(DataError) as error:
        load_data(root)

    message = str(error.value)
    assert "1 inverted box:\n  annotations/instances_train.json annotation 5" in message
    assert "1 image that cannot be read:\n  train/a.jpg" in message
    assert f"oddetr check {root}" in message
    assert "examples to train on" not in message
    assert {"inverted-box", "unreadable-image", "few-examples"} <= {fault.kind for fault in error.value.faults}


def test_faults_when_two_splits_share_a_file_then_are_told_once(tmp_path: Path) -> None:
    root = yolo(
        tmp_path, {"train/a.jpg": "0 0.5 0.5 0 0.5\n0 0.5 0.5 0.5 0.5"}, "train: images\nval: images\nnames: [cat]\n"
    )

    assert len(found(check(root), "zero-area-box")) == 1
    assert [fault.kind for fault in read_folder(root).faults].count("zero-area-box") == 1


def test_training_sources_when_told_not_to_decode_then_only_read(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "train/b.jpg").write_bytes(b"no image")

    sources, notes = open_training_sources(str(root), DigitsConfig(), 0, decode=False)

    assert list(sources) == ["train", "val"]
    assert any("fewer than" in note for note in notes)
    with pytest.raises(DataError, match=r"train/b\.jpg"):
        open_training_sources(str(root), DigitsConfig(), 0)


def test_training_sources_when_there_is_a_terminal_then_show_progress(tmp_path: Path) -> None:
    with Path(tmp_path / "out").open("w") as file:
        open_training_sources(str(coco(tmp_path / "data")), DigitsConfig(), 0, Console(file=file, force_terminal=True))

    assert "Decoding images" in (tmp_path / "out").read_text()


@pytest.mark.parametrize("decode", [True, False])
def test_training_sources_when_there_is_no_val_to_be_had_then_say_so(tmp_path: Path, decode: bool) -> None:
    root = yolo(tmp_path, {"train/a.jpg": "0 0.5 0.5 0.5 0.5"}, "train: images/train\nnames: [cat]\n")

    with pytest.raises(DataError, match="too few to hold out"):
        open_training_sources(str(root), DigitsConfig(), 0, decode=decode)
    assert list(open_sources(str(root))) == ["train"]


def test_coco_when_val_is_the_training_file_then_is_told(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [coco_image(1, "../train/a.jpg")], [coco_object(5, 1)])

    assert only(check(root), "shared-image").file == "train/a.jpg"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (("val/a.jpg", "val/b.jpg"), "there is no train split"),
        (("test/a.jpg",), "there is no train split"),
        (("train/a.jpg",), "1 image is too few to hold out a val split"),
    ],
)
def test_split_when_training_needs_it_but_it_is_not_there_then_is_an_error(
    tmp_path: Path, images: tuple[str, ...], message: str
) -> None:
    split = images[0].split("/")[0]
    root = yolo(tmp_path, dict.fromkeys(images, "0 0.5 0.5 0.5 0.5"), f"{split}: images/{split}\nnames: [cat, dog]\n")

    report = check(root)

    assert message in {fault.message for fault in found(report, "missing-split")}
    with pytest.raises(DataError, match=message):
        load_data(root)
    with pytest.raises(DataError, match=message):
        read_data(root, training=True)
    assert len(read_data(root).splits[split]) == len(images)


@pytest.mark.parametrize("splits", [("train", "val"), ("train",), ("val",), ("test",), ("train", "test"), ()])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_data_when_it_has_no_error_then_has_train_and_val_with_objects(
    tmp_path: Path, splits: tuple[str, ...], count: int
) -> None:
    names = [f"{split}/{index}.jpg" for split in splits for index in range(count)]
    entries = "".join(f"{split}: images/{split}\n" for split in splits)
    root = yolo(tmp_path, dict.fromkeys(names, "0 0.5 0.5 0.5 0.5"), f"{entries}names: [cat]\n")

    report = check(root)

    assert report.ok == ("train" in splits and (count > 1 or "val" in splits))
    if report.ok:
        folder = load_data(root)
        assert all((~folder.splits[split].truth.crowd).any() for split in ("train", "val"))


@pytest.mark.parametrize(("split", "kind"), [("val", "no-objects"), ("test", "nothing-to-score")])
def test_split_to_score_on_when_without_objects_then_is_told(tmp_path: Path, split: str, kind: str) -> None:
    images = {f"{name}/a.jpg": "" if name == split else "0 0.5 0.5 0.5 0.5" for name in ("train", "val", "test")}
    yaml = "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n"

    report = check(yolo(tmp_path, images, yaml))

    assert only(report, kind).message.startswith(f"{split}: 1 image, no object")
    assert report.ok == (split == "test")


def test_held_out_split_when_without_objects_then_is_an_error(tmp_path: Path) -> None:
    images = {f"train/{index}.jpg": "" if index == 1 else "0 0.5 0.5 0.5 0.5" for index in range(8)}

    report = check(yolo(tmp_path, images, "train: images/train\nnames: [cat]\n"))

    assert report.folder is not None
    assert report.folder.splits["val"].files == ("images/train/1.jpg",)
    assert only(report, "no-objects").message.startswith("val: 1 image, no object")


def test_split_when_it_shows_only_regions_to_ignore_then_is_an_error(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [coco_image(11, "v.jpg")], [coco_object(5, 11, iscrowd=1)])

    assert only(check(root), "no-objects").message.startswith("val: 1 image, no object")


def test_errors_when_nothing_can_be_read_then_the_warnings_that_explain_them_are_shown(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    (root / "Annotations").rename(root / "old")
    voc_xml(root / "Annotations/picture a.xml", [("cat", (1, 1, 9, 9))])

    report = check(root)

    message = only(report, "classes").message
    assert "Annotations/picture a.xml" in message
    assert "JPEGImages/a.jpg" in message
    assert only(report, "label-without-image").file == "Annotations/picture a.xml"
    assert len(found(report, "image-without-label")) == 3
