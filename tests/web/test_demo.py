"""The demo: dropped files without gradio; the page in a browser, under load, and asked for what it refuses."""

import base64
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from oddetr.cli import main
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor
from oddetr.web import dropped, page
from oddetr.web.dropped import Found, choose, describe, detect_all, draw, tabulate
from oddetr.web.page import check_address, is_local
from tests.browser import browser
from tests.prediction.blobs import blob_predictor, detect_calls

if TYPE_CHECKING:
    from tests.web.asking import Served

REQUESTS = int(os.environ.get("ODDETR_DEMO_REQUESTS", "12"))
CLASSES = ClassTable(("cat", "dog"), (3, 7))
FOUND = Detections(
    np.array([[10, 20.0, 30.25, 40], [0, 0, 5, 5], [50, 60, 70, 80]], np.float32),
    np.array([0.9, 0.5, 0.2], np.float32),
    np.array([1, 0, 1]),
)


def saved(file: Path, size: tuple[int, int] = (160, 120)) -> Path:
    Image.new("RGB", size, (90, 120, 60)).save(file)
    return file


def test_detections_when_chosen_then_are_described_tabulated_and_drawn(tmp_path: Path) -> None:
    assert choose(FOUND, 0.5, []).scores.tolist() == pytest.approx([0.9, 0.5])
    assert choose(FOUND, 0.3, [0, 1]).labels.tolist() == [1, 0]
    dogs = choose(FOUND, 0.0, [1])
    assert tabulate(dogs, CLASSES) == [
        ["dog", "0.900", "10.0", "20.0", "30.2", "40.0"],
        ["dog", "0.200", "50.0", "60.0", "70.0", "80.0"],
    ]
    found = Found(saved(tmp_path / "pets.png", (2400, 1200)), (1200, 2400), FOUND)
    assert describe(found, dogs, 0.1) == "pets.png (2400 x 1200 pixels): 2 objects with a score of at least 0.10."
    nothing = choose(FOUND, 0.95, [])
    assert "no objects" in describe(found, nothing, 0.95)
    assert "Lower the threshold" in describe(found, nothing, 0.95)
    assert draw(found, dogs, CLASSES).size == (1600, 800)
    assert np.any(np.asarray(draw(found, dogs, CLASSES)) != np.asarray(draw(found, nothing, CLASSES)))


def test_detect_all_when_files_are_added_then_detects_on_new_ones_and_names_broken_ones(tmp_path: Path) -> None:
    predictor = blob_predictor()
    first, second, broken = (tmp_path / name for name in ("first.png", "second.png", "broken.png"))
    saved(first), saved(second, (50, 70)), broken.write_bytes(b"no image")
    before, _ = detect_all(predictor, [first])
    found, refused = detect_all(predictor, [first, broken, second], before)
    assert detect_calls == [[(120, 160)], [(70, 50)]]
    assert [each.file for each in found] == [first, second]
    assert "Cannot read the image broken.png: the file is empty, or no image" in refused[0]
    _, refused = detect_all(predictor, [broken] * 25)
    assert len(refused) == dropped.MAX_FILES + 1
    assert "first 20 of 25" in refused[-1]


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

    monkeypatch.setattr(Predictor, "load", lambda *_: blob_predictor())
    monkeypatch.setattr(page, "serving", interrupted)
    monkeypatch.setattr(page.threading.Event, "wait", interrupt)
    assert main(["demo", "run", "--host", host, "--port", "47860"]) == 0
    assert "http://somewhere" in capsys.readouterr().out


def test_demo_when_it_cannot_be_served_then_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["--port", "47860"], "There is no nowhere"),
        (["--threshold", "2"], "The threshold is 2.0; scores lie in [0, 1]"),
        (["--max-mb", "0"], "it must be above 0"),
    ):
        assert main(["demo", "nowhere", *words]) == 1
        assert message in capsys.readouterr().err
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install gradio"):
        page.demo("nowhere")


def test_page_when_many_requests_come_and_half_are_broken_then_answers_each_and_writes_in_its_folder(
    served: "Served",
) -> None:
    from tests.web.asking import png

    around = served.foreign.parent
    (kept,) = (around / "tmp").glob("oddetr-demo-*")
    whole = png((300, 200))
    broken = [
        ("big.png", whole + bytes(2**21), "maximum allowed size"),
        ("notes.txt", b"no image", "Invalid file type"),
        ("text.jpg", b"no image", "empty, or no image"),
        ("cut.png", whole[: len(whole) // 2], "truncated"),
    ]
    good = ("../../good", "..\\..\\good", f"{around}/good")
    requests = [broken[index // 2 % len(broken)] for index in range(REQUESTS)]
    for index in range(0, REQUESTS, 2):
        name = f"{good[index // 2 % len(good)]}.png"
        requests[index] = (name, png((60 + index, 40)), f"({60 + index} x 40 pixels): ")

    def outside() -> list[Path]:
        return sorted(path for path in around.rglob("*") if kept not in path.parents)

    before = outside()
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda request: served.asked(*request[:2]), requests))
    for (name, _, wanted), found in zip(requests, told, strict=True):
        assert wanted in found
        assert found.startswith("refused") == ("good" not in name), found
        assert "../" not in found
    assert outside() == before


def test_page_when_a_request_names_an_address_or_another_file_then_fetches_and_reads_nothing(served: "Served") -> None:
    from tests.web.asking import detection_of

    foreign = "http://93.184.215.14/stranger.png"
    with served.client() as client:
        for path in (foreign, "https://huggingface.co/a.png", "/etc/hostname.png", "../../etc/hostname.png"):
            answer = client.post("gradio_api/call/detect", json=detection_of(path)).json()
            stream = client.get(f"gradio_api/call/detect/{answer['event_id']}").text if "event_id" in answer else ""
            assert "complete" not in stream
        for path in (foreign, "/etc/hostname", "/proc/self/environ", "../../../etc/hostname", "pyproject.toml"):
            for address in (f"file={path}", f"file/{path}", f"proxy={path}"):
                assert client.get(f"gradio_api/{address}").status_code in (400, 403, 404)
        for address in ("monitoring", "gradio_api/runs", "gradio_api/vibe-code"):  # of gradio's, which the demo lacks
            assert not client.get(address).is_success
        assert not client.post("gradio_api/run/detect", json=detection_of("a.png")).is_success
    assert not served.foreign.exists()


def test_page_when_asked_from_another_site_or_by_another_name_then_refuses(served: "Served") -> None:
    """A name of the web that leads to this machine (DNS rebinding) is not this page's."""
    from tests.web.asking import detection_of, png

    files = {"files": ("a.png", png((9, 9)))}
    with served.client() as client:
        for origin in ("http://stranger.example", "null", "http://127.0.0.1:1", "http://["):
            answer = client.post("gradio_api/upload", files=files, headers={"origin": origin})
            assert (answer.status_code, "its own page only" in answer.text) == (403, True)
        headers = {"origin": served.url.rstrip("/")}
        assert client.post("gradio_api/upload", files=files, headers=headers).status_code == 200
        plain = {"content-type": "text/plain"}  # which a browser sends to another site without asking it first
        answer = client.post("gradio_api/call/detect", content=str(detection_of("a.png")), headers=plain)
        assert answer.status_code == 422
        for host in ("stranger.example", "127.0.0.1.stranger.example", "", "["):
            assert client.get("", headers={"host": host}).status_code == 400
        assert client.get("", headers={"host": "localhost:1"}).status_code == 200
    with pytest.raises(ConnectionRefusedError):  # without --host it listens on 127.0.0.1 only
        socket.create_connection(("127.0.0.2", int(served.url.split(":")[-1].strip("/"))))


DROPPING = """([content, name, more]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes, new Uint8Array(more)], name, {type: "image/png"}));
    return transfer;
}"""


def test_page_when_images_are_dropped_in_a_browser_then_shows_detections(served: "Served") -> None:
    from playwright.sync_api import expect

    from tests.web.asking import png

    expect.set_options(timeout=30_000)
    content = base64.b64encode(png((300, 200))).decode()
    with browser() as open_page:
        watched = open_page()
        visit = watched.page
        visit.set_default_timeout(30_000)
        visit.goto(served.url)
        area = visit.get_by_text("Drop File Here")
        slider = visit.get_by_role("slider", name="Threshold")
        scene = visit.evaluate_handle(DROPPING, [content, "<b>scene.png", 0])
        area.dispatch_event("drop", {"dataTransfer": scene})
        status = visit.get_by_role("status").filter(has_text="300 x 200 pixels")
        status.filter(has_text="100 objects").wait_for()
        visit.get_by_role("img", name="100 objects").wait_for()
        name = visit.get_by_role("gridcell").first.inner_text().strip()
        assert name in set("0123456789")

        visit.set_viewport_size({"width": 390, "height": 844})
        parts = (visit.get_by_role("img", name="100 objects"), slider, visit.get_by_role("gridcell").first)
        picture_top, slider_top, table_top = (part.bounding_box()["y"] for part in parts)
        assert picture_top < slider_top < table_top
        assert visit.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visit.set_viewport_size({"width": 1280, "height": 900})

        visit.get_by_role("combobox", name="Classes").click()
        visit.get_by_role("option", name=name, exact=True).click()
        expect(status).not_to_contain_text("100 objects")
        with visit.expect_download() as download:
            visit.get_by_role("button", name="Download").first.click()
        with Image.open(download.value.path()) as picture:
            assert picture.size == (720, 480)

        slider.press("End")
        status.filter(has_text="no objects with a score of at least 1.00").wait_for()
        assert watched.errors == []

        visit.goto(served.url)
        large = visit.evaluate_handle(DROPPING, [content, "big.png", 2**21])
        area.dispatch_event("drop", {"dataTransfer": large})
        visit.get_by_text('exceed the maximum allowed size of 1.0 Mb: "big.png"').first.wait_for()
        assert watched.foreign == []
    assert not served.foreign.exists()
