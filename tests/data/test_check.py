"""The data doctor: image files, statistics, the printed report, and what is raised and noted before training."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from oddetr.data.doctor.check import CheckReport, check, load_data, print_report
from oddetr.data.doctor.statistics import Range
from oddetr.data.fault_kinds import KINDS
from oddetr.data.faults import DataError
from oddetr.data.images import ImageError, read_image
from oddetr.data.reader import read_data, read_folder
from oddetr.data.sources import DigitsConfig, open_sources, open_training_sources
from tests.data.builders import coco, coco_file, coco_image, coco_object, found, only, voc, voc_xml, write_image, yolo

LABEL = "0 0.5 0.5 0.5 0.5"


def printed(report: CheckReport, every: bool = False, width: int = 200, terminal: bool = False) -> str:
    console = Console(width=width, force_terminal=terminal, color_system=None)
    with console.capture() as capture:
        print_report(report, console, every)
    return capture.get()


def test_an_unreadable_image_whose_size_is_needed_is_reported_once(tmp_path: Path) -> None:
    root = yolo(tmp_path, {f"{name}.jpg": LABEL for name in ("train/a", "train/b", "val/c")})
    (root / "images/train/b.jpg").write_bytes(b"no image")

    report = check(root)

    assert only(report, "unreadable-image").file == "images/train/b.jpg"
    assert report.statistics["train"].images == 1
    with pytest.raises(ImageError, match=r"train/b\.jpg"):
        read_image(root / "images/train/b.jpg")


@pytest.mark.parametrize("limit", [64 * 48 + 1, None])
def test_a_decompression_bomb_is_an_error_whatever_limit_pillow_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    root = coco(tmp_path)
    write_image(root / "train/b.jpg", 64 * 2, 48 * 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    before = list(warnings.filters)

    assert only(check(root, most_pixels=64 * 48 + 1), "image-too-large").file == "train/b.jpg"
    assert warnings.filters == before


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_an_image_of_any_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    if mode.startswith("I"):
        image = Image.fromarray(np.full((4, 6), 128 << 8, dtype=np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.new("RGB", (6, 4), (128, 128, 128)).convert(mode)
    image.save(tmp_path / "a.tif")

    pixels = read_image(tmp_path / "a.tif")

    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((4, 6, 3), np.uint8, True)
    if mode != "1":
        assert np.abs(pixels.astype(int) - 128).max() <= (26 if mode == "P" else 1)


def test_statistics_count_objects_images_and_sizes(tmp_path: Path) -> None:
    images = [coco_image(1, "a.jpg", 64, 48), coco_image(2, "b.jpg", 200, 100), coco_image(3, "c.jpg", 100, 100)]
    objects = [coco_object(side, 2, (0, 0, side, side), 7 if side == 50 else 3) for side in (10, 50, 99)]

    numbers = check(coco(tmp_path, [*objects, coco_object(4, 2, iscrowd=1)], images)).statistics["train"]

    assert (numbers.images, numbers.empty_images, numbers.objects, numbers.crowd) == (3, 1, 4, 1)
    assert numbers.per_class == (3, 1)
    assert (numbers.small, numbers.medium, numbers.large) == (2, 1, 1)
    assert numbers.widths == Range(64.0, 100.0, 200.0)
    assert numbers.heights == Range(48.0, 100.0, 100.0)
    assert numbers.objects_per_image == Range(0.0, 4 / 3, 3.0)


def test_warnings_do_not_stop_training_but_are_noted(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, 0, 4))])
    (root / "val/v.jpg").write_bytes((root / "train/b.jpg").read_bytes())

    folder = load_data(root)

    assert folder.splits["train"].truth.annotation_ids.tolist() == [90]
    assert any(
        "1 box without area, left out: annotations/instances_train.json annotation 5." in n for n in folder.notes
    )
    assert any("also trained on" in note and "val/v.jpg" in note for note in folder.notes)
    (shared,) = [fault for fault in folder.faults if fault.kind == "shared-image"]
    assert "train/b.jpg" in shared.message


def test_errors_are_raised_with_their_places_and_advice(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))])
    (root / "train/a.jpg").write_bytes(b"no image")

    with pytest.raises(DataError) as error:
        load_data(root)

    message = str(error.value)
    assert "1 inverted box:\n  annotations/instances_train.json annotation 5" in message
    assert f"-> {KINDS['inverted-box'].advice}" in message
    assert "1 image that cannot be read:\n  train/a.jpg" in message
    assert f"oddetr check {root}" in message
    assert "examples to train on" not in message
    assert {"inverted-box", "unreadable-image", "few-examples"} <= {fault.kind for fault in error.value.faults}


def test_a_fault_of_a_file_in_two_splits_is_reported_once(tmp_path: Path) -> None:
    yaml = "train: images\nval: images\nnames: [cat]\n"
    root = yolo(tmp_path, {"train/a.jpg": f"0 0.5 0.5 0 0.5\n{LABEL}"}, yaml)

    assert len(found(check(root), "zero-area-box")) == 1
    assert [fault.kind for fault in read_folder(root).faults].count("zero-area-box") == 1


def test_training_sources_decode_images_unless_told_not_to(tmp_path: Path) -> None:
    root = coco(tmp_path / "data")
    with Path(tmp_path / "out").open("w") as file:
        open_training_sources(str(root), DigitsConfig(), 0, Console(file=file, force_terminal=True))
    assert "Decoding images" in (tmp_path / "out").read_text()

    (root / "train/b.jpg").write_bytes(b"no image")
    sources, notes = open_training_sources(str(root), DigitsConfig(), 0, decode=False)
    assert list(sources) == ["train", "val"]
    assert any("fewer than" in note for note in notes)
    with pytest.raises(DataError, match=r"train/b\.jpg"):
        open_training_sources(str(root), DigitsConfig(), 0)


@pytest.mark.parametrize(
    ("splits", "count", "message"),
    [
        (("train",), 1, "1 image is too few to hold out a val split"),
        (("train",), 2, ""),
        (("val",), 2, "there is no train split"),
        (("test",), 1, "there is no train split"),
        (("train", "test"), 1, "1 image is too few"),
        (("train", "val"), 1, ""),
        ((), 1, "no image in any split"),
    ],
)
def test_training_needs_train_and_val_but_evaluation_does_not(
    tmp_path: Path, splits: tuple[str, ...], count: int, message: str
) -> None:
    names = [f"{split}/{index}.jpg" for split in splits for index in range(count)]
    entries = "".join(f"{split}: images/{split}\n" for split in splits)
    root = yolo(tmp_path, dict.fromkeys(names, LABEL), f"{entries or 'test: ../test'}\nnames: [cat]\n")

    report = check(root)

    assert report.ok == (not message)
    if report.ok:
        assert {"train", "val"} <= set(load_data(root).splits)
    else:
        for read in (load_data, lambda root: read_data(root, training=True)):
            with pytest.raises(DataError, match=message):
                read(root)
    if splits:
        assert set(splits) <= set(open_sources(str(root)))


@pytest.mark.parametrize(("split", "kind"), [("val", "no-objects"), ("test", "nothing-to-score")])
def test_a_split_without_objects_is_an_error_if_training_needs_it(tmp_path: Path, split: str, kind: str) -> None:
    images = {f"{name}/a.jpg": "" if name == split else LABEL for name in ("train", "val", "test")}
    yaml = "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n"

    report = check(yolo(tmp_path, images, yaml))

    assert only(report, kind).message.startswith(f"{split}: 1 image, no object")
    assert report.ok == (split == "test")


def test_a_held_out_split_without_objects_is_an_error(tmp_path: Path) -> None:
    images = {f"train/{index}.jpg": "" if index == 1 else LABEL for index in range(8)}

    report = check(yolo(tmp_path, images, "train: images/train\nnames: [cat]\n"))

    assert report.folder is not None
    assert report.folder.splits["val"].files == ("images/train/1.jpg",)
    assert only(report, "no-objects").message.startswith("val: 1 image, no object")


def test_a_split_of_crowds_alone_has_no_objects(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [coco_image(11, "v.jpg")], [coco_object(5, 11, iscrowd=1)])

    assert "1 image, no object, 1 region to ignore" in only(check(root), "only-regions").message


def test_an_image_in_train_and_val_is_a_warning(tmp_path: Path) -> None:
    root = coco(tmp_path)
    coco_file(root / "annotations/instances_val.json", [coco_image(1, "../train/a.jpg")], [coco_object(5, 1)])

    report = check(root)

    assert only(report, "shared-image").file == "train/a.jpg"
    assert only(report, "shared-image") in report.warnings


def test_warnings_that_explain_an_error_are_reported_with_it(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": ["a", "b"], "val": ["c"]})
    (root / "Annotations").rename(root / "old")
    voc_xml(root / "Annotations/picture a.xml", [("cat", (1, 1, 9, 9))])

    report = check(root)

    message = only(report, "classes").message
    assert "Annotations/picture a.xml" in message
    assert "JPEGImages/a.jpg" in message
    assert only(report, "label-without-image").file == "Annotations/picture a.xml"
    assert len(found(report, "image-without-label")) == 3


def test_the_report_of_sound_data_says_so(tmp_path: Path) -> None:
    text = printed(check(voc(tmp_path, {"train": ["[red]a[/nothing]"], "val": ["b"]}, [("[bold]cat", (1, 1, 9, 9))])))

    assert "Pascal VOC, 1 class\n" in text
    assert "[bold]cat" in text
    assert "No errors: this data can be trained on." in text


@pytest.mark.parametrize(("faults", "every", "shown"), [(30, False, 10), (30, True, 30), (11, False, 11)])
def test_the_report_shortens_long_lists(tmp_path: Path, faults: int, every: bool, shown: int) -> None:
    report = check(coco(tmp_path, [coco_object(id, 2, (8, 8, 0, 4)) for id in range(1, faults + 1)]))

    text = printed(report, every)

    assert f"{faults} boxes without area, left out" in text
    assert text.count("instances_train.json annotation") == shown
    assert ("and 20 more" in text) == (shown == 10)


def test_the_report_shows_the_most_frequent_of_many_classes(tmp_path: Path) -> None:
    categories = [{"id": id, "name": f"class {id}"} for id in range(50)]
    report = check(coco(tmp_path, [coco_object(5, 2, category=49)], categories=categories))

    assert "class 49" in printed(report).split("and 30 classes with fewer objects")[0]
    assert "class 31" in printed(report, every=True).split("warning:")[0]


def test_the_report_breaks_lines_only_on_terminals(tmp_path: Path) -> None:
    report = check(coco(tmp_path, [coco_object(id, 2, (8, 8, -5, 4)) for id in range(1, 4)]))

    lines = printed(report, width=50).splitlines()
    for fault in found(report, "inverted-box"):
        assert f"    {fault}" in lines
    assert f"  -> {KINDS['inverted-box'].advice}" in lines
    assert "error: 3 inverted boxes" in lines
    assert lines[-2].startswith("3 errors: training will not start")
    assert "--skip-broken true" in lines[-1]
    assert not [line for line in lines if line != line.rstrip()]

    lines = printed(report, width=60, terminal=True).splitlines()
    first = next(index for index, line in enumerate(lines) if "annotation 2" in line)
    assert max(map(len, lines)) <= 60
    assert lines[first + 1].startswith("    ")


def test_three_splits_fit_into_80_columns(tmp_path: Path) -> None:
    names = {f"{split}/{index}.jpg": LABEL for split in ("train", "val", "test") for index in "ab"}
    root = yolo(tmp_path, names, "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n")
    write_image(root / "images/val/a.jpg", 2200, 1100)

    lines = printed(check(root), width=80, terminal=True).split("\n\n")[0].splitlines()

    rows = {line[:26].strip(): line[26:].split("  ") for line in lines[2:]}
    assert {len([value for value in values if value.strip()]) for values in rows.values()} == {3}
    assert [value.strip() for value in rows["image width (median)"] if value] == ["64", "64-2,200 (1,132)", "64"]
