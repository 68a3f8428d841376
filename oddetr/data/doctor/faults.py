"""What can be wrong with a data set: the kinds of faults, a fault, and the error that faults end in.

A warning is about something that reading has already repaired or left out, or that does no harm to the labels; an error
makes labels unreliable, and only the data's owner can mend it. `KINDS` is the list of everything that is looked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from oddetr.common.text import shown, shown_lines

Severity = Literal["error", "warning"]

FEW = 10
"""With fewer training examples than this a class is reported."""

_OF_A_CLASS = frozenset({"no-examples", "few-examples"})
_NUMBERED = {".json": "annotation", ".xml": "object", ".txt": "line"}


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how bad it is, what one and several of it are called, and what to do about it."""

    severity: Severity
    one: str
    many: str
    advice: str


KINDS: dict[str, Kind] = {
    "layout": Kind(
        "error",
        "folder that is no data set",
        "folders that are no data sets",
        "Give the folder that holds the whole data set, in one of these layouts.",
    ),
    "malformed-file": Kind(
        "error",
        "file that cannot be understood",
        "files that cannot be understood",
        "Mend the file, or export or download it again: half a file is often an interrupted download.",
    ),
    "malformed-record": Kind(
        "error", "malformed entry", "malformed entries", "Mend these entries, or export the annotations again."
    ),
    "duplicate-split": Kind(
        "error",
        "split that is defined twice",
        "splits that are defined twice",
        "Move the file that is not meant out of the folder.",
    ),
    "classes": Kind(
        "error",
        "class table that cannot be used",
        "class tables that cannot be used",
        "Give every class one name and one id, the same in all splits.",
    ),
    "missing-folder": Kind(
        "error", "missing folder or list", "missing folders or lists", "Correct the path, or take its line out."
    ),
    "outside-folder": Kind(
        "error",
        "path that leads out of the data folder",
        "paths that lead out of the data folder",
        "Move the files into the data folder, and write paths relative to it. If they are yours and shall stay where "
        "they are, allow it: --allow-outside true (allow_outside=True).",
    ),
    "unreadable-folder": Kind(
        "error",
        "folder that cannot be listed",
        "folders that cannot be listed",
        "Give yourself the right to read them: chmod u+rx.",
    ),
    "unreadable-name": Kind(
        "error",
        "file whose name is no readable text",
        "files whose names are no readable text",
        "Rename them, in the annotations too: names are text in UTF-8, without line breaks or control characters.",
    ),
    "empty-split": Kind(
        "error",
        "split without any image",
        "splits without any image",
        "Add its images, or take the split away altogether.",
    ),
    "missing-split": Kind(
        "error",
        "split that training needs and that is not there",
        "splits that training needs and that are not there",
        "Training learns from train and picks its best checkpoint on val, which is held out of train where there is "
        "none: give it a train split of at least two different images.",
    ),
    "no-objects": Kind(
        "error",
        "split of train and val without any object",
        "splits of train and val without any object",
        "Look for the labels: they may be in another folder, or belong to other images. Where val was held out of "
        "train, label more images, or make a val split that shows objects.",
    ),
    "ambiguous-image": Kind(
        "error",
        "image that its name does not tell from others",
        "images that their names do not tell from others",
        "Give every image a name of its own, or sort the XML files into folders like those of the images.",
    ),
    "missing-image": Kind(
        "error",
        "image that is annotated but not there",
        "images that are annotated but not there",
        "Restore the images, or take their entries out of the annotations.",
    ),
    "unreadable-image": Kind(
        "error",
        "image that cannot be read",
        "images that cannot be read",
        "Restore the files from their source, or remove them together with their annotations.",
    ),
    "image-too-large": Kind(
        "error",
        "image that is too large to be decoded safely",
        "images that are too large to be decoded safely",
        "Cut them into tiles or shrink them, and their boxes with them.",
    ),
    "wrong-size": Kind(
        "error",
        "image of another size than its annotations say",
        "images of another size than their annotations say",
        "The boxes were probably drawn on another version of the image: bring that version back, or scale the boxes. "
        "Only if the boxes do fit the image as it is, correct the width and height in the annotations.",
    ),
    "duplicate-image-id": Kind(
        "error",
        "image id that stands twice",
        "image ids that stand twice",
        "Give every image its own id, and have each annotation refer to the right one.",
    ),
    "duplicate-file-name": Kind(
        "error",
        "image file that is listed under two ids",
        "image files that are listed under two ids",
        "Keep one entry for each file, with all of its annotations.",
    ),
    "duplicate-annotation-id": Kind(
        "error",
        "annotation id that stands twice",
        "annotation ids that stand twice",
        "Give every annotation its own id; remove those that stand twice as a whole.",
    ),
    "crowded-image": Kind(
        "error",
        "image with too many objects to train on",
        "images with too many objects to train on",
        "A detector finds as many objects as it has queries, some hundreds: cut these images into tiles. The same "
        "object many times over is a slip of an export.",
    ),
    "unknown-category": Kind(
        "error",
        "object of a class that is not in the class table",
        "objects of classes that are not in the class table",
        "Add the class to the table, or correct the objects' class.",
    ),
    "not-a-number": Kind(
        "error",
        "box whose coordinates are not four finite numbers",
        "boxes whose coordinates are not four finite numbers",
        "Draw these boxes again, or remove them.",
    ),
    "inverted-box": Kind(
        "error",
        "inverted box",
        "inverted boxes",
        "Right must be greater than left, and bottom greater than top: corners may be swapped, or a corner may stand "
        "where width and height belong.",
    ),
    "box-outside": Kind(
        "error",
        "box entirely outside its image",
        "boxes entirely outside their images",
        "They may belong to other images, or to another size of these: correct or remove them.",
    ),
    "pixel-coordinates": Kind(
        "error",
        "box in pixels where YOLO wants shares of the image's size",
        "boxes in pixels where YOLO wants shares of the image's size",
        "Divide x and width by the image's width, y and height by its height.",
    ),
    "relative-coordinates": Kind(
        "error",
        "split whose boxes look like shares of the image's size where pixels belong",
        "splits whose boxes look like shares of the image's size where pixels belong",
        "Multiply x and width by the image's width, y and height by its height.",
    ),
    "zero-area-box": Kind(
        "warning",
        "box without area, left out",
        "boxes without area, left out",
        "These are slips of the mouse as a rule. Draw the box again where an object now goes unlabelled.",
    ),
    "clipped-box": Kind(
        "warning",
        "box partly outside its image, clipped",
        "boxes partly outside their images, clipped",
        "Nothing to do if they reach out by a little; otherwise they may belong to another size of the image.",
    ),
    "unknown-image": Kind(
        "warning",
        "annotation of an image that is not listed, left out",
        "annotations of images that are not listed, left out",
        "Nothing to do if the images were taken out on purpose.",
    ),
    "animated-image": Kind(
        "warning",
        "file of several pictures, of which the first is used",
        "files of several pictures, of which the first is used",
        "Nothing to do if the boxes are of the first; otherwise save the other pictures as files of their own.",
    ),
    "repeated-image": Kind(
        "warning", "image listed twice, used once", "images listed twice, used once", "Take the second line out."
    ),
    "label-without-image": Kind(
        "warning",
        "label file without an image, left out",
        "label files without an image, left out",
        "Bring the image back, or delete the label file.",
    ),
    "image-without-label": Kind(
        "warning",
        "image without a label file, used as one without objects",
        "images without a label file, used as ones without objects",
        "Label them if they show objects: in train, unlabelled objects teach the detector not to see them; in val and "
        "test, what it rightly finds counts as wrong.",
    ),
    "unlisted-image": Kind(
        "warning",
        "image that is in no split, left out",
        "images that are in no split, left out",
        "Nothing to do if they were left out on purpose.",
    ),
    "shared-image": Kind(
        "warning",
        "image to evaluate on that is also trained on",
        "images to evaluate on that are also trained on",
        "Take them out of one of the splits: scores on them say nothing about new images.",
    ),
    "nothing-to-score": Kind(
        "warning",
        "split without any object, which cannot be scored",
        "splits without any object, which cannot be scored",
        "Look for the labels, or take the split out: training goes without it.",
    ),
    "no-examples": Kind(
        "warning",
        "class without an example to train on",
        "classes without an example to train on",
        "The detector cannot learn them. Label some, or take the classes out of the class table.",
    ),
    "few-examples": Kind(
        "warning",
        f"class with fewer than {FEW} examples to train on",
        f"classes with fewer than {FEW} examples to train on",
        "Expect low scores for them. Label more if they matter.",
    ),
}
"""Everything that is looked for, errors first."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where.

    Attributes:
        kind: one of `KINDS`.
        file: relative to the data folder; "." is the folder.
        message: what was found.
        annotation: COCO's annotation id, the place of a VOC object in its file or the number of a YOLO line, both from
            1; None where the fault is the whole file's.
    """

    kind: str
    file: str
    message: str
    annotation: int | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind].severity

    @property
    def where(self) -> str:
        """The file and the place in it."""
        if self.annotation is None:
            return shown(self.file)
        numbered = _NUMBERED.get(PurePosixPath(self.file).suffix.lower(), "annotation")
        return f"{shown(self.file)} {numbered} {self.annotation}"

    @property
    def subject(self) -> str:
        """What a list of such faults names: the place, or the class."""
        return shown(self.message) if self.kind in _OF_A_CLASS else self.where

    def __str__(self) -> str:
        message = shown_lines(self.message) if self.kind == "layout" else shown(self.message)
        return message if self.kind in _OF_A_CLASS or self.file == "." else f"{self.where}: {message}"


def by_kind(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """The faults of each kind that occurs, in the order of `KINDS`, sorted by file and place in it."""
    groups: dict[str, list[Fault]] = {kind: [] for kind in KINDS}
    for fault in sorted(faults, key=lambda fault: (fault.file, fault.annotation or 0)):
        groups[fault.kind].append(fault)
    return {kind: found for kind, found in groups.items() if found}


def listed(kind: str, faults: Sequence[Fault], limit: int | None = 10) -> list[str]:
    """The faults of one kind as lines, of which all after the first `limit` are only counted; classes share a line."""
    if kind in _OF_A_CLASS:
        return [", ".join(shortened([str(fault) for fault in faults], limit and 3 * limit))]
    return shortened([str(fault) for fault in faults], limit)


def headline(kind: str, count: int) -> str:
    """How many there are of a kind: "2 boxes without area, left out"."""
    return f"{count:,} {KINDS[kind].one if count == 1 else KINDS[kind].many}"


def shortened(lines: Sequence[str], limit: int | None = 10) -> list[str]:
    """The first `limit` lines, and how many more there are; all of them where `limit` is None."""
    if limit is None or len(lines) <= limit + 1:
        return list(lines)
    return [*lines[:limit], f"and {len(lines) - limit:,} more"]


def summaries(faults: Iterable[Fault]) -> list[str]:
    """One line for each kind of fault: how many, and where the first three are."""
    return [
        f"{headline(kind, len(found))}: {'; '.join(shortened([fault.subject for fault in found], 3))}."
        for kind, found in by_kind(faults).items()
    ]


class DataError(ValueError):
    """A data set that cannot be used as it is; the message lists the errors, where they are, and what to do.

    Attributes:
        root: the data set's folder.
        faults: all that was found: at least one error, and the warnings that may explain it.
    """

    def __init__(self, root: Path, faults: Sequence[Fault]) -> None:
        super().__init__(root, faults)
        self.root = root
        self.faults = tuple(faults)

    def __str__(self) -> str:
        errors = [fault for fault in self.faults if fault.severity == "error"]
        lines = [f"The data in {self.root} cannot be used as it is."]
        for kind, found in by_kind(errors).items():
            lines.append(f"{headline(kind, len(found))}:")
            lines += [f"  {line}" for line in listed(kind, found)]
            lines.append(f"  -> {KINDS[kind].advice}")
        if any(fault.kind != "layout" for fault in errors):
            lines.append(f"Run `oddetr check {self.root}` for the whole report.")
        return "\n".join(lines)
