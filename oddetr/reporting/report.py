"""`report`: an HTML page about a run, or about several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from oddetr.common.durable import write_file
from oddetr.reporting.findings import Findings, findings
from oddetr.reporting.page import comparison_page, run_page
from oddetr.reporting.record import Record

PAGE, PAGES = "report.html", "comparison.html"


@dataclass(frozen=True)
class Report:
    """The file that `report` wrote, and why parts of it are missing, if any."""

    file: Path
    missing: str


def report(
    runs: str | Path | Sequence[str | Path],
    out: Path | str | None = None,
    images: int = 1000,
    allow_outside: bool = False,
    console: Console | None = None,
) -> Report:
    """Write a self-contained HTML page: scores, curves, stability, classes, pictures, configuration.

    For one run, its best teacher is run on validation images. If data or checkpoint are gone, the page shows the run's
    records and says what is missing. For several runs the page compares their records.

    Args:
        runs: the folder of a run, or of several to compare.
        out: the file to write; default: report.html in the run's folder, or comparison.html in the current one.
        images: maximum number of validation images to run on; 0: none.
        allow_outside: read files outside the data's folder, through paths or links, instead of refusing them.
        console: where to show progress, if it is a terminal; None: nowhere.

    Raises:
        FileNotFoundError: there is no run in a folder.
        ValueError: no run is given, or one twice; `out` is a folder or a device.
    """
    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("A report is of one run, or of several different ones. Give their folders.")
    if images < 0:
        raise ValueError(f"images is {images}; it must be at least 0.")
    records = [Record.read(folder) for folder in folders]
    file = Path(out) if out else folders[0] / PAGE if len(folders) == 1 else Path(PAGES)
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is a folder or a device. Give the file to write, for example {PAGE}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(records) > 1:
        content, missing = comparison_page(records), ""
    else:
        found, missing = _findings(records[0], images, allow_outside, console)
        content = run_page(records[0], found, missing)
    write_file(file, content)
    return Report(file, missing)


def _findings(record: Record, images: int, allow_outside: bool, console: Console | None) -> tuple[Findings | None, str]:
    """The findings, or None and the reason."""
    if not images:
        return None, "No image was looked at, as was asked for."
    if record.info is None:
        return None, "There is no checkpoint yet, so no image was looked at."
    try:
        return findings(record.folder, images, allow_outside, console), ""
    except (OSError, ValueError) as error:
        return None, f"No image was looked at: {error}"
