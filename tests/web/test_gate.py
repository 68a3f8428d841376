"""What the demo's server lets in: who asks, for what, and which files."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from oddetr.web.gate import DROPS_KEPT, MOST_JSON, Gate, Message, Receive, Send
from tests.web.asking import Served, png

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser

FOREIGN = "http://93.184.215.14/stranger.png"
"""An address of the internet, which nothing here may ask."""
ELSEWHERE = (
    FOREIGN,
    "https://stranger.example/a.png",
    "/etc/hostname.png",
    "../../etc/hostname.png",
    "file:///etc/hostname.png",
    "\0.png",
)


def client(served: Served) -> "httpx.Client":
    import httpx

    return httpx.Client(base_url=served.url, timeout=60, trust_env=False)


def looked_at(path: object) -> dict[str, object]:
    """A request to look at one file."""
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    return {"data": [[file], "teacher", 0.0, []]}


@pytest.mark.parametrize("path", ELSEWHERE)
def test_page_when_a_request_names_a_file_that_was_not_dropped_then_refuses_and_asks_nobody(
    served: Served, path: str
) -> None:
    joined = looked_at(path) | {"fn_index": 0, "session_hash": "stranger", "event_data": None, "trigger_id": None}
    with client(served) as asking:
        for address, content in (("call/look", looked_at(path)), ("queue/join", joined)):
            answer = asking.post(f"gradio_api/{address}", json=content)
            assert (answer.status_code, answer.json()) == (
                403,
                {"detail": "Only files that were dropped on this page are looked at."},
            )
    assert [line for line in served.told() if line.startswith("foreign")] == []


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "/proc/self/environ", FOREIGN, "../../../etc/hostname", "pyproject.toml"]
)
def test_page_when_asked_for_another_file_then_serves_none(served: Served, path: str) -> None:
    with client(served) as asking:
        answer = asking.get(f"gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert [line for line in served.told() if line.startswith("foreign")] == []


@pytest.mark.parametrize(
    "address",
    [
        f"gradio_api/proxy={FOREIGN}",
        "gradio_api/run/look",
        "gradio_api/call/v2/look",
        "gradio_api/call/save",
        "gradio_api/vibe-edit",
        "gradio_api/process_recording",
        "gradio_api/component_server",
        "gradio_api/stream/x",
        "gradio_api/dev/reload",
        "monitoring",
        "docs",
        "openapi.json",
    ],
)
def test_page_when_asked_for_what_it_does_not_need_then_has_no_such_address(served: Served, address: str) -> None:
    with client(served) as asking:
        assert {asking.get(address).status_code, asking.post(address, json={}).status_code} == {404}


@pytest.mark.parametrize("host", ["stranger.example", "127.0.0.1.stranger.example", "", "[::2]", "["])
def test_page_when_asked_by_another_name_then_does_not_answer(served: Served, host: str) -> None:
    """A name of the web that leads to this machine (DNS rebinding) is not this page's."""
    with client(served) as asking:
        assert asking.get("", headers={"host": host}).status_code in (400, 421)
        assert asking.get("", headers={"host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://stranger.example", "null", "http://127.0.0.1:1", "http://localhost", "http://["]
)
def test_page_when_another_page_asks_then_refuses_and_keeps_nothing(served: Served, origin: str) -> None:
    with client(served) as asking:
        answer = asking.post("gradio_api/upload", files={"files": ("a.png", png((9, 9)))}, headers={"origin": origin})
        assert answer.status_code == 403
        assert "its own page only" in answer.text
        own = asking.post(
            "gradio_api/upload", files={"files": ("a.png", png((9, 9)))}, headers={"origin": served.url.rstrip("/")}
        )
        assert own.status_code == 200


def test_page_when_a_drop_is_too_large_as_a_whole_then_says_so_in_its_own_words(served: Served) -> None:
    with client(served) as asking:
        answer = asking.post("gradio_api/upload", files={"files": ("big.png", bytes(22 * 2**20))})
    assert answer.status_code == 413
    assert answer.text == (
        "What was dropped has 22.0 MB; at most 21 MB are taken at once. Drop fewer or smaller files."
    )


def test_page_when_one_file_of_a_drop_is_too_large_then_looks_at_the_others(served: Served) -> None:
    files = [("files", ("big.png", png((9, 9)) + bytes(2**21))), ("files", ("good.png", png((90, 60))))]
    with client(served) as asking:
        sent = asking.post("gradio_api/upload", files=files).json()
        named = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]
        event = asking.post("gradio_api/call/look", json={"data": [named, "teacher", 0.0, []]}).json()["event_id"]
        told = asking.get(f"gradio_api/call/look/{event}").text
    assert "big.png has 2.0 MB; at most 1 MB are taken." in told
    assert "good.png (90 x 60 pixels): " in told


DROPPING = """(sizes) => {
    const transfer = new DataTransfer();
    for (const [name, content, more] of sizes) {
        const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
        transfer.items.add(new File([bytes, new Uint8Array(more)], name, {type: "image/png"}));
    }
    return transfer;
}"""


def test_page_when_a_drop_is_partly_or_wholly_too_large_then_tells_it_in_the_browser(
    served: Served, browser: "Browser"
) -> None:
    content = base64.b64encode(png((90, 60))).decode()
    visit = browser.new_page()
    visit.set_default_timeout(30_000)
    visit.goto(served.url)
    area = visit.get_by_text("Drop File Here")
    files = [("big.png", content, 2**21), ("good.png", content, 0)]
    area.dispatch_event("drop", {"dataTransfer": visit.evaluate_handle(DROPPING, files)})
    visit.get_by_role("alert").filter(has_text="big.png has 2.0 MB; at most 1 MB are taken.").wait_for()
    visit.get_by_role("status").filter(has_text="good.png (90 x 60 pixels)").wait_for()

    visit.goto(served.url)
    dropped = visit.evaluate_handle(DROPPING, [("huge.png", content, 22 * 2**20)])
    area.dispatch_event("drop", {"dataTransfer": dropped})
    visit.get_by_text("at most 21 MB are taken at once").first.wait_for()


async def nothing(scope: Message, receive: Receive, send: Send) -> None:
    pytest.fail("it was let in")


UPLOAD = "/gradio_api/upload"


async def answer(gate: Gate, body: bytes, path: str, **more: str) -> tuple[int, str]:
    """The status and the answer to a POST; `more` are headers, with _ for -."""
    sent: list[Message] = []
    parts = [body[:9], body[9:]]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    told = {"host": "localhost"} | more
    headers = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in told.items()]
    await gate({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


def refusal(gate: Gate, body: bytes, path: str = "/gradio_api/queue/join", **more: str) -> tuple[int, str]:
    """`answer`, of one request."""
    return asyncio.run(answer(gate, body, path, **more))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[" * 200_000, 400),
        (json.dumps([[[{"a": {"path": 3}}]]]).encode(), 403),
        (b"0" * (MOST_JSON + 1), 413),
    ],
)
def test_gate_when_a_request_is_broken_then_refuses_before_the_server(tmp_path: Path, body: bytes, status: int) -> None:
    assert refusal(Gate(nothing, tmp_path, frozenset({"localhost"}), 100), body)[0] == status


def test_gate_when_uploads_would_fill_the_disk_then_refuses_them(tmp_path: Path) -> None:
    gate = Gate(nothing, tmp_path, None, 100)
    (tmp_path / "kept").write_bytes(bytes(DROPS_KEPT * 100 - 20))
    status, told = refusal(gate, bytes(21), UPLOAD, content_length="21")
    assert (status, told.partition(";")[0]) == (507, "Too many files are kept here already")


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"content_length": "-1"},
        {"content_length": "9" * 5000},
        {"transfer_encoding": "chunked"},
        {"content_length": "10", "transfer_encoding": "chunked"},
    ],
)
def test_gate_when_an_upload_does_not_tell_its_length_then_refuses_it(told: dict[str, str], tmp_path: Path) -> None:
    assert refusal(Gate(nothing, tmp_path, None, 100), bytes(10), UPLOAD, **told) == (
        411,
        "An upload must tell its length.",
    )


def test_gate_when_an_upload_has_more_bytes_than_it_told_then_passes_no_more_on(tmp_path: Path) -> None:
    taken: list[bytes] = []

    async def take(scope: Message, receive: Receive, send: Send) -> None:
        while (message := await receive())["more_body"]:
            taken.append(message["body"])
        taken.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate = Gate(take, tmp_path, None, 100)
    assert refusal(gate, bytes(5000), UPLOAD, content_length="10")[0] == 400
    assert sum(map(len, taken)) <= 10
    assert refusal(gate, bytes(10), UPLOAD, content_length="10")[0] == 200


def test_gate_when_many_upload_at_once_then_lets_in_as_many_as_have_room(tmp_path: Path) -> None:
    async def all_at_once(gate: Gate) -> list[int]:
        answers = await asyncio.gather(
            *(answer(gate, bytes(100), UPLOAD, content_length="100") for _ in range(DROPS_KEPT + 2))
        )
        return [status for status, _ in answers]

    async def wait(scope: Message, receive: Receive, send: Send) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate = Gate(wait, tmp_path, None, 100)
    for _ in range(2):
        assert asyncio.run(all_at_once(gate)) == [200] * DROPS_KEPT + [507] * 2


def test_gate_when_kept_files_go_while_it_counts_them_then_leaves_these_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(bytes(100))
    stat = Path.stat

    def last(self: Path, **options: bool) -> os.stat_result:
        found = stat(self, **options)
        if self in files:
            for file in files:
                file.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "stat", last)
    gate = Gate(nothing, tmp_path, None, 100)
    with gate.uploading({"content-length": "70"}) as length:
        assert length == 70


def test_gate_when_an_origin_is_no_address_then_refuses_it(tmp_path: Path) -> None:
    status, told = refusal(Gate(nothing, tmp_path, None, 100), b"", origin="http://[")
    assert (status, json.loads(told)) == (
        403,
        {"detail": "The demo answers its own page only, not one of http://[."},
    )


def test_gate_when_a_link_leads_out_of_the_folder_then_follows_and_refuses_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "link.png").symlink_to(tmp_path / "secret.png")
    body = json.dumps({"path": str(kept / "link.png")}).encode()
    assert refusal(Gate(nothing, kept, None, 100), body)[0] == 403
