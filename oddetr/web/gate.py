"""What stands before the page's server: only the addresses that the page needs, asked by the page itself, and only
files that were dropped on it.

gradio serves more than the demo uses, answers under any name, and fetches the address that a request gives as a file's
path. Refusals are told in plain words; nothing of a refused request reaches gradio.
"""

import json
import os
import re
from collections.abc import Awaitable, Callable, Generator, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_JSON = 2**20
"""Bytes of a request that is no upload: names of files, a threshold, some classes."""
DROPS_KEPT = 10
"""Uploads of the largest size that may lie on the disk at a time; one that is under way counts as if it lay there."""

_API = "/gradio_api/"
_FILE = f"{_API}file="
_UPLOAD = f"{_API}upload"
_READ = re.compile(
    r"/|/(config|theme\.css|robots\.txt|manifest\.json|favicon\.ico)/?|/(assets|static|svelte|pwa_icon)(/.*)?|"
    rf"{_API}(info|startup-events|theme\.css|upload_progress|queue/data|heartbeat/\w+|call/(look|show)/\w+|file=.*)/?",
    re.DOTALL,
)
_WRITTEN = re.compile(rf"{_API}(upload|queue/join|call/(look|show)|reset|cancel)/?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_ADDRESSES = {"GET": _READ, "HEAD": _READ, "POST": _WRITTEN}


class Refusal(Exception):
    """A request that is not let in: the status of HTTP, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Gate:
    """An ASGI application around another one.

    Args:
        server: the page's.
        folder: where dropped files lie; no other file is served or looked at.
        hosts: the names that the page is asked by; None: any, where the network may ask.
        most: bytes of an upload.
    """

    def __init__(self, server: Server, folder: Path, hosts: frozenset[str] | None, most: int) -> None:
        self.server, self.folder, self.hosts, self.most = server, folder.resolve(), hosts, most
        self._under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers, or lets the request in."""
        if scope["type"] == "lifespan":
            await self.server(scope, receive, send)
            return
        unread = receive if scope.get("method") == "POST" else None
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self.check_asked(scope, headers)
            if scope["method"] == "POST" and scope["path"].rstrip("/") == _UPLOAD:
                with self.uploading(headers) as length:
                    unread = None
                    await self.server(scope, _at_most(length, receive), send)
                return
            if scope["method"] == "POST":
                body = await _read(receive)
                unread = None
                if body is None:
                    raise Refusal(413, f"The request has more than {MOST_JSON // 2**20} MB.")
                self.check_files(body)
                receive = _again(body, receive)
        except Refusal as refusal:
            await _refuse(refusal, scope, unread, send)
            return
        await self.server(scope, receive, send)

    def check_asked(self, scope: Message, headers: MutableMapping[str, str]) -> None:
        """Who asks, and for what.

        Raises:
            Refusal: by another name or from another page (so that no page of the web can use this one through a
                visitor's browser), or an address that the page does not need, or a file that was not dropped on it.
        """
        host = headers.get("host", "")
        if self.hosts is not None and _name(f"//{host}") not in self.hosts:
            raise Refusal(421, f"The demo does not answer as {host!r}; open it as {min(self.hosts)}.")
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host:
            raise Refusal(403, f"The demo answers its own page only, not one of {origin}.")
        addresses, path = _ADDRESSES.get(scope.get("method", "")), str(scope["path"])
        if addresses is None or not addresses.fullmatch(path):
            raise Refusal(404, "The demo has no such address.")
        if path.startswith(_FILE):
            self.check_kept(path.removeprefix(_FILE))

    @contextmanager
    def uploading(self, headers: MutableMapping[str, str]) -> Generator[int]:
        """Keeps room for an upload while the block runs; gives its bytes, as its headers tell them.

        Raises:
            Refusal: they do not tell them, it is too large, or it would fill the disk, with those that are under way.
        """
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not _LENGTH.fullmatch(length):
            raise Refusal(411, "An upload must tell its length.")
        told = int(length)
        if told > self.most:
            raise Refusal(
                413,
                f"What was dropped has {told / 2**20:.1f} MB; at most {self.most / 2**20:.0f} MB are taken at "
                "once. Drop fewer or smaller files.",
            )
        if _kept(self.folder) + self._under_way + told > DROPS_KEPT * self.most:
            raise Refusal(507, "Too many files are kept here already; they go after an hour. Try again later.")
        self._under_way += told
        try:
            yield told
        finally:
            self._under_way -= told

    def check_files(self, body: bytes) -> None:
        """The files that a request names.

        Raises:
            Refusal: it is no JSON, or a path in it does not lie in the folder.
        """
        try:
            content = json.loads(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "The request is no JSON.") from error
        for path in _paths(content):
            self.check_kept(path)

    def check_kept(self, path: object) -> None:
        """One file.

        Raises:
            Refusal: it does not lie in the folder.
        """
        try:
            inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise Refusal(403, "Only files that were dropped on this page are looked at.")


def _paths(content: Any) -> Iterator[object]:
    """What stands under `path`, however deep."""
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            left += one.values()
        elif isinstance(one, list):
            left += one


def _name(address: str) -> str:
    """The host's name without its port; empty where it is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _place(address: str) -> str | None:
    """The host's name with its port, as it is written; None where it is no address."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


def _kept(folder: Path) -> int:
    """Bytes of the files below; gradio may move and delete them meanwhile."""
    kept = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                kept += Path(base, name).stat().st_size
    return kept


def _at_most(length: int, receive: Receive) -> Receive:
    """Gives a body until it has more bytes than were told: then it raises a `Refusal`."""
    left = length

    async def given() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise Refusal(400, "The upload has more bytes than it told.")
        return message

    return given


async def _read(receive: Receive) -> bytes | None:
    """A request's body, read to its end; None where it has more than `MOST_JSON` bytes."""
    body, more = b"", True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        body = (body + message.get("body", b""))[: MOST_JSON + 1]
    return body if len(body) <= MOST_JSON else None


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what follows it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return left.pop() if left else await receive()

    return given


async def _refuse(refusal: Refusal, scope: Message, unread: Receive | None, send: Send) -> None:
    """Answers once the request is read to its end: a browser that is still sending shows no answer."""
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    more = unread is not None
    while unread is not None and more:
        message = await unread()
        more = message["type"] == "http.request" and message.get("more_body", False)
    plain = str(scope["path"]).rstrip("/") == _UPLOAD
    body = (str(refusal) if plain else json.dumps({"detail": str(refusal)})).encode()
    kind = b"text/plain; charset=utf-8" if plain else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
