"""YOLO: `data.yaml` names the classes and the images of each split; every image has a text file of labels.

A line is `class cx cy width height`, all but the class as shares of the image's size; `yolo_columns.py` decides what
else it may be. The label file of `images/a.jpg` is `labels/a.txt`: the last folder called images becomes labels (Images
becomes Labels). Without such a folder it lies beside the image. Darknet's obj.data, and folders with a list of classes
alone (classes.txt, obj.names), are read as well.
"""

import math
import posixpath
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from oddetr.data.dataset import ClassTable
from oddetr.data.formats.files import Files
from oddetr.data.formats.format import OBJECT, Format, RawFolder, RawSplit
from oddetr.data.formats.text import grouped, split_of, to_number, without_extension
from oddetr.data.formats.yolo_columns import Columns, Numbers, decide
from oddetr.data.formats.yolo_folders import configuration_of, existing_label_file, find, place_of

_PIXELS = 2.0
"""Larger coordinates are taken for pixels; boxes that merely reach out of the image stay below."""
_LARGEST_FILE, _LARGEST_LIST = 2**26, 2**30
"""Bytes of a label file, and of a list of images."""
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "README.txt")


class _Line(NamedTuple):
    """A line of a label file: its image's row, its number, its class, the class's label (-1: there is no such class),
    and the numbers that follow."""

    row: int
    number: int
    category: float
    label: int
    values: Numbers


def _read(files: Files, file: str) -> RawFolder:
    configuration, classes = configuration_of(files, file)
    found = {
        split: images
        for split, entries in configuration.entries.items()
        if (images := _images(files, file, configuration.base, split, entries)) is not None
    }
    defined = tuple(split for split in configuration.entries if split in found or split == "train")
    labels = {split: _labels(files, split, images) for split, images in found.items()}
    lines = {split: _lines(files, images, labels[split], classes) for split, images in found.items()}
    all_lines = [line for split in lines.values() for line in split]
    if _counts_from_1(all_lines, classes):
        message = f"class numbers run from 1 to {len(classes)}, but the names count from 0: subtract 1 in the labels"
        files.add("classes", file, message)
        lines = {split: [line for line in found if line.label >= 0] for split, found in lines.items()}
    columns = decide([line.values for line in all_lines], configuration.keypoints)
    files.notes += columns.notes
    splits = [_split(files, split, found[split], labels[split], lines[split], columns) for split in labels]
    _report_labels_without_images(files, {label for split in splits for label in split.label_files})
    return RawFolder(classes, file, defined, splits)


def _counts_from_1(lines: list[_Line], classes: ClassTable) -> bool:
    """Whether labels number K classes from 1 to K where names count from 0."""
    used = {line.category for line in lines}
    return classes.ids == tuple(range(len(classes))) and 0 not in used and max(used, default=0) == len(classes)


def _images(files: Files, yaml: str, base: str, split: str, entries: list[str]) -> list[str] | None:
    """The images of a split, sorted, each once; None if there is no such split: exporters name what is not there."""
    places = {entry: place_of(files, base, entry) for entry in entries}
    faults = len(files.faults)
    images: set[str] = set()
    for path in filter(None, places.values()):
        images.update(files.images_in(path) if files.is_folder(path) else _listed(files, path, split))
    if split != "train" and not images and len(files.faults) == faults:
        files.notes.append(
            f"{yaml} says {', '.join(entries)} for {split}, which is not there or holds no image: "
            f"there is no {split} split."
        )
        return None
    for entry, path in places.items():
        if path is None:
            files.add("missing-folder", yaml, f"{split}: {entry} is not in the data folder")
        elif ".." in PurePosixPath(entry).parts or entry.startswith("/"):
            files.notes.append(f"{yaml} says {entry} for {split}: taken from {path}.")
    return sorted(images) if any(places.values()) else None


def _listed(files: Files, path: str, split: str) -> list[str]:
    """The images that a list names, one a line, relative to the list's folder or to the data folder."""
    found: dict[str, int] = {}
    bases = list(dict.fromkeys((posixpath.dirname(path) or ".", ".")))
    for number, name in files.lines(path, _LARGEST_LIST):
        file = files.image(name, bases, split, f"listed in {path} line {number}", (path, number))
        if file is not None and file in found:
            files.add("repeated-image", path, f"{file} is in line {found[file]} already", number)
        elif file is not None:
            found[file] = number
    return list(found)


def _report_labels_without_images(files: Files, expected: set[str]) -> None:
    for folder in sorted({posixpath.dirname(label) for label in expected}):
        for name in files.names(folder):
            file = posixpath.join(folder, name)
            is_label = name.lower().endswith(".txt") and name not in _NO_LABELS and not name.startswith(".")
            if is_label and file not in expected and files.is_file(file):
                files.add("label-without-image", file, "there is no image of this name")


def _labels(files: Files, split: str, images: list[str]) -> list[str]:
    """The label file of each image, there or not. If none is where it is expected, the only file of its name in the
    whole folder counts, but for folders that are named after another split."""
    labels = [existing_label_file(files, image) for image in images]
    if images and not any(files.find(label) for label in labels):
        texts = [file for file in files.probe().files_in(".", [".txt"]) if posixpath.basename(file) not in _NO_LABELS]
        own = [file for file in texts if split_of(posixpath.dirname(file)) in (None, split)]
        by_stem = grouped(own, _stem)
        elsewhere = [by_stem.get(_stem(image), []) for image in images]
        if any(len(found) == 1 for found in elsewhere):
            labels = [found[0] if len(found) == 1 else label for found, label in zip(elsewhere, labels, strict=True)]
            folder = posixpath.dirname(next(found[0] for found in elsewhere if len(found) == 1))
            files.notes.append(f"Labels of {split} are taken from {folder}, where files have the images' names.")
    _report_shared_labels(files, images, labels)
    return labels


def _stem(file: str) -> str:
    return without_extension(posixpath.basename(file))


def _split(
    files: Files, split: str, images: list[str], labels: list[str], lines: list[_Line], columns: Columns
) -> RawSplit:
    rows: list[tuple[Any, ...]] = []
    for line in lines:
        corners, image, file = columns.corners(line.values), images[line.row], labels[line.row]
        if line.label < 0:
            files.add("unknown-category", file, f"class {line.category:g}", line.number, image)
        elif corners is None:
            message = f"{len(line.values)} numbers after the class, which do not fit the other lines"
            files.add("malformed-record", file, message, line.number, image)
        elif any(abs(value) > _PIXELS for value in corners):
            message = " ".join(f"{value:g}" for value in line.values[:4])
            files.add("pixel-coordinates", file, message, line.number, image)
        else:
            rows.append((line.row, line.number, line.label, corners, 0.0, False))
    return RawSplit(
        name=split,
        files=images,
        label_files=labels,
        image_ids=np.arange(1, len(images) + 1),
        sizes=np.zeros((len(images), 2), dtype=np.int64),
        objects=np.array(rows, dtype=OBJECT),
        relative=True,
        written="centre",
    )


def _report_shared_labels(files: Files, images: list[str], labels: list[str]) -> None:
    """Report images that share a label file: `a.jpg` and `a.png`."""
    for label, found in grouped(images, dict(zip(images, labels, strict=True)).__getitem__).items():
        if len(found) > 1 and files.find(label) is not None:
            for image in found:
                files.add("ambiguous-image", image, f"{label} may be of {' or '.join(found[:3])}")


def _lines(files: Files, images: list[str], labels: list[str], classes: ClassTable) -> list[_Line]:
    """The sound lines of the label files, images in order."""
    table = {float(id): label for label, id in enumerate(classes.ids)}
    found: list[_Line] = []
    for row, (image, file) in enumerate(zip(images, labels, strict=True)):
        for number, text in _texts_of(files, image, file):
            first, *rest = text.split()
            category, values = to_number(first), tuple(map(to_number, rest))
            if not math.isfinite(category):
                files.add("malformed-record", file, _why_no_class(first, classes), number, image)
            elif not all(map(math.isfinite, values)):
                hint = ": decimal commas?" if "," in text else ""
                files.add("not-a-number", file, f"{text[:80]!r}{hint}", number, image)
            else:
                found.append(_Line(row, number, category, table.get(category, -1), values))
    return found


def _why_no_class(word: str, classes: ClassTable) -> str:
    if "," in word:
        return f"{word[:40]!r} holds commas; numbers are separated by spaces"
    kind = "the name of a class" if word in classes.names else f"{word[:40]!r}"
    return f"it begins with {kind}, where the number of the class belongs"


def _texts_of(files: Files, image: str, file: str) -> list[tuple[int, str]]:
    """The lines of a label file, with their numbers."""
    path = files.find(file)
    if path is not None:
        return files.lines(path, _LARGEST_FILE, image)
    if (barred := files.barred(file)) is not None:
        files.faults.append(barred)
    else:
        files.add("image-without-label", image, f"there is no {file}")
    return []


YOLO = Format(
    "YOLO",
    (
        "data.yaml with names, train and val; images/train/, ... and labels/train/, ...",
        "obj.data, obj.names and train.txt (Darknet, CVAT's YOLO 1.1); classes.txt, images/ and labels/ (Label Studio)",
        "classes.txt, and label files beside the images (LabelImg)",
    ),
    find,
    _read,
)
