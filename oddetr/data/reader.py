"""A folder in, data out: recognises the layout, reads, cleans, and holds out a validation split where there is none."""

import hashlib
import posixpath
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console

from oddetr.data import coco, voc, yolo
from oddetr.data.cleaning import RawFolder, RawSplit, clean
from oddetr.data.dataset import ClassTable, DetectionData, mirrored_alike
from oddetr.data.faults import FEW, DataError, Fault, summaries
from oddetr.data.folders import SPLITS, list_files, subfolders
from oddetr.data.images import map_images, read_size

HELD_OUT = 0.15
"""Share of the training images that becomes the validation split where there is none."""
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


def read_data(root: Path, console: Console | None = None) -> DataFolder:
    """`read_folder` for data that is going to be used: errors are not let through. Images are not decoded.

    Raises:
        DataError: there are errors; the message lists them.
    """
    folder = read_folder(root, console)
    errors = [fault for fault in folder.faults if fault.severity == "error"]
    if errors:
        raise DataError(root, errors)
    return folder


def read_folder(root: Path, console: Console | None = None) -> DataFolder:
    """Reads a data set in any of the understood layouts, whatever its faults, which it lists.

    Without a val split, `HELD_OUT` of the training images, chosen by a hash of their names, become one. Images are not
    decoded; `oddetr.data.check` does that.

    Args:
        root: the data set's folder.
        console: shows progress where images must be opened for their size; None is silent.

    Raises:
        DataError: the layout is not recognised, or there is no class table or no image.
    """
    reader, *others = _readers(root)
    raw = reader.read(root)
    faults, decisions = list(raw.faults), list(raw.notes)
    if others:
        decisions.append(f"The folder also looks like {others[0].FORMAT}; it is read as {raw.format}.")
    splits: dict[str, DetectionData] = {}
    for split in raw.splits:
        data = _cleaned(root, split, raw.classes, faults, console)
        if len(data):
            splits[split.name] = data
        else:
            faults.append(Fault("empty-split", raw.class_file, f"{split.name} has no image"))
    if not splits:
        raise DataError(root, [*faults, Fault("empty-split", raw.class_file, "there is no image in any split")])
    faults += _unlisted(root, raw)
    if "train" in splits and "val" not in raw.defined:
        splits |= _held_out(splits["train"], decisions)
    if not mirrored_alike(raw.classes.names):
        decisions.append("Images will not be mirrored: class names tell left from right, or are letters or numbers.")
    splits = {name: splits[name] for name in SPLITS if name in splits}
    faults += [*_shared_files(splits), *_rare_classes(splits, raw.class_file)]
    return DataFolder(root, raw.format, raw.classes, splits, tuple(dict.fromkeys(faults)), tuple(decisions))


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


def _readers(root: Path) -> list[ModuleType]:
    """The modules that read the folder's layout: at least one, the best first."""
    if not root.is_dir():
        message = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(root, [Fault("layout", ".", f"{root} {message}")])
    readers = [module for module in _FORMATS if module.recognises(root)]
    if readers:
        return readers
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    found = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    inner = [folder.name for folder, module in product(subfolders(root), _FORMATS) if module.recognises(folder)]
    lines = [f"{root} has no known layout; it holds {found or 'nothing'}"]
    if inner:
        lines.append(f"  its folder {inner[0]} is a data set: did you mean {root / inner[0]}?")
    lines += ["  understood layouts:"]
    lines += [f"    {module.FORMAT}: {layout}" for module in _FORMATS for layout in module.LAYOUTS]
    raise DataError(root, [Fault("layout", ".", "\n".join(lines))])


def _cleaned(
    root: Path, raw: RawSplit, classes: ClassTable, faults: list[Fault], console: Console | None
) -> DetectionData:
    raw = _with_sizes(root, raw, faults, console)
    raw = raw.take(np.array(sorted(range(len(raw.files)), key=raw.files.__getitem__), dtype=np.int64))
    truth, found = clean(raw)
    faults += found
    if raw.name == "train" and len(raw.files) and not len(truth.boxes):
        faults.append(Fault("no-objects", raw.label_files[0], f"{len(raw.files):,} images, no object"))
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
    """Train and val from the images of train. The same images are chosen whatever their order on disk."""
    if len(train) < 2:
        return {}
    chance = [hashlib.blake2b(Path(file).name.encode(), digest_size=8).digest() for file in train.files]
    order = sorted(range(len(train)), key=lambda index: (chance[index], train.files[index]))
    count = max(1, round(HELD_OUT * len(train)))
    held, kept = (np.array(sorted(part), dtype=np.int64) for part in (order[:count], order[count:]))
    decisions.append(
        f"There is no val split: {count:,} of the {len(train):,} training images ({HELD_OUT:.0%}) are held out as val, "
        f"chosen by a hash of their names; the other {len(kept):,} are trained on."
    )
    return {"train": train.take(kept), "val": train.take(held, "val")}


def _unlisted(root: Path, raw: RawFolder) -> list[Fault]:
    """Images that lie in the folders of listed ones but are in no split."""
    listed = {file for split in raw.splits for file in split.files}
    mentioned = {fault.file for fault in raw.faults}
    folders = {posixpath.dirname(file) for file in listed}
    beside = {file for folder in folders for file in list_files(root, root / folder, below=False)}
    return [Fault("unlisted-image", file, "no split names it") for file in sorted(beside - listed - mentioned)]


def _shared_files(splits: dict[str, DetectionData]) -> list[Fault]:
    shared = shared_images({name: data.files for name, data in splits.items()})
    return [Fault("shared-image", splits[split].files[index], f"is in train and {split}") for split, index, _ in shared]


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
