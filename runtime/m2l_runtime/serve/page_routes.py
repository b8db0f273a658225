"""Serve the page for browsers at ``/``, and the files and the configuration that it reads."""

from __future__ import annotations

import importlib.util
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from m2l_runtime.serve.errors import json_response
from m2l_runtime.serve.work import Workshop

INDEX: Final = "index.html"
CONFIG_PATH: Final = "/config.json"

PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the page and its files."""

_HEADERS: Final = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
_PACKAGE: Final = "m2l_runtime.page"


def routes(workshop: Workshop) -> list[Route]:
    """Make a route for each file of the page; none where the page is not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:
        return []
    page: Any = importlib.import_module(_PACKAGE)

    async def config(_: Request) -> Response:
        return json_response(page.page_config(workshop.holder.current.synthesizer, mode="server"))

    made = [Route(CONFIG_PATH, config, name=CONFIG_PATH)]
    for name, file in page.page_files().items():
        made += [_file_route(path, file) for path in ((f"/{name}", "/") if name == INDEX else (f"/{name}",))]
    return made


def _file_route(path: str, file: Any) -> Route:
    async def answer(_: Request) -> Response:
        return Response(file.content, 200, _HEADERS, file.media_type)

    return Route(path, answer, name=path)
