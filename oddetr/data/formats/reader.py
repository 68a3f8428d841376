"""A folder in, data out: recognises the layout, reads, cleans, and holds out a validation split where there is none."""

import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console

from oddetr.common.regular import mode
from oddetr.common.text import readable, shown
from oddetr.data.dataset import ClassTable, DetectionData, mirrored_alike
from oddetr.data.doctor.cleaning import RawFolder, RawSplit, clean
from oddetr.data.doctor.faults import FEW, DataError, Fault, summaries
from oddetr.data.formats import coco, voc, yolo
from oddetr.data.formats.files import Files
from oddetr.data.formats.folders import SPLITS
from oddetr.data.images import map_images, read_size

HELD_OUT = 0.15
"""Share of the training images that becomes the validation split where there is none."""
_COPY = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.)")
"""What Roboflow adds to the name of an image for each of its augmented copies."""
MOST_OBJECTS = 10_000
"""Objects of an image that is trained on; matching compares each with all queries of all layers, 70 MB for so many."""
_OF_TRAINING = frozenset({"missing-split", "no-objects", "crowded-image"})
"""Errors that only matter to training."""
_FORMATS: tuple[ModuleType, ...] = (coco, yolo, voc)


@dataclass(frozen=True)
class DataFolder:
    """A data set, cleaned: what was wrong with its boxes is left out or clipped, and told.

    Attributes:
        root: its folder.
        format: "COCO", "Pascal VOC" or "YOLO".
        classes: the class table, the same for all splits.
        splits: by name, in the order train, val, test; images sorted by file name.
        faults: what is wrong; where there are errors, do not train on it.
        decisions: what reading decided where the files left a choice, in whole sentences.
    """

    root: Path
    format: str
    classes: ClassTable
    splits: dict[str, DetectionData]
    faults: tuple[Fault, ...]
    decisions: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say aloud before training: the decisions, and one line for each kind of fault."""
        return (*self.decisions, *summaries(self.faults))

    def split(self, name: str) -> DetectionData:
        """The split "train", "val" or "test".

        Raises:
            DataError: there is no such split.
        """
        if name not in self.splits:
            message = f"there is no {name} split; there is {', '.join(self.splits) or 'none at all'}"
            raise DataError(self.root, [Fault("empty-split", ".", message)])
        return self.splits[name]


def read_data(
    root: Path, console: Console | None = None, training: bool = False, allow_outside: bool = False
) -> DataFolder:
    """`read_folder` for data that is going to be used: errors are not let through. Images are not decoded.

    Args:
        root: the data set's folder.
        console: shows progress; None is silent.
        training: whether it must have what training needs: train and val, both with objects.
        allow_outside: see `read_folder`.

    Raises:
        DataError: there are errors; the message lists them.
    """
    folder = read_folder(root, console, allow_outside)
    let_through = frozenset() if training else _OF_TRAINING
    if any(fault.severity == "error" and fault.kind not in let_through for fault in folder.faults):
        raise DataError(root, [fault for fault in folder.faults if fault.kind not in let_through])
    return folder


def read_folder(root: Path, console: Console | None = None, allow_outside: bool = False) -> DataFolder:
    """Reads a data set in any of the understood layouts, whatever its faults, which it lists.

    Without a val split, `HELD_OUT` of the training images, chosen by a hash of their names, become one; augmented
    copies of an image stay together. Images are not decoded; `oddetr.data.doctor.check` does that.

    Args:
        root: the data set's folder.
        console: shows progress where images must be opened for their size; None is silent.
        allow_outside: read also what paths and links name outside of the folder; it is refused otherwise.

    Raises:
        DataError: the layout is not recognised, or there is no class table or no image.
    """
    files = Files(root, allow_outside)
    reader, *others = _readers(files)
    raw = reader.read(files)
    faults, decisions = list(raw.faults), list(raw.notes)
    if others:
        decisions.append(f"The folder also looks like {others[0].FORMAT}; it is read as {raw.format}.")
    cleaned = [_cleaned(root, split, raw.classes, faults, console) for split in raw.splits]
    splits = {data.split: data for data in cleaned if len(data)}
    if not splits:
        raise DataError(root, [*faults, Fault("empty-split", raw.class_file, "there is no image in any split")])
    faults += [Fault("empty-split", raw.class_file, f"{data.split} has no image") for data in cleaned if not len(data)]
    faults += _unlisted(files, raw)
    if "train" in splits and "val" not in raw.defined:
        splits |= _held_out(splits["train"], decisions)
    if not mirrored_alike(raw.classes.names):
        decisions.append("Images will not be mirrored: class names tell left from right, or are letters or numbers.")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    faults += [*_missing_splits(splits, raw), *_without_objects(splits, raw)]
    faults += [*_shared_files(splits, decisions), *_rare_classes(splits, raw.class_file)]
    said = tuple(map(shown, decisions))
    return DataFolder(root, raw.format, raw.classes, splits, tuple(dict.fromkeys(faults)), said)


def shared_images(keys: Mapping[str, Sequence[Hashable]]) -> Iterator[tuple[str, int, int]]:
    """(split, its image, the training image) wherever an image of val or test has the key of a training image.

    Args:
        keys: something of every image of every split, the same for the same image.
    """
    trained = {key: index for index, key in enumerate(keys.get("train", ()))}
    for split in ("val", "test"):
        for index, key in enumerate(keys.get(split, ())):
            if key in trained:
                yield split, index, trained[key]


def _readers(files: Files) -> list[ModuleType]:
    """The modules that read the folder's layout: at least one, the best first."""
    root = files.root
    if not files.is_folder("."):
        message = "is a file, not a folder" if mode(root) else "does not exist"
        raise DataError(root, [Fault("layout", ".", f"{root} {message}")])
    barred: list[Fault] = []
    readers = [module for module in _FORMATS if module.recognises(files, barred)]
    if readers:
        return readers
    if (fault := files.barred(".")) is not None:
        raise DataError(root, [fault])
    names = sorted(name + ("/" if files.is_folder(name) else "") for name in files.names())
    found = shown(", ".join(names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    inner = [
        folder
        for folder, module in product(files.subfolders(), _FORMATS)
        if module.recognises(Files(root / folder, files.allow_outside), [])
    ]
    lines = [f"{root} has no known layout; it holds {found or 'nothing'}"]
    if inner:
        lines.append(f"  its folder {shown(inner[0])} is a data set: did you mean {shown(str(root / inner[0]))}?")
    lines += ["  understood layouts:"]
    lines += [f"    {module.FORMAT}: {layout}" for module in _FORMATS for layout in module.LAYOUTS]
    raise DataError(root, [*barred, Fault("layout", ".", "\n".join(lines))])


def _cleaned(
    root: Path, raw: RawSplit, classes: ClassTable, faults: list[Fault], console: Console | None
) -> DetectionData:
    readable_names = [readable(file) for file in raw.files]
    faults += [
        Fault("unreadable-name", file, "left out")
        for file, is_good in zip(raw.files, readable_names, strict=True)
        if not is_good
    ]
    raw = _with_sizes(root, raw.take(np.flatnonzero(readable_names)), faults, console)
    raw = raw.take(np.array(sorted(range(len(raw.files)), key=raw.files.__getitem__), dtype=np.int64))
    truth, found = clean(raw)
    faults += found
    counts = np.diff(truth.offsets)
    faults += [
        Fault(
            "crowded-image", raw.files[image], f"{counts[image]:,} objects; at most {MOST_OBJECTS:,} can be trained on"
        )
        for image in np.flatnonzero(counts > MOST_OBJECTS)
    ]
    return DetectionData(root, raw.name, tuple(raw.files), classes, truth)


def _with_sizes(root: Path, raw: RawSplit, faults: list[Fault], console: Console | None) -> RawSplit:
    """The split with all sizes known: those that the annotations do not tell are read from the images' headers."""
    unknown = np.flatnonzero((raw.sizes == 0).any(axis=1))
    facts = map_images(read_size, [root / raw.files[row] for row in unknown], console, f"Sizes of {raw.name}")
    readable = np.ones(len(raw.files), dtype=bool)
    for row, fact in zip(unknown, facts, strict=True):
        if fact.size is not None:
            raw.sizes[row] = fact.size
        else:
            readable[row] = False
            kind = "image-too-large" if fact.too_large else "unreadable-image"
            faults.append(Fault(kind, raw.files[row], fact.problem))
    return raw.take(np.flatnonzero(readable))


def _held_out(train: DetectionData, decisions: list[str]) -> dict[str, DetectionData]:
    """Train and val from the images of train: nothing where they are all copies of one.

    The same images are chosen whatever their order on disk. Groups of copies are held out whole: those that fit into
    the share, in the order of their hashes; where none does, the smallest.
    """
    groups = _groups_of_copies(train.files)
    if len(groups) < 2:
        return {}
    count = max(1, round(HELD_OUT * len(train)))
    held: list[int] = []
    for group in groups:
        if len(held) + len(group) <= count:
            held += group
    held = held or min(groups, key=len)
    taken = np.isin(np.arange(len(train)), held)
    share = len(held) / len(train)
    decisions.append(
        f"There is no val split: {len(held):,} of the {len(train):,} training images ({share:.0%}) are held out as "
        f"val, chosen by a hash of their names; the other {len(train) - len(held):,} are trained on."
    )
    return {"train": train.take(np.flatnonzero(~taken)), "val": train.take(np.flatnonzero(taken), "val")}


def _groups_of_copies(files: Sequence[str]) -> list[list[int]]:
    """The indices of files, those of copies of the same image together, in the order of a hash of their names."""
    groups: dict[tuple[bytes, str], list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        original = posixpath.join(posixpath.dirname(file), _COPY.sub("", posixpath.basename(file)))
        chance = hashlib.blake2b(posixpath.basename(original).encode(), digest_size=8).digest()
        groups[chance, original].append(index)
    return [groups[key] for key in sorted(groups)]


def _missing_splits(splits: dict[str, DetectionData], raw: RawFolder) -> Iterator[Fault]:
    """What training needs and no file defines; what is defined but cannot be read is a fault already."""
    if "train" not in raw.defined:
        yield Fault("missing-split", ".", "there is no train split")
    elif "train" in splits and "val" not in splits and "val" not in raw.defined:
        count = len(splits["train"])
        images = "1 image is" if count == 1 else f"{count:,} copies of one image are"
        yield Fault("missing-split", ".", f"{images} too few to hold out a val split")


def _without_objects(splits: dict[str, DetectionData], raw: RawFolder) -> Iterator[Fault]:
    files = {split.name: split.label_files[0] for split in raw.splits if split.label_files}
    for name, data in splits.items():
        if data.truth.crowd.all():
            ignored = ", only regions to ignore" if len(data.truth.crowd) else ""
            message = f"{name}: {len(data):,} image{'s' * (len(data) > 1)}, no object{ignored}"
            kind = "nothing-to-score" if name == "test" else "no-objects"
            yield Fault(kind, files.get(name, files.get("train", raw.class_file)), message)


def _unlisted(files: Files, raw: RawFolder) -> list[Fault]:
    """Images that lie in the folders of listed ones but are in no split."""
    listed = {file for split in raw.splits for file in split.files}
    mentioned = {fault.file for fault in raw.faults}
    folders = {posixpath.dirname(file) for file in listed}
    beside = {file for folder in folders for file in files.files_in(folder, [], below=False)}
    return [Fault("unlisted-image", file, "no split names it") for file in sorted(beside - listed - mentioned)]


def _shared_files(splits: dict[str, DetectionData], decisions: list[str]) -> list[Fault]:
    """Files of train in val or test; a split that has the very images of train is a decision, not so many slips."""
    files = {name: data.files for name, data in splits.items()}
    for name in ("val", "test"):
        if "train" in files and name in files and set(files[name]) == set(files["train"]):
            decisions.append(f"train and {name} have the same images: scores on {name} will flatter.")
            del files[name]
    return [
        Fault("shared-image", files[name][index], f"is in train and {name}") for name, index, _ in shared_images(files)
    ]


def _rare_classes(splits: dict[str, DetectionData], file: str) -> list[Fault]:
    if "train" not in splits:
        return []
    data = splits["train"]
    counts = np.bincount(data.truth.labels[~data.truth.crowd], minlength=len(data.classes))
    rare = sorted((count, name) for name, count in zip(data.classes.names, counts.tolist(), strict=True) if count < FEW)
    return [
        Fault("few-examples", file, f"{name} ({count})") if count else Fault("no-examples", file, name)
        for count, name in rare
    ]
