"""YOLO: `data.yaml` names the classes and the images of each split; every image has a text file of labels.

A line is `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, whose bounding box is used; all
but the class are shares of the image's size. A score after a box, as `oddetr predict` writes it, is ignored, with a
note. The label file of `images/a.jpg` is `labels/a.txt`: the last folder called images becomes labels (Images becomes
Labels). Without such a folder it lies beside the image.
"""

import math
import posixpath
import reprlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files, tails
from oddetr.data.formats.raw import OBJECT, Format, RawFolder, RawSplit
from oddetr.data.formats.text import read_yaml, split_of, to_number, without_extension

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_PIXELS = 2.0
"""Larger coordinates are taken for pixels; boxes that merely reach out of the image stay below."""
_LARGEST_FILE, _LARGEST_LIST, _LARGEST_YAML = 2**26, 2**30, 2**20
"""Bytes of a label file, of a list of images, and of data.yaml, which is parsed slowly."""
_NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that there is no value."""


@dataclass(frozen=True)
class _Configuration:
    """What data.yaml says: all of it, the folder that paths start from, and the folders or lists of each split."""

    content: dict[Any, Any]
    base: str
    entries: dict[str, list[str]]


class _Label(NamedTuple):
    """What a line says: the class's label, (x0, y0, x1, y1), and whether it ends in a score."""

    label: int
    box: tuple[float, float, float, float]
    scored: bool


def label_file(image: str) -> str:
    """The file that holds the labels of an image; both relative to the data folder."""
    parts = list(PurePosixPath(image).parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part in _LABELS]
    if folders:
        parts[folders[-1]] = _LABELS[parts[folders[-1]]]
    return without_extension(str(PurePosixPath(*parts))) + ".txt"


def _find(files: Files) -> str | None:
    """The YAML file with class names and the place of the training images."""
    for file in ("data.yaml", "data.yml"):
        if files.is_file(file):
            return file
    others = files.files_in(".", [".yaml", ".yml"], below=False)
    keys = {file: set(files.probe().parse(file, _LARGEST_YAML, read_yaml) or ()) for file in others}
    return next((file for file in others if {"names", "train"} <= keys[file]), None)


def _read(files: Files, file: str) -> RawFolder:
    configuration = files.parse(file, _LARGEST_YAML, _parsed)
    if configuration is None:
        raise DataError(files.root, files.faults)
    try:
        classes = _classes(configuration.content)
    except ValueError as problem:
        files.add("classes", file, str(problem))
        raise DataError(files.root, files.faults) from problem
    found = {
        split: _images(files, file, configuration.base, split, entries)
        for split, entries in configuration.entries.items()
    }
    defined = tuple(split for split, images in found.items() if images is not None or split == "train")
    splits = [_split(files, split, images, classes) for split, images in found.items() if images is not None]
    _report_labels_without_images(files, {label for split in splits for label in split.label_files})
    return RawFolder(classes, file, defined, splits)


def _parsed(content: bytes) -> _Configuration:
    """What data.yaml says.

    Raises:
        ValueError: it does not say where images are.
    """
    table = read_yaml(content)
    entries: dict[str, list[str]] = {}
    for split, keys in _KEYS.items():
        given = next((table[key] for key in keys if table.get(key, "") not in _NOTHING), None)
        if given is not None:
            entries[split] = _texts(split, given if isinstance(given, list) else [given])
    if not any(entries.values()):
        raise ValueError("none of train, val and test says where images are")
    (base,) = _texts("path", [table.get("path", "")])
    return _Configuration(table, "." if base in _NOTHING else base, entries)


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is neither a path nor a list of paths")
    return list(values)


def _classes(content: dict[Any, Any]) -> ClassTable:
    names, count = content.get("names"), content.get("nc", "")
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, dict):
        raise ValueError("names is neither a list nor a table of class names")
    table: dict[int, str] = {}
    for key, name in names.items():
        if not isinstance(key, str) or not key.isdecimal() or len(key) > 9:
            raise ValueError(f"the id {reprlib.repr(key)} in names is no whole number from 0 to 999,999,999")
        if not isinstance(name, str) or not readable(name) or name.strip() in _NOTHING:
            raise ValueError(f"the name {reprlib.repr(name)} in names is not readable text")
        table[int(key)] = name.strip()
    if len(table) < len(names):
        raise ValueError("two of the ids in names are the same number")
    if count not in _NOTHING and count != str(len(table)):
        raise ValueError(f"nc is {str(count)[:20]}, but there are {len(table)} names")
    return ClassTable(tuple(table[id] for id in sorted(table)), tuple(sorted(table)))


def _images(files: Files, yaml: str, base: str, split: str, entries: list[str]) -> list[str] | None:
    """The images of a split, sorted, each once; None if there is no such split: exporters name what is not there."""
    places = {entry: _place(files, base, entry) for entry in entries}
    if split != "train" and not any(path and _holds_something(files, path) for path in places.values()):
        files.notes.append(
            f"{yaml} says {', '.join(entries)} for {split}, which is not there or holds no image: "
            f"there is no {split} split."
        )
        return None
    images: set[str] = set()
    for entry, path in places.items():
        if path is None:
            files.add("missing-folder", yaml, f"{split}: {entry} is not in the data folder")
            continue
        if ".." in PurePosixPath(entry).parts or entry.startswith("/"):
            files.notes.append(f"{yaml} says {entry} for {split}: taken from {path}.")
        images.update(files.files_in(path) if files.is_folder(path) else _listed(files, path))
    return sorted(images) if any(places.values()) else None


def _place(files: Files, base: str, entry: str) -> str | None:
    """The folder or list that an entry means.

    Exporters write paths for other working directories (`../train/images`, `/content/data/train/images`): if a path
    leads nowhere, its ends are tried that still name the split.
    """
    base = files.resolve(base) or "."
    ends = tails(entry)
    paths = [files.resolve(entry, folder) for folder in (base, ".")] + ([*filter(split_of, ends)] or ends)
    return next((path for path in paths if path and (files.is_folder(path) or files.is_file(path))), None)


def _holds_something(files: Files, path: str) -> bool:
    """Whether there is an image in the folder, or a line in the list; what cannot be read may have some."""
    probe = files.probe()
    found = probe.files_in(path) if probe.is_folder(path) else probe.lines(path, _LARGEST_LIST)
    return bool(found or probe.faults)


def _listed(files: Files, path: str) -> list[str]:
    """The images that a list names, one a line, relative to the list's folder or to the data folder."""
    found: dict[str, int] = {}
    for number, name in files.lines(path, _LARGEST_LIST):
        resolved = [files.resolve(name, base) for base in (posixpath.dirname(path), ".")]
        expected = [place for place in resolved if place is not None]
        file = next((file for place in expected if (file := files.find(place)) is not None), None)
        barred = [fault for place in ([file] if file else expected) if (fault := files.barred(place)) is not None]
        if not expected:
            files.add("outside-folder", path, name + files.advice(name), number)
        elif barred:
            files.faults += barred
        elif file is None:
            files.add("missing-image", expected[-1], f"listed in {path} line {number}")
        elif file in found:
            files.add("repeated-image", path, f"{file} is in line {found[file]} already", number)
        else:
            found[file] = number
    return list(found)


def _report_labels_without_images(files: Files, expected: set[str]) -> None:
    for folder in sorted({posixpath.dirname(label) for label in expected}):
        for name in files.names(folder):
            file = posixpath.join(folder, name)
            is_label = name.lower().endswith(".txt") and name != "classes.txt" and not name.startswith(".")
            if is_label and file not in expected and files.is_file(file):
                files.add("label-without-image", file, "there is no image of this name")


def _split(files: Files, split: str, images: list[str], classes: ClassTable) -> RawSplit:
    labels = [_existing_label_file(files, image) for image in images]
    _report_shared_labels(files, images, labels)
    table = {id: label for label, id in enumerate(classes.ids)}
    rows: list[tuple[Any, ...]] = []
    scored: dict[str, None] = {}
    for row, (image, file) in enumerate(zip(images, labels, strict=True)):
        for number, line in _lines(files, image, file):
            found = _label(line, table)
            if isinstance(found, str):
                files.add(found, file, repr(line[:80]), number)
                continue
            rows.append((row, number, found.label, found.box, 0.0, False))
            if found.scored:
                scored[file] = None
    if scored:
        files.notes.append(
            f"{len(scored):,} label files of {split} hold scores, as a detector writes them (the first is "
            f"{next(iter(scored))}): their boxes are taken for the truth, the scores are ignored."
        )
    return RawSplit(
        name=split,
        files=images,
        label_files=labels,
        image_ids=np.arange(1, len(images) + 1),
        sizes=np.zeros((len(images), 2), dtype=np.int64),
        objects=np.array(rows, dtype=OBJECT),
        relative=True,
    )


def _existing_label_file(files: Files, image: str) -> str:
    """`label_file`, or the same file in a folder called labels if it is not there."""
    file = label_file(image)
    other = str(PurePosixPath(*("labels" if part in _LABELS.values() else part for part in PurePosixPath(file).parts)))
    return other if files.find(file) is None and files.find(other) is not None else file


def _report_shared_labels(files: Files, images: list[str], labels: list[str]) -> None:
    """Report images that share a label file: `a.jpg` and `a.png`."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for image, label in zip(images, labels, strict=True):
        sharing[label].append(image)
    for label, found in sharing.items():
        if len(found) > 1 and files.find(label) is not None:
            for image in found:
                files.add("ambiguous-image", image, f"{label} may be of {' or '.join(found[:3])}")


def _lines(files: Files, image: str, file: str) -> list[tuple[int, str]]:
    """The lines of a label file, with their numbers."""
    path = files.find(file)
    if path is not None:
        return files.lines(path, _LARGEST_FILE)
    if (barred := files.barred(file)) is not None:
        files.faults.append(barred)
    else:
        files.add("image-without-label", image, f"there is no {file}")
    return []


def _label(line: str, table: dict[int, int]) -> _Label | str:
    """What a line says, or the kind of its fault; `table` has the label of each class id."""
    class_id, *numbers = [to_number(word) for word in line.split()]
    if class_id not in table:
        return "unknown-category"
    if not all(map(math.isfinite, numbers)):
        return "not-a-number"
    scored = len(numbers) == 5 and 0 <= numbers[4] <= 1
    if len(numbers) == 4 or scored:
        x, y, width, height = numbers = numbers[:4]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        box = (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
    else:
        return "malformed-record"
    if any(abs(value) > _PIXELS for value in numbers):
        return "pixel-coordinates"
    return _Label(table[int(class_id)], box, scored)


YOLO = Format("YOLO", ("data.yaml with names, train and val; images/train/, ... and labels/train/, ...",), _find, _read)
