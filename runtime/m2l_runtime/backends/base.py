"""Define what a backend is: its protocol, options and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from m2l_runtime.bundle.schema import PlanFile, Precision, TensorSpec

Inputs = Mapping[str, npt.NDArray[Any]]
"""One array per input of the manifest, by name; the first axis of each is the batch."""


@dataclass(frozen=True)
class BackendOptions:
    """What a caller may ask of a backend; None leaves the choice to it."""

    device: str = "auto"
    """auto | cpu | cuda | cuda:N. `auto` is resolved once, when the backend is loaded."""
    precision: Precision = "fp32"
    """What convolutions compute with; the bundle says which are possible on which engine."""
    batch_size: int | None = None
    """Images per call of the engine, at least 1."""
    threads: int | None = None
    """CPU threads the engine may use in all, at least 1."""
    streams: int | None = 1
    """Engine calls that may run at once, the threads divided among them; None: as many as give the most images/s."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine's device layer, by the engine's own names."""
    cache_dir: Path | None = None
    """Where compiled models are kept for the next time; None: nowhere, but plans in the user's own cache."""
    trust_plans: bool = False
    """Whether plans of the bundle may be loaded: they are code."""
    on_step: Callable[[str], None] = lambda _: None
    """Called with a line of text where loading begins with what may take minutes."""


@dataclass(frozen=True)
class PlanRef:
    """A plan that a bundle has."""

    entry: PlanFile
    read: Callable[[], bytes]
    """Its bytes, once their hash was checked."""


@dataclass(frozen=True)
class ModelSource:
    """What a backend is made of: the content of one file of a bundle, and what the manifest says of it."""

    name: str
    content: bytes
    precision: Precision
    """What convolutions are to compute with."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str | None = None
    """Of the content, where it was computed already."""
    plans: tuple[PlanRef, ...] = ()
    """TensorRT's, that the bundle has of this file."""
    float_layer_count: int = 0
    """Of int8: convolutions that stay in float."""


@dataclass(frozen=True)
class BackendSettings:
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
    def settings(self) -> BackendSettings:
        """All choices made."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it runs here: what was asked for and will not pay."""
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


@runtime_checkable
class ReportsBuildTime(Protocol):
    """A backend that may have to build something when it is loaded."""

    @property
    def build_s(self) -> float | None:
        """Seconds that it took; None: it was there already."""
        ...


class BackendModule(Protocol):
    """What a module of this package provides."""

    def load(self, source: ModelSource, options: BackendOptions) -> Backend:
        """A backend for one model.

        Raises:
            EngineNotInstalled, DeviceUnavailable, EngineError, BundleDamaged
        """
        ...


BUNDLE_PLAN_NOTE: Final = "runs the bundle's plan"
"""What a backend notes that does."""
