"""Every broken data set ends in a clear error or in counted faults: never in a traceback, a hang or a wrong label."""

import faulthandler
import io
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from oddetr.cli import main
from oddetr.data.doctor.check import check, print_report
from oddetr.data.images import ImageError
from oddetr.data.reader import DataFolder
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.sources import DigitsConfig, open_training_sources
from tests.data.builders import write_image
from tests.data.corpus import CASES, LABEL, SOUND, Build, Case, many_coco, many_lines, moved, with_label, with_lines

NOBODY = 65534
HANGS = 120.0
"""Seconds after which a case is taken to hang, and the tests end."""

# Pillow warns of odd metadata, which does not concern the pixels.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that users other than root can read too."""
    place = Path(tempfile.mkdtemp(prefix="corpus"))
    place.chmod(0o755)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    yield place
    faulthandler.cancel_dump_traceback_later()
    os.seteuid(os.getuid())
    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o755)
    shutil.rmtree(place)


def assert_sound(folder: DataFolder) -> None:
    """Boxes are finite and inside their images, labels are known."""
    for data in folder.splits.values():
        truth = data.truth
        sides = np.repeat(truth.sizes[:, ::-1], np.diff(truth.offsets), axis=0)
        assert np.isfinite(truth.boxes).all()
        assert (np.isfinite(truth.areas) & (truth.areas > 0)).all()
        assert (truth.boxes[:, :2] >= 0).all()
        assert (truth.boxes[:, 2:] <= sides).all()
        assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
        assert ((truth.labels >= 0) & (truth.labels < len(folder.classes))).all()
        assert len(set(truth.image_ids.tolist())) == len(truth) == len(data.files)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_broken_data_gives_its_faults_and_what_is_left_is_sound(case: Case, place: Path) -> None:
    case.build(place / "data")
    Image.init()
    if os.geteuid() == 0 and case.user:
        os.seteuid(NOBODY)

    report = check(place / "data")

    rare = ("few-examples", "no-examples")
    assert Counter(fault.kind for fault in report.faults if fault.kind not in rare) == case.kinds, report.faults
    left = report.folder and {name: (len(data), len(data.truth.boxes)) for name, data in report.folder.splits.items()}
    assert left == case.left
    if report.folder is not None:
        assert_sound(report.folder)
        for data in report.folder.splits.values():
            for index in range(len(data)):
                with suppress(ImageError):
                    sample = data.sample(index)
                    assert (sample.boxes[:, 2:] <= sample.image.shape[1::-1]).all()
    if case.look is not None:
        case.look(report)
    console = Console(file=io.StringIO(), width=200)
    print_report(report, console, every=True)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert case.has in text
    assert case.lacks not in text
    assert not re.search(r"\w+(Error|Exception)\b|Errno|Traceback", text), text
    text.encode()


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("build", [many_coco(2 * 10**5), with_label(many_lines(2 * 10**5))], ids=["COCO", "YOLO"])
def test_200_000_objects_on_one_image_are_read_and_refused(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "data")

    report = check(tmp_path / "data")

    assert [fault.kind for fault in report.errors] == ["crowded-image"]
    assert report.statistics["train"].objects == 2 * 10**5 + 1


@pytest.mark.parametrize("path", ["train/b.jpg", "annotations"])
def test_links_that_lead_out_are_followed_if_that_is_allowed(tmp_path: Path, path: str) -> None:
    root = tmp_path / "data"
    SOUND(root)
    moved(root / path)

    assert not check(root).ok
    report = check(root, allow_outside=True)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2
    sources, _ = open_training_sources(str(root), DigitsConfig(), 0, reading=ReadingConfig(allow_outside=True))
    assert sources["train"].sample(1).image.shape == (48, 64, 3)
    assert main(["check", str(root), "--allow-outside", "true"]) == 0


@pytest.mark.parametrize("line", ["{0}/elsewhere/images/c.jpg", "../elsewhere/images/c.jpg"])
def test_paths_that_lead_out_are_followed_if_that_is_allowed(tmp_path: Path, line: str) -> None:
    image = write_image(tmp_path / "elsewhere/images/c.jpg")
    (tmp_path / "elsewhere/labels").mkdir()
    (tmp_path / "elsewhere/labels/c.txt").write_text(LABEL)
    root = tmp_path / "data"
    with_lines("images/train/a.jpg\n" + line.format(tmp_path))(root)

    assert [fault.kind for fault in check(root).errors] == ["outside-folder"]
    report = check(root, allow_outside=True)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2
    assert report.folder is not None
    data = report.folder.splits["train"]
    assert (root / data.files[0]).samefile(image)
    assert data.sample(0).image.shape == (48, 64, 3)
