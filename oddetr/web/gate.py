"""Middleware in front of gradio, for what gradio (6.31) does not refuse itself.

Sizes of files, paths outside the folder of uploads, the queue and cleaning up are gradio's; the name by which the page
is asked (`TrustedHostMiddleware`) is starlette's.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Gate:
    """ASGI middleware that refuses

    - uploads from another site's page in the visitor's browser: gradio stores them, and only withholds its answer;
    - addresses in a file's place (`file=http://...`), which gradio would fetch.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a refused request and passes on any other."""
        reason = _refusal(Request(scope)) if scope["type"] == "http" else ""
        answer = JSONResponse({"detail": reason}, 403) if reason else self.app
        await answer(scope, receive, send)


def _refusal(request: Request) -> str:
    """Why a request is refused; empty where it is not."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return f"The demo answers its own page only, not one of {origin}."
    path = request.scope["path"].lower()
    return "The demo fetches no addresses." if "file=http" in path or "file/http" in path else ""


async def refuse_download(url: str) -> None:
    """Takes the place of the function by which gradio fetches a file that a request names by its address."""
    raise PermissionError(f"The demo fetches no addresses, such as {url}.")
