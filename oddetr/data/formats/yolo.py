"""YOLO: `data.yaml` names the classes and the images of each split; every image has a text file of labels.

A line is `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, whose bounding box is taken; all
but the class are shares of the image's size. A score after a box, as `oddetr predict` writes it, is left out, and told
of. The label file of `images/a.jpg` is `labels/a.txt`: the last folder called images becomes labels (Images becomes
Labels). Without such a folder it lies beside the image.
"""

import math
import posixpath
import reprlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64

from oddetr.common.regular import reason
from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.doctor.cleaning import RawFolder, RawSplit
from oddetr.data.doctor.faults import DataError, Fault
from oddetr.data.formats.files import LONGEST_PATH, FileFault, Files
from oddetr.data.formats.folders import split_of, without_extension
from oddetr.data.formats.numbers import to_number
from oddetr.data.formats.plain_yaml import read_table

FORMAT = "YOLO"
LAYOUTS = ("data.yaml with names, train and val; images/train/, ... and labels/train/, ...",)

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_PIXELS = 2.0
"""Beyond this a coordinate is taken for pixels; boxes that merely reach out of the image stay below."""
_SCORED = 6
"""Words of a line that ends in a score."""
_LARGEST_FILE, _LARGEST_LIST, _LARGEST_YAML = 2**26, 2**30, 2**20
"""Bytes of a label file, of a list of images, and of data.yaml, which is parsed slowly."""
_NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that there is no value."""


@dataclass(frozen=True)
class _Configuration:
    file: str
    base: str
    entries: dict[str, list[str]]
    classes: ClassTable


def recognises(files: Files, faults: list[Fault]) -> bool:
    """Whether there is a YAML file with class names and the place of the training images; `faults` receives those not
    to be read."""
    return _configuration_file(files, faults) is not None


def read(files: Files) -> RawFolder:
    """The data set, not yet cleaned.

    Raises:
        DataError: data.yaml cannot be understood, or its classes are no class table.
    """
    configuration = _configuration(files)
    raw = RawFolder(FORMAT, configuration.classes, configuration.file, (), [])
    scored: dict[str, None] = {}
    labels: dict[str, set[str]] = {}
    for split, entries in configuration.entries.items():
        images = _images(files, configuration, split, entries, raw)
        if images is not None or split == "train":
            raw.defined += (split,)
        if images is None:
            continue
        label_files = [_label_file(files, image) for image in images]
        raw.faults += _shared_labels(files, images, label_files)
        raw.splits.append(_split(files, split, images, label_files, configuration.classes, raw.faults, scored))
        for file in label_files:
            labels.setdefault(posixpath.dirname(file), set()).add(file)
    for folder, expected in sorted(labels.items()):
        raw.faults += _labels_without_images(files, folder, expected)
    if scored:
        raw.notes.append(
            f"Labels with scores, which a detector wrote, are taken for the truth: of {len(scored):,} images, "
            f"{next(iter(scored))} first."
        )
    return raw


def label_file(image: str) -> str:
    """Where the labels of an image stand; both relative to the data folder."""
    parts = list(PurePosixPath(image).parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part in _LABELS]
    if folders:
        parts[folders[-1]] = _LABELS[parts[folders[-1]]]
    return without_extension(str(PurePosixPath(*parts))) + ".txt"


def _label_file(files: Files, image: str) -> str:
    """`label_file`, or the same file in a folder called labels where it is not there."""
    file = label_file(image)
    other = str(PurePosixPath(*("labels" if part in _LABELS.values() else part for part in PurePosixPath(file).parts)))
    return other if files.find(file) is None and files.find(other) is not None else file


def _configuration_file(files: Files, faults: list[Fault]) -> str | None:
    for file in ("data.yaml", "data.yml"):
        if files.is_file(file):
            return file
    others = files.files_in(".", faults, [".yaml", ".yml"], below=False)
    return next((file for file in others if {"names", "train"} <= _keys(files, file)), None)


def _keys(files: Files, file: str) -> set[Any]:
    try:
        return set(read_table(files.read(file, _LARGEST_YAML)))
    except (ValueError, RecursionError, yaml.YAMLError):
        return set()


def _configuration(files: Files) -> _Configuration:
    file = _configuration_file(files, [])
    assert file is not None
    try:
        content = read_table(files.read(file, _LARGEST_YAML))
        entries: dict[str, list[str]] = {}
        for split, keys in _KEYS.items():
            given = next((content[key] for key in keys if content.get(key, "") not in _NOTHING), None)
            if given is not None:
                entries[split] = _texts(split, given if isinstance(given, list) else [given])
        if not any(entries.values()):
            raise ValueError("none of train, val and test says where images are")
        (base,) = _texts("path", [content.get("path", ".")])
    except FileFault as problem:
        raise DataError(files.root, [problem.fault]) from problem
    except (ValueError, RecursionError, yaml.YAMLError) as problem:
        raise DataError(files.root, [Fault("malformed-file", file, reason(problem))]) from problem
    classes = _classes(files.root, file, content)
    return _Configuration(file, "." if base in _NOTHING else base, entries, classes)


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is neither a path nor a list of paths")
    return list(values)


def _classes(root: Path, file: str, content: dict[Any, Any]) -> ClassTable:
    names, count = content.get("names"), content.get("nc", "")
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    try:
        if not isinstance(names, dict):
            raise ValueError("names is neither a list nor a table of class names")
        table = {_id(key): _name(name) for key, name in names.items()}
        if len(table) < len(names):
            raise ValueError("two of the ids in names are the same number")
        if not isinstance(count, str):
            raise ValueError("nc is neither a number nor left out")
        if count not in _NOTHING and count != str(len(table)):
            raise ValueError(f"nc is {count[:20]}, but there are {len(table)} names")
        return ClassTable(tuple(table[id] for id in sorted(table)), tuple(sorted(table)))
    except ValueError as problem:
        raise DataError(root, [Fault("classes", file, str(problem))]) from problem


def _id(key: Any) -> int:
    if not isinstance(key, str) or not key.isdecimal() or len(key) > 9:
        raise ValueError(f"the id {reprlib.repr(key)} in names is no whole number from 0 to 999,999,999")
    return int(key)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not readable(name) or name.strip() in _NOTHING:
        found = repr(name[:80]) if isinstance(name, str) else "a list or table"
        raise ValueError(f"a name in names is {found}, which is no readable text")
    return name.strip()


def _images(
    files: Files, configuration: _Configuration, split: str, entries: list[str], raw: RawFolder
) -> list[str] | None:
    """The images of a split, sorted, each once; None where there is no such split: exporters name what is not there."""
    places = {entry: _find(files, configuration, entry) for entry in entries}
    if split != "train" and not any(path and _holds_something(files, path) for path in places.values()):
        raw.notes.append(
            f"{configuration.file} says {', '.join(entries)} for {split}, which is not there or holds no image: "
            f"there is no {split} split."
        )
        return None
    for entry, path in places.items():
        if path is None:
            message = f"{split}: {entry} is not in the data folder"
            raw.faults.append(Fault("missing-folder", configuration.file, message))
        elif ".." in PurePosixPath(entry).parts or entry.startswith("/"):
            raw.notes.append(f"{configuration.file} says {entry} for {split}: taken from {path}.")
    found = [path for path in places.values() if path is not None]
    images: set[str] = set()
    for path in found:
        is_folder = files.is_folder(path)
        images.update(files.files_in(path, raw.faults) if is_folder else _listed(files, path, raw.faults))
    return sorted(images) if found else None


def _holds_something(files: Files, path: str) -> bool:
    """Whether there is an image in the folder, or a line in the list; what must not be looked at may have some."""
    if files.barred(path) is not None:
        return True
    if files.is_folder(path):
        faults: list[Fault] = []
        return bool(files.files_in(path, faults) or faults)
    try:
        return bool(files.read(path, _LARGEST_LIST).strip())
    except FileFault:
        return True


def _find(files: Files, configuration: _Configuration, entry: str) -> str | None:
    """The folder or list that an entry means.

    Exporters write paths for other working directories (`../train/images`, `/content/data/train/images`): where a path
    leads nowhere, its last parts are tried alone, as long as they still name the split.
    """
    entry = entry[:LONGEST_PATH].replace("\\", "/")
    base = files.inside(".", configuration.base)
    bases = ["."] if base in (None, ".") else [base, "."]
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", "/")]
    last = max((index for index, part in enumerate(parts) if split_of(part)), default=len(parts) - 1)
    tails = ["/".join(parts[start:]) for start in range(last + 1)]
    paths = [path for folder in bases if (path := files.inside(folder, entry)) is not None] + tails
    return next((path for path in paths if files.is_folder(path) or files.is_file(path)), None)


def _listed(files: Files, path: str, faults: list[Fault]) -> list[str]:
    """The images that a list names, one a line, relative to the list's folder or to the data folder."""
    found: dict[str, int] = {}
    try:
        lines = files.read_text(path, _LARGEST_LIST).splitlines()
    except FileFault as problem:
        faults.append(problem.fault)
        return []
    for number, line in enumerate(lines, start=1):
        if not (name := line.strip()):
            continue
        places = [files.inside(base, name) for base in (posixpath.dirname(path), ".")]
        expected = [place for place in places if place is not None]
        file = next((file for place in expected if (file := files.find(place)) is not None), None)
        barred = [fault for place in (file, *expected) if place and (fault := files.barred(place)) is not None]
        if not expected:
            faults.append(Fault("outside-folder", path, name + files.advice(name), number))
        elif file is None and barred:
            faults += barred
        elif file is None:
            faults.append(Fault("missing-image", expected[-1], f"listed in {path} line {number}"))
        elif file in found:
            faults.append(Fault("repeated-image", path, f"{file} stands in line {found[file]} already", number))
        elif (fault := files.barred(file)) is not None:
            faults.append(fault)
        else:
            found[file] = number
    return list(found)


def _labels_without_images(files: Files, folder: str, expected: set[str]) -> list[Fault]:
    return [
        Fault("label-without-image", file, "there is no image of this name")
        for file in files.files_in(folder, [], [".txt"], below=False)
        if file not in expected and posixpath.basename(file) != "classes.txt"
    ]


def _shared_labels(files: Files, images: list[str], labels: list[str]) -> Iterator[Fault]:
    """Images that differ only in what their label file does not tell: `a.jpg` and `a.png`."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for image, label in zip(images, labels, strict=True):
        sharing[label].append(image)
    for label, found in sharing.items():
        if len(found) > 1 and files.find(label) is not None:
            yield from (
                Fault("ambiguous-image", image, f"{label} may be of {' or '.join(found[:3])}") for image in found
            )


def _split(
    files: Files,
    split: str,
    images: list[str],
    labels: list[str],
    classes: ClassTable,
    faults: list[Fault],
    scored: dict[str, None],
) -> RawSplit:
    parsed = [_objects(files, *pair, faults, scored) for pair in zip(images, labels, strict=True)]
    counts = [len(rows) for rows in parsed]
    table = np.concatenate([np.zeros((0, 6)), *parsed])
    index = {id: label for label, id in enumerate(classes.ids)}
    classed = np.array([index.get(id, -1) for id in table[:, 1]], dtype=np.int64)
    image = np.repeat(np.arange(len(images)), counts)
    for row in np.flatnonzero(classed < 0):
        message = f"class {table[row, 1]:g}"
        faults.append(Fault("unknown-category", labels[image[row]], message, int(table[row, 0])))
    raw = RawSplit(
        name=split,
        files=images,
        label_files=labels,
        image_ids=np.arange(1, len(images) + 1),
        sizes=np.zeros((len(images), 2), dtype=np.int64),
        image=image,
        boxes=table[:, 2:],
        labels=classed,
        areas=np.zeros(len(table)),
        crowd=np.zeros(len(table), dtype=bool),
        annotation_ids=np.arange(1, len(table) + 1),
        numbers=table[:, 0].astype(np.int64),
        relative=True,
    )
    return raw.take_objects(np.flatnonzero(classed >= 0))


def _objects(
    files: Files, image: str, label: str, faults: list[Fault], scored: dict[str, None]
) -> Float64[np.ndarray, "objects 6"]:
    """(line, class, x0, y0, x1, y1) of every usable line of a label file."""
    path = files.find(label)
    barred = files.barred(path or label)
    if path is None or barred is not None:
        faults.append(barred or Fault("image-without-label", image, f"there is no {label}"))
        return np.zeros((0, 6))
    rows: list[list[float]] = []
    try:
        lines = files.read_text(path, _LARGEST_FILE).splitlines()
    except FileFault as problem:
        faults.append(problem.fault)
        return np.zeros((0, 6))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        kind, row = _line(line)
        if kind:
            faults.append(Fault(kind, label, repr(line.strip()[:80]), number))
        else:
            rows.append([number, *row])
            if len(line.split()) == _SCORED:
                scored[label] = None
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def _line(line: str) -> tuple[str, list[float]]:
    """(class, x0, y0, x1, y1) of a line; or the kind of its fault."""
    label, *numbers = [to_number(word) for word in line.split()]
    if math.isnan(label):
        return "unknown-category", []
    if not all(map(math.isfinite, numbers)):
        return "not-a-number", []
    if len(numbers) == 5 and 0 <= numbers[4] <= 1:
        numbers = numbers[:4]
    if len(numbers) == 4:
        x, y, width, height = numbers
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        box = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
    else:
        return "malformed-record", []
    if any(abs(value) > _PIXELS for value in numbers):
        return "pixel-coordinates", []
    return "", [label, *box]
