"""Serve the page for browsers at ``/``, and the files and the configuration that it reads."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from m2l_runtime.page import PageFile, page_config, page_files
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


def routes(workshop: Workshop) -> list[Route]:
    """Make a route for each file of the page, and for its configuration, which follows the bundle."""
    described: dict[str, dict[str, Any]] = {}

    async def config(_: Request) -> Response:
        bundle = workshop.holder.current.synthesizer.bundle
        if bundle.sha256 not in described:
            described.clear()
            described[bundle.sha256] = await workshop.in_thread(lambda: page_config(bundle))
        return json_response(described[bundle.sha256])

    made = [Route(CONFIG_PATH, config, name=CONFIG_PATH)]
    for name, file in page_files().items():
        made += [_file_route(path, file) for path in ((f"/{name}", "/") if name == INDEX else (f"/{name}",))]
    return made


def _file_route(path: str, file: PageFile) -> Route:
    async def answer(_: Request) -> Response:
        return Response(file.content, 200, _HEADERS, file.media_type)

    return Route(path, answer, name=path)
