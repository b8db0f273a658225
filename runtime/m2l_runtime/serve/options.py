"""Define what can be chosen about a service."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import ArgumentError

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
"""Names in a Host header that are always this machine."""

ANY_HOST: Final = "*"

MAX_HEADER_BYTES: Final = 16 << 10
"""Bytes of a request's line and headers."""

_RANGES: Final = {
    "max_batch": (1, 4096),
    "max_delay_ms": (0.0, 10_000.0),
    "max_queue": (1, 100_000),
    "max_requests": (1, 100_000),
    "max_images": (1, 4096),
    "max_body_bytes": (1024, 1 << 30),
    "max_pixels": (1, 40_000_000),
    "max_connections": (1, 1_000_000),
    "header_timeout_s": (0.05, 3600.0),
    "body_timeout_s": (0.05, 3600.0),
    "keep_alive_s": (0.05, 3600.0),
    "request_timeout_s": (0.05, 3600.0),
    "drain_s": (0.0, 3600.0),
    "codec_threads": (1, 256),
}
"""Lowest and highest value of each number."""


@check_types()
@dataclass(frozen=True)
class ServeOptions:
    """Choose what a service takes, and how much of it.

    Example:
        >>> ServeOptions(max_queue=32, allowed_hosts=("lesions.example",)).max_delay_ms
        2.0
        >>> ServeOptions(max_queue=0)
        Traceback (most recent call last):
        m2l_runtime.errors.ArgumentError: max_queue must be between 1 and 100,000, got 0

    Raises:
        ArgumentError: a number is out of range, or a name is none.
    """

    model_name: str = "m2l"
    """Name of the model in addresses of the inference protocol."""
    max_batch: int | None = None
    """Images per call of the engine; None: as many as its batch has."""
    max_delay_ms: float = 2.0
    """Milliseconds that a mask waits for others to fill a batch."""
    max_queue: int | None = None
    """Images that wait for the engine; more are refused with 503. None: twice what it takes at once, at least 16."""
    max_requests: int | None = None
    """Requests that are computed or encoded at once; more are refused with 503, if possible before their body is read.
    Bodies of eight times as many, at least 64, are read at once. None: four times the images that the engine takes at
    once, at least 8."""
    max_images: int = 16
    """Images of one request: masks times samples."""
    max_body_bytes: int = 8 << 20
    """Bytes of a request's body."""
    max_pixels: int = 8_000_000
    """Pixels of a mask picture; reading takes some 20 bytes for each."""
    max_connections: int = 2000
    """Open connections; one more is answered 503 and closed."""
    header_timeout_s: float = 10.0
    """Seconds in which a request's headers must arrive."""
    body_timeout_s: float = 20.0
    """Seconds in which a request's body must arrive, and in which a client must take the answer."""
    keep_alive_s: float = 30.0
    """Seconds after which an idle connection is closed."""
    request_timeout_s: float = 60.0
    """Seconds that a request may wait for its images."""
    drain_s: float = 30.0
    """Seconds that requests under way are given to finish when the service is stopped."""
    codec_threads: int = 2
    """Threads that read masks and encode images."""
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Names that a Host header may have, without a port; ``*`` allows any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other sites whose pages may ask, as ``https://site.example``."""
    token: str | None = None
    """What requests must show, as a bearer token or as a password; None: nothing."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ArgumentError(f"{name} must be between {low:,} and {high:,}, got {value:,}")
        if not (self.model_name and len(self.model_name) <= 64 and _is_plain(self.model_name)):
            raise ArgumentError(
                f"model_name must be 1 to 64 letters, digits, '-', '_' or '.', got {self.model_name[:80]!r}"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ArgumentError("the token must be printable ASCII characters, and some")
        wrong = next((one for one in self.allowed_origins if not one.startswith(("http://", "https://"))), None)
        if wrong is not None:
            raise ArgumentError(f"an origin is http://NAME or https://NAME, with a port if need be, got {wrong[:80]!r}")


def _is_plain(name: str) -> bool:
    return name.isascii() and all(one.isalnum() or one in "-_." for one in name) and not name.startswith(".")


FIELD_NAMES: Final = tuple(one.name for one in fields(ServeOptions))
