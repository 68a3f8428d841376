"""Requests to the demo's page as a browser makes them."""

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image

WATCHED = """
import socket, sys
from pathlib import Path
from oddetr import cli
from oddetr.web import page

log = Path(sys.argv[1])
connect, look_up = socket.socket.connect, socket.getaddrinfo

def connecting(self, address):
    if self.family != socket.AF_UNIX and not page.is_local(address[0]):
        log.write_text(str(address))
    return connect(self, address)

def looking_up(host, *rest, **options):
    if not page.is_local(host):
        log.write_text(str(host))
    return look_up(host, *rest, **options)

socket.socket.connect, socket.getaddrinfo = connecting, looking_up
sys.exit(cli.main(["demo", *sys.argv[2:]]))
"""
"""`oddetr demo` that writes a file when it connects to another machine."""


@dataclass(frozen=True)
class Served:
    """A page in a process of its own: gradio leaves sockets and event loops open, which are errors in these tests.

    Attributes:
        foreign: a file that exists if the page asked another machine.
    """

    url: str
    foreign: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def asked(self, name: str, content: bytes) -> str:
        """The page's answer about one file, uploaded as a browser would: its summary, or "refused: " and why."""
        with self.client() as client:
            sent = client.post("gradio_api/upload", files={"files": (name, content)})
            if sent.status_code != 200:
                return f"refused: {sent.status_code} {sent.text}"
            answer = client.post("gradio_api/call/detect", json=detection_of(sent.json()[0])).json()
            if "event_id" not in answer:
                return f"refused: {answer}"
            stream = client.get(f"gradio_api/call/detect/{answer['event_id']}").text
        kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
        told = json.dumps(json.loads(data), ensure_ascii=False)
        return f"refused: {told}" if kind == "error" or 'role=\\"alert\\"' in told else told


def detection_of(path: str) -> dict[str, object]:
    """A request for the detections on a file, with threshold 0."""
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    return {"data": [[file], 0.0, []]}


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "png")
    return file.getvalue()
