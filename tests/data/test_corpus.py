"""Every broken data set ends in a clear error or in a counted skip: never in a traceback, a hang or a wrong label."""

import faulthandler
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

from oddetr.cli import main
from oddetr.data.doctor.check import check
from oddetr.data.doctor.faults import DataError
from oddetr.data.formats.reader import DataFolder, read_data
from oddetr.data.images import ImageError
from oddetr.data.sources import DigitsConfig, open_training_sources
from tests.data.builders import write_image
from tests.data.corpus import CASES, LABEL, Build, Case, many_coco, moved, with_label, with_lines
from tests.data.corpus import SOUND as sound

OF_CLASSES = {"few-examples", "no-examples"}
NOBODY = 65534
HANGS = 120.0
"""Seconds after which a case is taken to hang, and the tests end."""

Built = tuple[Case, Path]
# Pillow warns of odd metadata, which does not concern the pixels.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    """A case and its folder; where it must, read by a user who is not root."""
    case: Case = request.param
    place = Path(tempfile.mkdtemp(prefix="corpus"))
    place.chmod(0o755)
    case.build(place / "data")
    Image.init()
    is_root = os.geteuid() == 0
    faulthandler.dump_traceback_later(HANGS, exit=True)
    if is_root and case.user:
        os.seteuid(NOBODY)
    yield case, place / "data"
    if is_root and case.user:
        os.seteuid(0)
    faulthandler.cancel_dump_traceback_later()
    for folder, _, _ in os.walk(place):
        Path(folder).chmod(0o755)
    shutil.rmtree(place)


def assert_sound(folder: DataFolder) -> None:
    """Boxes are finite and inside their images, labels are known."""
    for data in folder.splits.values():
        truth = data.truth
        sides = np.repeat(truth.sizes[:, ::-1], np.diff(truth.offsets), axis=0)
        assert np.isfinite(truth.boxes).all()
        assert np.isfinite(truth.areas).all()
        assert (truth.areas > 0).all()
        assert (truth.boxes[:, :2] >= 0).all()
        assert (truth.boxes[:, 2:] <= sides).all()
        assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
        assert ((truth.labels >= 0) & (truth.labels < len(folder.classes))).all()
        assert len(set(truth.image_ids.tolist())) == len(truth) == len(data.files)


def test_corpus_when_checked_then_faults_and_what_is_left_are_as_expected(built: Built) -> None:
    case, root = built

    report = check(root)

    found = Counter(fault.kind for fault in report.faults if fault.kind not in OF_CLASSES)
    assert found == case.kinds, [str(fault)[:300] for fault in report.faults]
    left = report.folder and {name: (len(data), len(data.truth.boxes)) for name, data in report.folder.splits.items()}
    assert left == case.left
    if report.folder is not None:
        assert_sound(report.folder)
    if case.look is not None:
        case.look(report)


def test_corpus_when_trained_on_then_every_image_can_be_read_or_the_error_says_why(built: Built) -> None:
    case, root = built
    if case.wrong:
        with pytest.raises(DataError) as error:
            open_training_sources(str(root), DigitsConfig(), 0)
        assert case.said in str(error.value)
        return
    sources, _ = open_training_sources(str(root), DigitsConfig(), 0)
    for source in sources.values():
        for index in range(len(source)):
            sample = source.sample(index)
            assert sample.image.shape[:2] == sample.size


def test_corpus_when_evaluated_on_then_boxes_are_in_the_image_that_is_read_or_it_is_an_error(built: Built) -> None:
    """Images are not decoded before."""
    _, root = built
    with suppress(DataError, ImageError):
        for data in read_data(root).splits.values():
            for index in range(len(data)):
                sample = data.sample(index)
                assert (sample.boxes[:, 2:] <= sample.image.shape[1::-1]).all()


def test_corpus_when_checked_on_the_command_line_then_is_said_in_plain_words(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    case, root = built

    code = main(["check", str(root), "--all"])

    out, err = capsys.readouterr()
    assert code == int(case.wrong)
    assert err == ""
    assert "Traceback" not in out
    assert not re.search(r"\w+(Error|Exception)\b|Errno", out), out
    assert case.said in out
    assert not case.unsaid or case.unsaid not in out
    out.encode()


def test_corpus_when_counted_then_has_its_cases_under_names_of_their_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("build", [many_coco(10**6), with_label(LABEL * 10**6)], ids=["COCO", "YOLO"])
def test_million_objects_when_on_one_image_then_are_read_and_refused(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "data")

    report = check(tmp_path / "data")

    assert [fault.kind for fault in report.errors] == ["crowded-image"]
    assert report.statistics["train"].objects == 10**6 + 1


@pytest.mark.parametrize("path", ["train/b.jpg", "train", "annotations/instances_train.json", "annotations"])
def test_links_when_they_lead_out_and_that_is_allowed_then_are_followed(tmp_path: Path, path: str) -> None:
    root = tmp_path / "data"
    sound(root)
    moved(root / path)

    assert not check(root).ok
    report = check(root, allow_outside=True)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2
    sources, _ = open_training_sources(str(root), DigitsConfig(), 0, allow_outside=True)
    assert sources["train"].sample(1).image.shape == (48, 64, 3)
    assert main(["check", str(root), "--allow-outside", "true"]) == 0


@pytest.mark.parametrize("place", ["absolute", "above"])
def test_paths_when_they_lead_out_and_that_is_allowed_then_are_followed(tmp_path: Path, place: str) -> None:
    image = write_image(tmp_path / "elsewhere/images/c.jpg")
    (tmp_path / "elsewhere/labels").mkdir()
    (tmp_path / "elsewhere/labels/c.txt").write_text(LABEL)
    root = tmp_path / "data"
    with_lines("images/train/a.jpg\n" + (str(image) if place == "absolute" else "../elsewhere/images/c.jpg"))(root)

    assert [fault.kind for fault in check(root).errors] == ["outside-folder"]
    report = check(root, allow_outside=True)

    assert report.ok, report.errors
    assert report.statistics["train"].objects == 2
    assert report.folder is not None
    data = report.folder.splits["train"]
    assert (tmp_path / "data" / data.files[0]).samefile(image)
    assert data.sample(0).image.shape == (48, 64, 3)
