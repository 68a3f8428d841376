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

from oddetr.common.hub_names import on_hub, split_name
from oddetr.common.terminal import Terminal
from oddetr.data.images import ImageError
from oddetr.prediction.predictor import Predictor
from oddetr.structures import Weights
from oddetr.web.dropped import HEADERS, Found, choose, describe, detect_all, draw, tabulate

if TYPE_CHECKING:
    import gradio as gr

WAITING = 64
"""Requests that may wait for the detector, which takes one at a time; gradio refuses more."""

_KEPT = 3600
"""Seconds after which gradio deletes uploads and pictures; all are deleted when the demo ends."""
_DOWNLOAD = "gradio.processing_utils.async_ssrf_protected_get"
"""The function by which gradio fetches addresses that a request names as files."""
_INVITATION = "Drop an image to see what the detector finds on it."
_FONT = ("system-ui", "sans-serif")
_CSS = """
.oddetr-heading h1 { font-size: 1.5rem; margin: 0 0 .25rem }
.oddetr-alert { border-left: 4px solid #d55e00; padding: .5rem .75rem }
:is(.oddetr-heading h1, .oddetr-alert, .oddetr-status) { overflow-wrap: anywhere }
@media (max-width: 700px) {
  /* One column, the controls between picture and table. */
  .oddetr-column { display: contents }
  .oddetr-column > .form { order: 1; width: 100% }
  .oddetr-table { order: 2 }
}
"""


@dataclass(frozen=True)
class Demo:
    """Handlers of the page's events.

    Attributes:
        name: of the checkpoint, for the heading.
        predictor: the detector.
        threshold: initial minimum score.
        max_mb: largest accepted file, in MB (2^20 bytes).
    """

    name: str
    predictor: Predictor
    threshold: float
    max_mb: float

    def detect(
        self, files: list[str] | None, threshold: float | int, labels: list[int], before: list[Found]
    ) -> tuple[Any, ...]:
        """Runs the detector after files were dropped or removed."""
        import gradio as gr

        found, refused = detect_all(self.predictor, [Path(file) for file in files or ()], before)
        names = [(each.file.name, index) for index, each in enumerate(found)]
        choice = gr.update(choices=names, value=0 if names else None, visible=len(names) > 1)
        return found, choice, _alert(refused), *self.show(found, 0, threshold, labels)

    def show(self, found: list[Found], shown: int | None, threshold: float | int, labels: list[int]) -> tuple[Any, ...]:
        """Updates the picture, the sentence and the table for the image that is shown."""
        import gradio as gr

        hidden = gr.update(value=None, visible=False)
        if shown is None or shown >= len(found):
            return hidden, _status(_INVITATION), hidden
        image = found[shown]
        chosen = choose(image.detections, float(threshold), labels)
        summary = describe(image, chosen, float(threshold))
        try:
            picture = draw(image, chosen, self.predictor.classes)
        except ImageError:
            return hidden, _alert([f"{image.file.name} is no longer kept here. Drop it again."]), hidden
        return (
            gr.update(value=picture, alt_text=summary, visible=True),
            _status(summary),
            gr.update(value=tabulate(chosen, self.predictor.classes), visible=len(chosen) > 0),
        )


def build_page(demo: Demo) -> "gr.Blocks":
    """Lays out the page and connects its events."""
    import gradio as gr

    with gr.Blocks(title=f"{demo.name} · oddetr demo", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        found = gr.State([], time_to_live=_KEPT)
        gr.HTML(_heading(demo))
        with gr.Row():
            with gr.Column(scale=1, min_width=300, elem_classes="oddetr-column"):
                files, shown, threshold, labels = _controls(demo)
            with gr.Column(scale=2, min_width=300, elem_classes="oddetr-column"):
                refused = gr.HTML()
                summary = gr.HTML(_status(_INVITATION))
                picture = gr.Image(
                    label="Detections",
                    type="pil",
                    format="png",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                )
                table = gr.Dataframe(
                    headers=[*HEADERS],
                    label="Best first; boxes in pixels",
                    interactive=False,
                    visible=False,
                    elem_classes="oddetr-table",
                )
        view, choice = [picture, summary, table], [threshold, labels]
        files.change(
            demo.detect,
            [files, *choice, found],
            [found, shown, refused, *view],
            concurrency_id="detector",
            concurrency_limit=1,
            api_name="detect",
            trigger_mode="always_last",
            show_progress_on=[summary],
        )
        gr.on(
            [threshold.change, labels.change, shown.input],
            demo.show,
            [found, shown, *choice],
            view,
            concurrency_limit=2,
            api_name="show",
            trigger_mode="always_last",
            show_progress="hidden",
        )
    page.queue(max_size=WAITING, api_open=False)
    return page


def _controls(demo: Demo) -> "tuple[gr.File, gr.Dropdown, gr.Slider, gr.Dropdown]":
    """Files, the image shown, the threshold and the classes."""
    import gradio as gr

    files = gr.File(
        label=f"Images, at most {demo.max_mb:g} MB each",
        file_count="multiple",
        file_types=["image"],
        height=180,
    )
    shown = gr.Dropdown([], label="Image shown", visible=False, interactive=True)
    threshold = gr.Slider(
        0, 1, demo.threshold, step=0.01, label="Threshold", info="The minimum score of what is shown."
    )
    labels = gr.Dropdown(
        [(name, label) for label, name in enumerate(demo.predictor.classes.names)],
        value=[],
        multiselect=True,
        label="Classes",
        info="Without a choice, all are shown.",
    )
    return files, shown, threshold, labels


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Tries to listen on the address; raises `ValueError` or `OSError` where that is impossible."""
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
def serving(demo: Demo, host: str, port: int) -> Generator[str]:
    """Serves the page while the block runs, and yields its address."""
    from oddetr.web.gate import refuse_download

    # gradio takes its temporary folder from a variable, and asks its own page, for which there must be no proxy.
    direct = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1", host)))
    with tempfile.TemporaryDirectory(prefix="oddetr-demo-") as kept:
        variables = {"GRADIO_TEMP_DIR": kept, "NO_PROXY": direct, "no_proxy": direct}
        with patch.dict(os.environ, variables), patch(_DOWNLOAD, refuse_download):
            import gradio as gr

            page = build_page(demo)
            try:
                _, address, _ = page.launch(
                    server_name=f"[{host}]" if ":" in host else host,
                    server_port=port,
                    max_file_size=round(demo.max_mb * 2**20),
                    app_kwargs={"middleware": _middleware(host)},
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


def _middleware(host: str) -> list[Any]:
    """The gate; and, where only this machine can reach the page, a check of the name that it is asked by: otherwise a
    page of the web whose name leads to this machine (DNS rebinding) would count as the demo's own."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from oddetr.web.gate import Gate

    names = ["127.0.0.1", "localhost", "[::1]", host] if is_local(host) else ["*"]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False), Middleware(Gate)]


def demo(
    checkpoint: Path | str,
    host: str = "127.0.0.1",
    port: int = 7860,
    threshold: float = 0.3,
    max_mb: float = 20.0,
    weights: Weights = "teacher",
    console: Console | None = None,
) -> None:
    """Serves a web page that shows what a detector finds on dropped images, until Ctrl-C. Images stay on this machine.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        host: the address to listen on; at any but this machine's own (127.0.0.1) the whole network can use the page.
        port: 1-65535.
        threshold: initial minimum score, in [0, 1].
        max_mb: the largest accepted file, in MB (2^20 bytes).
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.
        console: where the address is printed.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        OSError: the port cannot be listened on, or gradio is missing.
        ValueError: threshold, port or size is out of range.
    """
    console = console or Terminal()
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores lie in [0, 1].")
    if not max_mb > 0:
        raise ValueError(f"The largest file is {max_mb} MB; it must be above 0.")
    if find_spec("gradio") is None:
        raise OSError("The demo needs gradio: pip install gradio.")
    check_address(host, port)
    predictor = Predictor.load(checkpoint, weights)
    if not is_local(host):
        console.print(
            f"{host}: everyone on the network who reaches this machine can use the page; it has no password. "
            "Without --host only this machine can.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    with serving(Demo(_name(checkpoint), predictor, threshold, max_mb), host, port) as address:
        console.print(f"{address} shows the page; Ctrl-C ends it.", highlight=False, soft_wrap=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("The demo has ended.", highlight=False)


def _name(checkpoint: Path | str) -> str:
    """Name of the detector on the page: its run, folder or repository."""
    if on_hub(checkpoint):
        return split_name(checkpoint)[0]
    folder = Path(checkpoint).resolve()
    return folder.parent.name if folder.name in ("best", "last") else folder.name


def _heading(demo: Demo) -> str:
    info = demo.predictor.info
    facts = [f"Classes: {len(info.classes)}", f"image size: {info.image_size} pixels"]
    if info.epoch:
        facts.append(f"epochs trained: {info.epoch}")
    return (
        f'<div class="oddetr-heading"><h1>{html.escape(demo.name)}</h1>'
        f"<p>{', '.join(facts)}. Images go to the machine that serves this page and no further.</p></div>"
    )


def _status(text: str) -> str:
    return f'<p class="oddetr-status" role="status" aria-live="polite">{html.escape(text)}</p>'


def _alert(reasons: Sequence[str]) -> str:
    text = "".join(f"<p>{html.escape(reason)}</p>" for reason in reasons)
    return f'<div class="oddetr-alert" role="alert">{text}</div>' if text else ""
