"""Encode and decode what the process of a row is asked to measure, and its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.backends.base import BackendSettings
from m2l_runtime.bundle.schema import Precision

_T = TypeVar("_T")


@check_types()
@dataclass(frozen=True)
class BenchConfig:
    """Describe a way to run a bundle: what one row measures.

    Example:
        >>> BenchConfig("onnxruntime", "cpu", "fp32", batch_size=8).threads is None
        True
    """

    backend: str
    device: str
    """As a backend takes it: cpu | cuda | cuda:N | auto."""
    precision: Precision
    batch_size: int
    """Masks per call of the engine."""
    threads: int | None = None
    """CPU threads of the engine in all; None: the CPUs that the process may use."""
    streams: int | None = None
    """Engine calls at once where images/s are measured; None: as many as `m2l synth` takes."""
    trust_plans: bool = False
    """Whether TensorRT plans of the bundle may be loaded."""


@dataclass(frozen=True)
class WorkerRequest:
    """Hold what the process of a row is to do."""

    config: BenchConfig
    bundle: str
    """Folder of the bundle."""
    folder: str
    """An empty folder for masks and images; whoever asks removes it."""
    seconds: float
    """How long each of the three measurements goes on, about."""
    started_at_s: float
    """`time.monotonic()`, which is the same in all processes, just before the process was started."""


@dataclass(frozen=True)
class Round:
    """Hold what one process of a row measured.

    Example:
        >>> Round(0.4, 0.9, 21.0, 23.0, 25.0, 90, 48.0, 45.0, 96, 210.0).images_per_s
        48.0
    """

    load_s: float
    """From the bundle's folder to a backend that is ready, once the engine's Python package is imported."""
    first_image_s: float
    """From the start of the process to the PNG bytes of its first image, imports and all."""
    latency_p50_ms: float
    """Of a call with a whole batch, one call at a time: the median."""
    latency_p95_ms: float
    latency_p99_ms: float
    latency_call_count: int
    """Calls that the three are of."""
    images_per_s: float
    """The engine alone, its inputs in memory, as many calls at once as there are streams."""
    end_to_end_images_per_s: float
    """Mask files to PNG files."""
    end_to_end_image_count: int
    peak_memory_megabytes: float | None
    """Most that the process held, in 10^6 bytes; None where the system does not tell. A device's own is not in it."""
    build_s: float | None = None
    """Of the loading, what a plan took to be built; None where nothing is built, or was before."""
    device_memory_megabytes: float | None = None
    """What the engine and its calls hold on the GPU, in 10^6 bytes, by the GPU's free memory; None on a CPU.

    What CUDA and the engine's library took for the process before, and keep, is not in it.
    """


@dataclass(frozen=True)
class WorkerResponse:
    """Hold the answer of a row's process."""

    round: Round | None = None
    latency_settings: BackendSettings | None = None
    """How the backend computed where calls came one at a time."""
    throughput_settings: BackendSettings | None = None
    """And where images/s were measured."""
    notes: tuple[str, ...] = ()
    """What the backend says of how it runs here."""
    reason: str | None = None
    """Why nothing was measured; the others are None then."""


def encode(message: WorkerRequest | WorkerResponse) -> bytes:
    """Encode a message as one line of ASCII."""
    return json.dumps(msgspec.to_builtins(message)).encode("ascii") + b"\n"


def decode(document: Any, kind: type[_T]) -> _T:
    """Convert a parsed line of JSON to a message.

    Raises:
        msgspec.ValidationError: it is no such message.
    """
    return msgspec.convert(document, kind)
