"""A server on this machine that answers like the Hugging Face Hub, for as much as downloads ask."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class _Hub(BaseHTTPRequestHandler):
    """Answers for `repositories` (name -> commit, folder); notes each request, and breaks off the first GET of a file
    in `torn` after half of it."""

    repositories: Mapping[str, tuple[str, Path]]
    asked: list[str]
    torn: set[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.asked.append(f"{self.command} {path}")
        place, _, rest = path.removeprefix("api/models/").partition(
            "/resolve/" if "/resolve/" in path else "/revision/"
        )
        if place not in self.repositories:
            return self._refuse("RepoNotFound")
        commit, folder = self.repositories[place]
        revision, _, file = rest.partition("/")
        if revision not in ("main", commit, ""):
            return self._refuse("RevisionNotFound")
        if path.startswith("api/"):
            return self._send(json.dumps({"id": place, "sha": commit, "siblings": []}).encode(), commit, body)
        if not (folder / file).is_file():
            return self._refuse("EntryNotFound", commit)
        return self._send((folder / file).read_bytes(), commit, body, file)

    def _send(self, content: bytes, commit: str, body: bool, file: str = "") -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body and file in self.torn:
            self.torn.remove(file)
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content[first:])

    def _refuse(self, code: str, commit: str = "") -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Be quiet."""


@contextmanager
def hub_server(repositories: Mapping[str, tuple[str, Path]], torn: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Serves them; gives the address for HF_ENDPOINT and the list of requests."""
    asked: list[str] = []
    handler = type("Handler", (_Hub,), {"repositories": repositories, "asked": asked, "torn": torn})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
