"""COCO JSON: `annotations/instances_<split>*.json` with image folders, or Roboflow's `<split>/_annotations.coco.json`.

A file is turned into arrays at once and forgotten; whole columns are converted together, and only a column that cannot
be is looked through record by record. Ids must be whole numbers; boxes are (x, y, width, height) in pixels.
"""

import posixpath
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from oddetr.common.regular import reason
from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.doctor.cleaning import LONGEST_SIDE, RawFolder, RawSplit
from oddetr.data.doctor.faults import DataError, Fault
from oddetr.data.formats import columns
from oddetr.data.formats.columns import NO_INTEGER, Records
from oddetr.data.formats.files import FileFault, Files
from oddetr.data.formats.folders import SPLITS, split_of

FORMAT = "COCO"
LAYOUTS = (
    "annotations/instances_train.json, instances_val.json, ...; images in train/, val/, ... or images/",
    "train/_annotations.coco.json, valid/_annotations.coco.json, ...; images beside them (Roboflow)",
)

_ROBOFLOW = "_annotations.coco.json"
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_PROBE = 200
_LARGEST_FILE = 2**34
"""Bytes of an annotation file: the largest in use have a third of that."""


@dataclass(frozen=True)
class _Category:
    id: int
    name: str
    supercategory: str


@dataclass(frozen=True)
class _Document:
    """One JSON file as arrays; ids are the file's. Annotations are numbered by their ids."""

    file: str
    split: str
    categories: tuple[_Category, ...]
    names: list[str]
    image_ids: Int64[np.ndarray, " images"]
    sizes: Int64[np.ndarray, "images 2"]
    ids: Int64[np.ndarray, " objects"]
    images: Int64[np.ndarray, " objects"]
    labels: Int64[np.ndarray, " objects"]
    boxes: Float64[np.ndarray, "objects 4"]
    areas: Float64[np.ndarray, " objects"]
    crowd: Bool[np.ndarray, " objects"]


def recognises(files: Files, faults: list[Fault]) -> bool:
    """Whether there are annotation files where COCO or Roboflow has them; `faults` receives those not to be read."""
    return bool(_candidates(files, faults))


def read(files: Files) -> RawFolder:
    """The data set, not yet cleaned.

    Category ids, sorted, become labels 0..K-1. A category without annotations remains a class, except Roboflow's id 0
    with supercategory "none", which is the project's name and no class.

    Raises:
        DataError: no file can be read, or none names a class.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    chosen = _chosen(files, faults, notes)
    documents = [
        document for split, file in chosen.items() if (document := _document(files, file, split, faults)) is not None
    ]
    if not documents:
        raise DataError(files.root, faults)
    classes = _classes(files.root, documents, faults, notes)
    splits = [_split(files, document, classes, faults) for document in documents]
    return RawFolder(FORMAT, classes, documents[0].file, tuple(chosen), splits, faults, notes)


def _candidates(files: Files, faults: list[Fault]) -> list[str]:
    named = files.files_in("annotations", faults, [".json"], below=False)
    instances = [file for file in named if posixpath.basename(file).startswith("instances_")]
    others = [file for file in named if not posixpath.basename(file).startswith(_OTHER_TASKS)]
    others = [] if files.files_in("annotations", [], [".xml"], below=False) else others
    beside = [f"{folder}/{_ROBOFLOW}" for folder in files.subfolders() if split_of(folder)]
    return (instances or others) + [file for file in beside if files.is_file(file)]


def _chosen(files: Files, faults: list[Fault], notes: list[str]) -> dict[str, str]:
    """The annotation file of each split; a single file that names no split is train."""
    candidates = _candidates(files, faults)
    chosen: dict[str, str] = {}
    for file in candidates:
        folder, name = posixpath.split(file)
        split = split_of(folder if name == _ROBOFLOW else Path(name).stem)
        split = split or ("train" if len(candidates) == 1 else None)
        if split is None:
            notes.append(f"{file} was not read: its name says neither train nor val nor test.")
        elif split in chosen:
            faults.append(Fault("duplicate-split", file, f"defines {split}, as does {chosen[split]}"))
        else:
            chosen[split] = file
    if not chosen and not faults:
        message = f"none of {len(candidates)} files says train, val or test in its name"
        faults.append(Fault("malformed-file", "annotations", message))
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _document(files: Files, file: str, split: str, faults: list[Fault]) -> _Document | None:
    try:
        content = columns.parsed(files.read(file, _LARGEST_FILE))
        images, annotations, categories = (
            columns.records(content, key) for key in ("images", "annotations", "categories")
        )
    except FileFault as problem:
        faults.append(problem.fault)
        return None
    except (ValueError, RecursionError, MemoryError) as problem:
        faults.append(Fault("malformed-file", file, reason(problem)))
        return None
    names, image_ids, sizes = _images(file, images, faults)
    good = _good_annotations(file, annotations, faults)
    annotations = [record for record, is_good in zip(annotations, good, strict=True) if is_good]
    annotations, corners = _with_boxes(file, annotations, faults)
    with np.errstate(over="ignore", invalid="ignore"):
        corners[:, 2:] += corners[:, :2]
    return _Document(
        file=file,
        split=split,
        categories=_categories(file, categories, faults),
        names=names,
        image_ids=image_ids,
        sizes=sizes,
        ids=columns.integers(annotations, "id"),
        images=columns.integers(annotations, "image_id"),
        labels=columns.integers(annotations, "category_id"),
        boxes=corners,
        areas=columns.areas(annotations),
        crowd=np.array([record.get("iscrowd") == 1 for record in annotations], dtype=bool),
    )


def _images(
    file: str, records: Records, faults: list[Fault]
) -> tuple[list[str], Int64[np.ndarray, " images"], Int64[np.ndarray, "images 2"]]:
    """File names, ids and (height, width) of the well-formed images; the size is 0 where there is none."""
    ids = columns.integers(records, "id")
    names = [columns.text(record, "file_name") for record in records]
    good = (ids != NO_INTEGER) & np.array([bool(name) for name in names], dtype=bool)
    for row in np.flatnonzero(~good):
        faults.append(Fault("malformed-record", file, f"images[{row}] needs a whole number as id and a file_name"))
    good[good] = _first(ids[good], "duplicate-image-id", "image id", file, faults)
    sizes = np.stack([columns.integers(records, "height"), columns.integers(records, "width")], axis=1)[good]
    known = ((sizes > 0) & (sizes <= LONGEST_SIDE)).all(axis=1, keepdims=True)
    return [names[row] for row in np.flatnonzero(good)], ids[good], np.where(known, sizes, 0)


def _good_annotations(file: str, records: Records, faults: list[Fault]) -> Bool[np.ndarray, " records"]:
    ids, images, labels = (columns.integers(records, key) for key in ("id", "image_id", "category_id"))
    good = (ids != NO_INTEGER) & (images != NO_INTEGER) & (labels != NO_INTEGER)
    for row in np.flatnonzero(~good):
        message = f"annotations[{row}] needs whole numbers as id, image_id and category_id"
        faults.append(Fault("malformed-record", file, message, None if ids[row] == NO_INTEGER else int(ids[row])))
    for row in [row for row in np.flatnonzero(good) if records[row].get("iscrowd", 0) not in (0, 1)]:
        good[row] = False
        message = f"iscrowd is {columns.written(records[row]['iscrowd'])}; it must be 0 or 1"
        faults.append(Fault("malformed-record", file, message, int(ids[row])))
    good[good] = _first(ids[good], "duplicate-annotation-id", "annotation id", file, faults)
    return good


def _with_boxes(file: str, records: Records, faults: list[Fault]) -> tuple[Records, Float64[np.ndarray, "records 4"]]:
    """The annotations that have a box of four finite numbers, and these boxes."""
    boxes = columns.boxes(records)
    good = np.isfinite(boxes).all(axis=1)
    for row in np.flatnonzero(~good):
        record = records[row]
        message = f"bbox is {columns.written(record['bbox'])}" if "bbox" in record else "has no bbox"
        faults.append(Fault("not-a-number", file, message, columns.integer(record, "id")))
    return [records[row] for row in np.flatnonzero(good)], boxes[good]


def _first(
    ids: Int64[np.ndarray, " ids"], kind: str, what: str, file: str, faults: list[Fault]
) -> Bool[np.ndarray, " ids"]:
    """True at the first occurrence of each id; the others are faults."""
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(ids, return_index=True)[1]] = True
    for twice in ids[~first]:
        annotation = int(twice) if kind == "duplicate-annotation-id" else None
        faults.append(Fault(kind, file, f"{what} {twice} stands twice", annotation))
    return first


def _categories(file: str, records: Records, faults: list[Fault]) -> tuple[_Category, ...]:
    found: list[_Category] = []
    for index, record in enumerate(records):
        category = _Category(
            columns.integer(record, "id"), columns.text(record, "name").strip(), columns.text(record, "supercategory")
        )
        if category.id == NO_INTEGER or not category.name or not readable(category.name):
            faults.append(
                Fault("malformed-record", file, f"categories[{index}] needs a whole number as id and a readable name")
            )
        else:
            found.append(category)
    return tuple(sorted(found, key=lambda category: category.id))


def _classes(root: Path, documents: list[_Document], faults: list[Fault], notes: list[str]) -> ClassTable:
    """The class table of the first file, with which the others must agree."""
    first = documents[0]
    for other in documents[1:]:
        names, others = ({(c.id, c.name) for c in document.categories} for document in (first, other))
        if names != others:
            different = ", ".join(f"{name!r} (id {id})" for id, name in sorted(names ^ others)[:5])
            message = f"its categories differ from those of {first.file}: {different}"
            faults.append(Fault("classes", other.file, message))
    categories = first.categories
    unused = not any((document.labels == 0).any() for document in documents)
    if unused and len(categories) > 1 and categories[0].id == 0 and categories[0].supercategory == "none":
        notes.append(f"Category 0, {categories[0].name!r}, is Roboflow's name for the project, not a class: left out.")
        categories = categories[1:]
    try:
        return ClassTable(tuple(c.name for c in categories), tuple(c.id for c in categories))
    except ValueError as problem:
        raise DataError(root, [*faults, Fault("classes", first.file, str(problem))]) from problem


def _split(files: Files, document: _Document, classes: ClassTable, faults: list[Fault]) -> RawSplit:
    labels, label_known = _positions(document.labels, np.array(classes.ids))
    image, image_known = _positions(document.images, document.image_ids)
    for kind, row, message in [
        *(("unknown-category", row, f"category_id {document.labels[row]}") for row in np.flatnonzero(~label_known)),
        *(("unknown-image", row, f"image_id {document.images[row]}") for row in np.flatnonzero(~image_known)),
    ]:
        faults.append(Fault(kind, document.file, message, int(document.ids[row])))
    rows = np.flatnonzero(label_known & image_known)
    images, found = _images_on_disk(files, document, faults)
    split = RawSplit(
        name=document.split,
        files=images,
        label_files=[document.file] * len(images),
        image_ids=document.image_ids,
        sizes=document.sizes,
        image=image,
        boxes=document.boxes,
        labels=labels,
        areas=document.areas,
        crowd=document.crowd,
        annotation_ids=document.ids,
        numbers=document.ids,
    )
    return split.take_objects(rows).take(np.flatnonzero(found))


def _positions(
    ids: Int64[np.ndarray, " ids"], known: Int64[np.ndarray, " known"]
) -> tuple[Int64[np.ndarray, " ids"], Bool[np.ndarray, " ids"]]:
    """Where each id stands among the known ones, and whether it does."""
    if not len(known):
        return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool)
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return places, known[places] == ids


def _images_on_disk(
    files: Files, document: _Document, faults: list[Fault]
) -> tuple[list[str], Bool[np.ndarray, " images"]]:
    """The images' paths, and whether each is there, for the first time, and may be read."""
    base = _image_folder(files, document)
    paths: list[str] = []
    seen: set[str] = set()
    good = np.zeros(len(document.names), dtype=bool)
    for row, name in enumerate(document.names):
        path = files.inside(base, name)
        file = files.find(path) if path is not None else None
        paths.append(file or name)
        image = f"image id {document.image_ids[row]}"
        if path is None:
            faults.append(Fault("outside-folder", document.file, f"{image} is {name!r}{files.advice(name, base)}"))
        elif (barred := files.barred(file or path)) is not None:
            faults.append(barred)
        elif file is None:
            similar = files.similar(path)
            hint = f"; there is {similar}" if similar else ""
            faults.append(Fault("missing-image", path, f"listed in {document.file} as {image}{hint}"))
        elif file in seen:
            faults.append(Fault("duplicate-file-name", document.file, f"{file} is listed again as {image}"))
        else:
            seen.add(file)
            good[row] = True
    return paths, good


def _image_folder(files: Files, document: _Document) -> str:
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
        paths = (files.inside(folder, name) for name in document.names[:_PROBE])
        return sum(path is not None and files.find(path) is not None for path in paths)

    return max((folder for folder in folders if files.is_folder(folder)), key=hits)
