"""The data doctor: reads a data set, decodes every image, and reports what is in it, what is wrong, and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import indent

import numpy as np
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from oddetr.common.text import shown
from oddetr.data.dataset import DetectionData
from oddetr.data.doctor.statistics import Range, Statistics, statistics
from oddetr.data.fault_kinds import KINDS, Severity
from oddetr.data.fault_verdicts import can_skip, without_consequences
from oddetr.data.faults import WAY_ON, DataError, Fault, by_kind, headline, listed, of_severity
from oddetr.data.images import ImageFacts, decode, map_images
from oddetr.data.mending import write_mended
from oddetr.data.reader import DataFolder, read_folder, shared_images, without_broken
from oddetr.data.reading_config import AS_USUAL, MOST_PIXELS, ReadingConfig

_CLASSES_SHOWN = 20
_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow"}


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        root: the data set's folder.
        folder: the data, cleaned; None if it could not be read at all.
        faults: everything that is wrong, errors and warnings.
        statistics: of each split, by name.
    """

    root: Path
    folder: DataFolder | None
    faults: tuple[Fault, ...]
    statistics: dict[str, Statistics]

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that only the data's owner can fix."""
        return of_severity("error", self.faults)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that reading has repaired, and what is worth knowing."""
        return of_severity("warning", self.faults)

    @property
    def can_skip(self) -> bool:
        """Whether the data can be used without the images that have errors; see `without_broken`."""
        return self.folder is not None and can_skip(self.faults, self.folder.images)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors


def check(
    root: Path | str,
    console: Console | None = None,
    allow_outside: bool = False,
    ignore_exif: bool = False,
    crowds_as_objects: bool = False,
    most_pixels: int = MOST_PIXELS,
    mend: Path | str | None = None,
) -> CheckReport:
    """Read a data set of any understood format and decode all of its images; never raises because of the data.

    Args:
        root: the data set's folder, or its data.yaml or JSON file.
        console: shows progress; None is silent.
        allow_outside: also read what paths and links name outside of the folder; it is refused otherwise.
        ignore_exif: take images as stored, not turned by their EXIF orientation: for boxes that were drawn so.
        crowds_as_objects: learn COCO's crowd regions and VOC's difficult objects like any other.
        most_pixels: of an image; larger ones are refused.
        mend: folder to write a clean copy to, as COCO: without what is broken, with a list of every change.

    Raises:
        ValueError: `mend` holds files already.
        DataError: with `mend`, there are errors that no copy without some images would mend.
    """
    root = Path(root)
    report = checked(root, console, ReadingConfig(allow_outside, ignore_exif, crowds_as_objects, most_pixels))
    if mend is not None and report.folder is not None:
        write_mended(report.folder, Path(mend))
    return report


def checked(root: Path, console: Console | None = None, reading: ReadingConfig = AS_USUAL) -> CheckReport:
    """`check`, with all choices of reading."""
    try:
        folder = read_folder(root, console, reading)
    except DataError as error:
        return CheckReport(root, None, error.faults, {})
    faults = without_consequences([*folder.faults, *_image_faults(folder, console)], folder.images)
    folder = replace(folder, faults=faults)
    if reading.skip_broken:
        folder = without_broken(folder)
    numbers = {name: statistics(data) for name, data in folder.splits.items()}
    return CheckReport(root, folder, folder.faults, numbers)


def load_data(root: Path | str, console: Console | None = None, reading: ReadingConfig = AS_USUAL) -> DataFolder:
    """The data to train on, cleaned, after `check` found no error; print its `notes`.

    Raises:
        DataError: there are errors, or no train or val split with objects; the message lists them.
    """
    report = checked(Path(root), console, reading)
    if report.folder is None or report.errors:
        raise DataError(report.root, report.faults, report.can_skip)
    return report.folder


def print_report(report: CheckReport, console: Console, every: bool = False) -> None:
    """Print what is in the data, what was decided, warnings, errors and the verdict.

    Lines of text are only broken on a terminal.

    Args:
        every: list all faults and classes; otherwise the first ten faults of a kind, and the most frequent classes.
    """
    for part in _parts(report, every):
        if isinstance(part, Padding) and not console.is_terminal:
            part = Text(indent(str(part.renderable), " " * part.left))
        console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal, highlight=False)


def _parts(report: CheckReport, every: bool) -> Iterator[RenderableType]:
    if report.folder is not None:
        classes = len(report.folder.classes)
        title = f"{report.root}: {report.folder.format}, {classes} class{'es' if classes > 1 else ''}"
        yield Text(shown(title), style="bold")
        yield _split_table(report.statistics)
        yield ""
        yield from _class_table(report.folder, report.statistics, every)
        for decision in report.folder.decisions:
            yield from ("", Text(f"note: {decision}"))
    severities: tuple[Severity, ...] = ("warning", "error")
    for severity in severities:
        for kind, found in by_kind(of_severity(severity, report.faults)).items():
            yield from ("", Text(f"{severity}: {headline(kind, found)}", style=_STYLES[severity]))
            for line in listed(kind, found, None if every else 10):
                yield Padding(Text(line), (0, 0, 0, 4), expand=False)
            yield Padding(Text(f"-> {KINDS[kind].advice}"), (0, 0, 0, 2), expand=False)
    yield ""
    yield _verdict(len(report.errors))
    if report.can_skip:
        yield Text(WAY_ON)


def _image_faults(folder: DataFolder, console: Console | None) -> Iterator[Fault]:
    files = list(dict.fromkeys(file for data in folder.splits.values() for file in data.files))
    paths = [folder.root / file for file in files]
    reading = next(iter(folder.splits.values())).reading
    facts = dict(
        zip(files, map_images(partial(decode, reading=reading), paths, console, "Decoding images"), strict=True)
    )
    for data in folder.splits.values():
        objects = np.diff(data.truth.offsets)
        for file, (height, width), count in zip(data.files, data.truth.sizes.tolist(), objects, strict=True):
            yield from _image_fault(file, facts[file], (height, width))
            if facts[file].turned and count and not facts[file].rotated:
                yield Fault("turned-image", file, "its EXIF orientation turns or mirrors it")
    yield from _shared_content(folder.splits, facts)


def _image_fault(file: str, facts: ImageFacts, annotated: tuple[int, int]) -> Iterator[Fault]:
    """The faults of an image; `annotated` is the (height, width) that its annotations give."""
    if facts.size is None:
        yield Fault("image-too-large" if facts.too_large else "unreadable-image", file, facts.problem)
        return
    if facts.deep_colour:
        yield Fault("deep-colour", file, "has 16 bits a colour")
    if facts.animated:
        yield Fault("animated-image", file, "holds several pictures")
    if facts.size != annotated:
        swapped = facts.size == annotated[::-1]
        why = ": width and height are swapped" if swapped and not facts.rotated else ""
        (height, width), (annotated_height, annotated_width) = facts.size, annotated
        message = f"{width}x{height} pixels, but its annotations say {annotated_width}x{annotated_height}{why}"
        yield Fault("size-before-turn" if swapped and facts.rotated else "wrong-size", file, message)


def _shared_content(splits: dict[str, DetectionData], facts: dict[str, ImageFacts]) -> Iterator[Fault]:
    """Copies of training images under other names in val or test."""
    keys = {name: [facts[file].digest or file for file in data.files] for name, data in splits.items()}
    for split, index, original in shared_images(keys):
        file, trained = splits[split].files[index], splits["train"].files[original]
        if file != trained:
            yield Fault("shared-image", file, f"is the same as {trained} in train")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "class") else "right", no_wrap=name != "class")
    return table


def _split_table(splits: dict[str, Statistics]) -> Table:
    table = _table("", *splits)
    for title, value in {
        "images": lambda split: f"{split.images:,}",
        "images without objects": lambda split: f"{split.empty_images:,}",
        "image width (median)": lambda split: _range(split.widths, ",.0f"),
        "image height (median)": lambda split: _range(split.heights, ",.0f"),
        "own size, as --image-size": lambda split: _range(split.native, ",.0f"),
        "objects": lambda split: f"{split.objects:,}",
        "small (below 32x32)": lambda split: f"{split.small:,}",
        "medium": lambda split: f"{split.medium:,}",
        "large (from 96x96)": lambda split: f"{split.large:,}",
        "objects per image (mean)": lambda split: _range(split.objects_per_image, ",.1f"),
        "crowd or difficult": lambda split: f"{split.crowd:,}",
    }.items():
        values = [value(split) for split in splits.values()]
        if set(values) != {"0"}:
            table.add_row(title, *values)
    return table


def _range(values: Range, middle: str) -> str:
    if values.low == values.high:
        return f"{values.low:,.0f}"
    return f"{values.low:,.0f}-{values.high:,.0f} ({values.middle:{middle}})"


def _class_table(folder: DataFolder, splits: dict[str, Statistics], every: bool) -> Iterator[RenderableType]:
    labels = list(range(len(folder.classes)))
    hidden = 0 if every else max(0, len(labels) - _CLASSES_SHOWN)
    if hidden:
        frequencies = next(iter(splits.values())).per_class
        labels = sorted(labels, key=lambda label: -frequencies[label])[:_CLASSES_SHOWN]
    table = _table("id", "class", *splits)
    for label in labels:
        counts = [f"{split.per_class[label]:,}" for split in splits.values()]
        table.add_row(str(folder.classes.ids[label]), Text(folder.classes.names[label]), *counts)
    yield table
    if hidden:
        yield Text(f"and {hidden} classes with fewer objects")


def _verdict(errors: int) -> Text:
    if not errors:
        return Text("No errors: this data can be trained on.", style="bold green")
    many, are = ("s", "they are") if errors > 1 else ("", "it is")
    return Text(f"{errors:,} error{many}: training will not start before {are} fixed.", style="bold red")
