"""COCO JSON: `annotations/instances_<split>*.json` with image folders, or Roboflow's `<split>/_annotations.coco.json`.

Ids must be whole numbers; boxes are (x, y, width, height) in pixels.
"""

import json
import math
import posixpath
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files
from oddetr.data.formats.raw import LONGEST_SIDE, OBJECT, Format, RawFolder, RawSplit
from oddetr.data.formats.text import SPLITS, require_unique, split_of

_ROBOFLOW = "_annotations.coco.json"
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_PROBE = 200
"""Images of a split that are looked for in each folder, to find the split's."""
_LARGEST_FILE = 2**34
"""Bytes of an annotation file: the largest in use have a third of that."""


@dataclass(frozen=True)
class _Document:
    """The lists of records of one JSON file."""

    file: str
    split: str
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


@dataclass(frozen=True)
class _Image:
    """A well-formed image record; (height, width) is 0 if the record does not give it."""

    id: int
    name: str
    size: tuple[int, int]


class _Problem(ValueError):
    """A fault of one record."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _find(files: Files) -> list[str] | None:
    """The annotation files, where COCO or Roboflow has them."""
    named = files.files_in("annotations", [".json"], below=False)
    found = [file for file in named if posixpath.basename(file).startswith("instances_")]
    if not found and not files.files_in("annotations", [".xml"], below=False):
        found = [file for file in named if not posixpath.basename(file).startswith(_OTHER_TASKS)]
    beside = [f"{folder}/{_ROBOFLOW}" for folder in files.subfolders() if split_of(folder)]
    return found + [file for file in beside if files.is_file(file)] or None


def _read(files: Files, candidates: list[str]) -> RawFolder:
    """Category ids, sorted, become labels 0..K-1. A category without annotations remains a class."""
    chosen = _chosen(files, candidates)
    documents = [
        _Document(file, split, *lists)
        for split, file in chosen.items()
        if (lists := files.parse(file, _LARGEST_FILE, _parsed)) is not None
    ]
    if not documents:
        raise DataError(files.root, files.faults)
    classes = _classes(files, documents)
    splits = [_split(files, document, classes) for document in documents]
    return RawFolder(classes, documents[0].file, tuple(chosen), splits)


def _chosen(files: Files, candidates: list[str]) -> dict[str, str]:
    """The annotation file of each split; a single file that names no split is train."""
    chosen: dict[str, str] = {}
    for file in candidates:
        folder, name = posixpath.split(file)
        split = split_of(folder if name == _ROBOFLOW else Path(name).stem)
        split = split or ("train" if len(candidates) == 1 else None)
        if split is None:
            files.notes.append(f"{file} was not read: its name says neither train nor val nor test.")
        elif split in chosen:
            files.add("duplicate-split", file, f"defines {split}, as does {chosen[split]}")
        else:
            chosen[split] = file
    if not chosen and not files.faults:
        message = f"none of {len(candidates)} files says train, val or test in its name"
        files.add("malformed-file", "annotations", message)
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _parsed(content: bytes) -> tuple[list[Any], list[Any], list[Any]]:
    """The lists of images, annotations and categories.

    Raises:
        ValueError: it is no JSON, a list is missing, or a key occurs twice in one object.
        RecursionError: it is nested too deeply.
    """
    if content.lstrip()[:1] == b"<":
        raise ValueError("it is an HTML or XML page, not JSON")
    found = json.loads(content, object_pairs_hook=_unique)
    return _list(found, "images"), _list(found, "annotations"), _list(found, "categories")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        require_unique([key for key, _ in pairs])
    return found


def _list(content: Any, key: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f'there is no list "{key}" at its top level')
    return found


def _integer(record: Any, key: str) -> int | None:
    """The whole number of that name, which may be written as a float; None if there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value) if abs(value) < 2**62 else None
    return None


def _text(record: Any, key: str) -> str:
    """The text of that name; empty if there is none."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    """The number; NaN if it is none, or none that fits into 64 bits."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan


def _categories(files: Files, document: _Document) -> list[tuple[int, str]]:
    """(id, name) of the well-formed categories, sorted."""
    found: list[tuple[int, str]] = []
    for index, record in enumerate(document.categories):
        id, name = _integer(record, "id"), _text(record, "name").strip()
        if id is not None and name and readable(name):
            found.append((id, name))
        else:
            message = f"categories[{index}] needs a whole number as id and a readable name"
            files.add("malformed-record", document.file, message)
    return sorted(found)


def _classes(files: Files, documents: list[_Document]) -> ClassTable:
    """The class table of the first file, with which the others must agree.

    Roboflow's id 0 with supercategory "none", if no annotation has it, is the project's name and no class.
    """
    first, *others = documents
    table = _categories(files, first)
    for other in others:
        different = sorted(set(table) ^ set(_categories(files, other)))[:5]
        if different:
            names = ", ".join(f"{name!r} (id {id})" for id, name in different)
            files.add("classes", other.file, f"its categories differ from those of {first.file}: {names}")
    unnamed = [_integer(record, "id") for record in first.categories if _text(record, "supercategory") == "none"]
    is_project = len(table) > 1 and table[0][0] == 0 and 0 in unnamed
    if is_project and not any(_integer(record, "category_id") == 0 for d in documents for record in d.annotations):
        (_, name), *table = table
        files.notes.append(f"Category 0, {name!r}, is Roboflow's name for the project, not a class: left out.")
    try:
        return ClassTable(tuple(name for _, name in table), tuple(id for id, _ in table))
    except ValueError as problem:
        files.add("classes", first.file, str(problem))
        raise DataError(files.root, files.faults) from problem


def _split(files: Files, document: _Document, classes: ClassTable) -> RawSplit:
    images = _images(files, document)
    paths = _paths(files, document, images)
    split = RawSplit(
        name=document.split,
        files=[paths.get(row, "") for row in range(len(images))],
        label_files=[document.file] * len(images),
        image_ids=np.array([image.id for image in images], dtype=np.int64),
        sizes=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
        objects=_objects(files, document, images, classes),
    )
    return split.take(np.array(list(paths), dtype=np.int64))


def _images(files: Files, document: _Document) -> list[_Image]:
    """The well-formed images, each id once."""
    images: dict[int, _Image] = {}
    for row, record in enumerate(document.images):
        id, name = _integer(record, "id"), _text(record, "file_name")
        if id is None or not name:
            message = f"images[{row}] needs a whole number as id and a file_name"
            files.add("malformed-record", document.file, message)
        elif id in images:
            files.add("duplicate-image-id", document.file, f"image id {id} is used again")
        else:
            height, width = (_integer(record, side) or 0 for side in ("height", "width"))
            known = 0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE
            images[id] = _Image(id, name, (height, width) if known else (0, 0))
    return list(images.values())


def _paths(files: Files, document: _Document, images: list[_Image]) -> dict[int, str]:
    """The paths of the images, by their rows, that are there, may be read, and are not listed twice."""
    base = _image_folder(files, document, images)
    paths: dict[int, str] = {}
    seen: set[str] = set()
    for row, image in enumerate(images):
        path, described = files.resolve(image.name, base), f"image id {image.id}"
        file = files.find(path) if path is not None else None
        if path is None:
            message = f"{described} is {image.name!r}{files.advice(image.name, base)}"
            files.add("outside-folder", document.file, message)
        elif (barred := files.barred(file or path)) is not None:
            files.faults.append(barred)
        elif file is None:
            similar = files.similar(path)
            hint = f"; there is {similar}" if similar else ""
            files.add("missing-image", path, f"listed in {document.file} as {described}{hint}")
        elif file in seen:
            files.add("duplicate-file-name", document.file, f"{file} is listed again as {described}")
        else:
            seen.add(file)
            paths[row] = file
    return paths


def _image_folder(files: Files, document: _Document, images: list[_Image]) -> str:
    """The folder in which most of the split's images are found."""
    stem, beside = Path(document.file).stem.removeprefix("instances_"), posixpath.dirname(document.file)
    named = [
        folder
        for base in (".", "images")
        for folder in files.subfolders(base)
        if split_of(posixpath.basename(folder)) == document.split
    ]
    folders = [stem, f"images/{stem}", *named, "images", beside, "."]

    def hits(folder: str) -> int:
        paths = (files.resolve(image.name, folder) for image in images[:_PROBE])
        return sum(path is not None and files.find(path) is not None for path in paths)

    return max((folder for folder in folders if files.is_folder(folder)), key=hits)


def _objects(files: Files, document: _Document, images: list[_Image], classes: ClassTable) -> np.ndarray:
    """The usable annotations as `OBJECT`s; annotations are named by their ids."""
    rows = {image.id: row for row, image in enumerate(images)}
    labels = {id: label for label, id in enumerate(classes.ids)}
    objects: list[tuple[Any, ...]] = []
    seen: set[int] = set()
    for index, record in enumerate(document.annotations):
        id = _integer(record, "id")
        try:
            objects.append(_object(index, record, rows, labels, seen))
        except _Problem as problem:
            files.add(problem.kind, document.file, str(problem), id)
    return np.array(objects, dtype=OBJECT)


def _object(
    index: int, record: Any, rows: dict[int, int], labels: dict[int, int], seen: set[int]
) -> tuple[int, int, int, tuple[float, ...], float, bool]:
    """The fields of an `OBJECT`; adds its id to `seen`."""
    id, image, category = (_integer(record, key) for key in ("id", "image_id", "category_id"))
    if id is None or image is None or category is None:
        message = f"annotations[{index}] needs whole numbers as id, image_id and category_id"
        raise _Problem("malformed-record", message)
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise _Problem("malformed-record", f"iscrowd is {reprlib.repr(crowd)}; it must be 0 or 1")
    if id in seen:
        raise _Problem("duplicate-annotation-id", f"annotation id {id} is used again")
    seen.add(id)
    box = record.get("bbox")
    numbers = [_number(value) for value in box] if isinstance(box, list) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise _Problem("not-a-number", f"bbox is {reprlib.repr(box)}" if "bbox" in record else "has no bbox")
    if category not in labels:
        raise _Problem("unknown-category", f"category_id {category}")
    if image not in rows:
        raise _Problem("unknown-image", f"image_id {image}")
    x, y, width, height = numbers
    return rows[image], id, labels[category], (x, y, x + width, y + height), _number(record.get("area")), crowd == 1


COCO = Format(
    "COCO",
    (
        "annotations/instances_train.json, instances_val.json, ...; images in train/, val/, ... or images/",
        "train/_annotations.coco.json, valid/_annotations.coco.json, ...; images beside them (Roboflow)",
    ),
    _find,
    _read,
)
