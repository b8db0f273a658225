"""List the files of the page: their names, types and content."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from m2l_runtime._utils.arguments import check_types

STATIC: Final = Path(__file__).resolve().parent / "static"

MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
    }
)
"""Type of each kind of file, as an HTTP header says it. Browsers refuse modules of another type."""


@dataclass(frozen=True)
class PageFile:
    """Hold a file of the page.

    Example:
        >>> page_files()["app.js"].media_type
        'text/javascript; charset=utf-8'
    """

    content: bytes
    media_type: str
    """As the header Content-Type says it."""


@check_types()
def page_files() -> Mapping[str, PageFile]:
    """Read the files of the page, by their path relative to it, ``/`` between parts.

    They are the same for both engines. Beside them the page asks for ``config.json``, which
    :func:`m2l_runtime.page.page_config` makes. They are read once in a process, and not to be altered.

    Example:
        >>> files = page_files()
        >>> files["index.html"].content[:15]
        b'<!doctype html>'
        >>> "config.json" in files
        False
    """
    return _read_files()


@functools.cache
def _read_files() -> Mapping[str, PageFile]:
    found = {
        path.relative_to(STATIC).as_posix(): PageFile(path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in sorted(STATIC.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    return MappingProxyType(found)
