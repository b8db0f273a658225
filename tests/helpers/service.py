"""Run a service in a thread of this process, and talk to it over sockets."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from starlette.applications import Starlette

from m2l_runtime import Synthesizer
from m2l_runtime.serve import ServeOptions, create_app
from m2l_runtime.serve.server import listen, make_server

DEADLINE_S = 30.0
"""Seconds after which a test gives up; nothing takes as long."""


def png(mask: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content: bytes) -> npt.NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


@dataclass(frozen=True)
class Answer:
    """What came back over a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The message of an error in the protocol's form; the test fails if it is not."""
        assert self.headers["content-type"] == "application/json", self
        value = json.loads(self.body)
        assert list(value) == ["error"], value
        text: str = value["error"]
        return text


@dataclass(frozen=True)
class Service:
    app: Starlette
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def ask(self, request: bytes, *, half_close: bool = False) -> Answer:
        """Send bytes as they are, and read one answer."""
        with self.connect() as connection:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def is_well(self) -> bool:
        """Whether it still makes images."""
        body = png(np.zeros((8, 8), np.uint8))
        return self.ask(post("/synthesize", body)).status == 200


def post(path: str, body: bytes, *headers: str, host: str = "localhost") -> bytes:
    """Write a request with a Content-Length, as it goes over a socket."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer, whose length is told by Content-Length."""
    with connection.makefile("rb") as file:
        line = file.readline()
        if not line:
            raise ConnectionError("closed without an answer")
        headers: dict[str, str] = {}
        while (header := file.readline().strip()) != b"":
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(line.split()[1])
        if status == 100:
            return read_answer(connection)
        return Answer(status, headers, file.read(int(headers.get("content-length", 0))))


@contextlib.contextmanager
def running(
    options: ServeOptions | None = None, synthesizer: Synthesizer | None = None, **more: Any
) -> Iterator[Service]:
    """Run a service of the fake backend, or of a synthesizer, in a thread."""
    app = create_app(synthesizer or Synthesizer.open(backend="fake"), options, **more)
    is_ready = threading.Event()
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        server = make_server(app, is_ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert is_ready.wait(DEADLINE_S)
        try:
            yield Service(app, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
