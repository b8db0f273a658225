"""Stand before every route: framing, Host, Origin, token, headers of answers, errors, and a line of the log.

What a browser is told: nothing of other origins runs or is framed, and no other site's page may read answers or ask for
work. A page that another site opens under a name of its own (DNS rebinding) comes with that name as Host, which is not
among those allowed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m2l_runtime._utils.text import shown
from m2l_runtime.serve.errors import CLOSE, HttpError, error_response
from m2l_runtime.serve.logs import log_event, log_exception
from m2l_runtime.serve.metrics import Metrics
from m2l_runtime.serve.options import ANY_HOST, MAX_HEADER_BYTES, ServeOptions

API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of what is no page."""

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPEN_PATHS: Final = ("/v2/health/live", "/v2/health/ready")
"""Addresses that need no token, so that whatever watches a service can."""

CLIENT_GONE: Final = 499
"""Status in the log of a request whose client went away; nothing is sent."""

_ALLOWED_METHODS: Final = "GET, HEAD, POST"
_ALLOWED_HEADERS: Final = "Content-Type, Authorization, Inference-Header-Content-Length"
_MAX_AGE_S: Final = 600


class Guard:
    """Check each request before the application sees it, and finish each answer; an ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        options: ServeOptions,
        metrics: Metrics,
        route_of: Callable[[Scope], str],
        exposed_headers: Iterable[str] = (),
    ) -> None:
        self._app, self._options, self._metrics, self._route_of = app, options, metrics, route_of
        self._exposed = ", ".join(exposed_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._options, self._exposed)
        began = time.perf_counter()
        try:
            refused = check_request(scope, self._options)
            if refused is not None:
                await refused(scope, receive, answer.send)
            else:
                await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = answer.status or CLIENT_GONE
        except HttpError as error:
            await answer.send_error(error, receive)
        except Exception as error:  # noqa: BLE001 - a client gets words, the log the rest, and the service lives
            log_exception("unexpected", error, path=scope["path"])
            await answer.send_error(error, receive)
        seconds = time.perf_counter() - began
        route = self._route_of(scope)
        self._metrics.count_request(route, scope["method"], answer.status, seconds)
        client = scope.get("client")
        log_event(
            "request",
            method=shown(scope["method"])[1:-1],
            route=route,
            status=answer.status,
            ms=round(seconds * 1000, 1),
            bytes=answer.size,
            client=None if client is None else client[0],
        )


class _Answer:
    """Send an answer with the headers that every answer has, and remember what was sent."""

    def __init__(self, scope: Scope, send: Send, options: ServeOptions, exposed: str) -> None:
        self._scope, self._send, self._exposed = scope, send, exposed
        origin = Headers(scope=scope).get("origin")
        self._origin = origin if origin in options.allowed_origins else None
        self._varies = bool(options.allowed_origins)
        self.status = 0
        self.size = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._finish(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)

    def _finish(self, headers: MutableHeaders) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers[name] = value
        headers.setdefault("Content-Security-Policy", API_POLICY)
        headers.setdefault("Cache-Control", "no-store")
        if self._varies:
            headers.add_vary_header("Origin")
        if self._origin is not None:
            headers["Access-Control-Allow-Origin"] = self._origin
            headers["Access-Control-Expose-Headers"] = self._exposed
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    async def send_error(self, error: Exception, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun already."""
        if not self.status:
            await error_response(error)(self._scope, receive, self.send)


def check_request(scope: Scope, options: ServeOptions) -> Response | None:
    """Check what can be told of a request by its headers.

    Returns:
        The answer to a preflight request of an origin that is allowed; else None: go on.

    Raises:
        HttpError: 431 of headers that are too long, 400 of headers that two servers may read otherwise, 421 of another
            Host, 403 of another origin, 401 without the token.
    """
    headers = Headers(scope=scope)
    _check_size(scope)
    _check_framing(scope, headers)
    _check_host(headers, options)
    origin = headers.get("origin")
    if origin is not None and not _is_same_origin(origin, headers["host"]) and origin not in options.allowed_origins:
        raise HttpError(
            403, f"pages of {shown(origin)} may not ask here; serve with --allow-origin if they are to", CLOSE
        )
    if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
        return Response(
            None,
            204,
            {
                "Access-Control-Allow-Methods": _ALLOWED_METHODS,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(_MAX_AGE_S),
            },
        )
    if options.token is not None and scope["path"] not in OPEN_PATHS:
        _check_token(headers.getlist("authorization"), options.token)
    return None


def _check_size(scope: Scope) -> None:
    """Refuse headers that came at once and are too long, as those are that come bit by bit."""
    size = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])  # and what stands between them
    if size > MAX_HEADER_BYTES:
        raise HttpError(431, f"the headers are too long, {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read", CLOSE)


def _check_framing(scope: Scope, headers: Headers) -> None:
    """Refuse requests whose end or target another server before this one may have seen elsewhere."""
    lengths, encodings = headers.getlist("content-length"), headers.getlist("transfer-encoding")
    if lengths and encodings:
        raise HttpError(400, "the request has both Content-Length and Transfer-Encoding; send one", CLOSE)
    if len(lengths) > 1 or len(encodings) > 1:
        raise HttpError(400, "the request has a length or an encoding twice; send one", CLOSE)
    if encodings and scope.get("http_version") == "1.0":
        raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding; send a Content-Length", CLOSE)
    if not scope.get("raw_path", b"/").startswith(b"/"):
        raise HttpError(400, "the address of a request begins with /, as GET /v2 does", CLOSE)
    if "\0" in scope["path"]:
        raise HttpError(400, "the address has a zero byte", CLOSE)


def _check_host(headers: Headers, options: ServeOptions) -> None:
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        raise HttpError(400, "the request must have one Host", CLOSE)
    name = host_name(hosts[0])
    if ANY_HOST not in options.allowed_hosts and name not in {one.lower() for one in options.allowed_hosts}:
        raise HttpError(
            421, f"there is no {shown(hosts[0])} here; serve with --allow-host if it is a name of this machine", CLOSE
        )


def host_name(host: str) -> str:
    """Take the port off a Host, and lower its letters.

    Example:
        >>> host_name("LocalHost:8000"), host_name("[::1]:80"), host_name("[::1]")
        ('localhost', '[::1]', '[::1]')
    """
    name, colon, port = host.rpartition(":")
    is_port = bool(colon) and port.isascii() and (port.isdecimal() or not port) and not name.endswith(":")
    return (name if is_port and not port.endswith("]") else host).lower()


def _is_same_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _check_token(given: list[str], token: str) -> None:
    """Compare in constant time what a request shows with the token: as bearer, or as the password of any user."""
    shown_token = b""
    if len(given) == 1:
        kind, _, rest = given[0].partition(" ")
        if kind.lower() == "bearer":
            shown_token = rest.strip().encode("latin-1", "replace")
        elif kind.lower() == "basic":
            shown_token = _password_of(rest.strip())
    if not hmac.compare_digest(shown_token, token.encode()):
        challenge = {"WWW-Authenticate": 'Basic realm="m2l", charset="UTF-8", Bearer realm="m2l"'}
        raise HttpError(401, "the request shows no token, or another one: Authorization: Bearer TOKEN", challenge)


def _password_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def route_name(scope: Scope, known: dict[Any, str]) -> str:
    """Return the address pattern of the route that answered, of a fixed few; 'other' where none did."""
    return known.get(scope.get("endpoint"), "other")
