"""The demo: what is done with dropped files, without gradio; and the page, in a browser and under load."""

import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from oddetr import dropped
from oddetr.data.dataset import ClassTable
from oddetr.detections import Detections
from oddetr.dropped import Drop, Found, Refused, choose, describe, detect, detect_all, draw, open_image, tabulate
from oddetr.inference import Predictor
from oddetr.page import check_address, is_local

REQUESTS = int(os.environ.get("ODDETR_DEMO_REQUESTS", "40"))
CLASSES = ClassTable(("cat", "dog"), (3, 7))
FOUND = Detections(
    np.array([[10, 20, 30.25, 40], [0, 0, 5, 5], [50, 60, 70, 80]], np.float32),
    np.array([0.9, 0.5, 0.2], np.float32),
    np.array([1, 0, 1]),
)


def saved(file: Path, size: tuple[int, int] = (160, 120), **options: object) -> Path:
    Image.new("RGB", size, (90, 120, 60)).save(file, **options)
    return file


def refusal(file: Path, max_mb: float = 20) -> str:
    with pytest.raises(Refused) as refused:
        open_image(file, max_mb)
    return str(refused.value)


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


def test_choose_when_given_threshold_and_classes_then_keeps_these_and_without_classes_all() -> None:
    assert choose(FOUND, 0.5, []).scores.tolist() == pytest.approx([0.9, 0.5])
    assert choose(FOUND, 0.0, [1]).labels.tolist() == [1, 1]
    assert choose(FOUND, 0.3, [0, 1]).labels.tolist() == [1, 0]
    assert len(choose(FOUND, 0.95, [])) == 0


def test_tabulate_when_given_detections_then_names_them_best_first_with_boxes_in_pixels() -> None:
    rows = tabulate(FOUND.take(np.array([1, 0])), CLASSES)
    assert rows == [
        ("dog", "0.900", "10.0", "20.0", "30.2", "40.0"),
        ("cat", "0.500", "0.0", "0.0", "5.0", "5.0"),
    ]


def test_describe_when_nothing_is_above_the_threshold_then_says_what_to_do() -> None:
    found = Found(Path("folder/pets.png"), (120, 160), FOUND)
    assert describe(found, choose(FOUND, 0.9, []), 0.9) == (
        "pets.png (160 x 120 pixels): 1 object with a score of at least 0.90."
    )
    assert "no objects" in describe(found, choose(FOUND, 0.95, []), 0.95)
    assert "Lower the threshold" in describe(found, choose(FOUND, 0.95, []), 0.95)


def test_draw_when_the_image_is_larger_than_a_screen_then_is_shrunk_only_if_asked(tmp_path: Path) -> None:
    found = Found(saved(tmp_path / "large.png", (2400, 1200)), (1200, 2400), FOUND)
    assert draw(found, FOUND, CLASSES, longer=1600).size == (1600, 800)
    whole = draw(found, FOUND, CLASSES)
    assert whole.size == (2400, 1200)
    bare = draw(found, choose(FOUND, 1.0, []), CLASSES)
    assert np.any(np.asarray(whole) != np.asarray(bare))


def test_detect_when_the_image_has_an_exif_rotation_then_works_in_the_image_as_shown(
    predictor: Predictor, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = detect(predictor, saved(tmp_path / "turned.jpg", (160, 120), exif=exif), 20)
    assert found.size == (160, 120)
    assert (found.detections.boxes[:, 2] <= 120).all()
    assert found.detections.boxes[:, 3].max() > 120


def test_open_image_when_the_file_is_not_taken_then_says_why_by_its_name_alone(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", (600, 400)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "big.png").write_bytes(whole + bytes(2**20))
    told = {name: refusal(tmp_path / name, max_mb=1) for name in ("cut.png", "text.jpg", "notes.txt", "big.png")}
    assert "truncated" in told["cut.png"]
    assert "empty or no image" in told["text.jpg"]
    assert "no image of a known type. Known are .bmp, .jpeg, .jpg" in told["notes.txt"]
    assert told["big.png"] == "big.png has 1.0 MB; at most 1 MB are taken."
    assert "Drop it again" in refusal(tmp_path / "gone.png")
    assert not any(str(tmp_path) in reason for reason in told.values())


def test_open_image_when_it_would_be_huge_unpacked_then_refuses_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, side in (("below", 7_500), ("warned", 9_600), ("refused", 14_000)):
        Image.new("1", (side, side)).save(tmp_path / f"{mode}.png")
    monkeypatch.setattr(dropped, "read_image", lambda file: pytest.fail("it was unpacked"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert "7500 x 7500 pixels; at most 50 million" in refusal(tmp_path / "below.png")
        assert "9600 x 9600 pixels" in refusal(tmp_path / "warned.png")
        assert "too many pixels" in refusal(tmp_path / "refused.png")


def test_detect_all_when_files_are_added_then_looks_only_at_the_new_and_with_other_weights_at_all(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def seen(predictor: Predictor, file: Path, max_mb: float) -> Found:
        looked.append(file.name)
        return detect(predictor, file, max_mb)

    monkeypatch.setattr(dropped, "detect", seen)
    first, second, broken = (tmp_path / name for name in ("first.png", "second.png", "broken.png"))
    saved(first), saved(second, (50, 70)), broken.write_bytes(b"no image")
    drop = detect_all(predictor, [first], "teacher", 20, Drop())
    drop = detect_all(predictor, [first, broken, second], "teacher", 20, drop)
    assert looked == ["first.png", "broken.png", "second.png"]
    assert [found.file for found in drop.found] == [first, second]
    assert len(drop.refused) == 1
    detect_all(predictor, [first], "student", 20, drop)
    assert looked[3:] == ["first.png"]


def test_detect_all_when_too_many_files_are_dropped_then_says_how_many_were_looked_at(
    predictor: Predictor, tmp_path: Path
) -> None:
    drop = detect_all(predictor, [tmp_path / f"{index}.txt" for index in range(25)], "teacher", 20, Drop())
    assert len(drop.refused) == dropped.MOST_FILES + 1
    assert "first 20 of 25" in drop.refused[-1]


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)]
)
def test_is_local_when_given_a_host_then_knows_whether_the_network_reaches_it(host: str, local: bool) -> None:
    assert is_local(host) == local


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def test_check_address_when_it_cannot_be_listened_on_then_names_the_next_thing_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"Port {port} of 127\.0\.0\.1 is taken.* --port {port + 1}"):
            check_address("127.0.0.1", port)
    with pytest.raises(OSError, match="Give an address of this machine"):
        check_address("203.0.113.7", port)
    with pytest.raises(ValueError, match="1-65535"):
        check_address("127.0.0.1", 0)
