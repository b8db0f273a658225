"""Answer errors in the form of the Open Inference Protocol: a status, and ``{"error": "..."}``."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import EngineError, InputError, M2LError
from m2l_runtime.serve.batcher import QueueFull

RETRY_AFTER: Final = {"Retry-After": "1"}
CLOSE: Final = {"Connection": "close"}
"""Header of an answer to a request that says two things; nothing that follows it is believed."""


class HttpError(M2LError):
    """Signal that a request is answered with an error.

    Example:
        >>> HttpError(413, "the body has more than 8,388,608 bytes").status
        413
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status: Final = status
        self.headers: Final = dict(headers or {})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def error_response(error: Exception) -> Response:
    """Turn an error into an answer. What is not known here becomes 500, without its words.

    Example:
        >>> error_response(HttpError(404, "there is no such address")).body
        b'{"error":"there is no such address"}'
    """
    if isinstance(error, HttpError):
        return _response(error.status, str(error), error.headers)
    if isinstance(error, QueueFull):
        return _response(503, str(error), RETRY_AFTER)
    if isinstance(error, InputError):
        return _response(400, str(error))
    if isinstance(error, EngineError):
        return _response(500, f"the engine failed: {error}")
    if isinstance(error, HTTPException):
        phrases = {404: "there is no such address here; GET /openapi.json lists them", 405: "no such method here"}
        text = phrases.get(error.status_code, str(error.detail or http.HTTPStatus(error.status_code).phrase))
        return _response(error.status_code, text, error.headers)
    return _response(500, "an error inside the service; its log has the details")


def _response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_response({"error": printable(message)}, status, headers)


async def handle_error(_: Request, error: Exception) -> Response:
    """Answer an error that a route raised; for Starlette's `exception_handlers`."""
    return error_response(error)
