"""Pascal VOC: one XML file for each image.

VOC counts pixels from 1, and (xmin, ymin, xmax, ymax) name the first and the last pixel of an object: the box reaches
from (xmin - 1, ymin - 1) to (xmax, ymax). Objects marked difficult become regions to ignore.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from oddetr.data.cleaning import RawFolder, RawSplit
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError, Fault
from oddetr.data.folders import SPLITS, list_files, split_folders, subfolders, without_extension
from oddetr.data.images import EXTENSIONS

FORMAT = "Pascal VOC"
LAYOUTS = (
    "Annotations/*.xml, JPEGImages/, and the lists ImageSets/Main/train.txt, val.txt, ...",
    "XML files beside the images in train/, test/, ... or images/train/, images/test/, ...",
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_FOLDERS = ("jpegimages", "images")


@dataclass(frozen=True)
class _Pair:
    """An image and its XML file, relative to the root; no file where the image has none."""

    image: str
    label: str | None


@dataclass
class _Objects:
    """The objects of a split, gathered file by file; `place` is an object's place in its file, from 1."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    place: list[int] = field(default_factory=list)


def recognises(root: Path) -> bool:
    """Whether there are XML files where VOC has them, or beside images."""
    return _standard_folders(root) is not None or bool(_folders_of_splits(root))


def read(root: Path) -> RawFolder:
    """The data set, not yet cleaned.

    The classes are the names of all objects of all splits, sorted, with ids 1..K.

    Raises:
        DataError: no file names an object.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    standard = _standard_folders(root)
    splits = _standard_splits(root, *standard, faults, notes) if standard else _splits_beside(root, faults)
    objects = {split: _objects(root, pairs, faults) for split, pairs in splits.items()}
    names = sorted({name for found in objects.values() for name in found.names})
    if not names:
        raise DataError(root, [*faults, Fault("classes", ".", "there is no object, and so no class, in any XML file")])
    classes = ClassTable(tuple(names), tuple(range(1, len(names) + 1)))
    raws = [_split(split, splits[split], objects[split], classes) for split in SPLITS if split in splits]
    where = standard[0].relative_to(root).as_posix() if standard else "."
    return RawFolder(FORMAT, classes, where, tuple(splits), raws, faults, notes)


def _standard_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders of the annotations and of the images, in any case."""
    folders = {folder.name.lower(): folder for folder in subfolders(root)}
    annotations = folders.get("annotations")
    images = next((folders[name] for name in _IMAGE_FOLDERS if name in folders), None)
    if annotations is None or images is None or not any(annotations.glob("*.xml")):
        return None
    return annotations, images


def _folders_of_splits(root: Path) -> dict[str, Path]:
    """The folders that hold images and XML files; a single folder that names no split is train."""
    for base in (root, root / "images"):
        folders = {split: folder for split, folder in split_folders(base).items() if list_files(root, folder, [".xml"])}
        if folders:
            return folders
    for base in (root, root / "images"):
        if any(base.glob("*.xml")):
            return {"train": base}
    return {}


def _standard_splits(
    root: Path, annotations: Path, images: Path, faults: list[Fault], notes: list[str]
) -> dict[str, list[_Pair]]:
    files = {Path(file).stem: file for file in list_files(root, images)}
    labels = {Path(file).stem: file for file in list_files(root, annotations, [".xml"])}
    faults += _labels_without_images(labels[name] for name in labels.keys() - files.keys())
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    if not lists["train"].is_file():
        lists["train"] = lists["train"].with_name("trainval.txt")
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if not lists:
        notes.append("There are no lists ImageSets/Main/train.txt, val.txt, ...: all images belong to train.")
        return {"train": [_Pair(file, labels.get(name)) for name, file in sorted(files.items(), key=lambda i: i[1])]}
    splits: dict[str, list[_Pair]] = {}
    for split, path in lists.items():
        splits[split] = []
        for name in _listed(path, path.relative_to(root).as_posix(), faults):
            if name in files:
                splits[split].append(_Pair(files[name], labels.get(name)))
            else:
                expected = (images / f"{name}.jpg").relative_to(root).as_posix()
                faults.append(Fault("missing-image", expected, f"listed in {path.relative_to(root).as_posix()}"))
        splits[split].sort(key=lambda pair: pair.image)
    return splits


def _listed(path: Path, file: str, faults: list[Fault]) -> list[str]:
    """The image names of a list, each once."""
    names: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        name = line.strip()
        if Path(name).suffix.lower() in EXTENSIONS:
            name = Path(name).stem
        if name in names:
            faults.append(Fault("repeated-image", file, f"{name} stands in line {names[name]} already", number))
        elif name:
            names[name] = number
    return list(names)


def _splits_beside(root: Path, faults: list[Fault]) -> dict[str, list[_Pair]]:
    splits: dict[str, list[_Pair]] = {}
    for split, folder in _folders_of_splits(root).items():
        images = list_files(root, folder)
        labels = {without_extension(file): file for file in list_files(root, folder, [".xml"])}
        splits[split] = [_Pair(image, labels.get(without_extension(image))) for image in images]
        stems = {without_extension(image) for image in images}
        faults += _labels_without_images(labels[stem] for stem in labels.keys() - stems)
    return splits


def _labels_without_images(labels: Iterable[str]) -> list[Fault]:
    return [Fault("label-without-image", label, "there is no image of this name") for label in sorted(labels)]


def _objects(root: Path, pairs: list[_Pair], faults: list[Fault]) -> _Objects:
    objects = _Objects()
    for image, pair in enumerate(pairs):
        objects.sizes.append((0, 0))
        if pair.label is None:
            faults.append(Fault("image-without-label", pair.image, "there is no XML file of this name"))
            continue
        try:
            tree = ElementTree.parse(root / pair.label).getroot()
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as problem:
            faults.append(Fault("malformed-file", pair.label, str(problem)))
            continue
        height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
        if 1 <= height < np.inf and 1 <= width < np.inf:
            objects.sizes[-1] = (round(height), round(width))
        for place, element in enumerate(tree.findall("object"), start=1):
            _add(objects, image, pair.label, place, element, faults)
    return objects


def _add(
    objects: _Objects, image: int, label: str, place: int, element: ElementTree.Element, faults: list[Fault]
) -> None:
    name = (element.findtext("name") or "").strip()
    box = element.find("bndbox")
    if not name or box is None:
        faults.append(Fault("malformed-record", label, f"there is no {'bndbox' if name else 'name'}", place))
        return
    objects.image.append(image)
    objects.names.append(name)
    objects.boxes.append([_number(box.findtext(corner)) for corner in _CORNERS])
    objects.difficult.append((element.findtext("difficult") or "").strip() == "1")
    objects.place.append(place)


def _number(text: str | None) -> float:
    """The number, or NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _split(name: str, pairs: list[_Pair], objects: _Objects, classes: ClassTable) -> RawSplit:
    index = {name: label for label, name in enumerate(classes.names)}
    return RawSplit(
        name=name,
        files=[pair.image for pair in pairs],
        label_files=[pair.label or pair.image for pair in pairs],
        image_ids=np.arange(1, len(pairs) + 1),
        sizes=np.array(objects.sizes, dtype=np.int64).reshape(-1, 2),
        image=np.array(objects.image, dtype=np.int64),
        boxes=np.array(objects.boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array([index[name] for name in objects.names], dtype=np.int64),
        areas=np.zeros(len(objects.names)),
        crowd=np.array(objects.difficult, dtype=bool),
        annotation_ids=np.arange(1, len(objects.names) + 1),
        numbers=np.array(objects.place, dtype=np.int64),
        first_pixel=1,
    )
