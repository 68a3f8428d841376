"""Files as real tools export them are read as they were drawn, or refused with the cause and the cure."""

import json
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddetr.data.doctor.check import CheckReport, check
from oddetr.data.faults import DataError
from oddetr.data.images import read_image
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.sources import open_sources
from tests.data.builders import CATS, coco, coco_file, coco_image, coco_object, found, only, voc, write_image, yolo
from tests.data.corpus import SHARED_CASES

READ = {
    "01_labelstudio_coco": ("", "--old"),
    "02_labelstudio_yolo": ("", "--yaml"),
    "03_cvat_yolo11": ("", "--yaml"),
    "04_cvat_masks_iscrowd": ("",),
    "05_cvat_project_subfolders": ("", "--bare"),
    "06_cvat_keypoints": ("",),
    "08_yolo_pose": ("", "17 3"),
    "09_string_ids": ("", "--category", "--numeric"),
    "10_segmentation_only": ("", "--empty", "--zero"),
    "11_vott_voc": ("",),
    "12_categories_differ": ("", "--subset"),
    "13_twelve_bit": ("",),
    "15_one_image": ("",),
    "16_windows_yaml": ("", "--other", "--quote"),
    "17_duplicate_boxes": ("", "--coco"),
    "18_line_scan": ("",),
    "19_lvis": ("",),
    "20_odd_extensions": ("--coco",),
    "22_labelimg_yolo": ("",),
    "23_fiftyone": ("", "--makesense"),
    "28_track_ids": ("", "--late"),
    "30_background": ("",),
    "34_annotation_id_0": ("",),
    "35_odd_pixels": ("",),
    "36_darknet_lists": ("", "--windows"),
    "37_voc_lists_with_flags": ("", "--gbk", "--amp"),
}
"""The flags of each script."""
REFUSED = [
    ("04_cvat_masks_iscrowd", "--all", "only-regions", "--crowds-as-objects"),
    ("07_cvat_images_xml", "", "other-format", "Export from CVAT as COCO"),
    ("14_exif", "--voc", "size-before-turn", "--ignore-exif"),
    ("15_one_image", "--voc", "missing-split", "too few"),
    ("16_windows_yaml", "--nospace", "malformed-file", "space after the colon"),
    ("20_odd_extensions", "", "unreadable-image", "HEIC"),
    ("24_big_image", "", "image-too-large", "--most-pixels"),
    ("25_negative_size", "", "inverted-box", "corners may be swapped"),
    ("26_labelme", "", "other-format", "labelme2coco"),
    ("27_xyxy", "", "other-layout", "as corners (x0, y0, x1, y1)"),
]
WARNED = [
    ("04_cvat_masks_iscrowd", "", "many-regions"),
    ("14_exif", "", "turned-image"),
    ("14_exif", "3", "turned-image"),
    ("17_duplicate_boxes", "", "repeated-object"),
    ("21_class_spelling", "", "similar-classes"),
    ("30_background", "", "unlisted-image"),
]


def made(root: Path, name: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set that a script of ../shared/cases writes."""
    if not SHARED_CASES.is_dir():
        pytest.skip("the cases beside the repository are not there")
    monkeypatch.setattr(sys, "argv", [name, str(root), *flags.split()])
    monkeypatch.syspath_prepend(str(SHARED_CASES))
    runpy.run_path(str(SHARED_CASES / f"{name}.py"), run_name="__main__")
    return root


def wrong_boxes(report: CheckReport, truth: dict[str, list[list[float]]]) -> list[str]:
    """The images whose objects are not those that were drawn."""
    assert report.folder is not None
    wrong: list[str] = []
    read: set[str] = set()
    for data in report.folder.splits.values():
        for row, file in enumerate(data.files):
            rows, name = data.truth.rows(row), Path(file).name
            read.add(name)
            have = zip(data.truth.labels[rows], data.truth.boxes[rows].tolist(), strict=True)
            objects = sorted([data.classes.names[label], *box] for label, box in have)
            drawn = sorted(truth[name])
            same = len(objects) == len(drawn) and all(
                a[0] == b[0] and np.allclose(a[1:], b[1:], atol=1.01) for a, b in zip(objects, drawn, strict=True)
            )
            wrong += [] if same else [file]
    return wrong + sorted(set(truth) - read - {"008.heic"})


def errors(report: CheckReport) -> str:
    return "\n".join(f"{fault.kind}: {fault}" for fault in report.errors)


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name in READ for flags in READ[name]])
def test_what_a_tool_exports_is_read_as_drawn(
    name: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path / "data", name, flags, monkeypatch)

    report = check(root)

    assert report.ok, errors(report)
    assert wrong_boxes(report, json.loads(Path(f"{root}.truth.json").read_text())) == []


@pytest.mark.parametrize(("name", "flags", "kind", "cure"), REFUSED)
def test_what_cannot_be_read_is_refused_with_cause_and_cure(
    name: str, flags: str, kind: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made(tmp_path / "data", name, flags, monkeypatch)

    report = check(root)

    assert set(Counter(fault.kind for fault in report.errors)) == {kind}, errors(report)
    assert cure in str(DataError(root, report.faults))


@pytest.mark.parametrize(("name", "flags", "kind"), WARNED)
def test_what_changes_learning_is_reported(
    name: str, flags: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(check(made(tmp_path / "data", name, flags, monkeypatch)), kind)


def test_options_read_what_the_message_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, flags, options in (
        ("04_cvat_masks_iscrowd", "--all", {"crowds_as_objects": True}),
        ("14_exif", "--voc", {"ignore_exif": True}),
        ("24_big_image", "", {"most_pixels": 10**8}),
    ):
        root = made(tmp_path / name, name, flags, monkeypatch)
        report = check(root, **options)
        assert report.ok, errors(report)
        sources = open_sources(str(root), reading=ReadingConfig(**options))
        assert not sources["train"].annotations().crowd.any()
        assert sources["train"].sample(0).image.shape[:2] == tuple(sources["train"].annotations().sizes[0])


def pixels(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def test_grey_values_of_12_bits_become_8_by_the_range_of_the_data_set(tmp_path: Path) -> None:
    root = coco(tmp_path, images=[coco_image(1, "a.png"), coco_image(2, "b.png")], written=False)
    ramp = np.linspace(0, 4095, 64 * 48).reshape(48, 64)
    pixels(ramp, root / "train/a.png")
    pixels(ramp / 4, root / "train/b.png")

    folder = check(root).folder

    assert folder is not None
    assert folder.splits["train"].reading.grey_bits == 12
    assert any("of which 12 are used" in note for note in folder.notes)
    bright, dark = (folder.splits["train"].sample(index).image for index in (0, 1))
    assert (bright.max(), dark.max()) == (255, 63)
    assert np.array_equal(read_image(root / "train/a.png", ReadingConfig(grey_bits=12)), bright)
    assert read_image(root / "train/a.png").max() == 15


MASK = np.zeros((48, 64), dtype=bool)
MASK[10:20, 5:9] = True
MASK[15:30, 9:12] = True


def runs(mask: np.ndarray) -> list[int]:
    """COCO's run lengths, down the columns."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask.ravel(order="F")[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges])).tolist()


@pytest.mark.parametrize("form", ["polygons", "runs", "text"])
def test_an_object_without_a_box_has_that_of_its_segmentation(tmp_path: Path, form: str) -> None:
    from pycocotools import mask as peer

    segmentation: object = [[5.5, 10, 9, 12, 7, 20], [9, 15, 12, 15, 12, 30.5, 9, 30]]
    expected = [5.5, 10, 12, 30.5]
    if form != "polygons":
        segmentation, expected = {"size": [48, 64], "counts": runs(MASK)}, [5, 10, 12, 30]
    if form == "text":
        packed = peer.encode(np.asfortranarray(MASK.astype(np.uint8)))
        segmentation = {"size": [48, 64], "counts": packed["counts"].decode()}
    record = coco_object(5, 2) | {"segmentation": segmentation}
    del record["bbox"]

    folder = check(coco(tmp_path, [record])).folder

    assert folder is not None
    assert folder.splits["train"].truth.boxes[1].tolist() == expected


@pytest.mark.parametrize(
    "segmentation",
    [None, [], [[1, 2]], [[1, "x", 3, 4, 5, 6]], {"size": [48], "counts": [1]}, {"size": [48, 64], "counts": "\x7f"}],
)
def test_an_object_without_a_box_and_a_sound_segmentation_is_an_error(tmp_path: Path, segmentation: object) -> None:
    record = coco_object(5, 2) | {"segmentation": segmentation}
    del record["bbox"]

    assert only(check(coco(tmp_path, [record])), "not-a-number").place == 5


RNG = np.random.default_rng(0)
FIRST, SIDES = RNG.uniform((20, 16), (34, 22), (20, 2)).round(1), RNG.uniform(10, 22, (20, 2)).round(1)


def with_boxes(write: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Path], Path]:
    """COCO with 20 boxes in b, written otherwise than as (x, y, width, height)."""
    boxes = write(FIRST, SIDES)
    objects = [coco_object(5 + row, 2, box, area=float(np.prod(SIDES[row]))) for row, box in enumerate(boxes.tolist())]
    return lambda root: coco(root, objects)


@pytest.mark.parametrize(
    ("write", "reading"),
    [
        (lambda first, sides: np.hstack([first, first + sides]), "as corners (x0, y0, x1, y1)"),
        (lambda first, sides: np.hstack([first + sides / 2 + [8, 4], sides]), "(centre x, centre y, width, height)"),
        (lambda first, sides: np.hstack([first / 4, (first + sides) / 4]), "are those of boxes read as corners"),
        (lambda first, sides: 2 * np.hstack([first, sides]), "on images 2 times as large"),
    ],
    ids=["corners", "centres", "small corners", "twice the size"],
)
def test_boxes_in_another_layout_are_an_error_that_names_it(
    tmp_path: Path, write: Callable[[np.ndarray, np.ndarray], np.ndarray], reading: str
) -> None:
    root = with_boxes(write)(tmp_path)
    if "those of" in reading:
        content = json.loads((root / "annotations/instances_train.json").read_text())
        for record in content["annotations"][:-1]:
            x0, y0, x1, y1 = record["bbox"]
            record["area"] = (x1 - x0) * (y1 - y0)
        (root / "annotations/instances_train.json").write_text(json.dumps(content))

    fault = only(check(root), "other-layout")

    assert reading in fault.message


def test_corners_as_shares_in_yolo_are_an_error_that_names_them(tmp_path: Path) -> None:
    first = np.random.default_rng(1).uniform(0, 0.7, (20, 2))
    lines = ["0 " + " ".join(f"{value:.6f}" for value in (*corner, *(corner + 0.25))) for corner in first]

    report = check(yolo(tmp_path, {"train/a.jpg": "\n".join(lines), "val/c.jpg": lines[0]}))

    assert "as corners (x0, y0, x1, y1)" in only(report, "other-layout").message


@pytest.mark.parametrize("layout", ["corners", "centres", "shares"])
def test_a_copy_is_not_written_where_all_boxes_are_wrong(tmp_path: Path, layout: str) -> None:
    corners = np.hstack([FIRST, FIRST + SIDES])
    boxes = {
        "corners": corners,
        "centres": np.hstack([FIRST + SIDES / 2 + [8, 4], SIDES]),
        "shares": corners / [64, 48, 64, 48],
    }[layout]
    root = coco(tmp_path / "data", [coco_object(5 + row, 2, box) for row, box in enumerate(boxes.tolist())])

    with pytest.raises(DataError, match=r"written in another way|shares of the image"):
        check(root, mend=tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize(("count", "is_error"), [(4, False), (20, True)])
def test_a_fault_of_many_boxes_is_an_error_with_its_share(tmp_path: Path, count: int, is_error: bool) -> None:
    objects = [coco_object(5 + row, 9, (1, 1, 5, 5 + row)) for row in range(count)]
    objects += [coco_object(50 + row, 2, (1, 1, 5, 5 + row)) for row in range(29)]

    report = check(coco(tmp_path, objects))

    assert len(found(report, "unknown-image")) == count
    shares = [fault.message for fault in found(report, "large-share")]
    assert (
        shares == ["39% of the annotations (20 of 51): annotations of images that are not listed, left out"] * is_error
    )


def test_images_are_not_taken_from_another_split(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "val/v.jpg").rename(root / "train/v.jpg")

    assert only(check(root), "missing-image").file == "val/v.jpg"


def test_a_name_that_two_images_have_is_ambiguous(tmp_path: Path) -> None:
    coco_file(tmp_path / "labels.json", [coco_image(1, "C:/x/a.jpg")], [coco_object(1, 1)])
    for folder in ("first", "second"):
        write_image(tmp_path / folder / "a.jpg")

    assert "first/a.jpg or second/a.jpg" in str(only(check(tmp_path), "ambiguous-image"))


@pytest.mark.parametrize("file", ["annotations/instances_train.json", "data.yaml"])
def test_the_file_of_a_data_set_means_its_folder(tmp_path: Path, file: str) -> None:
    root = coco(tmp_path) if file.endswith("json") else yolo(tmp_path, {"train/a.jpg": "0 0.5 0.5 0.1 0.1"})

    report = check(root / file)

    assert report.folder is not None
    assert report.folder.root == root
    assert report.statistics["train"].images > 0


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.zip", b"PK\x03\x04", "unpack it"),
        ("a.tfrecord", b"", "TFRecord"),
        ("project.vott", b"{}", "Export from VoTT as Pascal VOC"),
        ("via.json", b'{"regions": [{"shape_attributes": {}}]}', "VGG Image Annotator"),
        ("ann/a.jpg.json", b'{"objects": [{"classTitle": "cat"}]}', "Supervisely"),
        ("train/_annotations.csv", b"a,b", "CSV"),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_export_to_choose(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    write_image(tmp_path / "images/a.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)

    assert words in only(check(tmp_path), "other-format").message


def test_yolo_without_class_names_says_so(tmp_path: Path) -> None:
    yolo(tmp_path, {"train/a.jpg": "0 0.5 0.5 0.1 0.1"})
    (tmp_path / "data.yaml").unlink()

    assert "no names of the classes" in only(check(tmp_path), "other-format").message


BROKEN = [coco_object(5, 2, (8, 8, -3, 4)), coco_object(6, 2), coco_object(7, 3, (1, 2, 3, 4), 7), coco_object(8, 4)]
SOUND_NAMES = "fghijk"


def broken(root: Path) -> Path:
    """b holds an inverted box, c is sound, d is missing, and e is torn."""
    coco(root, BROKEN, [coco_image(id, f"{name}.jpg") for id, name in enumerate("abcde" + SOUND_NAMES, start=1)])
    (root / "train/d.jpg").unlink()
    (root / "train/e.jpg").write_bytes((root / "train/e.jpg").read_bytes()[:300])
    return root


def test_broken_images_are_skipped_on_request_and_counted(tmp_path: Path) -> None:
    root = broken(tmp_path / "data")
    assert not check(root).ok

    source = open_sources(str(root), reading=ReadingConfig(skip_broken=True))["train"]

    kept = [source.sample(row).name for row in range(len(source))]
    assert kept == [f"train/{name}.jpg" for name in "ac" + SOUND_NAMES]


def test_a_data_set_with_many_broken_images_is_refused_all_the_same(tmp_path: Path) -> None:
    images = [coco_image(id, f"{name}.jpg") for id, name in enumerate("abcd", start=1)]
    root = coco(tmp_path / "data", [coco_object(4 + id, id, (8, 8, -3, 4)) for id in (2, 3)], images)

    with pytest.raises(DataError, match="2 inverted boxes") as refused:
        open_sources(str(root), reading=ReadingConfig(skip_broken=True))
    assert "--skip-broken" not in str(refused.value)
    with pytest.raises(DataError, match="2 inverted boxes"):
        check(root, mend=tmp_path / "clean")


def test_a_mended_copy_has_what_is_sound_and_lists_every_change(tmp_path: Path) -> None:
    root = broken(tmp_path / "data")

    check(root, mend=tmp_path / "clean")

    report = check(tmp_path / "clean")
    assert report.ok, errors(report)
    assert report.folder is not None
    train = report.folder.splits["train"]
    assert train.files[:2] == ("train/a.jpg", "train/c.jpg")
    assert (train.truth.image_ids.tolist()[:2], train.truth.annotation_ids.tolist()) == ([1, 3], [90, 7])
    assert (train.classes.ids, train.truth.boxes[1].tolist()) == ((3, 7), [1, 2, 4, 6])
    changes = (tmp_path / "clean/changes.txt").read_text()
    assert all(words in changes for words in ("1 inverted box", "annotation 5", "train/d.jpg", "train/e.jpg"))
    with pytest.raises(ValueError, match="is not empty"):
        check(root, mend=tmp_path / "clean")
    with pytest.raises(ValueError, match="lies in the data set"):
        check(root, mend=root / "clean")


def test_categories_of_two_files_are_matched_by_name(tmp_path: Path) -> None:
    root = coco(tmp_path)
    swapped = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 9, "name": "cow"}]
    val = root / "annotations/instances_val.json"
    coco_file(val, [coco_image(11, "v.jpg")], [coco_object(91, 11, category=7)], swapped)

    folder = check(root).folder

    assert folder is not None
    assert (folder.classes.names, folder.classes.ids) == (("cat", "dog", "cow"), (3, 7, 9))
    assert folder.splits["val"].truth.labels.tolist() == [0]
    assert any("are taken by name" in note for note in folder.notes)
    assert CATS[0]["name"] == "cat"


def test_boxes_that_are_not_those_of_their_segmentations_are_in_another_layout(tmp_path: Path) -> None:
    objects = [
        coco_object(5 + row, 2, (x, y, x + 5, y + 4), segmentation=[[x, y, x + 5, y, x + 5, y + 4, x, y + 4]])
        for row, (x, y) in enumerate([(4, 3), (6, 5), (8, 7), (3, 9), (5, 11), (9, 2)])
    ]

    fault = only(check(coco(tmp_path, objects)), "other-layout")

    assert "6 of 7 boxes are not those of their segmentations" in fault.message


@pytest.mark.parametrize("written", ["words", "corners"])
def test_shares_are_found_in_any_form(tmp_path: Path, written: str) -> None:
    boxes = np.hstack([FIRST, FIRST + SIDES]) / [64, 48, 64, 48]
    objects = [
        coco_object(5 + row, 2, [str(side) for side in box] if written == "words" else box.tolist())
        for row, box in enumerate(boxes)
    ]

    assert [fault.kind for fault in check(coco(tmp_path, objects)).errors] == ["relative-coordinates"]


def test_a_copy_of_a_box_is_dropped_and_two_classes_on_one_box_are_reported(tmp_path: Path) -> None:
    objects = [coco_object(5, 2, (8, 8, 20.001, 16)), coco_object(6, 2), coco_object(7, 2, category=7)]

    report = check(coco(tmp_path, objects))

    assert only(report, "repeated-object").place == 6
    assert only(report, "conflicting-objects").place == 7
    assert report.statistics["train"].objects == 3


def test_boxes_drawn_before_exif_without_sizes_in_the_annotations_are_reported(tmp_path: Path) -> None:
    root = coco(
        tmp_path,
        [coco_object(5, 2, (4, 4, 30, 30))],
        [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    )
    write_image(root / "train/b.jpg", orientation=6)

    assert only(check(root), "turned-image").file == "train/b.jpg"
    assert not found(check(root, ignore_exif=True), "turned-image")


@pytest.mark.parametrize("name", ["a.jpg.xml", "other.xml"])
def test_xml_belongs_to_the_image_that_it_names(tmp_path: Path, name: str) -> None:
    root = voc(tmp_path, {"train": ["a"]})
    file = root / "Annotations/a.xml"
    named = "<filename>C:/x/a.jpg</filename>" if name == "other.xml" else ""
    (root / "Annotations" / name).write_text(file.read_text().replace("<annotation>", f"<annotation>{named}"))
    file.unlink()

    report = check(root)

    assert report.statistics["train"].objects == 1
    assert not found(report, "label-without-image")


def test_a_copy_keeps_images_apart_whose_paths_are_alike(tmp_path: Path) -> None:
    names = ("x/a_b.jpg", "x_a/b.jpg", "y/b.jpg")
    root = coco(tmp_path / "data", images=[coco_image(id, name) for id, name in enumerate(names, start=1)])
    before = [(root / "train" / name).read_bytes() for name in names]

    check(root, mend=tmp_path / "clean")

    folder = check(tmp_path / "clean").folder
    assert folder is not None
    assert [(folder.root / file).read_bytes() for file in folder.splits["train"].files] == before
    assert [(root / "train" / name).read_bytes() for name in names] == before


def test_no_other_image_stands_in_for_one_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    root = coco(tmp_path / "data", [coco_object(5, 2)])
    write_image(root / "backup/b.jpg")
    (root / "train/b.jpg").rename(tmp_path / "b.jpg")
    (root / "train/b.jpg").symlink_to(tmp_path / "b.jpg")
    (root / "train").rename(tmp_path / "train")
    (root / "train").symlink_to(tmp_path / "train")

    report = check(root)

    assert found(report, "outside-folder")
    assert report.folder is not None
    assert "train" not in report.folder.splits
