"""The demo: dropped files without gradio; the page in a browser and under load."""

import base64
import os
import re
import socket
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import ExifTags, Image

from oddetr.cli import main
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor
from oddetr.web import dropped, page
from oddetr.web.dropped import Drop, Found, Refused, choose, describe, detect, detect_all, draw, open_image, tabulate
from oddetr.web.page import check_address, is_local
from tests.web.asking import Served, asked, png

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

REQUESTS = int(os.environ.get("ODDETR_DEMO_REQUESTS", "40"))
CLASSES = ClassTable(("cat", "dog"), (3, 7))
FOUND = Detections(
    np.array([[10, 20.0, 30.25, 40], [0, 0, 5, 5], [50, 60, 70, 80]], np.float32),
    np.array([0.9, 0.5, 0.2], np.float32),
    np.array([1, 0, 1]),
)


def saved(file: Path, size: tuple[int, int] = (160, 120), **options: object) -> Path:
    Image.new("RGB", size, (90, 120, 60)).save(file, **options)
    return file


def refusal(file: Path, max_mb: float = 20.0) -> str:
    with pytest.raises(Refused) as refused:
        open_image(file, max_mb)
    return str(refused.value)


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


def test_choose_when_given_threshold_and_classes_then_filters_by_both() -> None:
    assert choose(FOUND, 0.5, []).scores.tolist() == pytest.approx([0.9, 0.5])
    assert choose(FOUND, 0.0, [1]).labels.tolist() == [1, 1]
    assert choose(FOUND, 0.3, [0, 1]).labels.tolist() == [1, 0]


def test_tabulate_when_given_detections_then_lists_them_best_first() -> None:
    assert tabulate(FOUND.take(np.array([1, 0])), CLASSES) == [
        ("dog", "0.900", "10.0", "20.0", "30.2", "40.0"),
        ("cat", "0.500", "0.0", "0.0", "5.0", "5.0"),
    ]


def test_describe_when_nothing_is_above_the_threshold_then_says_what_to_do() -> None:
    found = Found(Path("folder/pets.png"), (120, 160), FOUND)
    assert describe(found, choose(FOUND, 0.9, []), 0.9) == (
        "pets.png (160 x 120 pixels): 1 object with a score of at least 0.90."
    )
    assert "no objects" in (empty := describe(found, choose(FOUND, 0.95, []), 0.95))
    assert "Lower the threshold" in empty


def test_draw_when_the_image_is_large_then_shrinks_it_only_if_asked(tmp_path: Path) -> None:
    found = Found(saved(tmp_path / "large.png", (2400, 1200)), (1200, 2400), FOUND)
    assert draw(found, FOUND, CLASSES, longer=1600).size == (1600, 800)
    whole = draw(found, FOUND, CLASSES)
    assert whole.size == (2400, 1200)
    bare = draw(found, choose(FOUND, 1.0, []), CLASSES)
    assert np.any(np.asarray(whole) != np.asarray(bare))


def test_detect_when_the_image_has_an_exif_rotation_then_boxes_fit_it_upright(
    predictor: Predictor, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = detect(predictor, saved(tmp_path / "turned.jpg", (160, 120), exif=exif), 20.0)
    assert found.size == (160, 120)
    assert (found.detections.boxes[:, 2] <= 120).all()
    assert found.detections.boxes[:, 3].max() > 120


def test_open_image_when_the_file_is_refused_then_says_why_without_its_folder(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", (600, 400)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "big.png").write_bytes(whole + bytes(2**20))
    told = {name: refusal(tmp_path / name, max_mb=1.0) for name in ("cut.png", "text.jpg", "notes.txt", "big.png")}
    assert "truncated" in told["cut.png"]
    assert "empty, or no image" in told["text.jpg"]
    assert "no image of a known type. Known are .bmp, .jpeg, .jpg" in told["notes.txt"]
    assert told["big.png"] == "big.png has 1.0 MB; at most 1 MB are taken."
    assert "Drop it again" in refusal(tmp_path / "gone.png")
    assert not any(str(tmp_path) in reason for reason in told.values())


@pytest.mark.parametrize("pillows", [89_478_485, None])
def test_open_image_when_it_has_too_many_pixels_then_refuses_before_decoding(
    pillows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, side in (("below", 7_500), ("warned", 9_600), ("refused", 14_000)):
        Image.new("1", (side, side)).save(tmp_path / f"{mode}.png")
    monkeypatch.setattr(dropped, "read_image", lambda file: pytest.fail("it was unpacked"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert "7500 x 7500 pixels; at most 50 million" in refusal(tmp_path / "below.png")
        assert "9600 x 9600 pixels" in refusal(tmp_path / "warned.png")
        assert "too many pixels" in refusal(tmp_path / "refused.png")


def test_detect_all_when_files_are_added_then_detects_on_new_ones_only(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def seen(predictor: Predictor, file: Path, max_mb: float) -> Found:
        looked.append(file.name)
        return detect(predictor, file, max_mb)

    monkeypatch.setattr(dropped, "detect", seen)
    first, second, broken = (tmp_path / name for name in ("first.png", "second.png", "broken.png"))
    saved(first), saved(second, (50, 70)), broken.write_bytes(b"no image")
    drop = detect_all(predictor, [first], "teacher", 20.0, Drop())
    drop = detect_all(predictor, [first, broken, second], "teacher", 20.0, drop)
    assert looked == ["first.png", "broken.png", "second.png"]
    assert [found.file for found in drop.found] == [first, second]
    assert len(drop.refused) == 1
    detect_all(predictor, [first], "student", 20.0, drop)
    assert looked[3:] == ["first.png"]


def test_detect_all_when_too_many_files_are_dropped_then_says_how_many_count(
    predictor: Predictor, tmp_path: Path
) -> None:
    drop = detect_all(predictor, [tmp_path / f"{index}.txt" for index in range(25)], "teacher", 20.0, Drop())
    assert len(drop.refused) == dropped.MAX_FILES + 1
    assert "first 20 of 25" in drop.refused[-1]


def test_is_local_when_given_a_host_then_tells_whether_the_network_reaches_it() -> None:
    hosts = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "box")
    assert [is_local(host) for host in hosts] == [True, True, True, False, False]


def test_check_address_when_it_cannot_be_listened_on_then_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "203.0.113.7"):
            with pytest.raises(OSError, match=rf"Cannot listen on port {port} of {host}: .* --port {port + 1}"):
                check_address(host, port)
    check_address("127.0.0.1", port)
    with pytest.raises(ValueError, match="1-65535"):
        check_address("127.0.0.1", 0)


def test_page_when_many_requests_come_and_half_are_broken_then_answers_each(
    served: Served,
) -> None:
    whole = png((300, 200))
    broken = [
        ("big.png", whole + bytes(2**21), "big.png has 2.0 MB; at most 1 MB are taken."),
        ("notes.txt", b"no image", "refused"),
        ("text.jpg", b"no image", "empty, or no image"),
        ("cut.png", whole[: len(whole) // 2], "truncated"),
        ("bomb.png", png((9_600, 7_000), "1"), "at most 50 million"),
    ]
    requests = [broken[index // 2 % len(broken)] for index in range(0, REQUESTS)]
    for index in range(0, REQUESTS, 2):
        requests[index] = (
            f"../../good{index}.png",
            png((60 + index, 40)),
            f"good{index}.png ({60 + index} x 40 pixels): ",
        )

    def timed(request: tuple[str, bytes, str]) -> tuple[str, float]:
        begun = time.perf_counter()
        return asked(served.url, *request[:2]), time.perf_counter() - begun

    before = served.memory()
    with ThreadPoolExecutor(8) as pool:
        told, seconds = zip(*pool.map(timed, requests), strict=True)
    print(
        f"{sum(answer.startswith('refused') for answer in told)} of {REQUESTS} refused; the longest answer took "
        f"{max(seconds):.1f} s, {max(seconds) / statistics.median(seconds):.1f} times the median; memory before "
        f"{before:.0f} MiB, after {served.memory():.0f} MiB"
    )
    for (name, _, wanted), found in zip(requests, told, strict=True):
        assert wanted in found
        assert found.startswith("refused") == ("good" not in name), found
        assert "../" not in found


def test_page_when_a_dropped_name_leads_elsewhere_then_writes_in_its_folder(served: Served) -> None:
    around = served.log.parent
    (kept,) = (around / "tmp").glob("oddetr-demo-*")

    def tree() -> dict[Path, bytes]:
        outside = (path for path in around.rglob("*") if kept not in path.parents and path != served.log)
        return {path: path.read_bytes() if path.is_file() else b"" for path in outside}

    before = tree()
    names = (
        "../../good.png",
        "../../../good.png",
        "..\\..\\good.png",
        f"{around}/good.png",
        f"{around}/log.txt/good.png",
    )
    for width, name in enumerate(names, start=60):
        dropped = png((width, 40))
        assert f"({width} x 40 pixels): " in asked(served.url, name, dropped)
        assert dropped in [path.read_bytes() for path in kept.rglob("*.png")]
    assert tree() == before


def test_page_when_the_queue_is_full_then_refuses_more_and_answers_those_in_it(served: Served) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(asked, served.url, f"slow{index}.png", png((40 + index, 40))) for index in range(16)]
        refused = [answer.result() for _, answer in zip(range(3), as_completed(answers, timeout=60), strict=False)]
        served.go_on.touch()
        told = [answer.result() for answer in answers]
    assert all("ueue is full" in answer for answer in refused)
    assert sum("x 40 pixels): " in answer for answer in told) == 13
    steps = [line.split()[0] for line in served.told() if "slow" in line]
    assert steps == ["begin", "end"] * 13


def test_page_when_no_host_is_given_then_listens_on_127_0_0_1_only(served: Served) -> None:
    port = int(served.url.split(":")[-1].strip("/"))
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_demo_when_open_to_the_network_then_warns_before_it_serves(
    host: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def interrupted(*_: object) -> Iterator[str]:
        assert ("everyone on the network" in capsys.readouterr().out) == warned
        yield "http://somewhere"

    def interrupt(event: threading.Event) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "serving", interrupted)
    monkeypatch.setattr(page.threading.Event, "wait", interrupt)
    assert main(["demo", "run", "--host", host]) == 0
    assert "http://somewhere" in capsys.readouterr().out


def test_demo_when_an_option_is_wrong_then_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ([], "There is no nowhere"),
        (["--threshold", "2"], "The threshold is 2.0; scores lie in [0, 1]"),
        (["--max-mb", "0"], "it must be above 0"),
    ):
        assert main(["demo", "nowhere", *words]) == 1
        assert message in capsys.readouterr().err


def test_demo_when_gradio_is_missing_then_names_the_extra(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install gradio"):
        page.demo(trained)


DROPPING = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
    return transfer;
}"""


def test_page_when_an_image_is_dropped_in_a_browser_then_shows_detections(
    served: Served, browser: "Browser", tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    visit = browser.new_page()
    visit.set_default_timeout(30_000)
    errors: list[str] = []
    foreign: list[str] = []
    visit.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    visit.on("pageerror", lambda error: errors.append(str(error)))

    def pass_only_local(route: "Route") -> None:
        if route.request.url.startswith(served.url):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    visit.route(re.compile("^(http|ws)"), pass_only_local)
    visit.goto(served.url)
    dropped = visit.evaluate_handle(DROPPING, [base64.b64encode(png((300, 200))).decode(), "<b>scene.png"])
    visit.get_by_text("Drop File Here").dispatch_event("drop", {"dataTransfer": dropped})
    status = visit.get_by_role("status").filter(has_text="300 x 200 pixels")
    status.filter(has_text="100 objects").wait_for()
    rows = visit.locator(".oddetr-table tbody tr")
    expect(rows).to_have_count(100)
    names = rows.locator("td:first-child").all_inner_texts()
    visit.get_by_role("img", name="100 objects").wait_for()

    visit.get_by_role("combobox", name="Classes").click()
    visit.get_by_role("option", name=names[0], exact=True).click()
    status.filter(has_text=f"{names.count(names[0])} object").wait_for()
    expect(rows).to_have_count(names.count(names[0]))
    assert set(rows.locator("td:first-child").all_inner_texts()) == {names[0]}
    with visit.expect_download() as download:
        visit.get_by_role("button", name="Download the picture").click()
    assert download.value.suggested_filename.endswith("scene_detections.png")
    with Image.open(download.value.path()) as picture:
        assert picture.size == (720, 480)

    visit.get_by_role("slider", name="Threshold").press("End")
    status.filter(has_text="no objects with a score of at least 1.00").wait_for()
    expect(rows).to_have_count(0)
    assert [line for line in served.told() if line.startswith("end") and "scene" in line] == ["end bscene.png"]
    assert errors == []
    assert foreign == []
    assert [line for line in served.told() if line.startswith("foreign")] == []
