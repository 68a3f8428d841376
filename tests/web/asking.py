"""Requests to the demo's page as a browser makes them."""

import io
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


WATCHED = """
import socket, sys, time
from pathlib import Path
from oddetr import cli
from oddetr.web import dropped, page

page.WAITING = 12
log, go_on = (Path(name) for name in sys.argv[1:3])
connect, look_up, detect = socket.socket.connect, socket.getaddrinfo, dropped.detect

def tell(*words):
    with log.open("a") as file:
        print(*words, file=file)

def connecting(self, address):
    if self.family != socket.AF_UNIX and not page.is_local(address[0]):
        tell("foreign", address)
    return connect(self, address)

def looking_up(host, *rest, **options):
    if not page.is_local(host):
        tell("foreign", host)
    return look_up(host, *rest, **options)

def detecting(predictor, file, max_mb):
    tell("begin", file.name)
    while file.name.startswith("slow") and not go_on.exists():
        time.sleep(0.02)
    found = detect(predictor, file, max_mb)
    tell("end", file.name)
    return found

socket.socket.connect, socket.getaddrinfo, dropped.detect = connecting, looking_up, detecting
sys.exit(cli.main(["demo", *sys.argv[3:]]))
"""
"""`oddetr demo` that logs its connections and detections, and delays images named slow until a file exists."""


@dataclass(frozen=True)
class Served:
    """A page in a process of its own: gradio leaves sockets and event loops open, which are errors in these tests."""

    url: str
    log: Path
    go_on: Path
    process: int

    def memory(self) -> float:
        """MiB that its process holds; NaN where the system does not tell."""
        status = Path(f"/proc/{self.process}/status")
        return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024 if status.exists() else float("nan")

    def told(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def file_data(path: str) -> dict[str, object]:
    """A file as gradio's page names it in a request."""
    return {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}


def asked(url: str, name: str, content: bytes) -> str:
    """The page's answer about one file, uploaded as a browser would: its summary, or "refused: " and why."""
    import httpx

    with httpx.Client(base_url=f"{url}gradio_api/", timeout=120, trust_env=False) as client:
        sent = client.post("upload", files={"files": (name, content)})
        if sent.status_code != 200:
            return f"refused: {sent.status_code} {sent.text}"
        content = {"data": [[file_data(sent.json()[0])], "teacher", 0.0, []]}
        event = client.post("call/detect", json=content).json()
        if "event_id" not in event:
            return f"refused: {event}"
        stream = client.get(f"call/detect/{event['event_id']}").text
    kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
    if kind == "error":
        return f"refused: {data}"
    told = json.dumps(json.loads(data), ensure_ascii=False)
    return f"refused: {told}" if 'role=\\"alert\\"' in told else told


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "png")
    return file.getvalue()
