"""The data doctor: reads a data set, decodes every image, and tells what is in it, what is wrong, and what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from oddetr.common.text import shown
from oddetr.data.dataset import DetectionData
from oddetr.data.doctor.faults import KINDS, DataError, Fault, by_kind, headline, listed
from oddetr.data.doctor.statistics import Range, Statistics, statistics
from oddetr.data.formats.reader import DataFolder, read_folder, shared_images
from oddetr.data.images import ImageFacts, decode, map_images

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        root: the data set's folder.
        folder: the data, cleaned; None where it could not be read at all.
        faults: everything that is wrong, errors and warnings.
        statistics: of each split, by name.
    """

    root: Path
    folder: DataFolder | None
    faults: tuple[Fault, ...]
    statistics: dict[str, Statistics]

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that only the data's owner can mend."""
        return tuple(fault for fault in self.faults if fault.severity == "error")

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The faults that reading has dealt with, and what is worth knowing."""
        return tuple(fault for fault in self.faults if fault.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors


def check(root: Path | str, console: Console | None = None, allow_outside: bool = False) -> CheckReport:
    """Reads a data set in any understood layout and decodes all of its images; never raises because of the data.

    Args:
        root: the data set's folder.
        console: shows progress; None is silent.
        allow_outside: read also what paths and links name outside of the folder; it is refused otherwise.
    """
    root = Path(root)
    try:
        folder = read_folder(root, console, allow_outside)
    except DataError as error:
        return CheckReport(root, None, error.faults, {})
    faults = tuple(dict.fromkeys([*folder.faults, *_image_faults(folder, console)]))
    numbers = {name: statistics(data) for name, data in folder.splits.items()}
    return CheckReport(root, replace(folder, faults=faults), faults, numbers)


def load_data(root: Path | str, console: Console | None = None, allow_outside: bool = False) -> DataFolder:
    """The data to train on: checked to the last pixel, and cleaned; say its `notes` aloud.

    Args:
        root: the data set's folder.
        console: shows progress; None is silent.
        allow_outside: see `check`.

    Raises:
        DataError: there are errors, or no train or val split with objects; the message lists them.
    """
    report = check(root, console, allow_outside)
    if report.folder is None or report.errors:
        raise DataError(report.root, report.faults)
    return report.folder


def print_report(report: CheckReport, console: Console, every: bool = False) -> None:
    """Prints `render(report, every)`; where the console is no terminal, a line of text is never broken.

    Args:
        report: what `check` found.
        console: prints it.
        every: see `render`.
    """
    for part in _parts(report, every):
        if isinstance(part, Padding) and not console.is_terminal:
            part = Text(indent(str(part.renderable), " " * part.left))
        console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal, highlight=False)


def render(report: CheckReport, every: bool = False) -> RenderableType:
    """The report as rich shows it: what is in the data, what was decided, warnings, errors, the verdict.

    Args:
        report: what `check` found.
        every: list all faults and classes; otherwise the first ten faults of a kind, and the most frequent classes.
    """
    return Group(*_parts(report, every))


def _parts(report: CheckReport, every: bool) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if report.folder is not None:
        classes = len(report.folder.classes)
        title = f"{report.root}: {report.folder.format}, {classes} class{'es' if classes > 1 else ''}"
        parts += [Text(shown(title), style="bold"), _split_table(report), "", *_class_table(report, every)]
        for decision in report.folder.decisions:
            parts += ["", Text(f"note: {decision}")]
    for faults in (report.warnings, report.errors):
        for kind, found in by_kind(faults).items():
            parts += ["", *_section(kind, found, None if every else 10)]
    return [*parts, "", _verdict(report)]


def _image_faults(folder: DataFolder, console: Console | None) -> Iterator[Fault]:
    files = list(dict.fromkeys(file for data in folder.splits.values() for file in data.files))
    paths = [folder.root / file for file in files]
    facts = dict(zip(files, map_images(decode, paths, console, "Decoding images"), strict=True))
    for data in folder.splits.values():
        for file, size in zip(data.files, data.truth.sizes.tolist(), strict=True):
            yield from _image_fault(file, facts[file], (size[0], size[1]))
    yield from _shared_content(folder.splits, facts)


def _image_fault(file: str, facts: ImageFacts, told: tuple[int, int]) -> Iterator[Fault]:
    if facts.size is None:
        yield Fault("image-too-large" if facts.too_large else "unreadable-image", file, facts.problem)
        return
    if facts.animated:
        yield Fault("animated-image", file, "holds several pictures")
    if facts.size != told:
        (height, width), (told_height, told_width) = facts.size, told
        message = f"{width}x{height} pixels, but its annotations say {told_width}x{told_height}"
        if facts.size == told[::-1]:
            message += (
                ": its EXIF orientation turns it by 90 degrees, and the annotations are of the image before that"
                if facts.rotated
                else ": width and height are swapped"
            )
        yield Fault("wrong-size", file, message)


def _shared_content(splits: dict[str, DetectionData], facts: dict[str, ImageFacts]) -> Iterator[Fault]:
    """Copies of training images under other names in val or test."""
    keys = {
        name: [facts[file].digest or file for file in data.files if facts[file].size is not None]
        for name, data in splits.items()
    }
    for split, index, original in shared_images(keys):
        file, trained = splits[split].files[index], splits["train"].files[original]
        if file != trained:
            yield Fault("shared-image", file, f"is the same as {trained} in train")


def _split_table(report: CheckReport) -> Table:
    numbers = report.statistics
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True, header_style="bold")
    table.add_column("", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)

    def row(title: str, values: Sequence[str]) -> None:
        if any(value != "0" for value in values):
            table.add_row(title, *values)

    splits = list(numbers.values())
    row("images", [f"{split.images:,}" for split in splits])
    row("images without objects", [f"{split.empty_images:,}" for split in splits])
    row("image width (median)", [_shown(split.widths, ",.0f") for split in splits])
    row("image height (median)", [_shown(split.heights, ",.0f") for split in splits])
    row("objects", [f"{split.objects:,}" for split in splits])
    row("small (below 32x32)", [f"{split.small:,}" for split in splits])
    row("medium", [f"{split.medium:,}" for split in splits])
    row("large (from 96x96)", [f"{split.large:,}" for split in splits])
    row("objects per image (mean)", [_shown(split.objects_per_image, ",.1f") for split in splits])
    row("crowd or difficult", [f"{split.crowd:,}" for split in splits])
    return table


def _shown(values: Range, middle: str) -> str:
    if values.low == values.high:
        return f"{values.low:,.0f}"
    return f"{values.low:,.0f}-{values.high:,.0f} ({values.middle:{middle}})"


def _class_table(report: CheckReport, every: bool) -> list[RenderableType]:
    assert report.folder is not None
    classes, splits = report.folder.classes, list(report.statistics.values())
    order = list(range(len(classes)))
    hidden = 0 if every else max(0, len(classes) - _CLASSES_SHOWN)
    if hidden:
        order = sorted(order, key=lambda label: (-splits[0].per_class[label], label))[:_CLASSES_SHOWN]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("id", justify="right")
    table.add_column("class")
    for name in report.statistics:
        table.add_column(name, justify="right")
    for label in order:
        counts = [f"{split.per_class[label]:,}" for split in splits]
        table.add_row(str(classes.ids[label]), Text(classes.names[label]), *counts)
    more = [Text(f"and {hidden} classes with fewer objects")] if hidden else []
    return [table, *more]


def _section(kind: str, faults: list[Fault], limit: int | None) -> list[RenderableType]:
    severity = KINDS[kind].severity
    style = "bold red" if severity == "error" else "yellow"
    return [
        Text(f"{severity}: {headline(kind, len(faults))}", style=style),
        *(Padding(Text(line), (0, 0, 0, 4), expand=False) for line in listed(kind, faults, limit)),
        Padding(Text(f"-> {KINDS[kind].advice}"), (0, 0, 0, 2), expand=False),
    ]


def _verdict(report: CheckReport) -> Text:
    if report.ok:
        return Text("No errors: this data can be trained on.", style="bold green")
    count = len(report.errors)
    them = "it is" if count == 1 else "they are"
    return Text(f"{count:,} error{'s' * (count > 1)}: training will not start before {them} mended.", style="bold red")
