"""Read a folder: recognise its format, read and clean it, and hold out a validation split if there is none."""

import hashlib
import posixpath
import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from oddetr.common.regular_files import mode
from oddetr.common.text import listed, readable, shown
from oddetr.data.box_faults import clean
from oddetr.data.dataset import ClassTable, DetectionData, mirrored_alike
from oddetr.data.fault_kinds import FEW
from oddetr.data.fault_verdicts import can_skip, large_shares, of_one_image, without_consequences
from oddetr.data.faults import DataError, Fault, of_severity, summaries
from oddetr.data.formats.coco import COCO
from oddetr.data.formats.files import Files
from oddetr.data.formats.format import AnyFormat, RawFolder, RawSplit
from oddetr.data.formats.text import SPLITS, grouped
from oddetr.data.formats.unsupported import archive, recognised
from oddetr.data.formats.voc import VOC
from oddetr.data.formats.yolo import YOLO
from oddetr.data.images import grey_bits, map_images, read_size
from oddetr.data.reading_config import AS_USUAL, ReadingConfig

FORMATS: tuple[AnyFormat, ...] = (COCO, YOLO, VOC)
"""In the order in which they are tried."""
_LABELS = (".txt", ".xml", ".json")
"""Extensions of files that may hold labels."""
HELD_OUT = 0.15
"""Share of the training images that becomes the validation split if there is none."""
MOST_OBJECTS = 10_000
"""Objects of an image that is trained on; matching compares each with all queries of all layers, 70 MB for so many."""
_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.)")
"""What Roboflow adds to the name of an image for each of its augmented copies."""
_MANY_REGIONS = 0.1
"""Share of a split's objects from which on regions to ignore are reported."""
_NEVER_DEEP = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif"})
_HEADERS = 64
"""Images that tell whether a data set has grey values of 16 bits."""
_OF_TRAINING = frozenset({"missing-split", "no-objects", "only-regions", "crowded-image"})
"""Errors that only matter to training."""


@dataclass(frozen=True)
class DataFolder:
    """A data set, cleaned: boxes with faults are left out or clipped.

    Attributes:
        root: its folder.
        format: "COCO", "Pascal VOC" or "YOLO".
        classes: the class table, the same for all splits.
        splits: by name, in the order train, val, test; images sorted by file name.
        faults: what is wrong; if there are errors, do not train on it.
        decisions: what reading decided where the files left a choice, in whole sentences.
    """

    root: Path
    format: str
    classes: ClassTable
    splits: dict[str, DetectionData]
    faults: tuple[Fault, ...]
    decisions: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many images the splits have."""
        return sum(map(len, self.splits.values()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to print before training: the decisions, and one line for each kind of fault."""
        return (*self.decisions, *summaries(self.faults))


def read_data(
    root: Path, console: Console | None = None, training: bool = False, reading: ReadingConfig = AS_USUAL
) -> DataFolder:
    """`read_folder`, for data that is going to be used: errors are raised.

    Args:
        training: whether the data must have what training needs: train and val, both with objects.

    Raises:
        DataError: there are errors; the message lists them.
    """
    folder = read_folder(root, console, reading)
    if reading.skip_broken:
        folder = without_broken(folder)
    faults = [fault for fault in folder.faults if training or fault.kind not in _OF_TRAINING]
    if of_severity("error", faults):
        raise DataError(root, faults, can_skip(faults, folder.images))
    return folder


def read_folder(root: Path, console: Console | None = None, reading: ReadingConfig = AS_USUAL) -> DataFolder:
    """Read a data set of any understood format, with its faults.

    If there is no val split, `HELD_OUT` of the training images, chosen by a hash of their names, become one; augmented
    copies of an image stay together. Images are not decoded; `oddetr.data.doctor.check` does that. But where there are
    grey values of 16 bits, these images are, to find how many bits they hold.

    Args:
        root: the data set's folder, or its data.yaml or JSON file.
        console: shows progress if images must be opened for their size; None is silent.

    Raises:
        DataError: the format is not recognised, or there is no class table or no image.
    """
    chosen, files, found, others = _recognised(root, reading.allow_outside)
    raw = chosen.read(files, found)
    if others:
        files.notes.append(f"The folder also looks like {others[0]}; it is read as {chosen.name}.")
    reading = _with_grey_bits(files, raw, reading, console)
    cleaned = [_cleaned(files, split, raw.classes, reading, console) for split in raw.splits]
    splits = {data.split: data for data in cleaned if len(data)}
    if not splits:
        if not of_severity("error", files.faults):
            files.add("empty-split", raw.class_file, "there is no image in any split")
        raise DataError(root, [*files.faults, *_large_shares(files, raw)])
    for data in cleaned:
        if not len(data) and not of_severity("error", files.faults):
            files.add("empty-split", raw.class_file, f"{data.split} has no image")
    _report_unlisted(files, raw)
    if "train" in splits and "val" not in raw.defined:
        splits |= _held_out(splits["train"], files.notes)
    if not mirrored_alike(raw.classes.names):
        files.notes.append("Images will not be mirrored: class names tell left from right, or are letters or numbers.")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    _report_missing_splits(files, splits, raw)
    _report_missing_objects(files, splits, raw)
    _report_similar_classes(files, raw)
    _report_shared_files(files, splits)
    files.faults += _large_shares(files, raw)
    faults = without_consequences(files.faults, sum(map(len, splits.values())))
    notes = tuple(map(shown, files.notes))
    return DataFolder(files.root, chosen.name, raw.classes, splits, faults, notes)


def without_broken(folder: DataFolder) -> DataFolder:
    """The data without the images that have errors of their own, and without these errors.

    What can be told of single images: that they cannot be read, or hold an object or a line that cannot. Errors of the
    whole data set remain, and all do where these images are more than a third.
    """
    skipped = [fault for fault in folder.faults if of_one_image(fault)]
    if not can_skip(skipped, folder.images):
        return folder
    broken = set(map(of_one_image, skipped))
    kept = {
        name: data.take(np.array([row for row, file in enumerate(data.files) if file not in broken], dtype=np.int64))
        for name, data in folder.splits.items()
    }
    images = folder.images - sum(map(len, kept.values()))
    decision = f"Left out as broken, of those that were read {images:,}: {' '.join(summaries(skipped))}"
    empty = [Fault("no-objects", ".", f"{name}: no object is left") for name in kept if kept[name].truth.crowd.all()]
    faults = (*(fault for fault in folder.faults if not of_one_image(fault)), *empty)
    return replace(folder, splits=kept, faults=faults, decisions=(*folder.decisions, decision))


def shared_images(keys: Mapping[str, Sequence[Hashable]]) -> Iterator[tuple[str, int, int]]:
    """(split, its image, the training image) wherever an image of val or test has the key of a training image.

    Args:
        keys: of every image of every split, the same for the same image.
    """
    trained = {key: index for index, key in enumerate(keys.get("train", ()))}
    for split in ("val", "test"):
        for index, key in enumerate(keys.get(split, ())):
            if key in trained:
                yield split, index, trained[key]


def _large_shares(files: Files, raw: RawFolder) -> list[Fault]:
    """The faults of a large share of the data."""
    boxes = sum(len(split.objects) for split in raw.splits)
    images = sum(len(split.files) for split in raw.splits)
    return large_shares(files.faults, boxes, images)


def _with_grey_bits(files: Files, raw: RawFolder, reading: ReadingConfig, console: Console | None) -> ReadingConfig:
    """How to read the images, with the bits that grey values of 16 bits hold, rounded up to an even number."""
    paths = [files.root / file for split in raw.splits for file in split.files]
    deep = [path for path in paths if path.suffix.lower() not in _NEVER_DEEP]
    few = deep[:: max(1, len(deep) // _HEADERS)]
    if reading.grey_bits is not None or not any(map_images(grey_bits, few)):
        return reading
    bits = max(8, *map_images(grey_bits, deep, console, "Grey values"))
    bits += bits % 2
    files.notes.append(
        f"Images hold grey values of 16 bits, of which {bits} are used: 0 to {2**bits - 1:,} become 0 to 255 "
        "(--grey-bits). A detector that is trained on them reads others alike."
    )
    return replace(reading, grey_bits=bits)


def _located(root: Path, allow_outside: bool) -> Files:
    """The data set's folder; if a file was named, that which it describes."""
    if root.suffix.lower() not in (".yaml", ".yml", ".json", ".data", ".names") or not stat.S_ISREG(mode(root)):
        return Files(root, allow_outside)
    folder = root.parent
    if folder.name.lower() == "annotations":
        folder = folder.parent
    return Files(folder, allow_outside, root.relative_to(folder).as_posix())


def _recognised(root: Path, allow_outside: bool) -> tuple[AnyFormat, Files, Any, list[str]]:
    """The folder's format, its files, the annotations that the format found, and the names of other formats that fit.

    Raises:
        DataError: no format fits.
    """
    tried = [(format, files := _located(root, allow_outside), format.find(files)) for format in FORMATS]
    fitting = [attempt for attempt in tried if attempt[2] is not None]
    if fitting:
        return *fitting[0], [format.name for format, _, _ in fitting[1:]]
    files = tried[0][1]
    if not files.is_folder("."):
        message = (archive(root) or f"{root} is a file, not a folder") if mode(root) else f"{root} does not exist"
        raise DataError(root, [Fault("layout", ".", message)])
    if (fault := files.barred(".")) is not None:
        raise DataError(root, [fault])
    names = sorted(name + ("/" if files.is_folder(name) else "") for name in files.names())
    content = shown(listed(names, 12))
    lines = [f"{root} has no known layout; it holds {content or 'nothing'}"]
    folders = files.subfolders()
    folders += [inner for folder in folders for inner in files.subfolders(folder)]
    sets = [folder for folder in folders if any(format.find(Files(root / folder, allow_outside)) for format in FORMATS)]
    lines += [f"  its folder {shown(name)} is a data set: did you mean {shown(str(root / name))}?" for name in sets[:5]]
    if not sets and (other := recognised(files)) is not None:
        raise DataError(root, [Fault("other-format", ".", other)])
    if files.files_in(".", _LABELS) and not files.images_in("."):
        lines += ["  it has labels but no images: export the images too, or copy them into its folder images"]
    lines += ["  understood layouts:"]
    lines += [f"    {format.name}: {layout}" for format in FORMATS for layout in format.layouts]
    barred = [fault for _, files, _ in tried for fault in files.faults]
    raise DataError(root, [*barred, Fault("layout", ".", "\n".join(lines))])


def _cleaned(
    files: Files, raw: RawSplit, classes: ClassTable, reading: ReadingConfig, console: Console | None
) -> DetectionData:
    """The split with its images sorted by name, their sizes known, and its boxes cleaned."""
    for file in raw.files:
        if not readable(file):
            files.add("unreadable-name", file, "left out")
    named = [row for row, file in enumerate(raw.files) if readable(file)]
    raw = raw.take(np.array(sorted(named, key=raw.files.__getitem__), dtype=np.int64))
    raw = _with_sizes(files, raw, reading, console)
    if reading.crowds_as_objects:
        raw.objects["crowd"] = False
    truth, faults = clean(raw)
    files.faults += faults
    counts = np.diff(truth.offsets)
    for image in np.flatnonzero(counts > MOST_OBJECTS):
        message = f"{counts[image]:,} objects; at most {MOST_OBJECTS:,} can be trained on"
        files.add("crowded-image", raw.files[image], message)
    return DetectionData(files.root, raw.name, tuple(raw.files), classes, truth, reading)


def _with_sizes(files: Files, raw: RawSplit, reading: ReadingConfig, console: Console | None) -> RawSplit:
    """The split with all sizes known: those that the annotations do not give are read from the images' headers."""
    unknown = np.flatnonzero((raw.sizes == 0).any(axis=1))
    paths = [files.root / raw.files[row] for row in unknown]
    facts = map_images(partial(read_size, reading=reading), paths, console, f"Sizes of {raw.name}")
    is_readable = np.ones(len(raw.files), dtype=bool)
    labelled = set(raw.objects["image"].tolist())
    for row, fact in zip(unknown, facts, strict=True):
        if fact.size is not None:
            raw.sizes[row] = fact.size
            if fact.turned and row in labelled:
                files.add("turned-image", raw.files[row], "its EXIF orientation turns or mirrors it")
        else:
            is_readable[row] = False
            files.add("image-too-large" if fact.too_large else "unreadable-image", raw.files[row], fact.problem)
    return raw.take(np.flatnonzero(is_readable))


def _held_out(train: DetectionData, notes: list[str]) -> dict[str, DetectionData]:
    """Train and val from the images of train; nothing if they are all copies of one.

    The same images are chosen whatever their order on disk. Groups of copies are held out together: those that fit into
    the share, in the order of their hashes; if none does, the smallest.
    """
    groups = grouped(train.files, _original)
    if len(groups) < 2:
        return {}
    ordered = [groups[key] for key in sorted(groups)]
    count = max(1, round(HELD_OUT * len(train)))
    held: set[str] = set()
    for group in ordered:
        if len(held) + len(group) <= count:
            held.update(group)
    held = held or set(min(ordered, key=len))
    is_held = np.array([file in held for file in train.files])
    share = len(held) / len(train)
    notes.append(
        f"There is no val split: {len(held):,} of the {len(train):,} training images ({share:.0%}) are held out as "
        f"val, chosen by a hash of their names; the other {len(train) - len(held):,} are trained on."
    )
    return {"train": train.take(np.flatnonzero(~is_held)), "val": train.take(np.flatnonzero(is_held), "val")}


def _original(file: str) -> tuple[bytes, str]:
    """A hash of the name of the image of which a file is a copy, and its path."""
    folder, name = posixpath.split(file)
    original = _COPY.sub("", name)
    return hashlib.blake2b(original.encode(), digest_size=8).digest(), posixpath.join(folder, original)


def _report_unlisted(files: Files, raw: RawFolder) -> None:
    """Report images in the folders of listed ones that are in no split."""
    known = {file for split in raw.splits for file in split.files}
    mentioned = {fault.file for fault in files.faults}
    folders, probe = set(map(posixpath.dirname, known)), files.probe()
    beside = {file for folder in folders for file in probe.images_in(folder, below=False)}
    for file in sorted(beside - known - mentioned):
        files.add("unlisted-image", file, "no split names it")


def _report_missing_splits(files: Files, splits: dict[str, DetectionData], raw: RawFolder) -> None:
    """Report what training needs and no file defines; what is defined but cannot be read is a fault already."""
    if "train" not in raw.defined:
        files.add("missing-split", ".", "there is no train split")
    elif "train" in splits and "val" not in splits and "val" not in raw.defined:
        count = len(splits["train"])
        images = "1 image is" if count == 1 else f"{count:,} copies of one image are"
        files.add("missing-split", ".", f"{images} too few to hold out a val split")


def _report_missing_objects(files: Files, splits: dict[str, DetectionData], raw: RawFolder) -> None:
    """Report splits without objects, and classes of which train has few or none."""
    label_files = {split.name: split.label_files[0] for split in raw.splits if split.label_files}
    for name, data in splits.items():
        if data.truth.crowd.all():
            regions = len(data.truth.crowd)
            ignored = f", {regions:,} region{'s' * (regions > 1)} to ignore" if regions else ""
            message = f"{name}: {len(data):,} image{'s' * (len(data) > 1)}, no object{ignored}"
            kind = "nothing-to-score" if name == "test" else "only-regions" if regions else "no-objects"
            files.add(kind, label_files.get(name, label_files.get("train", raw.class_file)), message)
        elif data.truth.crowd.mean() > _MANY_REGIONS:
            crowds, total = int(data.truth.crowd.sum()), len(data.truth.crowd)
            message = f"{name}: {crowds:,} of {total:,} objects ({crowds / total:.0%}) are regions to ignore"
            files.add("many-regions", label_files.get(name, raw.class_file), message)
    if "train" in splits and not splits["train"].truth.crowd.all():
        truth = splits["train"].truth
        counts = np.bincount(truth.labels[~truth.crowd], minlength=len(raw.classes)).tolist()
        for count, name in sorted(zip(counts, raw.classes.names, strict=True)):
            if count < FEW:
                kind, message = ("few-examples", f"{name} ({count})") if count else ("no-examples", name)
                files.add(kind, raw.class_file, message)


def _report_similar_classes(files: Files, raw: RawFolder) -> None:
    """Report class names that differ in capital letters, spaces, marks, a plural s, or 0 for o and 1 for l alone."""
    for group in grouped(raw.classes.names, _spelling).values():
        if len(group) > 1:
            files.add("similar-classes", raw.class_file, " and ".join(map(repr, group)))


def _spelling(name: str) -> str:
    letters = "".join(filter(str.isalnum, name.casefold())).translate(str.maketrans("01", "ol"))
    return letters.removesuffix("s") or name


def _report_shared_files(files: Files, splits: dict[str, DetectionData]) -> None:
    """Report files of train in val or test; a split with exactly the images of train is a decision, and only noted."""
    names = {name: data.files for name, data in splits.items()}
    for name in ("val", "test"):
        if "train" in names and name in names and set(names[name]) == set(names["train"]):
            files.notes.append(f"train and {name} have the same images: scores on {name} will flatter.")
            del names[name]
    for name, index, _ in shared_images(names):
        files.add("shared-image", names[name][index], f"is in train and {name}")
