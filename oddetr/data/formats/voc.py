"""Pascal VOC: one XML file for each image.

VOC counts pixels from 1, and (xmin, ymin, xmax, ymax) name the first and the last pixel of an object: the box reaches
from (xmin - 1, ymin - 1) to (xmax, ymax). Objects marked difficult become regions to ignore.
"""

import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from xml.etree import ElementTree

import numpy as np

from oddetr.common.regular import reason
from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.doctor.cleaning import LONGEST_SIDE, RawFolder, RawSplit
from oddetr.data.doctor.faults import DataError, Fault
from oddetr.data.formats.files import FileFault, Files
from oddetr.data.formats.folders import SPLITS, split_of, without_extension
from oddetr.data.formats.numbers import to_number
from oddetr.data.images import EXTENSIONS

FORMAT = "Pascal VOC"
LAYOUTS = (
    "Annotations/*.xml, JPEGImages/, and the lists ImageSets/Main/train.txt, val.txt, ...",
    "Annotations/train/*.xml, Annotations/val/*.xml, ... and JPEGImages/train/, JPEGImages/val/, ...",
    "XML files beside the images in train/, test/, ... or images/train/, images/test/, ...; or all in one folder",
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_FOLDERS = ("jpegimages", "images")
_LARGEST_FILE, _LARGEST_LIST = 2**26, 2**30
"""Bytes of an XML file, and of a list of images."""


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


def recognises(files: Files, faults: list[Fault]) -> bool:
    """Whether there are XML files where VOC has them, or beside images; `faults` receives those not to be read."""
    return _standard_folders(files, faults) is not None or bool(_folders_of_splits(files, faults))


def read(files: Files) -> RawFolder:
    """The data set, not yet cleaned.

    The classes are the names of all objects of all splits, sorted, with ids 1..K.

    Raises:
        DataError: no file names an object.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    standard = _standard_folders(files, faults)
    splits = _standard_splits(files, *standard, faults, notes) if standard else _splits_beside(files, faults)
    objects = {split: _objects(files, pairs, faults) for split, pairs in splits.items()}
    names = sorted({name for found in objects.values() for name in found.names})
    if not names:
        raise DataError(files.root, [*faults, Fault("classes", ".", _why_no_class(splits, faults))])
    classes = ClassTable(tuple(names), tuple(range(1, len(names) + 1)))
    raws = [_split(split, splits[split], objects[split], classes) for split in SPLITS if split in splits]
    return RawFolder(FORMAT, classes, standard[0] if standard else ".", tuple(splits), raws, faults, notes)


def _standard_folders(files: Files, faults: list[Fault]) -> tuple[str, str] | None:
    """The folders of the annotations and of the images, in any case."""
    folders = {folder.lower(): folder for folder in files.subfolders()}
    annotations = folders.get("annotations")
    images = next((folders[name] for name in _IMAGE_FOLDERS if name in folders), None)
    if annotations is None or images is None or not files.files_in(annotations, faults, [".xml"]):
        return None
    return annotations, images


def _folders_of_splits(files: Files, faults: list[Fault]) -> dict[str, str]:
    """The folders that hold images and XML files; a single folder that names no split is train."""
    for base in (".", "images"):
        folders = {
            split: folder
            for split, folder in files.split_folders(base).items()
            if files.files_in(folder, faults, [".xml"])
        }
        if folders:
            return folders
    for base in (".", "images"):
        if files.files_in(base, faults, [".xml"], below=False):
            return {"train": base}
    return {}


def _standard_splits(
    files: Files, annotations: str, images: str, faults: list[Fault], notes: list[str]
) -> dict[str, list[_Pair]]:
    pairs = _paired(files, images, annotations, faults)
    lists = {split: f"ImageSets/Main/{split}.txt" for split in SPLITS}
    if not files.is_file(lists["train"]):
        lists["train"] = "ImageSets/Main/trainval.txt"
    lists = {split: path for split, path in lists.items() if files.is_file(path)}
    if not lists:
        return _unlisted_splits(images, pairs, notes)
    named = _by_name(pairs, images)
    splits: dict[str, list[_Pair]] = {}
    for split, file in lists.items():
        splits[split] = []
        for name in _listed(files, file, faults):
            found = named.get(name, [])
            if len(found) == 1:
                splits[split] += [pair for image in found if (pair := pairs[image]) is not None]
            elif found:
                faults.append(Fault("ambiguous-image", file, f"{name} may be {' or '.join(found[:3])}"))
            else:
                faults.append(Fault("missing-image", f"{images}/{name}.jpg", f"listed in {file}"))
        splits[split].sort(key=lambda pair: pair.image)
    return splits


def _unlisted_splits(images: str, pairs: dict[str, _Pair | None], notes: list[str]) -> dict[str, list[_Pair]]:
    """The images by the folders named after splits, where all lie in such folders; otherwise all as train."""
    sound = [pair for pair in pairs.values() if pair is not None]
    folders = {file: PurePosixPath(file).relative_to(images).parts[:-1] for file in pairs}
    named = {file: split_of(parts[0]) if parts else None for file, parts in folders.items()}
    if pairs and all(named.values()):
        notes.append(f"There are no lists ImageSets/Main/train.txt, ...: the folders in {images} are the splits.")
        return {
            split: [pair for pair in sound if named[pair.image] == split] for split in SPLITS if split in named.values()
        }
    notes.append("There are no lists ImageSets/Main/train.txt, val.txt, ...: all images belong to train.")
    return {"train": sound}


def _by_name(files: Iterable[str], base: str) -> dict[str, list[str]]:
    """Files by what a list may call them: the path below `base` or, where that names none, the last part of it."""
    keys = {file: _key(file, base) for file in files}
    names = {file: PurePosixPath(key).name for file, key in keys.items()}
    return _grouped(keys, names) | _grouped(keys, keys)


def _key(file: str, base: str) -> str:
    """What an image and its XML file share: the path below `base`, without extension, in Unicode's composed form."""
    return unicodedata.normalize("NFC", without_extension(posixpath.relpath(file, base)))


def _paired(files: Files, images: str, annotations: str, faults: list[Fault]) -> dict[str, _Pair | None]:
    """Every image below a folder, sorted, with its XML file; None where an XML file may belong to several images.

    They belong together where their paths below the two folders are the same but for the extension; what then is left
    is matched by name alone.
    """
    pictures, labels = files.files_in(images, faults), files.files_in(annotations, faults, [".xml"])
    keys = {file: _key(file, images) for file in pictures}
    keys |= {label: _key(label, annotations) for label in labels}
    of_files, of_labels = _grouped(pictures, keys), _grouped(labels, keys)
    names = {path: PurePosixPath(key).name for path, key in keys.items()}
    lone_files = _grouped([file for file in pictures if keys[file] not in of_labels], names)
    lone_labels = _grouped([label for label in labels if keys[label] not in of_files], names)
    pairs: dict[str, _Pair | None] = {}
    used: set[str] = set()
    for file in pictures:
        rivals, candidates = of_files[keys[file]], of_labels.get(keys[file], [])
        if not candidates:
            rivals, candidates = lone_files[names[file]], lone_labels.get(names[file], [])
        used.update(candidates)
        if candidates and len(rivals) + len(candidates) > 2:
            others = [rival for rival in rivals[:4] if rival != file][:3]
            message = f"may belong to {' or '.join(candidates[:3])}" + (
                f", as may {', '.join(others)}" if others else ""
            )
            faults.append(Fault("ambiguous-image", file, message))
            pairs[file] = None
        else:
            pairs[file] = _Pair(file, candidates[0] if candidates else None)
    faults += _labels_without_images(label for label in labels if label not in used)
    return pairs


def _grouped(paths: Iterable[str], keys: dict[str, str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[keys[path]].append(path)
    return dict(groups)


def _listed(files: Files, file: str, faults: list[Fault]) -> list[str]:
    """The image names of a list, each once."""
    try:
        lines = files.read_text(file, _LARGEST_LIST).splitlines()
    except FileFault as problem:
        faults.append(problem.fault)
        return []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = unicodedata.normalize("NFC", line.strip())
        if posixpath.splitext(name)[1].lower() in EXTENSIONS:
            name = without_extension(name)
        if name in names:
            faults.append(Fault("repeated-image", file, f"{name} stands in line {names[name]} already", number))
        elif name:
            names[name] = number
    return list(names)


def _splits_beside(files: Files, faults: list[Fault]) -> dict[str, list[_Pair]]:
    return {
        split: [pair for pair in _paired(files, folder, folder, faults).values() if pair is not None]
        for split, folder in _folders_of_splits(files, faults).items()
    }


def _labels_without_images(labels: Iterable[str]) -> list[Fault]:
    return [Fault("label-without-image", label, "there is no image of this name") for label in sorted(labels)]


def _why_no_class(splits: dict[str, list[_Pair]], faults: list[Fault]) -> str:
    pairs = [pair for pairs in splits.values() for pair in pairs]
    lone = sorted(fault.file for fault in faults if fault.kind == "label-without-image")
    if lone and pairs and all(pair.label is None for pair in pairs):
        return f"no XML file has the name of an image: the first are {lone[0]} and {pairs[0].image}"
    return "there is no object, and so no class, in any XML file"


class _Tree(ElementTree.TreeBuilder):
    """Refuses a document type: entities are declared in it, which name other files or grow without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares a document type, <!DOCTYPE {name[:40]} ...>, which annotations do not need")


def _parsed(content: bytes) -> ElementTree.Element:
    """The annotations of one image.

    Raises:
        ValueError, LookupError, ElementTree.ParseError: it is something else.
    """
    parser = ElementTree.XMLParser(target=_Tree())
    parser.feed(content)
    root: ElementTree.Element = parser.close()
    if root.tag.lower() != "annotation" and root.find("object") is None:
        raise ValueError(f"its root is <{root.tag[:40]}> where <annotation> is expected, and there is no <object>")
    return root


def _objects(files: Files, pairs: list[_Pair], faults: list[Fault]) -> _Objects:
    objects = _Objects()
    for image, pair in enumerate(pairs):
        objects.sizes.append((0, 0))
        if pair.label is None:
            faults.append(Fault("image-without-label", pair.image, "there is no XML file of this name"))
            continue
        try:
            tree = _parsed(files.read(pair.label, _LARGEST_FILE))
        except FileFault as problem:
            faults.append(problem.fault)
            continue
        except (ElementTree.ParseError, ValueError, LookupError, MemoryError) as problem:
            faults.append(Fault("malformed-file", pair.label, reason(problem)))
            continue
        height, width = (to_number(tree.findtext(f"size/{side}") or "") for side in ("height", "width"))
        if 1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE:
            objects.sizes[-1] = (round(height), round(width))
        for place, element in enumerate(tree.findall("object"), start=1):
            _add(objects, image, pair.label, place, element, faults)
    return objects


def _add(
    objects: _Objects, image: int, label: str, place: int, element: ElementTree.Element, faults: list[Fault]
) -> None:
    name = (element.findtext("name") or "").strip()
    box = element.find("bndbox")
    problem = "" if name and box is not None else f"there is no {'bndbox' if name else 'name'}"
    for tags in ([child.tag for child in element if child.tag in ("name", "bndbox")], [side.tag for side in box or ()]):
        for tag, count in Counter(tags).most_common(1):
            problem = f"{tag} stands twice in it" if count > 1 else problem
    if not readable(name):
        problem = f"its name is no readable text: {name[:80]}"
    if problem or box is None:
        faults.append(Fault("malformed-record", label, problem, place))
        return
    objects.image.append(image)
    objects.names.append(name)
    objects.boxes.append([to_number(box.findtext(corner) or "") for corner in _CORNERS])
    objects.difficult.append((element.findtext("difficult") or "").strip() == "1")
    objects.place.append(place)


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
