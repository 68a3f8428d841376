"""Pascal VOC: one XML file for each image.

VOC counts pixels from 1, and (xmin, ymin, xmax, ymax) name the first and the last pixel of an object: the box reaches
from (xmin - 1, ymin - 1) to (xmax, ymax). Other tools count from 0 (`_first_pixel`); then the box is as written.
Objects marked difficult become regions to ignore.
"""

import codecs
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np

from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files, base_name, composed, tails
from oddetr.data.formats.format import LONGEST_SIDE, OBJECT, Format, RawFolder, RawSplit
from oddetr.data.formats.text import SPLITS, grouped, split_of, to_number, without_extension

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "xml", "xmls", "annots")
_IMAGE_FOLDERS = ("jpegimages", "images", "imgs", "img")
_LARGEST_FILE, _LARGEST_LIST = 2**26, 2**30
"""Bytes of an XML file, and of a list of images."""
_LARGEST_HEAD = 2**12
"""Bytes in which a file says what it is."""

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FLAG = re.compile(r"\s+-?[01]$")
_ENCODING = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"\']([\w.-]+)[\"\']")
_LONE_AMPERSAND = re.compile(r"&(?!#?\w{1,20};)")


@dataclass(frozen=True)
class _Layout:
    """The folders of the annotations and of the images, or the folders of the splits, which hold both."""

    annotations: str = "."
    images: str = "."
    splits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Object:
    """An object of an XML file: its number in the file, from 1, its class, (xmin, ymin, xmax, ymax), and whether it is
    marked difficult."""

    number: int
    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class _Image:
    """An image, its XML file if it has one, its (height, width) if the XML file gives it, and its objects."""

    file: str
    label: str | None
    size: tuple[int, int] = (0, 0)
    objects: tuple[_Object, ...] = ()


def _find(files: Files) -> _Layout | None:
    """Where XML files and images are: VOC's own folders, in any case; folders of splits; or one folder, for train."""
    folders = {folder.lower(): folder for folder in files.subfolders()}
    annotations = next((folders[name] for name in _ANNOTATION_FOLDERS if name in folders), None)
    images = next((folders[name] for name in _IMAGE_FOLDERS if name in folders), None)
    if annotations and images and _annotated(files, annotations):
        return _Layout(annotations, images)
    for base in (".", "images"):
        splits: dict[str, str] = {}
        for folder in files.subfolders(base):
            split = split_of(posixpath.basename(folder))
            if split and split not in splits and _annotated(files, folder):
                splits[split] = folder
        if splits:
            return _Layout(splits=splits)
    for base in (".", "images"):
        if _annotated(files, base, below=False):
            return _Layout(splits={"train": base})
    return None


def _annotated(files: Files, folder: str, below: bool = True) -> bool:
    """Whether a folder holds XML files, and not one of CVAT's for all images."""
    found = files.files_in(folder, [".xml"], below)
    content = files.probe().parse(found[0], _LARGEST_FILE, bytes) if found else None
    return bool(found) and not (len(found) <= 2 and content and b"<annotations>" in content[:_LARGEST_HEAD])


def _read(files: Files, layout: _Layout) -> RawFolder:
    """The classes are the names of all objects of all splits, sorted, with ids 1..K."""
    if layout.splits:
        pairs = {split: _paired(files, folder, folder)[0] for split, folder in layout.splits.items()}
    else:
        pairs = _standard_splits(files, layout)
    splits = {
        split: [_image(files, *pair) for pair in sorted(found.items(), key=lambda pair: pair[0])]
        for split, found in pairs.items()
    }
    objects = [entry for images in splits.values() for image in images for entry in image.objects]
    names = sorted({entry.name for entry in objects})
    if not names:
        if not any(fault.kind.startswith("malformed") for fault in files.faults):
            files.add("classes", ".", _why_no_class(files, splits))
        raise DataError(files.root, files.faults)
    classes = ClassTable(tuple(names), tuple(range(1, len(names) + 1)))
    first_pixel = _first_pixel(files, [entry.corners for entry in objects])
    raw = [_split(split, splits[split], classes, first_pixel) for split in SPLITS if split in splits]
    return RawFolder(classes, layout.annotations, tuple(splits), raw)


def _standard_splits(files: Files, layout: _Layout) -> dict[str, dict[str, str | None]]:
    """The images of each split with their XML files: by the lists in ImageSets/Main, if there are any."""
    pairs, ambiguous = _paired(files, layout.images, layout.annotations)
    lists = _lists(files)
    if not lists:
        return _unlisted_splits(files, layout.images, pairs)
    known = [*pairs, *ambiguous]
    named = grouped(known, lambda image: posixpath.basename(_key(image, layout.images)))
    named |= grouped(known, lambda image: _key(image, layout.images))
    named |= grouped(known, lambda image: composed(posixpath.basename(image)))
    splits: dict[str, dict[str, str | None]] = {split: {} for split in lists}
    for split, list_files in lists.items():
        for file in list_files:
            for name, found in _listed(files, file, named, repeated=len(list_files) == 1):
                if len(found) > 1:
                    files.add("ambiguous-image", file, f"{name} may be {' or '.join(found[:3])}")
                elif not found:
                    files.add("missing-image", f"{layout.images}/{name}.jpg", f"listed in {file}")
                elif found[0] in pairs:
                    splits[split][found[0]] = pairs[found[0]]
    return splits


def _lists(files: Files) -> dict[str, list[str]]:
    """The lists in ImageSets/Main of each split.

    They are train.txt, ..., trainval.txt for train if there is none; or else those of the classes, CLASS_train.txt,
    ..., whose images together are the split's.
    """
    folder = "ImageSets/Main"
    names = [name for name in files.names(folder) if name.endswith(".txt")]
    stems = {split: [f"{split}.txt"] for split in SPLITS if f"{split}.txt" in names}
    if "train" not in stems and "trainval.txt" in names:
        stems = {"train": ["trainval.txt"]} | stems
    if "train" not in stems:
        of_classes = {split: [name for name in names if name.endswith(f"_{split}.txt")] for split in SPLITS}
        stems = {split: found for split, found in of_classes.items() if found} | stems
    return {split: [f"{folder}/{name}" for name in stems[split]] for split in SPLITS if split in stems}


def _unlisted_splits(files: Files, base: str, pairs: dict[str, str | None]) -> dict[str, dict[str, str | None]]:
    """The images by the folders named after splits, if all lie in such folders; otherwise all as train."""

    def split_folder(image: str) -> str | None:
        return split_of(posixpath.relpath(posixpath.dirname(image), base).partition("/")[0])

    named = grouped(pairs, split_folder)
    if named and None not in named:
        files.notes.append(f"There are no lists ImageSets/Main/train.txt, ...: the folders in {base} are the splits.")
        return {split: {image: pairs[image] for image in named[split]} for split in SPLITS if split in named}
    files.notes.append("There are no lists ImageSets/Main/train.txt, val.txt, ...: all images belong to train.")
    return {"train": pairs}


def _paired(files: Files, images: str, annotations: str) -> tuple[dict[str, str | None], list[str]]:
    """Every image below a folder with its XML file; and the images whose XML file may belong to others too.

    They belong together if their paths below the two folders are the same but for the extension; what is left then is
    matched by name alone.
    """
    pictures, labels = files.images_in(images), files.files_in(annotations, [".xml"])
    keys = {file: _key(file, images) for file in pictures} | {label: _key(label, annotations) for label in labels}
    if not {posixpath.basename(keys[file]) for file in pictures} & {
        posixpath.basename(keys[label]) for label in labels
    }:
        keys |= {label: _key_by_name(files, label, keys[label]) for label in labels}
    shared = {keys[file] for file in pictures} & {keys[label] for label in labels}

    def group(path: str) -> tuple[bool, str]:
        key = keys[path]
        return (True, key) if key in shared else (False, posixpath.basename(key))

    rivals, candidates = grouped(pictures, group), grouped(labels, group)
    pairs: dict[str, str | None] = {}
    ambiguous: list[str] = []
    for file in pictures:
        same, found = rivals[group(file)], candidates.get(group(file), [])
        if found and len(same) + len(found) > 2:
            others = [other for other in same[:4] if other != file][:3]
            as_may = f", as may {', '.join(others)}" if others else ""
            files.add("ambiguous-image", file, f"may belong to {' or '.join(found[:3])}{as_may}")
            ambiguous.append(file)
        else:
            pairs[file] = found[0] if found else None
    for label in labels:
        if group(label) not in rivals:
            files.add("label-without-image", label, "there is no image of this name")
    return pairs, ambiguous


def _key(file: str, base: str) -> str:
    """What an image and its XML file share: the path below `base` without extension, in Unicode's composed form."""
    return composed(without_extension(posixpath.relpath(file, base)))


def _key_by_name(files: Files, label: str, key: str) -> str:
    """The key of an XML file whose own name is no image's: that of its <filename>, or its name without the image's
    extension (`a.jpg.xml`)."""
    tree = files.probe().parse(label, _LARGEST_FILE, _parsed)
    name = (tree.findtext("filename") or "").strip() if tree is not None else ""
    named = composed(without_extension(base_name(name)))
    return posixpath.join(posixpath.dirname(key), named or posixpath.basename(without_extension(key)))


def _listed(files: Files, file: str, named: dict[str, list[str]], repeated: bool) -> list[tuple[str, list[str]]]:
    """The image names of a list, each once, and the images of that name. Lists of a class end each line in a flag: 1, 0
    or -1, whether the image shows it.

    Args:
        named: the images by name.
        repeated: whether to report names that are listed twice.
    """
    names: dict[str, tuple[int, str, list[str]]] = {}
    for number, line in files.lines(file, _LARGEST_LIST):
        written = composed(line)
        forms = (written, _FLAG.sub("", written))
        ends = [end for form in forms for whole in (form, unquote(form)) for end in tails(whole)]
        found = next((named[key] for end in ends for key in (end, without_extension(end)) if key in named), [])
        first = names.setdefault(" ".join(found) or written, (number, written, found))
        if first[0] != number and repeated:
            files.add("repeated-image", file, f"{written} is in line {first[0]} already", number)
    return [(name, found) for _, name, found in names.values()]


def _why_no_class(files: Files, splits: dict[str, list[_Image]]) -> str:
    images = [image for images in splits.values() for image in images]
    lone = sorted(fault.file for fault in files.faults if fault.kind == "label-without-image")
    if lone and images and all(image.label is None for image in images):
        return f"no XML file has the name of an image: the first are {lone[0]} and {images[0].file}"
    return "there is no object, and so no class, in any XML file"


class _Tree(ElementTree.TreeBuilder):
    """Refuses a document type: entities are declared in it, which name other files or grow without bounds."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares a document type, <!DOCTYPE {name[:40]} ...>, which annotations do not need")


def _parsed(content: bytes) -> ElementTree.Element:
    """The root of an annotation, in any encoding that Python knows; an `&` that begins no entity stands for itself."""
    declared = _ENCODING.match(content.lstrip(codecs.BOM_UTF8)[:200])
    if declared:
        text = content.decode(declared[1].decode()).partition("?>")[2]
    else:
        text = content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    parser = ElementTree.XMLParser(target=_Tree())
    parser.feed(_LONE_AMPERSAND.sub("&amp;", text))
    root: ElementTree.Element = parser.close()
    if root.tag.lower() != "annotation" and root.find("object") is None:
        raise ValueError(f"its root is <{root.tag[:40]}> where <annotation> is expected, and there is no <object>")
    return root


def _image(files: Files, file: str, label: str | None) -> _Image:
    if label is None:
        files.add("image-without-label", file, "there is no XML file of this name")
        return _Image(file, label)
    tree = files.parse(label, _LARGEST_FILE, _parsed, file)
    if tree is None:
        return _Image(file, label)
    height, width = (to_number(tree.findtext(f"size/{side}") or "") for side in ("height", "width"))
    known = 1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE
    objects: list[_Object] = []
    for number, element in enumerate(tree.findall("object"), start=1):
        try:
            objects.append(_object(number, element))
        except ValueError as problem:
            files.add("malformed-record", label, str(problem), number, file)
    return _Image(file, label, (round(height), round(width)) if known else (0, 0), tuple(objects))


def _object(number: int, element: ElementTree.Element) -> _Object:
    """An object; a ValueError if it has no name or no box, or more than one."""
    name, box = (element.findtext("name") or "").strip(), element.find("bndbox")
    tags = [child.tag for child in element if child.tag in ("name", "bndbox")]
    tags += [] if box is None else [side.tag for side in box]
    repeated = [tag for tag, count in Counter(tags).items() if count > 1]
    if repeated:
        raise ValueError(f"it has more than one {repeated[0]}")
    if not name or box is None:
        raise ValueError(f"it has no {'bndbox' if name else 'name'}")
    if not readable(name):
        raise ValueError(f"its name is not readable text: {name[:80]}")
    corners = tuple(to_number((box.findtext(corner) or "").replace(",", ".")) for corner in _CORNERS)
    return _Object(number, name, corners, (element.findtext("difficult") or "").strip() == "1")


def _first_pixel(files: Files, boxes: list[tuple[float, ...]]) -> int:
    """1 if coordinates count from 1, as VOC's own do; 0 if a box begins at 0, or most boxes are no whole numbers."""
    corners = np.array(boxes, dtype=np.float64)
    zeros = int((corners[:, :2] == 0).any(axis=1).sum())
    corners = corners[np.isfinite(corners).all(axis=1)]
    fractions = float((corners != np.round(corners)).any(axis=1).mean()) if len(corners) else 0.0
    if not zeros and fractions <= 0.5:
        return 1
    why = f"{zeros:,} boxes begin at 0" if zeros else f"{fractions:.0%} of the boxes are no whole numbers"
    files.notes.append(f"Coordinates are taken to count from 0, not from 1 as in VOC's own files: {why}.")
    return 0


def _split(name: str, images: list[_Image], classes: ClassTable, first_pixel: int) -> RawSplit:
    labels = {name: label for label, name in enumerate(classes.names)}
    rows = [
        (row, entry.number, labels[entry.name], entry.corners, 0.0, entry.difficult)
        for row, image in enumerate(images)
        for entry in image.objects
    ]
    return RawSplit(
        name=name,
        files=[image.file for image in images],
        label_files=[image.label or image.file for image in images],
        image_ids=np.arange(1, len(images) + 1),
        sizes=np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
        objects=np.array(rows, dtype=OBJECT),
        first_pixel=first_pixel,
    )


VOC = Format(
    "Pascal VOC",
    (
        "Annotations/*.xml, JPEGImages/, and the lists ImageSets/Main/train.txt, val.txt, ...",
        "Annotations/train/*.xml, Annotations/val/*.xml, ... and JPEGImages/train/, JPEGImages/val/, ...",
        "XML files beside the images in train/, test/, ... or images/train/, images/test/, ...; or all in one folder",
    ),
    _find,
    _read,
)
