"""Middleware in front of gradio: which requests it refuses, on the served page and by itself."""

import asyncio
import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.asking import Served, file_data, png

pytest.importorskip("starlette", reason="the demo needs gradio: pip install 'oddetr[demo]'")
from oddetr.web.gate import DROPS_KEPT, MAX_JSON, Gate

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser

FOREIGN = "http://93.184.215.14/stranger.png"
"""An address of the internet, which nothing here may ask."""
UPLOAD = "/gradio_api/upload"


def client(served: Served) -> "httpx.Client":
    import httpx

    return httpx.Client(base_url=served.url, timeout=60, trust_env=False)


def test_page_when_a_request_names_another_file_then_fetches_and_reads_nothing(served: Served) -> None:
    with client(served) as asking:
        for path in (FOREIGN, "/etc/hostname.png", "../../etc/hostname.png", "file:///etc/hostname.png", "\0.png"):
            content = {"data": [[file_data(path)], "teacher", 0.0, []]}
            joined = content | {"fn_index": 0, "session_hash": "stranger", "event_data": None, "trigger_id": None}
            for address, body in (("call/detect", content), ("queue/join", joined), ("run/detect", content)):
                answer = asking.post(f"gradio_api/{address}", json=body)
                assert (answer.status_code, "Only files that were dropped" in answer.text) == (403, True)
        for path in (FOREIGN, "/etc/hostname", "/proc/self/environ", "../../../etc/hostname", "pyproject.toml"):
            for address in (f"file={path}", f"file/{path}", f"proxy={path}"):
                assert asking.get(f"gradio_api/{address}").status_code in (400, 403, 404)
    assert [line for line in served.told() if line.startswith("foreign")] == []


def test_page_when_gradio_has_more_than_the_demo_uses_then_it_is_off(served: Served) -> None:
    body = {"data": [[], "teacher", 0.0, []]}
    with client(served) as asking:
        for address in ("monitoring", "gradio_api/runs", "gradio_api/vibe-code"):
            assert not asking.get(address).is_success
        for address in ("gradio_api/run/detect", "gradio_api/run-history/connect", "gradio_api/vibe-edit"):
            assert not asking.post(address, json=body).is_success


def test_page_when_asked_by_another_name_then_does_not_answer(served: Served) -> None:
    """A name of the web that leads to this machine (DNS rebinding) is not this page's."""
    with client(served) as asking:
        for host in ("stranger.example", "127.0.0.1.stranger.example", "", "[::2]", "["):
            assert asking.get("", headers={"host": host}).status_code == 400
        assert asking.get("", headers={"host": "localhost:1"}).status_code == 200


def test_page_when_another_sites_page_asks_then_stores_nothing(served: Served) -> None:
    files = {"files": ("a.png", png((9, 9)))}
    with client(served) as asking:
        for origin in ("http://stranger.example", "null", "http://127.0.0.1:1", "http://localhost", "http://["):
            answer = asking.post(UPLOAD, files=files, headers={"origin": origin})
            assert (answer.status_code, "its own page only" in answer.text) == (403, True)
        assert asking.post(UPLOAD, files=files, headers={"origin": served.url.rstrip("/")}).status_code == 200


DROPPING = """(sizes) => {
    const transfer = new DataTransfer();
    for (const [name, content, more] of sizes) {
        const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
        transfer.items.add(new File([bytes, new Uint8Array(more)], name, {type: "image/png"}));
    }
    return transfer;
}"""


def test_page_when_a_drop_is_too_large_then_the_browser_shows_it(served: Served, browser: "Browser") -> None:
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


def answer(folder: Path, body: bytes, path: str = "/gradio_api/queue/join", **headers: str | None) -> tuple[int, str]:
    """Status and text of the gate's answer to a POST, with at most 100 bytes in an upload; 200 where it is passed on.

    Args:
        headers: with _ for -; None leaves one out.
    """
    sent: list[Any] = []
    parts = [body[:9], body[9:]]

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed = b""
        while len(passed) < len(body):
            passed += (await receive())["body"]
        assert passed == body
        await send({"status": 200})
        await send({"body": b""})

    told = {"host": "localhost", "content_length": str(len(body))} | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items() if value is not None]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
    asyncio.run(Gate(app, folder, 100)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


def test_gate_when_json_is_broken_large_or_names_another_file_then_refuses(tmp_path: Path) -> None:
    assert answer(tmp_path, b"no json")[0] == 400
    assert answer(tmp_path, b"[" * 200_000)[0] == 400
    assert answer(tmp_path, b"0" * (MAX_JSON + 1))[0] == 413
    assert answer(tmp_path, json.dumps([[[{"a": {"path": 3}}]]]).encode())[0] == 403
    assert answer(tmp_path, json.dumps([[[{"a": {"path": str(tmp_path / "b.png")}}]]]).encode())[0] == 200


def test_gate_when_a_link_leads_out_of_the_folder_then_refuses_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert answer(folder, json.dumps({"path": str(folder / "link.png")}).encode())[0] == 403


def test_gate_when_an_upload_is_too_large_then_says_how_large_it_may_be(tmp_path: Path) -> None:
    assert answer(tmp_path, bytes(100), UPLOAD)[0] == 200
    status, told = answer(tmp_path, bytes(101), UPLOAD)
    assert (status, "Drop fewer or smaller files" in told) == (413, True)
    (tmp_path / "kept").write_bytes(bytes(DROPS_KEPT * 100 - 20))
    assert answer(tmp_path, bytes(20), UPLOAD)[0] == 200
    assert answer(tmp_path, bytes(21), UPLOAD)[0] == 507


@pytest.mark.parametrize("length", [None, "-1", "9" * 5000, "²"])
def test_gate_when_a_request_does_not_tell_its_length_then_refuses_it(length: str | None, tmp_path: Path) -> None:
    assert answer(tmp_path, bytes(10), UPLOAD, content_length=length)[0] == 411


def test_gate_when_a_body_comes_in_chunks_then_refuses_it_whatever_length_it_tells(tmp_path: Path) -> None:
    """A server ignores the length then."""
    assert answer(tmp_path, bytes(10), UPLOAD, transfer_encoding="chunked")[0] == 411
