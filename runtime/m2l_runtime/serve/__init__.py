"""Serve a bundle over HTTP: the Open Inference Protocol, pictures for people, and a page.

Example:
    >>> from m2l_runtime import Synthesizer
    >>> app = create_app(Synthesizer.open(backend="fake"), ServeOptions(max_queue=8))
    >>> type(app).__name__
    'Starlette'

`serve` runs it on uvicorn, with limits of its own on connections and time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.serve.app import create_app
    from m2l_runtime.serve.batcher import MicroBatcher, QueueFull
    from m2l_runtime.serve.options import ServeOptions
    from m2l_runtime.serve.server import serve

_HOMES = {
    "MicroBatcher": "batcher",
    "QueueFull": "batcher",
    "ServeOptions": "options",
    "create_app": "app",
    "serve": "server",
}

__all__ = ["MicroBatcher", "QueueFull", "ServeOptions", "create_app", "serve"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        needs=("starlette", "uvicorn", "h11", "prometheus_client"),
        hint='m2l serve needs {}; pip install "m2l[serve]"',
    )
