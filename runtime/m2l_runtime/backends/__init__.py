"""Run a model on an inference engine: one module for each backend.

To add one, write its module (a ``load`` function, see :class:`m2l_runtime.backends.base.BackendModule`) and add it to
`BACKENDS` in :mod:`m2l_runtime.backends.engines`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.backends.base import Backend, BackendModule, BackendOptions, BackendSettings, ModelSource
    from m2l_runtime.backends.engines import BACKENDS
    from m2l_runtime.backends.registry import choose_backend, load_backend

_HOMES = {
    "BACKENDS": "engines",
    "Backend": "base",
    "BackendModule": "base",
    "BackendOptions": "base",
    "ModelSource": "base",
    "BackendSettings": "base",
    "choose_backend": "registry",
    "load_backend": "registry",
}

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendModule",
    "BackendOptions",
    "BackendSettings",
    "ModelSource",
    "choose_backend",
    "load_backend",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        renamed={
            "Builds": "base.ReportsBuildTime",
            "Choice": "registry.BackendChoice",
            "Settings": "BackendSettings",
        },
    )
