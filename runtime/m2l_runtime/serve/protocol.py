"""Limit what a connection may take: headers in time, bodies in time, answers in time, and their number.

uvicorn on h11 has a limit of idle time between requests, and of the size of headers. The rest is here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from m2l_runtime.serve.options import ServeOptions

_JSON: Final = (
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
    (b"connection", b"close"),
)
_REASONS: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
_MAX_DROPPED: Final = 4
"""Times the limit of a body that are dropped after an answer: who sends all of a large body reads why it is refused."""

_LATER_S: Final = 1.5
"""Seconds after the application's own limit of time for a body, which has words, when the connection is closed."""

_LINGER_S: Final = 2.0
"""Seconds in which what a refused client still sends is dropped, so that it gets to read the answer."""


class LimitedProtocol(H11Protocol):
    """Serve a connection within limits of time; each limit is a timer, of which one runs at a time."""

    options: ClassVar[ServeOptions] = ServeOptions()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for headers."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._is_lingering = False
        self._dropped_bytes = 0
        if len(self.connections) > self.options.max_connections:
            self._refuse(503, b"Service Unavailable", f"there are {self.options.max_connections:,} connections already")
            return
        self._wait(self.options.header_timeout_s, self._on_late_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_waiting()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what comes, and set the timer for what is to come."""
        if self._is_lingering or self.transport.is_closing():
            return
        before = self.conn.their_state
        super().data_received(data)
        self._count_dropped(len(data))
        self._watch(before)

    def on_response_complete(self) -> None:
        """Go on to what the client has sent meanwhile."""
        super().on_response_complete()
        self._watch(None)

    def pause_writing(self) -> None:
        """Give the client so long to read what waits for it."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self.options.body_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn calls it where h11 says so."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        words = "the headers are too long" if status == 431 else f"this is no HTTP/1.1 request: {error or msg}"
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application need not wait for the rest
            self.cycle.message_event.set()
        self._refuse(status, _REASONS.get(status, b"Error"), words)

    def _count_dropped(self, size: int) -> None:
        """Close the connection if too much of a body comes that nobody reads any more."""
        is_dropped = self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete
        self._dropped_bytes = self._dropped_bytes + size if is_dropped else 0
        if self._dropped_bytes > _MAX_DROPPED * self.options.max_body_bytes:
            self.transport.abort()

    def _watch(self, before: Any) -> None:
        """Set the timer that goes with the state of the connection."""
        if self.transport.is_closing() or self._is_lingering:
            self._stop_waiting()
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            if before is not h11.SEND_BODY:
                self._wait(self.options.body_timeout_s + _LATER_S, self.transport.abort)
        elif state is h11.IDLE:
            has_begun = bool(self.conn.trailing_data[0])
            if not has_begun:
                self._stop_waiting()  # between requests, uvicorn's own timer runs
            elif self._deadline is None:
                self._wait(self.options.header_timeout_s, self._on_late_headers)
        else:
            self._stop_waiting()

    def _wait(self, seconds: float, callback: Any) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(seconds, callback)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_late_headers(self) -> None:
        self._deadline = None
        self._refuse(408, _REASONS[408], f"the headers did not arrive within {self.options.header_timeout_s:g} s")

    def _refuse(self, status: int, reason: bytes, message: str) -> None:
        """Answer with an error outside of the application where that can be; then close."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = message.replace("\\", "/").replace('"', "'")
            body = b'{"error":"' + text.encode("ascii", "replace") + b'"}'
            headers = [*_JSON, (b"content-length", b"%d" % len(body))]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._linger()

    def _linger(self) -> None:
        """Close the sending side; drop what still comes for a moment, else the system takes back the answer, too."""
        self._is_lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)


def limited_protocol(options: ServeOptions) -> type[LimitedProtocol]:
    """Make the class of connections with these limits, as uvicorn takes it."""
    return type("LimitedProtocol", (LimitedProtocol,), {"options": options})
