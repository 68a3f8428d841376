"""Layouts are recognised, splits are made, and the same data comes out whatever the order on disk."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oddetr.data.batches import TransformedDataset
from oddetr.data.dataset import mirrored_alike
from oddetr.data.doctor.faults import DataError
from oddetr.data.formats.files import Files
from oddetr.data.formats.folders import split_of
from oddetr.data.formats.reader import read_data, read_folder
from oddetr.data.images import decode, read_image, read_reduced, read_size
from oddetr.data.transforms import EvalTransform
from tests.data.builders import coco, coco_image, coco_object, voc, voc_xml, write_image, yolo

LINE = "0 0.5 0.5 0.25 0.5\n"
ONLY_TRAIN = "train: images/train\nnames: [cat, dog]\n"


def only_train(root: Path, names: list[str]) -> Path:
    return yolo(root, {f"train/{name}": LINE for name in names}, ONLY_TRAIN)


def test_layout_when_unknown_then_says_what_is_there_and_what_is_understood(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures/a.jpg")
    (tmp_path / "labels.csv").touch()

    with pytest.raises(DataError) as error:
        read_folder(tmp_path)

    message = str(error.value)
    assert "labels.csv, pictures/" in message
    assert all(
        layout in message for layout in ("COCO: ", "Pascal VOC: ", "YOLO: ", "_annotations.coco.json", "data.yaml")
    )


def test_layout_when_one_folder_too_high_then_points_to_the_folder(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2012", {"train": ["a"]})

    with pytest.raises(DataError, match=r"did you mean .*VOC2012"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("name", "found"), [("nowhere", "does not exist"), ("file.txt", "is a file")])
def test_layout_when_there_is_no_folder_then_says_so(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "file.txt").touch()

    with pytest.raises(DataError, match=found):
        read_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_train2017", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("VAL_images", "val"),
        ("test-dev2017", "test"),
        ("trainval", None),
        ("contest", None),
        ("default", None),
    ],
)
def test_split_when_named_in_any_usual_way_then_is_recognised(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_held_out_images_when_there_is_no_val_then_are_15_percent_and_said_aloud(tmp_path: Path) -> None:
    folder = read_data(only_train(tmp_path, [f"{index}.jpg" for index in range(20)]))

    train, val = folder.splits["train"], folder.splits["val"]
    assert (len(train), len(val)) == (17, 3)
    assert not set(train.files) & set(val.files)
    assert list(train.files) == sorted(train.files)
    assert [len(data.truth.boxes) for data in (train, val)] == [17, 3]
    assert any("3 of the 20 training images (15%) are held out as val" in note for note in folder.notes)


def test_held_out_images_when_written_in_another_order_then_are_the_same(tmp_path: Path) -> None:
    names = [f"{index}.jpg" for index in range(20)]
    one = read_data(only_train(tmp_path / "one", names))
    other = read_data(only_train(tmp_path / "other", names[::-1]))

    assert one.splits["val"].files == other.splits["val"].files


def test_held_out_images_when_read_anywhere_then_are_these(tmp_path: Path) -> None:
    folder = read_data(only_train(tmp_path, [f"{index}.jpg" for index in range(8)]))

    assert folder.splits["val"].files == ("images/train/1.jpg",)


@pytest.mark.parametrize(
    ("images", "sizes"), [(1, {"train": 1}), (2, {"train": 1, "val": 1}), (3, {"train": 2, "val": 1})]
)
def test_held_out_images_when_there_are_few_then_each_split_has_one(
    tmp_path: Path, images: int, sizes: dict[str, int]
) -> None:
    folder = read_data(only_train(tmp_path, [f"{index}.jpg" for index in range(images)]))

    assert {split: len(data) for split, data in folder.splits.items()} == sizes


def test_order_when_the_disk_lists_files_differently_then_is_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = yolo(tmp_path, {f"{split}/{name}.jpg": LINE for split in ("train", "val") for name in "dbca"})
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((here, folders, names[::-1]) for here, folders, names in walk(top)))

    files = read_data(root).splits["train"].files

    assert files == tuple(f"images/train/{name}.jpg" for name in "abcd")


def test_images_when_hidden_then_are_left_out(tmp_path: Path) -> None:
    root = yolo(tmp_path, {"train/a.jpg": LINE, "val/b.jpg": LINE})
    (root / "images/train/._a.jpg").write_bytes(b"resource fork")

    assert read_data(root).splits["train"].files == ("images/train/a.jpg",)


def test_split_when_asked_for_but_absent_then_says_which_there_are(tmp_path: Path) -> None:
    folder = read_data(coco(tmp_path))

    assert folder.split("val") is folder.splits["val"]
    with pytest.raises(DataError, match="no test split; there is train, val"):
        folder.split("test")


def test_errors_when_data_is_to_be_used_then_are_not_let_through(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))])

    assert read_folder(root).splits
    with pytest.raises(DataError, match=r"1 inverted box:\n.*annotation 5"):
        read_data(root)


def test_sample_when_taken_then_is_the_image_with_its_objects(tmp_path: Path) -> None:
    data = read_data(coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16), 7, iscrowd=1)])).splits["train"]

    sample = data.sample(1, epoch=3)

    assert sample.image.shape == (48, 64, 3)
    assert sample.boxes.tolist() == [[8, 10, 28, 26]]
    assert sample.labels.tolist() == [1]
    assert sample.crowd.tolist() == [True]
    assert (sample.image_id, sample.name) == (2, "train/b.jpg")
    assert data.annotations() is data.truth


def test_sample_when_changed_by_a_transform_then_the_data_is_not(tmp_path: Path) -> None:
    data = read_data(coco(tmp_path)).splits["train"]

    data.sample(0).boxes[:] = 0

    assert data.sample(0).boxes.tolist() == [[8, 8, 28, 24]]


def test_images_when_taken_then_keep_their_objects_in_the_given_order(tmp_path: Path) -> None:
    data = read_data(coco(tmp_path, [coco_object(5, 2), coco_object(6, 2)])).splits["train"]

    taken = data.take(np.array([1, 0]), "some")

    assert (taken.split, taken.files) == ("some", ("train/b.jpg", "train/a.jpg"))
    assert taken.truth.image_ids.tolist() == [2, 1]
    assert taken.truth.offsets.tolist() == [0, 2, 3]
    assert taken.truth.annotation_ids.tolist() == [5, 6, 90]


@pytest.mark.parametrize(
    ("names", "flippable"),
    [
        (("cat", "dog"), True),
        (("left hand", "right hand"), False),
        (("TurnLeft", "stop"), False),
        (("arrow_RIGHT", "stop"), False),
        (("leftover", "bright"), True),
        (("a", "b", "7"), False),
        (("30", "50", "120"), False),
        (("a", "bicycle"), True),
    ],
)
def test_mirroring_when_names_tell_sides_or_are_characters_then_is_refused(
    names: tuple[str, ...], flippable: bool
) -> None:
    assert mirrored_alike(names) == flippable


def test_mirroring_when_refused_then_is_said_aloud(tmp_path: Path) -> None:
    folder = read_data(voc(tmp_path, {"train": ["a"], "val": ["b"]}, [("left shoe", (1, 1, 9, 9))]))

    assert not folder.splits["train"].flippable
    assert any("will not be mirrored" in note for note in folder.notes)


def test_classes_when_rarely_or_never_shown_then_are_told(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": ["a"], "val": ["b"]}, [("cat", (1, 1, 9, 9))] * 3)
    voc_xml(root / "Annotations/b.xml", [("dog", (1, 1, 9, 9))])

    notes = read_data(root).notes

    assert "1 class without an example to train on: dog." in notes
    assert "1 class with fewer than 10 examples to train on: cat (3)." in notes


def test_held_out_images_when_15_percent_is_no_whole_number_then_the_true_share_is_said(tmp_path: Path) -> None:
    folder = read_data(only_train(tmp_path, [f"{index}.jpg" for index in range(12)]))

    assert any("2 of the 12 training images (17%)" in note for note in folder.notes)


def test_held_out_images_when_there_are_augmented_copies_then_copies_stay_together(tmp_path: Path) -> None:
    names = [f"{index}_jpg.rf.{copy}{index:x}0f.jpg" for index in range(14) for copy in "abc"]

    folder = read_data(only_train(tmp_path, names))

    originals = [{file.split(".rf.")[0] for file in folder.splits[name].files} for name in ("train", "val")]
    assert not originals[0] & originals[1]
    assert len(folder.splits["val"]) == 6


@pytest.mark.parametrize(("copies", "sizes"), [((9, 1), {"train": 9, "val": 1}), ((10,), {"train": 10})])
def test_held_out_images_when_most_are_copies_of_one_then_it_is_trained_on(
    tmp_path: Path, copies: tuple[int, ...], sizes: dict[str, int]
) -> None:
    names = [f"{index}_jpg.rf.{copy:x}.jpg" for index, count in enumerate(copies) for copy in range(count)]

    folder = read_data(only_train(tmp_path, names))

    assert {split: len(data) for split, data in folder.splits.items()} == sizes


def photo(path: Path, width: int = 643, height: int = 480, orientation: int = 1) -> Path:
    """Soft colours, as photographs have, of which a smaller picture can be taken by averaging."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize(
    ("name", "orientation", "shorter", "shape"),
    [
        ("a.jpg", 1, None, (480, 643)),
        ("a.jpg", 1, 300, (480, 643)),
        ("a.jpg", 1, 240, (240, 322)),
        ("a.jpg", 1, 100, (120, 161)),
        ("a.jpg", 1, 10, (60, 81)),
        ("a.jpg", 6, 100, (161, 120)),
        ("a.png", 1, 100, (480, 643)),
        ("a.tif", 6, 100, (643, 480)),
        ("a.tif", 1, 100, (480, 643)),
    ],
)
def test_image_when_smaller_will_do_then_is_a_reduced_jpeg_that_looks_alike(
    tmp_path: Path, name: str, orientation: int, shorter: int | None, shape: tuple[int, int]
) -> None:
    file = photo(tmp_path / name, orientation=orientation)
    image, whole = read_reduced(file, shorter)
    assert image.shape == (*shape, 3)
    assert whole == read_size(file).size == decode(file).size == ((480, 643) if orientation == 1 else (643, 480))
    expected = Image.fromarray(read_image(file)).resize(shape[::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(expected, np.float32) - image).mean() < 3


def test_example_when_of_a_large_photo_then_is_that_of_the_whole_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation at 60 pixels keeps a shorter side of 120: a quarter of the sides."""
    root = coco(tmp_path, [coco_object(5, 1, (80, 100, 320, 160), 7)], [coco_image(1, "a.jpg", 643, 480)])
    photo(root / "train/a.jpg")
    source = read_data(root).splits["train"]
    transform = EvalTransform(60, (0.5,) * 3, (0.5,) * 3)
    reduced = TransformedDataset(source, transform)[0, 0]
    assert source.sample(0, shorter=transform.detail).image.shape == (120, 161, 3)
    monkeypatch.setattr(EvalTransform, "detail", None)
    whole = TransformedDataset(source, transform)[0, 0]
    assert reduced.original_size == whole.original_size == (480, 643)
    assert reduced.image.shape == whole.image.shape == (3, 60, 80)
    torch.testing.assert_close(reduced.boxes, whole.boxes, atol=1e-6, rtol=0)
    found = torch.tensor([240 / 643, 180 / 480, 320 / 643, 160 / 480])
    assert (reduced.boxes - found).abs().amax(dim=1).min() < 1e-6
    assert (reduced.image - whole.image).abs().mean() < 0.02


def test_files_when_many_names_are_missing_then_those_that_differ_in_capitals_are_found_in_no_time(
    tmp_path: Path,
) -> None:
    names = [f"a{index}.JPG" for index in range(5000)]
    for name in names:
        (tmp_path / name).touch()
    files = Files(tmp_path)

    begun = time.process_time()
    assert [files.similar(name.swapcase()) for name in names] == names
    assert {files.similar(f"b{index}.jpg") for index in range(10_000)} == {None}
    assert time.process_time() - begun < 2
