"""A bundle and the name of an engine to a backend, the one thing that computes images.

Each backend is one module here, imported only when it is asked for. To add one, write the module (a
``load`` function, see :class:`BackendModule`) and list it in `BACKENDS`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from m2l_runtime.bundle import Bundle, ModelFile, TensorSpec
from m2l_runtime.errors import EngineError, EngineNotInstalled

Inputs = Mapping[str, npt.NDArray[Any]]
"""One array per input of the manifest, by name; the first axis of each is the batch."""


@dataclass(frozen=True)
class BackendOptions:
    """What a caller may ask of a backend; None leaves the choice to it."""

    device: str = "auto"
    """auto | cpu | cuda | cuda:N. `auto` is resolved once, when the backend is loaded."""
    batch_size: int | None = None
    """Images per call of the engine, at least 1."""
    threads: int | None = None
    """CPU threads the engine may use in all, at least 1."""
    streams: int | None = 1
    """Engine calls that may run at once, the threads divided among them; None: as many as give the most images/s."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine's device layer, by the engine's own names."""


@dataclass(frozen=True)
class ModelSource:
    """What a backend is made of: the content of one file of a bundle, and what the manifest says of it."""

    name: str
    content: bytes
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Settings:
    """How a backend computes, all choices made: the same settings, bundle and machine give the same bytes."""

    backend: str
    engine: str
    """Name and version of the library."""
    device: str
    """cpu | cuda:N"""
    precision: str
    batch_size: int
    threads: int
    """CPU threads of each engine call."""
    streams: int = 1
    """Engine calls that are meant to run at once."""
    provider_options: tuple[tuple[str, str], ...] = ()


class Backend(Protocol):
    """Computes one batch at a time. Safe to call from several threads."""

    @property
    def settings(self) -> Settings:
        """All choices made."""
        ...

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """One full batch: each input has `settings.batch_size` items of the manifest's shape and type.

        Returns:
            uint8 (batch_size, H, W, 3), owned by the caller.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; `run` must not be called afterwards."""
        ...


class BackendModule(Protocol):
    """What a module of this package provides."""

    def load(self, source: ModelSource, options: BackendOptions) -> Backend:
        """A backend for one model.

        Raises:
            EngineNotInstalled, DeviceUnavailable, EngineError, BundleDamaged
        """
        ...


@dataclass(frozen=True)
class BackendEntry:
    """What is known of a backend without importing it."""

    module: str
    package: str | None
    """Python package it needs; None if it needs none."""
    devices: tuple[str, ...]
    install: str
    """The command that installs what it needs."""
    is_fake: bool = False


BACKENDS: Final[Mapping[str, BackendEntry]] = {
    "onnxruntime": BackendEntry(
        module="m2l_runtime.backends.onnxruntime",
        package="onnxruntime",
        devices=("cpu", "cuda"),
        install="pip install '.[cpu]' in a checkout of m2l (or '.[gpu]' for NVIDIA cards; never both)",
    ),
    "fake": BackendEntry(module="m2l_runtime.backends.fake", package=None, devices=("cpu",), install="", is_fake=True),
}
"""Backends by name, in the order in which `auto` tries them. A fake one is never chosen by `auto`."""


def load_backend(bundle: Bundle, name: str, options: BackendOptions) -> Backend:
    """The backend `name` (or, for "auto", the first installed one that has a file in the bundle).

    Raises:
        EngineNotInstalled: with the command that installs it.
        EngineError: unknown name, options out of range, or no file in the bundle for it.
        DeviceUnavailable, BundleDamaged: see :class:`BackendModule`.
    """
    for what, value in (
        ("batch size", options.batch_size),
        ("number of threads", options.threads),
        ("number of streams", options.streams),
    ):
        if value is not None and not 1 <= value <= 4096:
            raise EngineError(f"the {what} must be between 1 and 4096, got {value}")
    if name == "auto":
        name = _first_installed(bundle)
    entry = BACKENDS.get(name)
    if entry is None:
        raise EngineError(f"there is no backend '{name}'; choose one of auto, {', '.join(BACKENDS)}")
    module, model = backend_module(name), _model_for(bundle, name, entry)
    source = ModelSource(
        name=model.file.path,
        content=bundle.read_model(model),
        precision=model.precision,
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
    )
    return module.load(source, options)


def backend_module(name: str) -> BackendModule:
    """The module of a backend in `BACKENDS`; imports it, hence its engine.

    Raises:
        EngineNotInstalled: with the command that installs it.
    """
    entry = BACKENDS[name]
    if not _is_installed(entry):
        raise EngineNotInstalled(f"the backend '{name}' needs {entry.package}, which is not installed: {entry.install}")
    try:
        return cast(BackendModule, importlib.import_module(entry.module))
    except ImportError as error:
        raise EngineNotInstalled(
            f"the backend '{name}' is installed but does not load ({error}); reinstall it: {entry.install}"
        ) from error


def _is_installed(entry: BackendEntry) -> bool:
    return entry.package is None or importlib.util.find_spec(entry.package) is not None


def _first_installed(bundle: Bundle) -> str:
    real = {name: entry for name, entry in BACKENDS.items() if not entry.is_fake}
    for name, entry in real.items():
        if _is_installed(entry) and any(name in model.engines for model in bundle.manifest.models):
            return name
    commands = "; ".join(entry.install for entry in real.values())
    raise EngineNotInstalled(f"no inference engine is installed that this bundle has a file for: {commands}")


def _model_for(bundle: Bundle, name: str, entry: BackendEntry) -> ModelFile:
    for model in bundle.manifest.models:
        if entry.is_fake or name in model.engines:
            return model
    found = sorted({engine for model in bundle.manifest.models for engine in model.engines})
    raise EngineError(f"the bundle has no file for the backend '{name}', only for {', '.join(found)}")
