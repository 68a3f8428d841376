"""The demo: a local web page that shows what a detector finds on the images dropped on it.

gradio builds and serves the page; `oddetr.web.dropped` reads the images and draws what was found.
"""

import html
import ipaddress
import os
import socket
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from rich.console import Console

from oddetr.checkpoints.checkpoint import WEIGHT_FILES, find_checkpoint
from oddetr.checkpoints.hub import on_hub, split_name
from oddetr.common.terminal import Terminal
from oddetr.data.dataset import ClassTable
from oddetr.data.images import EXTENSIONS
from oddetr.prediction.predictor import Predictor
from oddetr.structures import Weights
from oddetr.web.dropped import HEADERS, MAX_FILES, Drop, Refused, choose, describe, detect_all, draw, tabulate

if TYPE_CHECKING:
    import gradio as gr

WAITING = 64
"""Requests that may wait for the detector, which takes one at a time; gradio refuses more."""
SCREEN = 1600
"""Longer side, in pixels, of the picture on the page; the download has the image's own size."""

_KEPT = 3600
"""Seconds after which gradio deletes uploads and pictures; all are deleted when the demo ends."""


@dataclass(frozen=True)
class Demo:
    """Handlers of the page's events.

    Attributes:
        name: of the checkpoint, for the heading.
        predictors: one for each kind of weights in the checkpoint, the teacher's first.
        threshold: initial minimum score.
        max_mb: largest accepted file, in MB (2^20 bytes).
        folder: where uploads and pictures are stored while the page is served.
    """

    name: str
    predictors: dict[Weights, Predictor]
    threshold: float
    max_mb: float
    folder: Path

    @property
    def classes(self) -> ClassTable:
        """The detector's classes."""
        return self.predictors["teacher"].classes

    def detect(
        self, files: list[str] | None, weights: Weights, threshold: float | int, labels: list[int], before: Drop
    ) -> tuple[Any, ...]:
        """Runs the detector after files were dropped or removed, or other weights were chosen."""
        import gradio as gr

        drop = detect_all(self.predictors[weights], [Path(file) for file in files or ()], weights, self.max_mb, before)
        names = [(found.file.name, index) for index, found in enumerate(drop.found)]
        choice = gr.update(choices=names, value=0 if names else None, visible=len(names) > 1)
        return drop, choice, _alert(drop.refused), *self.show(drop, 0, threshold, labels)

    def show(self, drop: Drop, shown: int | None, threshold: float | int, labels: list[int]) -> tuple[Any, ...]:
        """Updates the picture, the sentence, the table and the button for the image that is shown."""
        import gradio as gr

        if shown is None or shown >= len(drop.found):
            nothing = "" if drop.refused else "Drop an image to see what the detector finds on it."
            return gr.update(value=None, visible=False), _status(nothing), "", gr.update(visible=False)
        found = drop.found[shown]
        chosen = choose(found.detections, float(threshold), labels)
        summary = describe(found, chosen, float(threshold))
        try:
            picture = draw(found, chosen, self.classes, SCREEN)
        except Refused as reason:
            return gr.update(value=None, visible=False), _alert([str(reason)]), "", gr.update(visible=False)
        return (
            gr.update(value=picture, alt_text=summary, visible=True),
            _status(summary),
            _table(tabulate(chosen, self.classes)),
            gr.update(visible=True),
        )

    def save(self, drop: Drop, shown: int | None, threshold: float | int, labels: list[int]) -> str | None:
        """Writes the picture for download, as PNG in the image's own size."""
        if shown is None or shown >= len(drop.found):
            return None
        found = drop.found[shown]
        file = Path(tempfile.mkdtemp(dir=self.folder)) / f"{found.file.stem}_detections.png"
        try:
            picture = draw(found, choose(found.detections, float(threshold), labels), self.classes)
        except Refused as reason:
            import gradio as gr

            raise gr.Error(html.escape(str(reason))) from reason
        picture.save(file, compress_level=1)
        return str(file)


def build_page(demo: Demo) -> "gr.Blocks":
    """Lays out the page and connects its events; `demo.folder` must be gradio's temporary folder already."""
    import gradio as gr

    with gr.Blocks(title=f"{demo.name} · oddetr demo", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        drop = gr.State(Drop(), time_to_live=_KEPT)
        gr.HTML(_heading(demo))
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(
                    label=f"Images, at most {demo.max_mb:g} MB each",
                    file_count="multiple",
                    file_types=sorted(EXTENSIONS),
                    height=180,
                )
                shown = gr.Dropdown([], label="Image shown", visible=False, interactive=True)
                threshold = gr.Slider(
                    0, 1, demo.threshold, step=0.01, label="Threshold", info="The minimum score of what is shown."
                )
                labels = gr.Dropdown(
                    [(name, label) for label, name in enumerate(demo.classes.names)],
                    value=[],
                    multiselect=True,
                    label="Classes",
                    info="Without a choice, all are shown.",
                )
                weights = gr.Radio(
                    [*demo.predictors],
                    value="teacher",
                    label="Weights",
                    info="The teacher's usually score higher. The student's are as the optimizer left them.",
                    visible=len(demo.predictors) > 1,
                )
            with gr.Column(scale=2, min_width=300):
                refused = gr.HTML()
                summary = gr.HTML(_status("Drop an image to see what the detector finds on it."))
                picture = gr.Image(
                    label="Detections", type="pil", interactive=False, visible=False, buttons=["fullscreen"]
                )
                button = gr.Button("Download the picture", visible=False)
                table = gr.HTML()
                download = gr.DownloadButton(visible="hidden", elem_id="oddetr-download")
        view, choice = [picture, summary, table, button], [threshold, labels]
        gr.on(
            [files.change, weights.input],
            demo.detect,
            [files, weights, *choice, drop],
            [drop, shown, refused, *view],
            concurrency_id="detector",
            concurrency_limit=1,
            api_name="detect",
            trigger_mode="always_last",
            show_progress_on=[summary],
        )
        gr.on(
            [threshold.change, labels.change, shown.input],
            demo.show,
            [drop, shown, *choice],
            view,
            concurrency_id="drawing",
            concurrency_limit=2,
            api_name="show",
            trigger_mode="always_last",
            show_progress="hidden",
        )
        button.click(
            demo.save, [drop, shown, *choice], download, concurrency_id="drawing", api_visibility="private"
        ).success(None, js="() => document.querySelector('#oddetr-download').click()")
    page.queue(max_size=WAITING, api_open=False)
    return page


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Tries to listen on the address, before the checkpoint is loaded.

    Raises:
        ValueError: the port is out of range.
        OSError: the port is taken, or cannot be listened on.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"The port is {port}; it must lie in 1-65535.")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise OSError(
            f"Cannot listen on port {port} of {host}: {error.strerror or error}. Another demo may use it: take another "
            f"port of 1024 or more, as --port {port + 1}, or an address of this machine, as --host 127.0.0.1."
        ) from error


@contextmanager
def serving(checkpoint: Path | str, host: str, port: int, threshold: float, max_mb: float) -> Generator[str]:
    """Serves the page while the block runs, and yields its address; arguments and errors as of `demo`."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores lie in [0, 1].")
    if not max_mb > 0:
        raise ValueError(f"The largest file is {max_mb} MB; it must be above 0.")
    check_address(host, port)
    folder = find_checkpoint(Path(checkpoint))
    if find_spec("gradio") is None:
        raise OSError("The demo needs gradio: pip install gradio.")
    predictors: dict[Weights, Predictor] = {
        whose: Predictor.load(folder, whose) for whose, file in WEIGHT_FILES.items() if (folder / file).is_file()
    }
    name = _name(checkpoint, folder)
    with tempfile.TemporaryDirectory(prefix="oddetr-demo-") as kept, patch.dict(os.environ, _environment(host, kept)):
        import gradio as gr

        page = build_page(Demo(name or "oddetr", predictors, threshold, max_mb, Path(kept)))
        try:
            _, address, _ = page.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=port,
                app_kwargs={"middleware": _middleware(host, Path(kept), round(MAX_FILES * max_mb * 2**20) + 2**20)},
                theme=gr.themes.Default(font=_FONT, font_mono=_FONT).set(block_info_text_color="*neutral_600"),
                css=_CSS,
                share=False,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
            )
            yield address
        finally:
            page.close(verbose=False)


def _middleware(host: str, folder: Path, max_bytes: int) -> list[Any]:
    """The gate; and, where only this machine can reach the page, a check of the name that it is asked by: otherwise a
    page of the web whose name leads to this machine (DNS rebinding) would count as the demo's own."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from oddetr.web.gate import Gate

    names = ["127.0.0.1", "localhost", "[::1]", host] if is_local(host) else ["*"]
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False),
        Middleware(Gate, folder=folder, max_bytes=max_bytes),
    ]


def _environment(host: str, folder: str) -> dict[str, str]:
    """Variables from which gradio takes its temporary folder, and which keep a proxy out when it asks its own page."""
    proxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct = ",".join(filter(None, (proxied, "127.0.0.1", "localhost", host)))
    return {"GRADIO_TEMP_DIR": folder, "NO_PROXY": direct, "no_proxy": direct}


def demo(
    checkpoint: Path | str,
    host: str = "127.0.0.1",
    port: int = 7860,
    threshold: float = 0.3,
    max_mb: float = 20.0,
    console: Console | None = None,
) -> None:
    """Serves a web page that shows what a detector finds on dropped images, until Ctrl-C. Images stay on this machine.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        host: the address to listen on; at any but this machine's own (127.0.0.1) the whole network can use the page.
        port: 1-65535.
        threshold: initial minimum score, in [0, 1].
        max_mb: the largest accepted file, in MB (2^20 bytes).
        console: where the address is printed.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        OSError: the port cannot be listened on, or gradio is missing.
        ValueError: threshold, port or size is out of range.
    """
    console = console or Terminal()
    if not is_local(host):
        console.print(
            f"{host}: everyone on the network who reaches this machine can use the page; it has no password. "
            "Without --host only this machine can.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    with serving(checkpoint, host, port, threshold, max_mb) as address:
        console.print(f"{address} shows the page; Ctrl-C ends it.", highlight=False, soft_wrap=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("The demo has ended.", highlight=False)


_FONT = ("system-ui", "sans-serif")
_CSS = """
.oddetr-heading h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
.oddetr-alert { border-left: 4px solid #d55e00; padding: .5rem .75rem; overflow-wrap: anywhere }
.oddetr-table { overflow-x: auto }
.oddetr-table table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
.oddetr-table caption { text-align: left; padding: .5rem 0 }
.oddetr-table :is(th, td) { padding: .25rem .375rem !important; text-align: right; white-space: nowrap }
.oddetr-table :is(table, tr, th, td) { border: 0 solid #8884 !important }
.oddetr-table :is(th, td):first-child { text-align: left; white-space: normal }
.oddetr-table tr { border-bottom-width: 1px !important }
.oddetr-table td:first-child { overflow-wrap: anywhere; min-width: 3rem }
@media (max-width: 480px) { .oddetr-table :is(th, td) { padding: .25rem .2rem !important; font-size: .85rem } }
.oddetr-status { overflow-wrap: anywhere }
"""


def _name(checkpoint: Path | str, folder: Path) -> str:
    """Name of the detector on the page: its run, folder or repository."""
    if on_hub(checkpoint):
        return split_name(checkpoint)[0]
    return folder.parent.name if folder.name in ("best", "last") else folder.resolve().name


def _heading(demo: Demo) -> str:
    info = demo.predictors["teacher"].info
    facts = [f"Classes: {len(demo.classes)}", f"image size: {info.image_size} pixels"]
    if info.epoch:
        facts.append(f"epochs trained: {info.epoch}")
    return (
        f'<div class="oddetr-heading"><h1>{html.escape(demo.name)}</h1>'
        f"<p>{', '.join(facts)}. Images go to the machine that serves this page and no further.</p></div>"
    )


def _status(text: str) -> str:
    return f'<p class="oddetr-status" role="status" aria-live="polite">{html.escape(text)}</p>'


def _alert(reasons: Sequence[str]) -> str:
    if not reasons:
        return ""
    return (
        f'<div class="oddetr-alert" role="alert">{"".join(f"<p>{html.escape(reason)}</p>" for reason in reasons)}</div>'
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADERS)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    caption = "<caption>Detections, best first; boxes in pixels of the image</caption>"
    return (
        f'<div class="oddetr-table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
