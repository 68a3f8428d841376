"""What a YOLO folder says of itself: its classes, and the places of images and labels.

data.yaml says it, or Darknet's obj.data; where a list of the classes stands alone, the folder's lists and folders do.
"""

import posixpath
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from oddetr.common.text import readable
from oddetr.data.dataset import ClassTable
from oddetr.data.faults import DataError
from oddetr.data.formats.files import Files, tails
from oddetr.data.formats.text import SPLITS, read_yaml, split_of, without_extension

_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}
_LISTS = ("classes.txt", "_darknet.labels")
_NOTHING = ("", "~", "null", "Null", "NULL")
"""How YAML writes that there is no value."""
LARGEST_YAML = 2**20
"""Bytes of data.yaml, which is parsed slowly."""


@dataclass(frozen=True)
class Configuration:
    """What data.yaml says.

    Attributes:
        content: all of it.
        base: the folder that paths start from.
        entries: the folders or lists of each split.
        keypoints: how many a pose has, and the numbers of each, if they are known.
    """

    content: dict[Any, Any]
    base: str
    entries: dict[str, list[str]]
    keypoints: tuple[int, int | None] | None = None


def find(files: Files) -> str | None:
    """The file with the names of the classes: data.yaml, or another YAML file that says where training images are;
    Darknet's obj.data; or a list of the names, where an image has a label file."""
    if files.given and PurePosixPath(files.given).suffix in (".yaml", ".yml", ".data", ".names", ".txt"):
        return files.given
    for file in ("data.yaml", "data.yml"):
        if files.is_file(file):
            return file
    others = files.files_in(".", [".yaml", ".yml"], below=False)
    tables = {file: files.probe().parse(file, LARGEST_YAML, read_yaml) or {} for file in others}
    found = [file for file in others if {"names", "train"} <= set(tables[file])]
    if found:
        _report_rivals(files, found, tables)
        return found[0]
    darknet = files.files_in(".", [".data"], below=False) + files.files_in("data", [".data"], below=False)
    if darknet:
        return darknet[0]
    places = [".", "labels", *filter(split_of, files.subfolders())]
    lists = [posixpath.normpath(posixpath.join(place, name)) for name in _LISTS for place in places]
    lists = [file for file in (*lists, *files.files_in(".", [".names"], below=False)) if files.is_file(file)]
    if not lists or not any(files.find(existing_label_file(files, image)) for image in files.probe().images_in(".")):
        return None
    contents = {file: files.probe().parse(file, LARGEST_YAML, bytes.split) for file in lists}
    different = next((file for file in lists if contents[file] != contents[lists[0]]), None)
    if different is not None:
        files.add("classes", different, f"has other classes than {lists[0]}")
    return lists[0]


def _report_rivals(files: Files, found: list[str], tables: dict[str, dict[Any, Any]]) -> None:
    """Report other YAML files that describe data sets: they may name the classes otherwise."""
    for other in found[1:]:
        if tables[other]["names"] != tables[found[0]]["names"]:
            message = f"names other classes than {found[0]}: give the one that counts, as in `oddetr check DIR/{other}`"
            files.add("classes", other, message)
        else:
            files.notes.append(f"{found[0]} is read; {other} is not.")


def configuration_of(files: Files, file: str) -> tuple[Configuration, ClassTable]:
    """What the file that `find` found says, and its classes.

    Raises:
        DataError: it cannot be read, or its classes are no class table.
    """
    parser = _parsed if PurePosixPath(file).suffix in (".yaml", ".yml") else partial(_darknet, files, file)
    configuration = files.parse(file, LARGEST_YAML, parser)
    if configuration is None:
        raise DataError(files.root, files.faults)
    try:
        content = _with_names(files, configuration)
        return replace(configuration, keypoints=_keypoints(content)), _classes(content)
    except ValueError as problem:
        files.add("classes", file, str(problem))
        raise DataError(files.root, files.faults) from problem


def _darknet(files: Files, file: str, content: bytes) -> Configuration:
    """What a list of class names says, with the folder's lists or folders of images; or what obj.data says: lines of
    `key = value` that name all of these.

    Raises:
        ValueError: it names no list of classes.
    """
    lines = content.decode("utf-8-sig").rstrip().splitlines()
    if not file.endswith(".data"):
        return Configuration({"names": [line.strip() for line in lines]}, ".", _entries(files))
    table = {key.strip().lower(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if not table.get("names"):
        raise ValueError("it has no line names = FILE, which lists the classes")
    keys = {"train": "train", "val": "valid", "test": "test"}
    return Configuration(table, ".", {split: [table[key]] for split, key in keys.items() if table.get(key)})


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


def _with_names(files: Files, configuration: Configuration) -> dict[Any, Any]:
    """The configuration's content, with the names of the classes in place of the file that lists them.

    Raises:
        ValueError: there is no such file.
    """
    content = configuration.content
    names, count = content.get("names"), str(content.get("nc", ""))
    if names in (None, *_NOTHING) and count.isdecimal() and 0 < int(count) < 10_000:
        files.notes.append(f"There are no names of the classes: they are called class_0 to class_{int(count) - 1}.")
        return content | {"names": [f"class_{index}" for index in range(int(count))]}
    if not isinstance(names, str):
        return content
    place = place_of(files, configuration.base, names)
    listed = place and files.parse(place, LARGEST_YAML, lambda text: text.decode("utf-8-sig").rstrip().splitlines())
    if not listed:
        raise ValueError(f"names is {names}, which is no list of class names, and no file with one")
    return content | {"names": [name.strip() for name in listed]}


def _keypoints(content: dict[Any, Any]) -> tuple[int, int | None] | None:
    """How many keypoints a pose has, and the numbers of each (kpt_shape); flip_idx alone gives how many.

    Raises:
        ValueError: kpt_shape is something else.
    """
    shape = content.get("kpt_shape")
    if shape is None or shape in _NOTHING:
        flipped = content.get("flip_idx")
        return (len(flipped), None) if isinstance(flipped, list) and flipped else None
    numbers = [int(value) for value in shape if str(value).isdecimal()] if isinstance(shape, list) else []
    if len(numbers) != 2 or numbers[1] not in (2, 3):
        raise ValueError(f"kpt_shape is {reprlib.repr(shape)}; it must be [keypoints, 2 or 3]")
    return numbers[0], numbers[1]


def _parsed(content: bytes) -> Configuration:
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
    return Configuration(table, "." if base in _NOTHING else base, entries)


def _texts(key: str, values: Sequence[Any]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is neither a path nor a list of paths")
    return list(values)


def _classes(content: dict[Any, Any]) -> ClassTable:
    names, count = content.get("names"), content.get("nc", "")
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, dict):
        what = "there are no names" if names is None else "names is neither a list nor a table of class names"
        raise ValueError(what)
    table: dict[int, str] = {}
    for key, name in names.items():
        if not isinstance(key, str) or not key.isdecimal() or len(key) > 9:
            raise ValueError(f"the id {reprlib.repr(key)} in names is no whole number from 0 to 999,999,999")
        if not isinstance(name, str) or not readable(name) or name.strip() in _NOTHING:
            raise ValueError(f"class {key} has no readable name, but {reprlib.repr(name)}")
        table[int(key)] = name.strip()
    if len(table) < len(names):
        raise ValueError("two of the ids in names are the same number")
    if count not in _NOTHING and count != str(len(table)):
        raise ValueError(f"nc is {str(count)[:20]}, but there are {len(table)} names")
    return ClassTable(tuple(table[id] for id in sorted(table)), tuple(sorted(table)))


def place_of(files: Files, base: str, entry: str) -> str | None:
    """The folder or list that an entry means.

    Exporters write paths for other working directories (`../train/images`, `/content/data/train/images`): if a path
    leads nowhere, its ends are tried that still name the split.
    """
    base, entry = files.resolve(base) or ".", entry.strip("'\" ")
    ends = tails(entry)
    paths = [files.resolve(entry, folder) for folder in (base, ".")] + ([*filter(split_of, ends)] or ends)
    return next((path for path in paths if path and (files.is_folder(path) or files.is_file(path))), None)


def label_file(image: str) -> str:
    """The file that holds the labels of an image; both relative to the data folder."""
    parts = list(PurePosixPath(image).parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part in _LABELS]
    if folders:
        parts[folders[-1]] = _LABELS[parts[folders[-1]]]
    return without_extension(str(PurePosixPath(*parts))) + ".txt"


def existing_label_file(files: Files, image: str) -> str:
    """`label_file`, or the file that stands for it.

    If it is not there, that is the same in a folder called labels, as browsers write its name, with the image's own
    extension before its own, or in other capitals.
    """
    file = label_file(image)
    other = str(PurePosixPath(*("labels" if part in _LABELS.values() else part for part in PurePosixPath(file).parts)))
    longer = without_extension(file) + posixpath.splitext(image)[1] + ".txt"
    forms = (str, partial(quote, errors="surrogateescape"), unquote)
    candidates = [form(path) for path in (file, other, longer) for form in forms]
    there = next((path for path in candidates if files.find(path) is not None), None)
    return there or files.similar(file) or file
