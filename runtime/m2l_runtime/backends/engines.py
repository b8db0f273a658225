"""Register the backends: everything that is known of each without importing it or its engine.

To add a backend, write its module (a ``load`` function, see :class:`m2l_runtime.backends.base.BackendModule`) and add
an entry to `BACKENDS`. Options of its int8 files belong in the quantizer of the exporter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from m2l_runtime.bundle.schema import Precision


@dataclass(frozen=True)
class BackendEntry:
    """Describe a backend."""

    title: str
    """The engine's name as its makers write it."""
    module: str
    packages: tuple[str, ...]
    """Python packages of which it needs one; empty if it needs none."""
    devices: tuple[str, ...]
    install: str
    """The command that installs what it needs."""
    precisions: tuple[Precision, ...] = ()
    """Precisions that its convolutions can compute with."""
    is_fake: bool = False
    """Whether it runs no model. Such a one is never chosen by `auto`."""
    is_reference: bool = False
    """Whether files are validated with it first when a bundle is made."""
    proxy: str | None = None
    """The backend that validates its files on machines without its GPU; None: it does so itself."""
    runs_plans: bool = False
    """Whether it runs plans: built for one GPU from the bundle's ONNX file, in minutes, or taken from the bundle."""


BACKENDS: Final[Mapping[str, BackendEntry]] = {
    "openvino": BackendEntry(
        title="OpenVINO",
        module="m2l_runtime.backends.openvino",
        packages=("openvino",),
        devices=("cpu",),
        install='pip install "m2l[openvino]"',
        precisions=("fp32", "bf16", "int8"),
    ),
    "onnxruntime": BackendEntry(
        title="onnxruntime",
        module="m2l_runtime.backends.onnxruntime",
        packages=("onnxruntime",),
        devices=("cpu", "cuda"),
        install='pip install "m2l[cpu]" (or "m2l[gpu]" for NVIDIA GPUs; never both)',
        precisions=("fp32", "fp16", "int8"),
        is_reference=True,
    ),
    "tensorrt": BackendEntry(
        title="TensorRT",
        module="m2l_runtime.backends.tensorrt",
        packages=("tensorrt", "tensorrt_rtx"),
        devices=("cuda",),
        install='pip install "m2l[gpu,tensorrt-rtx]" (for data-centre GPUs "m2l[gpu]" tensorrt-cu13)',
        precisions=("fp32", "fp16", "int8"),
        proxy="onnxruntime",
        runs_plans=True,
    ),
    "fake": BackendEntry(
        title="fake",
        module="m2l_runtime.backends.fake",
        packages=(),
        devices=("cpu",),
        install="",
        is_fake=True,
    ),
}
"""Backends by name, the fastest on CPUs first (docs/engines.md): `auto` takes them in this order.

Example:
    >>> [name for name, entry in BACKENDS.items() if "bf16" in entry.precisions]
    ['openvino']
"""

REFERENCE: Final = next(name for name, entry in BACKENDS.items() if entry.is_reference)
"""The backend that files are validated with first."""


def engines_for(precision: Precision) -> tuple[str, ...]:
    """Return the backends that compute a precision, the reference first.

    Example:
        >>> engines_for("fp16")
        ('onnxruntime', 'tensorrt')
    """
    names = (name for name, entry in BACKENDS.items() if precision in entry.precisions)
    return tuple(sorted(names, key=lambda name: name != REFERENCE))


def is_fake(name: str) -> bool:
    """Tell whether a backend runs no model; one that is not registered does.

    Example:
        >>> is_fake("fake"), is_fake("openvino")
        (True, False)
    """
    return name in BACKENDS and BACKENDS[name].is_fake


def is_installed(entry: BackendEntry) -> bool:
    """Tell whether the packages are there that a backend needs. Whether they load is another question."""
    return not entry.packages or any(importlib.util.find_spec(name) is not None for name in entry.packages)
