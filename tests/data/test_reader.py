"""Formats are recognised, splits are made, and the same data comes out whatever the order on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oddetr.data.batches import TransformedDataset
from oddetr.data.dataset import mirrored_alike
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files
from oddetr.data.formats.text import split_of
from oddetr.data.images import decode, read_image, read_reduced, read_size
from oddetr.data.reader import read_data, read_folder
from oddetr.data.transforms import EvalTransform
from tests.data.builders import coco, coco_image, coco_object, voc, voc_xml, write_image, yolo

LINE = "0 0.5 0.5 0.25 0.5\n"


def only_train(root: Path, names: list[str]) -> Path:
    return yolo(root, {f"train/{name}": LINE for name in names}, "train: images/train\nnames: [cat, dog]\n")


def numbered(count: int) -> list[str]:
    return [f"{index}.jpg" for index in range(count)]


def test_a_folder_of_no_known_layout_is_described(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures/a.jpg")
    (tmp_path / "labels.toml").touch()

    with pytest.raises(DataError) as error:
        read_folder(tmp_path)

    layouts = ("COCO: ", "Pascal VOC: ", "YOLO: ", "_annotations.coco.json", "data.yaml")
    assert all(part in str(error.value) for part in ("labels.toml, pictures/", *layouts))


def test_the_folder_above_a_data_set_names_it(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2012", {"train": ["a"]})

    with pytest.raises(DataError, match=r"did you mean .*VOC2012"):
        read_folder(tmp_path)


def test_a_folder_of_two_formats_is_read_as_the_first(tmp_path: Path) -> None:
    folder = read_folder(yolo(coco(tmp_path), {}))

    assert folder.format == "COCO"
    assert "The folder also looks like YOLO; it is read as COCO." in folder.decisions


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("VAL_images", "val"),
        ("test-dev2017", "test"),
        ("trainval", None),
        ("contest", None),
    ],
)
def test_the_split_is_recognised_by_a_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_15_percent_of_train_are_held_out_and_noted(tmp_path: Path) -> None:
    folder = read_data(only_train(tmp_path / "one", numbered(20)))
    other = read_data(only_train(tmp_path / "other", numbered(20)[::-1]))

    train, val = folder.splits["train"], folder.splits["val"]
    assert (len(train), len(val)) == (17, 3)
    assert not set(train.files) & set(val.files)
    assert list(train.files) == sorted(train.files)
    assert [len(data.truth.boxes) for data in (train, val)] == [17, 3]
    assert any("3 of the 20 training images (15%) are held out as val" in note for note in folder.notes)
    assert val.files == other.splits["val"].files


def test_the_images_held_out_are_the_same_everywhere(tmp_path: Path) -> None:
    assert read_data(only_train(tmp_path, numbered(8))).splits["val"].files == ("images/train/1.jpg",)


@pytest.mark.parametrize(("images", "held"), [(1, 0), (2, 1), (12, 2)])
def test_at_least_one_image_is_held_out_of_two(tmp_path: Path, images: int, held: int) -> None:
    folder = read_data(only_train(tmp_path, numbered(images)))

    assert len(folder.splits.get("val", ())) == held
    share = f"{held} of the {images} training images ({held / images:.0%})"
    assert any(share in note for note in folder.notes) == (held > 0)


def test_augmented_copies_are_held_out_together(tmp_path: Path) -> None:
    names = [f"{index}_jpg.rf.{copy}{index:x}0f.jpg" for index in range(14) for copy in "abc"]

    folder = read_data(only_train(tmp_path, names))

    originals = [{file.split(".rf.")[0] for file in folder.splits[name].files} for name in ("train", "val")]
    assert not originals[0] & originals[1]
    assert len(folder.splits["val"]) == 6


@pytest.mark.parametrize(("copies", "sizes"), [((9, 1), {"train": 9, "val": 1}), ((10,), {"train": 10})])
def test_the_smallest_group_of_copies_is_held_out(
    tmp_path: Path, copies: tuple[int, ...], sizes: dict[str, int]
) -> None:
    names = [f"{index}_jpg.rf.{copy:x}.jpg" for index, count in enumerate(copies) for copy in range(count)]

    folder = read_data(only_train(tmp_path, names))

    assert {split: len(data) for split, data in folder.splits.items()} == sizes


def test_images_are_sorted_by_name_and_hidden_ones_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = yolo(tmp_path, {f"{split}/{name}.jpg": LINE for split in ("train", "val") for name in "dbca"})
    (root / "images/train/._a.jpg").write_bytes(b"resource fork")
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: list(scandir(folder))[::-1])

    assert read_data(root).splits["train"].files == tuple(f"images/train/{name}.jpg" for name in "abcd")


def test_data_with_errors_can_be_read_but_not_used(tmp_path: Path) -> None:
    root = coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))])

    assert read_folder(root).splits
    with pytest.raises(DataError, match=r"1 inverted box:\n.*annotation 5"):
        read_data(root)


def test_a_sample_is_an_image_with_its_own_objects(tmp_path: Path) -> None:
    data = read_data(coco(tmp_path, [coco_object(5, 2, (8, 10, 20, 16), 7, iscrowd=1)])).splits["train"]

    sample = data.sample(1, epoch=3)

    assert sample.image.shape == (48, 64, 3)
    assert (sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist()) == ([[8, 10, 28, 26]], [1], [True])
    assert (sample.image_id, sample.name) == (2, "train/b.jpg")
    assert data.annotations() is data.truth
    sample.boxes[:] = 0
    assert data.sample(1).boxes.tolist() == [[8, 10, 28, 26]]


def test_images_that_are_taken_keep_their_objects(tmp_path: Path) -> None:
    data = read_data(coco(tmp_path, [coco_object(5, 2), coco_object(6, 2, (1, 1, 9, 9))])).splits["train"]

    taken = data.take(np.array([1, 0]), "some")

    assert (taken.split, taken.files) == ("some", ("train/b.jpg", "train/a.jpg"))
    assert taken.truth.image_ids.tolist() == [2, 1]
    assert taken.truth.offsets.tolist() == [0, 2, 3]
    assert taken.truth.annotation_ids.tolist() == [5, 6, 90]


@pytest.mark.parametrize(
    ("names", "flippable"),
    [
        (("left hand", "right hand"), False),
        (("TurnLeft", "stop"), False),
        (("arrow_RIGHT", "stop"), False),
        (("leftover", "bright"), True),
        (("a", "b", "7"), False),
        (("30", "50", "120"), False),
        (("a", "bicycle"), True),
    ],
)
def test_classes_that_name_sides_or_are_characters_are_not_mirrored(names: tuple[str, ...], flippable: bool) -> None:
    assert mirrored_alike(names) == flippable


def test_classes_that_are_rare_or_not_mirrored_are_noted(tmp_path: Path) -> None:
    root = voc(tmp_path, {"train": ["a"], "val": ["b"]}, [("left shoe", (1, 1, 9, y)) for y in (9, 10, 11)])
    voc_xml(root / "Annotations/b.xml", [("dog", (1, 1, 9, 9))])

    folder = read_data(root)

    assert not folder.splits["train"].flippable
    assert any("will not be mirrored" in note for note in folder.notes)
    assert "1 class without an example to train on: dog." in folder.notes
    assert "1 class with fewer than 10 examples to train on: left shoe (3)." in folder.notes


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
        ("a.jpg", 1, 10, (60, 81)),
        ("a.jpg", 6, 100, (161, 120)),
        ("a.png", 1, 100, (480, 643)),
        ("a.tif", 6, 100, (643, 480)),
    ],
)
def test_a_jpeg_is_decoded_at_reduced_size_if_that_will_do(
    tmp_path: Path, name: str, orientation: int, shorter: int | None, shape: tuple[int, int]
) -> None:
    file = photo(tmp_path / name, orientation=orientation)
    image, size = read_reduced(file, shorter)
    assert image.shape == (*shape, 3)
    assert size == read_size(file).size == decode(file).size == ((480, 643) if orientation == 1 else (643, 480))
    expected = Image.fromarray(read_image(file)).resize(shape[::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(expected, np.float32) - image).mean() < 3


def test_an_example_of_a_reduced_photo_is_that_of_the_full_size(
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
    full = TransformedDataset(source, transform)[0, 0]
    assert reduced.original_size == full.original_size == (480, 643)
    assert reduced.image.shape == full.image.shape == (3, 60, 80)
    torch.testing.assert_close(reduced.boxes, full.boxes, atol=1e-6, rtol=0)
    expected = torch.tensor([240 / 643, 180 / 480, 320 / 643, 160 / 480])
    assert (reduced.boxes - expected).abs().amax(dim=1).min() < 1e-6
    assert (reduced.image - full.image).abs().mean() < 0.02


def test_a_folder_is_listed_once_for_any_number_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.JPG")
    files, listed, scandir = Files(tmp_path), list[Path](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))

    assert {files.similar("A.jpg") for _ in range(100)} == {"a.JPG"}
    assert [files.find(name) for name in ("a.JPG", "A.jpg", "b.jpg")] == ["a.JPG", None, None]
    assert listed == [tmp_path]
