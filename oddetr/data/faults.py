"""Faults of a data set: what is wrong and where, how bad it is, and the error that faults end in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from oddetr.common.text import shown, shown_lines
from oddetr.data.fault_kinds import KINDS, Severity

_OF_A_CLASS = frozenset({"no-examples", "few-examples"})
_PLACES = {".json": "annotation", ".xml": "object", ".txt": "line"}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where.

    Attributes:
        kind: one of `KINDS`.
        file: relative to the data folder; "." is the folder.
        message: what was found.
        place: COCO's annotation id, the number of a VOC object in its file or of a YOLO line, both from 1; None if the
            fault is the whole file's.
        image: the one image that it is about, relative to the data folder, where `file` is another; empty if unknown.
    """

    kind: str
    file: str
    message: str
    place: int | None = None
    image: str = ""

    @property
    def where(self) -> str:
        """The file and the place in it."""
        if self.place is None:
            return shown(self.file)
        return f"{shown(self.file)} {_PLACES.get(PurePosixPath(self.file).suffix.lower(), 'annotation')} {self.place}"

    @property
    def subject(self) -> str:
        """What a list of such faults names: the place, or the class."""
        return shown(self.message) if self.kind in _OF_A_CLASS else self.where

    def __str__(self) -> str:
        message = shown_lines(self.message) if self.kind == "layout" else shown(self.message)
        return message if self.kind in _OF_A_CLASS or self.file == "." else f"{self.where}: {message}"


def of_severity(severity: Severity, faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The faults of a data set that are errors, or warnings: the one place where this is decided."""
    return tuple(fault for fault in faults if KINDS[fault.kind].severity == severity)


def by_kind(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """The faults of each kind that occurs, in the order of `KINDS`, sorted by file and place in it."""
    groups: dict[str, list[Fault]] = {kind: [] for kind in KINDS}
    for fault in sorted(faults, key=lambda fault: (fault.file, fault.place or 0)):
        groups[fault.kind].append(fault)
    return {kind: found for kind, found in groups.items() if found}


def headline(kind: str, faults: Sequence[Fault]) -> str:
    """How many faults there are of a kind: "2 boxes without area, left out"."""
    return f"{len(faults):,} {KINDS[kind].named(len(faults))}"


def listed(kind: str, faults: Sequence[Fault], limit: int | None = 10) -> list[str]:
    """The faults of one kind as lines; those after the first `limit` are only counted, and classes share a line."""
    lines = [str(fault) for fault in faults]
    return [", ".join(_shortened(lines, limit and 3 * limit))] if kind in _OF_A_CLASS else _shortened(lines, limit)


def _shortened(lines: list[str], limit: int | None) -> list[str]:
    if limit is None or len(lines) <= limit + 1:
        return lines
    return [*lines[:limit], f"and {len(lines) - limit:,} more"]


def summaries(faults: Iterable[Fault]) -> list[str]:
    """One line for each kind of fault: how many, and where the first three are."""
    return [
        f"{headline(kind, found)}: {'; '.join(_shortened([fault.subject for fault in found], 3))}."
        for kind, found in by_kind(faults).items()
    ]


WAY_ON = (
    "To go on without these images: `oddetr train --skip-broken true`, or `oddetr check DIR --mend OUT`, which "
    "writes a clean copy."
)
"""What can be done about errors of a few images."""


class DataError(ValueError):
    """A data set that cannot be used as it is; the message lists the errors, where they are, and what to do.

    Attributes:
        root: the data set's folder.
        faults: all that was found: at least one error, and the warnings that may explain it.
        can_skip: whether the data can be used without the images that have errors.
    """

    def __init__(self, root: Path, faults: Sequence[Fault], can_skip: bool = False) -> None:
        super().__init__(root, faults, can_skip)
        self.can_skip = can_skip
        self.root = root
        self.faults = tuple(dict.fromkeys(faults))

    def __str__(self) -> str:
        lines = [f"The data in {self.root} cannot be used as it is."]
        errors = by_kind(of_severity("error", self.faults))
        for kind, found in errors.items():
            lines.append(f"{headline(kind, found)}:")
            lines += [f"  {line}" for line in listed(kind, found)]
            lines.append(f"  -> {KINDS[kind].advice}")
        if set(errors) - {"layout", "other-format"}:
            lines.append(f"Run `oddetr check {self.root}` for the whole report.")
        if self.can_skip:
            lines.append(WAY_ON)
        return "\n".join(lines)
