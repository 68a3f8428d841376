"""The printed report: what it says, and how it is laid out on terminals and in files."""

from pathlib import Path

from rich.console import Console

from oddetr.data.doctor.check import CheckReport, check, print_report
from oddetr.data.doctor.faults import KINDS
from tests.data.builders import coco, coco_object, found, only, voc, write_image, yolo


def printed(report: CheckReport, every: bool = False, width: int = 200, terminal: bool = False) -> str:
    console = Console(width=width, force_terminal=terminal, color_system=None)
    with console.capture() as capture:
        print_report(report, console, every)
    return capture.get()


def test_report_when_the_folder_is_no_data_set_then_has_the_error(tmp_path: Path) -> None:
    report = check(tmp_path)

    assert only(report, "layout").severity == "error"
    assert report.folder is None
    assert "understood layouts" in printed(report)
    assert "1 error: training will not start" in printed(report)


def test_report_when_all_is_well_then_says_so(tmp_path: Path) -> None:
    text = printed(check(voc(tmp_path, {"train": ["a"], "val": ["b"]})))

    assert "Pascal VOC, 1 class\n" in text
    assert "No errors: this data can be trained on." in text


def test_report_when_there_are_errors_then_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    text = printed(check(coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))])))

    assert "error: 1 inverted box\n" in text
    assert "annotations/instances_train.json annotation 5: left 8, top 8, right 3, bottom 12 in train/b.jpg" in text
    assert f"-> {KINDS['inverted-box'].advice}" in text
    assert "1 error: training will not start" in text


def test_report_when_a_list_is_long_then_is_shortened_unless_asked_for(tmp_path: Path) -> None:
    report = check(coco(tmp_path, [coco_object(id, 2, (8, 8, 0, 4)) for id in range(1, 31)]))

    short, whole = printed(report), printed(report, every=True)

    assert "30 boxes without area, left out" in short
    assert short.count("instances_train.json annotation") == 10
    assert "and 20 more" in short
    assert whole.count("instances_train.json annotation") == 30


def test_report_when_a_list_is_one_too_long_then_is_shown_whole(tmp_path: Path) -> None:
    text = printed(check(coco(tmp_path, [coco_object(id, 2, (8, 8, 0, 4)) for id in range(1, 12)])))

    assert text.count("instances_train.json annotation") == 11
    assert "and 1 more" not in text


def test_report_when_there_are_many_classes_then_shows_the_most_frequent(tmp_path: Path) -> None:
    categories = [{"id": id, "name": f"class {id}"} for id in range(50)]
    report = check(coco(tmp_path, [coco_object(5, 2, category=49)], categories=categories))

    assert "class 49" in printed(report).split("and 30 classes with fewer objects")[0]
    assert "class 31" in printed(report, every=True).split("warning:")[0]


def test_report_when_names_look_like_markup_then_prints_them(tmp_path: Path) -> None:
    report = check(voc(tmp_path, {"train": ["[red]a[/nothing]"], "val": ["b"]}, [("[bold]cat", (1, 1, 9, 9))]))

    assert "[bold]cat" in printed(report)


def test_progress_when_there_is_a_terminal_then_is_shown(tmp_path: Path) -> None:
    with Path(tmp_path / "out").open("w") as file:
        check(coco(tmp_path / "data"), Console(file=file, force_terminal=True))

    assert "Decoding images" in (tmp_path / "out").read_text()


def test_report_when_not_on_a_terminal_then_has_one_plain_line_for_each_fault(tmp_path: Path) -> None:
    objects = [coco_object(id, 2, (8, 8, -5, 4)) for id in range(1, 4)] + [coco_object(9, 2, (8, 8, 0, 4))]
    report = check(coco(tmp_path, objects))

    lines = printed(report, every=True, width=50).splitlines()

    for fault in found(report, "inverted-box"):
        assert f"    {fault}" in lines
    assert f"  -> {KINDS['inverted-box'].advice}" in lines
    assert not [line for line in lines if line != line.rstrip()]


def test_report_when_on_a_terminal_then_is_wrapped_with_an_indent(tmp_path: Path) -> None:
    report = check(coco(tmp_path, [coco_object(5, 2, (8, 8, -5, 4))]))

    lines = printed(report, width=60, terminal=True).splitlines()

    first = next(index for index, line in enumerate(lines) if "annotation 5" in line)
    assert max(map(len, lines)) <= 60
    assert lines[first + 1].startswith("    ")


def test_report_when_80_columns_are_given_then_three_splits_fit(tmp_path: Path) -> None:
    images = {f"{split}/{index}.jpg": "0 0.5 0.5 0.5 0.5" for split in ("train", "val", "test") for index in "ab"}
    root = yolo(tmp_path, images, "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n")
    write_image(root / "images/val/a.jpg", 2200, 1100)

    lines = printed(check(root), width=80, terminal=True).split("\n\n")[0].splitlines()

    rows = {line[:26].strip(): line[26:].split("  ") for line in lines[2:]}
    assert {len([value for value in values if value.strip()]) for values in rows.values()} == {3}
    assert [value.strip() for value in rows["image width (median)"] if value] == ["64", "64-2,200 (1,132)", "64"]
