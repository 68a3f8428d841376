"""YOLO: `data.yaml` names the classes and the images of each split; every image has a text file of labels.

A line is `class cx cy width height`, all but the class as shares of the image's size; `columns.py` decides what else it
may be. The label file of `images/a.jpg` is `labels/a.txt`: the last folder called images becomes labels (Images becomes
Labels). Without such a folder it lies beside the image. Darknet's obj.data, and folders with a list of classes alone
(classes.txt, obj.names), are read as well.
"""

import math
import posixpath
import reprlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.columns import Columns, Numbers, decide
from oddetr.data.formats.files import Files, tails
from oddetr.data.formats.raw import OBJECT, Format, RawFolder, RawSplit
from oddetr.data.formats.text import SPLITS, read_yaml, split_of, to_number, without_extension

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_PIXELS = 2.0
"""Larger coordinates are taken for pixels; boxes that merely reach out of the image stay below."""
_LARGEST_FILE, _LARGEST_LIST, _LARGEST_YAML = 2**26, 2**30, 2**20
"""Bytes of a label file, of a list of images, and of data.yaml, which is parsed slowly."""
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "README.txt")
_NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that there is no value."""


@dataclass(frozen=True)
class _Configuration:
    """What data.yaml says: all of it, the folder that paths start from, and the folders or lists of each split."""

    content: dict[Any, Any]
    base: str
    entries: dict[str, list[str]]


class _Line(NamedTuple):
    """A line of a label file: its image's row, its number, the label of its class, and the numbers that follow."""

    row: int
    number: int
    label: int
    values: Numbers


def label_file(image: str) -> str:
    """The file that holds the labels of an image; both relative to the data folder."""
    parts = list(PurePosixPath(image).parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part in _LABELS]
    if folders:
        parts[folders[-1]] = _LABELS[parts[folders[-1]]]
    return without_extension(str(PurePosixPath(*parts))) + ".txt"


def _find(files: Files) -> str | None:
    """The file with the names of the classes: data.yaml, or another YAML file that says where training images are;
    Darknet's obj.data; or a list of the names, where an image has a label file."""
    if files.given and PurePosixPath(files.given).suffix in (".yaml", ".yml", ".data", ".names", ".txt"):
        return files.given
    for file in ("data.yaml", "data.yml"):
        if files.is_file(file):
            return file
    others = files.files_in(".", [".yaml", ".yml"], below=False)
    keys = {file: set(files.probe().parse(file, _LARGEST_YAML, read_yaml) or ()) for file in others}
    found = next((file for file in others if {"names", "train"} <= keys[file]), None)
    found = found or next(iter(files.files_in(".", [".data"], below=False)), None)
    lists = ["classes.txt", "labels/classes.txt", *files.files_in(".", [".names"], below=False)]
    named = found or next((file for file in lists if files.is_file(file)), None)
    if found or named is None:
        return found
    images = files.probe().images_in(".")
    return named if any(files.find(_existing_label_file(files, image)) for image in images) else None


def _read(files: Files, file: str) -> RawFolder:
    parser = _parsed if PurePosixPath(file).suffix in (".yaml", ".yml") else partial(_darknet, files, file)
    configuration = files.parse(file, _LARGEST_YAML, parser)
    if configuration is None:
        raise DataError(files.root, files.faults)
    try:
        classes = _classes(_with_names(files, configuration))
        keypoints = _keypoints(configuration.content)
    except ValueError as problem:
        files.add("classes", file, str(problem))
        raise DataError(files.root, files.faults) from problem
    found = {
        split: _images(files, file, configuration.base, split, entries)
        for split, entries in configuration.entries.items()
    }
    defined = tuple(split for split, images in found.items() if images is not None or split == "train")
    labels = {split: _labels(files, images) for split, images in found.items() if images is not None}
    lines = {split: _lines(files, found[split] or [], labels[split], classes) for split in labels}
    columns = decide([line.values for split in lines.values() for line in split], keypoints)
    files.notes += columns.notes
    splits = [_split(files, split, found[split] or [], labels[split], lines[split], columns) for split in labels]
    _report_labels_without_images(files, {label for split in splits for label in split.label_files})
    return RawFolder(classes, file, defined, splits)


def _darknet(files: Files, file: str, content: bytes) -> _Configuration:
    """What a list of class names says, with the folder's lists or folders of images; or what obj.data says: lines of
    `key = value` that name all of these.

    Raises:
        ValueError: it names no list of classes.
    """
    lines = content.decode("utf-8-sig").rstrip().splitlines()
    if not file.endswith(".data"):
        return _Configuration({"names": [line.strip() for line in lines]}, ".", _entries(files))
    table = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if not table.get("names"):
        raise ValueError("it has no line names = FILE, which lists the classes")
    keys = {"train": "train", "val": "valid", "test": "test"}
    return _Configuration(table, ".", {split: [table[key]] for split, key in keys.items() if table.get(key)})


def _entries(files: Files) -> dict[str, list[str]]:
    """The images of each split of a folder that says nothing of them: its lists train.txt, ...; its folders train, ...;
    or all as train."""
    for base in (".", "images", "Images"):
        texts = [posixpath.normpath(posixpath.join(base, f"{stem}.txt")) for stem in ("train", "val", "valid", "test")]
        lists = [file for file in texts if files.is_file(file)]
        found = {split_of(posixpath.basename(place)): place for place in lists or files.subfolders(base)}
        if "train" in found:
            return {split: [found[split]] for split in SPLITS if split in found}
    files.notes.append("No list or folder is called train: all images belong to train.")
    return {"train": ["."]}


def _with_names(files: Files, configuration: _Configuration) -> dict[Any, Any]:
    """The configuration's content, with the names of the classes in place of the file that lists them.

    Raises:
        ValueError: there is no such file.
    """
    content = configuration.content
    names = content.get("names")
    if not isinstance(names, str):
        return content
    place = _place(files, configuration.base, names)
    listed = place and files.parse(place, _LARGEST_YAML, lambda text: text.decode("utf-8-sig").rstrip().splitlines())
    if not listed:
        raise ValueError(f"names is {names}, which is no list of class names, and no file with one")
    return content | {"names": [name.strip() for name in listed]}


def _keypoints(content: dict[Any, Any]) -> tuple[int, int] | None:
    """How many keypoints a pose has, and the numbers of each (kpt_shape).

    Raises:
        ValueError: kpt_shape is something else.
    """
    shape = content.get("kpt_shape")
    if shape is None or shape in _NOTHING:
        return None
    numbers = [int(value) for value in shape if str(value).isdecimal()] if isinstance(shape, list) else []
    if len(numbers) != 2 or numbers[1] not in (2, 3):
        raise ValueError(f"kpt_shape is {reprlib.repr(shape)}; it must be [keypoints, 2 or 3]")
    return numbers[0], numbers[1]


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
        images.update(files.images_in(path) if files.is_folder(path) else _listed(files, path, split))
    return sorted(images) if any(places.values()) else None


def _place(files: Files, base: str, entry: str) -> str | None:
    """The folder or list that an entry means.

    Exporters write paths for other working directories (`../train/images`, `/content/data/train/images`): if a path
    leads nowhere, its ends are tried that still name the split.
    """
    base, entry = files.resolve(base) or ".", entry.strip("'\" ")
    ends = tails(entry)
    paths = [files.resolve(entry, folder) for folder in (base, ".")] + ([*filter(split_of, ends)] or ends)
    return next((path for path in paths if path and (files.is_folder(path) or files.is_file(path))), None)


def _holds_something(files: Files, path: str) -> bool:
    """Whether there is an image in the folder, or a line in the list; what cannot be read may have some."""
    probe = files.probe()
    found = probe.images_in(path) if probe.is_folder(path) else probe.lines(path, _LARGEST_LIST)
    return bool(found or probe.faults)


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


def _labels(files: Files, images: list[str]) -> list[str]:
    """The label file of each image, there or not."""
    labels = [_existing_label_file(files, image) for image in images]
    _report_shared_labels(files, images, labels)
    return labels


def _split(
    files: Files, split: str, images: list[str], labels: list[str], lines: list[_Line], columns: Columns
) -> RawSplit:
    rows: list[tuple[Any, ...]] = []
    for line in lines:
        corners, image, file = columns.corners(line.values), images[line.row], labels[line.row]
        if corners is None:
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


def _existing_label_file(files: Files, image: str) -> str:
    """`label_file`, or the same file in a folder called labels, or as browsers write its name, if it is not there."""
    file = label_file(image)
    other = str(PurePosixPath(*("labels" if part in _LABELS.values() else part for part in PurePosixPath(file).parts)))
    candidates = [form(path) for path in (file, other) for form in (str, _quoted, unquote)]
    return next((path for path in candidates if files.find(path) is not None), file)


def _quoted(path: str) -> str:
    return quote(path, errors="surrogateescape")


def _report_shared_labels(files: Files, images: list[str], labels: list[str]) -> None:
    """Report images that share a label file: `a.jpg` and `a.png`."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for image, label in zip(images, labels, strict=True):
        sharing[label].append(image)
    for label, found in sharing.items():
        if len(found) > 1 and files.find(label) is not None:
            for image in found:
                files.add("ambiguous-image", image, f"{label} may be of {' or '.join(found[:3])}")


def _lines(files: Files, images: list[str], labels: list[str], classes: ClassTable) -> list[_Line]:
    """The sound lines of the label files, images in order."""
    table = {float(id): label for label, id in enumerate(classes.ids)}
    found: list[_Line] = []
    for row, (image, file) in enumerate(zip(images, labels, strict=True)):
        for number, text in _texts_of(files, image, file):
            class_id, *values = map(to_number, text.split())
            if class_id not in table:
                files.add("unknown-category", file, repr(text[:80]), number, image)
            elif not all(map(math.isfinite, values)):
                files.add("not-a-number", file, repr(text[:80]), number, image)
            else:
                found.append(_Line(row, number, table[class_id], tuple(values)))
    return found


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
    _find,
    _read,
)
