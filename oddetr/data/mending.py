"""Write a clean copy of a data set, as COCO, without what is broken, and a list of every change."""

import os
import shutil
from pathlib import Path

from oddetr.data.dataset import DetectionData
from oddetr.data.faults import DataError, by_kind, headline, listed, of_severity
from oddetr.data.reader import DataFolder, without_broken
from oddetr.data.writer import write_annotations

CHANGES = "changes.txt"


def write_mended(folder: DataFolder, out: Path) -> None:
    """Write the images of each split to `out/<split>`, its annotations, with the original ids, and `out/changes.txt`.

    Images are hard links to the originals, or copies where the disk has no links.

    Raises:
        DataError: there are errors that no copy without some images would mend, or too many images have errors.
        ValueError: `out` holds files already, or lies in the data set.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty. Give --mend a new folder.")
    if out.resolve().is_relative_to(folder.root.resolve()):
        raise ValueError(f"{out} lies in the data set itself, which would be read with it. Give --mend another folder.")
    mended = without_broken(folder)
    if errors := of_severity("error", mended.faults):
        raise DataError(folder.root, errors)
    for name, data in mended.splits.items():
        names = _names(data)
        for file, copy in zip(data.files, names, strict=True):
            _linked(data.root / file, out / name / copy)
        write_annotations(data.truth, data.classes, names, out, name)
    kinds = by_kind(folder.faults).items()
    lines = [f"Clean copy of {folder.root.absolute()}, as COCO.", "", *mended.decisions]
    for kind, found in kinds:
        lines += ["", f"{headline(kind, found)}:", *(f"  {line}" for line in listed(kind, found, None))]
    (out / CHANGES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _names(data: DetectionData) -> list[str]:
    """The images' base names where these are unique, else their paths."""
    bases = [Path(file).name for file in data.files]
    if len(set(bases)) == len(bases):
        return bases
    return [file.lstrip("/") for file in data.files]


def _linked(source: Path, target: Path) -> None:
    """Link a file, or copy it. What is there already is never written to: it may be a link to another original."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)
