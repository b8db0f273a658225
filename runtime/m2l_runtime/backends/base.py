"""Define what a backend is: its protocol, options and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.bundle.schema import PlanFile, Precision, TensorSpec

Inputs = Mapping[str, npt.NDArray[Any]]
"""One array per input of the manifest, by name; the first axis of each is the batch."""


@check_types()
@dataclass(frozen=True)
class BackendOptions:
    """Choose how a backend computes; None leaves the choice to it.

    Example:
        >>> BackendOptions(device="cpu", batch_size=8).precision
        'fp32'
    """

    device: str = "auto"
    """auto | cpu | cuda | cuda:N. `auto` is resolved once, when the backend is loaded."""
    precision: Precision = "fp32"
    """Precision of the convolutions; the bundle says which are possible on which engine."""
    batch_size: int | None = None
    """Images per call of the engine, at least 1."""
    threads: int | None = None
    """CPU threads the engine may use in all, at least 1."""
    streams: int | None = 1
    """Engine calls that may run at once; the threads are divided among them. None: what gives the most images/s."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine's device layer, by the engine's own names."""
    cache_dir: Path | None = None
    """Folder where compiled models are kept for the next time; None: nowhere, but plans in the user's own cache."""
    trust_plans: bool = False
    """Whether plans of the bundle may be loaded: they are code."""
    on_step: Callable[[str], None] = lambda _: None
    """Called with a line of text before a step of loading that may take minutes."""


@dataclass(frozen=True)
class PlanRef:
    """Refer to a plan of a bundle."""

    entry: PlanFile
    read: Callable[[], bytes]
    """Reads its bytes and checks their hash."""


@dataclass(frozen=True)
class ModelSource:
    """Hold what a backend is made of: the content of one file of a bundle, and what the manifest says of it.

    Example:
        >>> from m2l_runtime.bundle import embedded
        >>> from m2l_runtime.bundle.io import open_bundle
        >>> bundle = open_bundle(embedded.BUNDLE)
        >>> model = bundle.manifest.models[0]
        >>> source = ModelSource(
        ...     name=model.file.path,
        ...     content=bundle.read_model(model),
        ...     precision=model.precision,
        ...     inputs=bundle.manifest.inputs,
        ...     outputs=bundle.manifest.outputs,
        ... )
        >>> source.inputs[0].name
        'mask'
    """

    name: str
    content: bytes
    precision: Precision
    """Precision that convolutions are to compute with."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str | None = None
    """SHA-256 of the content, where it was computed already."""
    plans: tuple[PlanRef, ...] = ()
    """TensorRT plans that the bundle has of this file."""
    float_layer_count: int = 0
    """Number of convolutions of an int8 file that stay in float."""


@dataclass(frozen=True)
class BackendSettings:
    """Hold how a backend computes, all choices made. The same settings, bundle and machine give the same bytes.

    Example:
        >>> settings = BackendSettings("openvino", "OpenVINO 2025.0", "cpu", "fp32", batch_size=1, threads=4)
        >>> settings.streams
        1
    """

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
    """Compute one batch at a time. Safe to call from several threads.

    Example:
        >>> from m2l_runtime.backends import load_backend
        >>> from m2l_runtime.bundle import embedded
        >>> from m2l_runtime.bundle.io import open_bundle
        >>> bundle = open_bundle(embedded.BUNDLE)
        >>> backend: Backend = load_backend(bundle, "fake", BackendOptions(batch_size=2))
        >>> inputs = {i.name: np.zeros((2, *i.shape[1:]), i.dtype) for i in bundle.manifest.inputs}
        >>> backend.run(inputs).shape
        (2, 256, 256, 3)
        >>> backend.close()
    """

    @property
    def settings(self) -> BackendSettings:
        """All choices made."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it runs here: options that were asked for and do not pay."""
        ...

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """Compute one full batch: each input has `settings.batch_size` items of the manifest's shape and type.

        Returns:
            uint8 (batch_size, H, W, 3), owned by the caller.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; `run` must not be called afterwards."""
        ...


@runtime_checkable
class ReportsBuildTime(Protocol):
    """Report the time of a build; for a backend that may have to build something when it is loaded."""

    @property
    def build_s(self) -> float | None:
        """Seconds that the build took; None: it was there already."""
        ...


class BackendModule(Protocol):
    """Load a backend: what each module of this package provides.

    A module may also have ``why_unusable_here() -> str | None``, which tells why this very process cannot use the
    engine; ``auto`` passes over it then. And ``computes(precision: Precision) -> bool``, which tells in a moment
    whether this machine computes in a precision; without it, it does in those of the backend's entry.

    Example:
        >>> from m2l_runtime.backends.registry import backend_module
        >>> module: BackendModule = backend_module("fake")
        >>> callable(module.load)
        True
    """

    def load(self, source: ModelSource, options: BackendOptions) -> Backend:
        """Load a backend for one model.

        Raises:
            EngineNotInstalled: a library that the engine needs is missing.
            DeviceUnavailable: the device is not here.
            EngineError: the engine does not take the options or the model.
            BundleDamaged: the model is not what the manifest says.
        """
        ...


BUNDLE_PLAN_NOTE: Final = "runs the bundle's plan"
"""Note of a backend that runs a plan of the bundle."""
