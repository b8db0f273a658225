"""Read the body of a request, within limits of bytes and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from m2l_runtime._utils.reading import content_errors
from m2l_runtime._utils.text import shown
from m2l_runtime.serve.errors import HttpError
from m2l_runtime.serve.options import ServeOptions

_T = TypeVar("_T")
_WINDOW_BITS: Final = {"gzip": 31, "deflate": 15}


async def read_body(request: Request, options: ServeOptions) -> bytes:
    """Read a body.

    Raises:
        HttpError: 413 of more than `max_body_bytes`, announced or not; 408 of a body that does not arrive in
            `body_timeout_s`.
        ClientDisconnect: the client has gone before its end.
    """
    announced = request.headers.get("content-length", "0")
    too_large = HttpError(413, f"the body has more than {options.max_body_bytes:,} bytes; no more are read")
    if announced.isascii() and announced.isdecimal() and int(announced[:20]) > options.max_body_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(options.body_timeout_s):
            async for part in request.stream():
                content += part
                if len(content) > options.max_body_bytes:
                    raise too_large
    except TimeoutError:
        raise HttpError(
            408, f"the body did not arrive within {options.body_timeout_s:g} s; {len(content):,} bytes did"
        ) from None
    return bytes(content)


def header_value(request: Request, name: str) -> str | None:
    """Return the value of a header, those of all that have the name with commas between; None where there is none."""
    values = request.headers.getlist(name)
    return ", ".join(values) if values else None


def decompress(content: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Undo the Content-Encoding of a body, of bounded size.

    Example:
        >>> decompress(zlib.compress(b"mask"), "deflate", 100)
        b'mask'

    Raises:
        HttpError: 415 of another encoding than gzip and deflate, 400 of a damaged one, 413 of more than `max_bytes`.
    """
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return content
    bits = _WINDOW_BITS.get(encoding.strip().lower())
    if bits is None:
        raise HttpError(415, f"bodies come as they are, in gzip or in deflate, not in {shown(encoding)}")
    reader = zlib.decompressobj(bits)
    problem = HttpError(400, f"the body is no {encoding.strip().lower()}, as its Content-Encoding says")
    with content_errors(lambda _: problem):
        plain = reader.decompress(content, max_bytes + 1)
    if len(plain) > max_bytes:
        raise HttpError(413, f"the body has more than {max_bytes:,} bytes unpacked; no more are read")
    if not reader.eof or reader.unused_data:
        raise HttpError(400, f"the {encoding.strip().lower()} of the body is cut off, or something follows it")
    return plain


async def while_connected(request: Request, work: Awaitable[_T], timeout_s: float) -> _T:
    """Wait for work as long as the client waits, too; else cancel it.

    Raises:
        ClientDisconnect: the client has gone.
        HttpError: 503 of work that takes longer than `timeout_s`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        done, _ = await asyncio.wait((task, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientDisconnect
        raise HttpError(503, f"no image came within {timeout_s:g} s; try again later", {"Retry-After": "1"})
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
