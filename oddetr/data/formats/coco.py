"""COCO JSON: files that hold images, annotations and categories, wherever they lie near the top of the folder.

COCO has `annotations/instances_<split>*.json` with image folders, Roboflow `<split>/_annotations.coco.json`, other
tools a single file at the top. Boxes are (x, y, width, height) in pixels; where there is none, it is that of the
segmentation.
"""

import json
import math
import posixpath
import reprlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from oddetr.common.text import listed
from oddetr.data.dataset import ClassTable
from oddetr.data.fault_kinds import AT_LEAST
from oddetr.data.faults import DataError
from oddetr.data.formats.categories import Category, categories_of, class_table, without_project
from oddetr.data.formats.files import Files
from oddetr.data.formats.format import LONGEST_SIDE, OBJECT, Format, RawFolder, RawSplit, joined
from oddetr.data.formats.json_values import Id, id_of, integer, number_of, numbered, text_of
from oddetr.data.formats.masks import box_of
from oddetr.data.formats.text import SPLITS, grouped, require_unique, split_of

_OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_", "person_keypoints_")
_NAMES = ("file_name", "coco_url", "filename", "path")
"""Where the name of an image's file may stand; LVIS has its address alone."""
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_FOLDERS = ("annotations", "images", "data", "labels")
"""Folders, besides those named after splits, whose folders are looked into as well."""
_PROBE = 200
"""Images of a split that are looked for in each folder, to find the split's."""
_MOST_LOOKED_INTO = 20
"""JSON files of a folder that are opened to see what they hold: labelme writes one for each image."""
_COMPARED = 1000
"""Objects of a file of which boxes and segmentations are compared."""
_LARGEST_FILE = 2**34
"""Bytes of an annotation file: the largest in use have a third of that."""


@dataclass(frozen=True)
class _Document:
    """The lists of records of one JSON file, and its well-formed categories."""

    file: str
    split: str
    images: list[Any]
    annotations: list[Any]
    categories: list[Category]


@dataclass(frozen=True)
class _Image:
    """A well-formed image record; (height, width) is 0 if the record does not give it."""

    id: Id
    name: str
    size: tuple[int, int]


class _Problem(ValueError):
    """A fault of one record."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _find(files: Files) -> list[str] | None:
    """The annotation files: of COCO's own only the instances, if there are any."""
    folders = [".", *files.subfolders()]
    usual = [folder for folder in folders[1:] if folder.lower() in _FOLDERS or split_of(folder)]
    folders += [inner for folder in usual for inner in files.subfolders(folder)]
    found: list[str] = []
    for folder in folders:
        # What leads out of the folder is a fault only where annotations are expected.
        place = files if folder == "annotations" else files.probe()
        names = place.files_in(folder, [".json"], below=False)
        found += [file for file in names[:_MOST_LOOKED_INTO] if _holds_coco(files, file)]
    instances = [file for file in found if posixpath.basename(file).startswith("instances_")]
    others = [file for file in found if not posixpath.basename(file).startswith(_OTHER_TASKS)]
    found = instances or others or found
    if files.given and files.given.endswith(".json") and files.given not in found:
        return [files.given]
    return found or None


def _holds_coco(files: Files, file: str) -> bool:
    """Whether a file has the keys of COCO's lists, or one of COCO's own names, so that a damaged one is reported."""
    content = files.probe().parse(file, _LARGEST_FILE, bytes)
    named = posixpath.basename(file).startswith("instances_") or file.endswith("_annotations.coco.json")
    return named or (content is not None and all(key in content for key in _KEYS))


def _read(files: Files, candidates: list[str]) -> RawFolder:
    """Categories, sorted by id, become labels 0..K-1. A category without annotations remains a class."""
    chosen = _chosen(files, candidates)
    documents = [
        _Document(file, split, images, annotations, categories_of(files, file, categories))
        for split, names in chosen.items()
        for file in names
        if (lists := files.parse(file, _LARGEST_FILE, _parsed)) is not None
        for images, annotations, categories in [lists]
    ]
    if not documents:
        raise DataError(files.root, files.faults)
    used = {id_of(record, "category_id") for document in documents for record in document.annotations}
    tables = without_project(files, {document.file: document.categories for document in documents}, used)
    documents = [replace(document, categories=tables[document.file]) for document in documents]
    classes = class_table(files, tables)
    parts: dict[str, list[RawSplit]] = defaultdict(list)
    for document in documents:
        parts[document.split].append(_split(files, document, classes))
    splits = [_joined(files, of_split) for of_split in parts.values()]
    return RawFolder(classes, documents[0].file, tuple(chosen), splits)


def _chosen(files: Files, candidates: list[str]) -> dict[str, list[str]]:
    """The annotation files of each split: by the name of the file, else of its folder; if none names a split, all are
    train."""

    def split(file: str) -> str:
        return split_of(Path(file).stem) or split_of(posixpath.dirname(file)) or ""

    chosen = grouped(candidates, split)
    unnamed = sorted(set(chosen.pop("", [])))
    if not chosen:
        return {"train": unnamed}
    for file in unnamed:
        files.notes.append(f"{file} was not read: its name says neither train nor val nor test.")
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _joined(files: Files, parts: list[RawSplit]) -> RawSplit:
    """One split of several files, whose images must be different ones. Image ids that are used twice are replaced."""
    first, *others = parts
    taken = set(first.files)
    sound = [first]
    for part in others:
        shared = taken.intersection(part.files)
        if shared:
            what = f"names {len(shared):,} images of {first.label_files[0]} again, such as {min(shared)}"
            files.add("duplicate-split", part.label_files[0], what)
        else:
            sound.append(part)
            taken.update(part.files)
    if len(sound) == 1:
        return first
    names = listed([part.label_files[0] for part in sound if part.label_files], 5)
    split = joined(sound)
    renumbered = len(np.unique(split.image_ids)) < len(split.image_ids)
    if renumbered:
        split = replace(split, image_ids=np.arange(1, len(split.files) + 1))
    files.notes.append(f"{names} are read as one split{', with new image ids' if renumbered else ''}: {first.name}.")
    return split


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


def _split(files: Files, document: _Document, classes: ClassTable) -> RawSplit:
    images = _images(files, document)
    paths = _paths(files, document, images)
    ids = numbered(image.id for image in images)
    split = RawSplit(
        name=document.split,
        files=[paths.get(row, "") for row in range(len(images))],
        label_files=[document.file] * len(images),
        image_ids=np.array(list(ids.values()), dtype=np.int64),
        sizes=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
        objects=_objects(files, document, images, paths, classes),
        written="corner",
    )
    if any(isinstance(image.id, str) for image in images):
        files.notes.append(f"Image ids of {document.file} are text: images have the numbers 1, 2, ... instead.")
    return split.take(np.array(list(paths), dtype=np.int64))


def _images(files: Files, document: _Document) -> list[_Image]:
    """The well-formed images, each id once."""
    images: dict[Id, _Image] = {}
    for row, record in enumerate(document.images):
        id, name = id_of(record, "id"), next(filter(None, (text_of(record, key) for key in _NAMES)), "")
        if id is None or not name:
            files.add("malformed-record", document.file, f"images[{row}] needs an id and a file_name")
        elif id in images:
            files.add("duplicate-image-id", document.file, f"image id {id} is used again", image=name)
        else:
            height, width = (integer(record, side) or 0 for side in ("height", "width"))
            known = 0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE
            images[id] = _Image(id, name, (height, width) if known else (0, 0))
    return list(images.values())


def _paths(files: Files, document: _Document, images: list[_Image]) -> dict[int, str]:
    """The paths of the images, by their rows, that are there, may be read, and are not listed twice."""
    bases = _image_folders(files, document, images)
    paths: dict[int, str] = {}
    seen: set[str] = set()
    for row, image in enumerate(images):
        described = f"image id {image.id}"
        where = f"listed in {document.file} as {described}"
        file = files.image(image.name, bases, document.split, where, (document.file, None))
        if file is not None and file in seen:
            files.add("duplicate-file-name", document.file, f"{file} is listed again as {described}", image=file)
        elif file is not None:
            seen.add(file)
            paths[row] = file
    return paths


def _image_folders(files: Files, document: _Document, images: list[_Image]) -> list[str]:
    """The folders that the images may be in, that with most of them first."""
    stem, beside = Path(document.file).stem.removeprefix("instances_"), posixpath.dirname(document.file) or "."
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

    there = dict.fromkeys(folder for folder in folders if files.is_folder(folder))
    return sorted(there, key=hits, reverse=True)


def _objects(
    files: Files, document: _Document, images: list[_Image], paths: dict[int, str], classes: ClassTable
) -> np.ndarray:
    rows = {image.id: row for row, image in enumerate(images)}
    by_name = {name: label for label, name in enumerate(classes.names)}
    folded = {name.casefold(): label for name, label in by_name.items()}
    found = {id: by_name.get(name, folded.get(name.casefold())) for id, name, _ in document.categories}
    labels = {id: label for id, label in found.items() if label is not None}
    objects: list[tuple[Any, ...]] = []
    seen: set[Id] = set()
    for index, record in enumerate(document.annotations):
        try:
            objects.append(_object(index, record, rows, labels, seen))
        except _Problem as problem:
            row = rows.get(id_of(record, "image_id") or 0)
            image = paths.get(row, images[row].name) if row is not None else ""
            files.add(problem.kind, document.file, str(problem), integer(record, "id"), image)
    _report_disagreement(files, document)
    return np.array(objects, dtype=OBJECT)


def _report_disagreement(files: Files, document: _Document) -> None:
    """Report boxes that are not those of their segmentations or smaller than their areas, and boxes that are turned.

    Areas that are width x height speak for the boxes, whatever the segmentations are.
    """
    compared = differing = smaller = equal = 0
    for record in document.annotations[:: max(1, len(document.annotations) // _COMPARED)]:
        numbers = _numbers(record)
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or 0 in numbers[2:]:
            continue
        x, y, width, height = numbers
        compared += 1
        area, product = number_of(record.get("area")), abs(width * height)
        smaller += area > 1.2 * product + 4
        equal += abs(area - product) <= 0.01 * product
        polygons = record.get("segmentation")
        found = box_of(polygons) if isinstance(polygons, list) else None
        if found is not None:
            off = np.abs(np.array(found) - [x, y, x + width, y + height]).max()
            differing += off > 2 + 0.1 * max(width, height)
    differing = 0 if equal > compared / 2 else differing
    for count, what in ((differing, "those of their segmentations"), (smaller, "as large as their areas")):
        if count >= AT_LEAST and count > compared / 2:
            message = f"{count:,} of {compared:,} boxes are not {what}: bbox is not (x, y, width, height) in pixels"
            files.add("other-layout", document.file, message)
            return
    turned = sum(_is_turned(record) for record in document.annotations)
    if turned:
        files.notes.append(
            f"{turned:,} boxes of {document.file} are turned (rotation); they are read as if they were not."
        )


def _is_turned(record: Any) -> bool:
    attributes = record.get("attributes") if isinstance(record, dict) else None
    return isinstance(attributes, dict) and number_of(attributes.get("rotation")) % 180 > 1


def _object(
    index: int, record: Any, rows: dict[Id, int], labels: dict[Id, int], seen: set[Id]
) -> tuple[int, int, int, tuple[float, ...], float, bool]:
    """The fields of an `OBJECT`; adds its id to `seen`."""
    id, image, category = (id_of(record, key) for key in ("id", "image_id", "category_id"))
    if id is None or image is None or category is None:
        raise _Problem("malformed-record", f"annotations[{index}] needs id, image_id and category_id")
    crowd = record.get("iscrowd", 0)
    crowd = crowd if type(crowd) is bool else number_of(crowd)
    if crowd not in (0, 1):
        raise _Problem("malformed-record", f"iscrowd is {reprlib.repr(record['iscrowd'])}; it must be 0 or 1")
    if id in seen:
        raise _Problem("duplicate-annotation-id", f"annotation id {id} is used again")
    seen.add(id)
    box = _box(record)
    if category not in labels:
        raise _Problem("unknown-category", f"category_id {category}")
    if image not in rows:
        raise _Problem("unknown-image", f"image_id {image}")
    place = id if isinstance(id, int) else index + 1
    return rows[image], place, labels[category], box, number_of(record.get("area")), crowd == 1


def _numbers(record: Any) -> list[float]:
    """The numbers of a record's box."""
    box = record.get("bbox") if isinstance(record, dict) else None
    return [number_of(value) for value in box] if isinstance(box, list) else []


def _box(record: dict[str, Any]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of the box; of the segmentation, if there is no box or an empty one at (0, 0)."""
    numbers = _numbers(record)
    if not any(numbers) and (found := box_of(record.get("segmentation"))) is not None:
        return found
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        why = f"bbox is {reprlib.repr(record['bbox'])}" if "bbox" in record else "has no bbox"
        if record.get("segmentation"):
            why += f", and segmentation is no list of polygons and no mask: {reprlib.repr(record['segmentation'])}"
        raise _Problem("not-a-number", why)
    x, y, width, height = numbers
    return x, y, x + width, y + height


COCO = Format(
    "COCO",
    (
        "annotations/instances_train.json, instances_val.json, ...; images in train/, val/, ... or images/",
        "train/_annotations.coco.json, valid/_annotations.coco.json, ...; images beside them (Roboflow)",
        "one JSON file of another name, with images, annotations and categories, which is train",
    ),
    _find,
    _read,
)
