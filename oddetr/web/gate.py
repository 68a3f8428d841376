"""Middleware in front of gradio, for three things that gradio (6.31) does not refuse itself.

- A request that another site's page makes in the visitor's browser: gradio withholds only the answer, after it has
  stored the upload or run the detector.
- An upload of any size: gradio bounds each file but not their number, and one file beyond its bound costs the whole
  drop. So the drop is bounded here, and `oddetr.web.dropped` refuses single files by name.
- An address to fetch: gradio downloads what a request names as `file=http://...`, or as the path of a file.

Queue limits, cleaning up and names of the host (`TrustedHostMiddleware`) are gradio's and starlette's own.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 2**20
"""Bytes of a request that is no upload: names of files, a threshold, some classes."""
DROPS_KEPT = 10
"""Drops of the largest size for which there is room on the disk; gradio deletes each after an hour."""

_FILES = ("/gradio_api/file=", "/gradio_api/file/")
_UPLOAD = "/gradio_api/upload"


class Gate:
    """ASGI middleware; what it refuses never reaches `app`.

    Args:
        app: gradio's.
        folder: where uploads are stored; no other file is served or read.
        max_bytes: of one upload, all its files together.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_bytes: int) -> None:
        self.app, self.folder, self.max_bytes = app, folder.resolve(), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a refused request and passes on any other."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        upload = scope["path"].rstrip("/") == _UPLOAD
        try:
            self.check_request(request, upload)
            if request.method == "POST" and not upload:
                body = await request.body()
                self.check_body(body)
                receive = _replaying(body, receive)
        except HTTPException as refusal:
            async for _ in request.stream():  # a browser that is still sending shows no answer
                pass
            answer = PlainTextResponse if upload else JSONResponse  # what gradio's page shows of each
            content = refusal.detail if upload else {"detail": refusal.detail}
            await answer(content, refusal.status_code)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def check_request(self, request: Request, upload: bool) -> None:
        """Checks all but the body.

        Raises:
            HTTPException: another page asks; a file outside of the folder, or an address, is asked for; the body's
                size is unknown or too large.
        """
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise HTTPException(403, f"The demo answers its own page only, not one of {origin}.")
        for prefix in _FILES:
            if request.scope["path"].startswith(prefix):
                self.check_path(request.scope["path"].removeprefix(prefix))
        if request.method != "POST":
            return
        length = request.headers.get("content-length", "")
        if "transfer-encoding" in request.headers or not (length.isascii() and length.isdecimal() and len(length) < 19):
            raise HTTPException(411, "A request must tell its length.")
        if not upload and int(length) > MAX_JSON:
            raise HTTPException(413, f"The request has more than {MAX_JSON // 2**20} MB.")
        if upload and int(length) > self.max_bytes:
            raise HTTPException(
                413,
                f"What was dropped has {int(length) / 2**20:.1f} MB; at most {self.max_bytes / 2**20:.0f} MB are taken "
                "at once. Drop fewer or smaller files.",
            )
        if upload and _bytes_in(self.folder) + int(length) > DROPS_KEPT * self.max_bytes:
            raise HTTPException(507, "Too many files are kept here already; they go after an hour. Try again later.")

    def check_body(self, body: bytes) -> None:
        """Checks that a JSON body names no file outside of the folder, however deep.

        Raises:
            HTTPException: it does, or it is no JSON.
        """

        def check(part: dict[str, Any]) -> dict[str, Any]:
            if "path" in part:
                self.check_path(part["path"])
            return part

        try:
            json.loads(body or b"{}", object_hook=check)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "The request is no JSON.") from error

    def check_path(self, path: object) -> None:
        """Checks that a path lies in the folder; an address does not.

        Raises:
            HTTPException: it does not.
        """
        inside = False
        with suppress(OSError, ValueError):
            inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)
        if not inside:
            raise HTTPException(403, "Only files that were dropped on this page are accepted.")


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what follows it."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return unread.pop() if unread else await receive()

    return replay


def _bytes_in(folder: Path) -> int:
    """Size of all files below; gradio may delete some meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
