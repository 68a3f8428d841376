"""YOLO: `data.yaml` names the classes and the images of each split; every image has a text file of labels.

A line is `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, whose bounding box is taken; all
but the class are shares of the image's size. A score after a box, as `oddetr predict` writes it, is left out, and told
of. The label file of `images/a.jpg` is `labels/a.txt`: the last folder called images becomes labels (Images becomes
Labels). Without such a folder it lies beside the image.
"""

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64

from oddetr.data.cleaning import RawFolder, RawSplit
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError, Fault
from oddetr.data.folders import Listing, advice_outside, inside, list_files, split_of, without_extension

FORMAT = "YOLO"
LAYOUTS = ("data.yaml with names, train and val; images/train/, ... and labels/train/, ...",)

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_PIXELS = 2.0
"""Beyond this a coordinate is taken for pixels; boxes that merely reach out of the image stay below."""
_SCORED = 6
"""Words of a line that ends in a score."""


@dataclass(frozen=True)
class _Configuration:
    file: str
    base: str
    entries: dict[str, list[str]]
    classes: ClassTable


def recognises(root: Path) -> bool:
    """Whether there is a YAML file with class names and the place of the training images."""
    return _configuration_file(root) is not None


def read(root: Path) -> RawFolder:
    """The data set, not yet cleaned.

    Raises:
        DataError: data.yaml cannot be understood, or its classes are no class table.
    """
    configuration = _configuration(root)
    raw = RawFolder(FORMAT, configuration.classes, configuration.file, (), [])
    scored: dict[str, None] = {}
    listing = Listing(root)
    labels: dict[str, set[str]] = {}
    for split, entries in configuration.entries.items():
        files = _images(root, listing, configuration, split, entries, raw)
        if files is not None or split == "train":
            raw.defined += (split,)
        if files is None:
            continue
        label_files = [_label_file(listing, file) for file in files]
        raw.splits.append(_split(root, listing, split, files, label_files, configuration.classes, raw.faults, scored))
        for file in label_files:
            labels.setdefault(str(PurePosixPath(file).parent), set()).add(file)
    for folder, expected in sorted(labels.items()):
        raw.faults += _labels_without_images(root, folder, expected)
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
    return without_extension("/".join(parts)) + ".txt"


def _label_file(listing: Listing, image: str) -> str:
    """`label_file`, or the same file in a folder called labels where it is not there."""
    file = label_file(image)
    other = str(PurePosixPath(*("labels" if part in _LABELS.values() else part for part in PurePosixPath(file).parts)))
    return other if listing.find(file) is None and listing.find(other) is not None else file


def _configuration_file(root: Path) -> Path | None:
    named = [root / "data.yaml", root / "data.yml"]
    others = [path for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]) if path not in named]
    for path in named:
        if path.is_file():
            return path
    return next((path for path in others if {"names", "train"} <= _keys(path)), None)


def _keys(path: Path) -> set[Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def _configuration(root: Path) -> _Configuration:
    path = _configuration_file(root)
    assert path is not None
    file = path.name
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise DataError(root, [Fault("malformed-file", file, " ".join(str(problem).split()))]) from problem
    if not isinstance(content, dict):
        raise DataError(root, [Fault("malformed-file", file, "it holds no keys such as names, train and val")])
    entries: dict[str, list[str]] = {}
    for split, keys in _KEYS.items():
        given = next((content[key] for key in keys if content.get(key)), None)
        if given is not None:
            entries[split] = [str(entry) for entry in given] if isinstance(given, list) else [str(given)]
    if not entries:
        raise DataError(root, [Fault("malformed-file", file, "none of train, val and test says where images are")])
    return _Configuration(file, str(content.get("path") or "."), entries, _classes(root, file, content))


def _classes(root: Path, file: str, content: dict[Any, Any]) -> ClassTable:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        if not isinstance(names, dict):
            raise ValueError("names is neither a list nor a table of class names")
        table = {int(id): str(name).strip() for id, name in sorted(names.items(), key=lambda item: int(item[0]))}
        if isinstance(count, int) and count != len(table):
            raise ValueError(f"nc is {count}, but there are {len(table)} names")
        return ClassTable(tuple(table.values()), tuple(table))
    except (TypeError, ValueError) as problem:
        raise DataError(root, [Fault("classes", file, str(problem))]) from problem


def _images(
    root: Path, listing: Listing, configuration: _Configuration, split: str, entries: list[str], raw: RawFolder
) -> list[str] | None:
    """The images of a split, sorted, each once; None where there is no such split: exporters name what is not there."""
    places = {entry: _find(root, configuration, entry) for entry in entries}
    if split != "train" and not any(path and _holds_something(root / path) for path in places.values()):
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
    files: set[str] = set()
    for path in found:
        is_folder = (root / path).is_dir()
        files.update(list_files(root, root / path) if is_folder else _listed(root, listing, path, raw.faults))
    return sorted(files) if found else None


def _holds_something(path: Path) -> bool:
    """Whether there is an image in the folder, or a line in the list."""
    if path.is_dir():
        return bool(list_files(path, path))
    return bool(path.read_text(encoding="utf-8-sig", errors="replace").strip())


def _find(root: Path, configuration: _Configuration, entry: str) -> str | None:
    """The folder or list that an entry means.

    Exporters write paths for other working directories (`../train/images`, `/content/data/train/images`): where a path
    leads nowhere, its last parts are tried alone, as long as they still name the split.
    """
    entry = entry.replace("\\", "/")
    base = inside(root, ".", configuration.base)
    bases = ["."] if base in (None, ".") else [base, "."]
    for folder in bases:
        path = inside(root, folder, entry)
        if path is not None and (root / path).exists():
            return path
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", "/")]
    last = max((index for index, part in enumerate(parts) if split_of(part)), default=len(parts) - 1)
    tails = ["/".join(parts[start:]) for start in range(last + 1)]
    return next((tail for tail in tails if (root / tail).exists()), None)


def _listed(root: Path, listing: Listing, path: str, faults: list[Fault]) -> list[str]:
    """The images that a list names, one a line, relative to the list's folder or to the data folder."""
    files: dict[str, int] = {}
    text = (root / path).read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not (name := line.strip()):
            continue
        places = [inside(root, base, name) for base in (str(PurePosixPath(path).parent), ".")]
        expected = [place for place in places if place is not None]
        file = next((file for place in expected if (file := listing.find(place)) is not None), None)
        if not expected:
            faults.append(Fault("outside-folder", path, name + advice_outside(root, name), number))
        elif file is None:
            faults.append(Fault("missing-image", expected[-1], f"listed in {path} line {number}"))
        elif file in files:
            faults.append(Fault("repeated-image", path, f"{file} stands in line {files[file]} already", number))
        else:
            files[file] = number
    return list(files)


def _labels_without_images(root: Path, folder: str, expected: set[str]) -> list[Fault]:
    return [
        Fault("label-without-image", file, "there is no image of this name")
        for file in list_files(root, root / folder, [".txt"], below=False)
        if file not in expected and PurePosixPath(file).name != "classes.txt"
    ]


def _split(
    root: Path,
    listing: Listing,
    split: str,
    files: list[str],
    labels: list[str],
    classes: ClassTable,
    faults: list[Fault],
    scored: dict[str, None],
) -> RawSplit:
    parsed = [_objects(root, listing, *pair, faults, scored) for pair in zip(files, labels, strict=True)]
    counts = [len(rows) for rows in parsed]
    table = np.concatenate([np.zeros((0, 6)), *parsed])
    index = {id: label for label, id in enumerate(classes.ids)}
    classed = np.array([index.get(id, -1) for id in table[:, 1]], dtype=np.int64)
    image = np.repeat(np.arange(len(files)), counts)
    for row in np.flatnonzero(classed < 0):
        message = f"class {table[row, 1]:g}"
        faults.append(Fault("unknown-category", labels[image[row]], message, int(table[row, 0])))
    raw = RawSplit(
        name=split,
        files=files,
        label_files=labels,
        image_ids=np.arange(1, len(files) + 1),
        sizes=np.zeros((len(files), 2), dtype=np.int64),
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
    root: Path, listing: Listing, image: str, label: str, faults: list[Fault], scored: dict[str, None]
) -> Float64[np.ndarray, "objects 6"]:
    """(line, class, x0, y0, x1, y1) of every usable line of a label file."""
    path = listing.find(label)
    if path is None:
        faults.append(Fault("image-without-label", image, f"there is no {label}"))
        return np.zeros((0, 6))
    rows: list[list[float]] = []
    try:
        lines = (root / path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as problem:
        faults.append(Fault("malformed-file", label, str(problem)))
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
    label, *numbers = [_number(word) for word in line.split()]
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
    if any(abs(number) > _PIXELS for number in numbers):
        return "pixel-coordinates", []
    return "", [label, *box]


def _number(word: str) -> float:
    """The number, or NaN where there is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan
