"""Choose the configurations of a bundle that are measured, in the order of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.registry import BACKENDS, BackendEntry, is_installed
from m2l_runtime.bench.messages import BenchConfig
from m2l_runtime.bench.process import TIMEOUT_S
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import ArgumentError, EngineNotInstalled

PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)
BATCH_SIZES: Final = (1, 8)
"""Measured unless others are asked for."""
MAX_ROWS: Final = 1000

_MAX_VALUE: Final = 4096
"""Batch size, threads and streams that a backend takes at most."""
_NVIDIA: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

_T = TypeVar("_T")


@check_types()
@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Hold what is measured, and how long.

    Example:
        >>> BenchOptions(batch_sizes=(1, 8, 16), repeats=5).seconds
        2.0
    """

    backends: Sequence[str] | None = None
    """Names; None: all that are installed and that the bundle has a file for, but no fake."""
    devices: Sequence[str] | None = None
    """cpu, cuda, cuda:N; None: the CPU, and CUDA where there is a driver for it."""
    precisions: Sequence[str] | None = None
    """None: all that the bundle has for each backend."""
    batch_sizes: Sequence[int] = BATCH_SIZES
    """Masks per call of the engine."""
    threads: int | None = None
    """CPU threads of the engine in all; None: the CPUs that this process may use."""
    streams: Sequence[int | None] = (None,)
    """Engine calls at once where images/s are measured; None among them: as many as `m2l synth` takes.

    Latency is always measured with one stream.
    """
    repeats: int = 3
    """Rounds."""
    seconds: float = 2.0
    """How long each of a row's three measurements goes on, about; it takes some calls at least."""
    timeout_s: float = TIMEOUT_S
    """Seconds after which the process of a row is ended, which fails the row."""
    trust_plans: bool = False
    """Whether TensorRT plans of the bundle may be loaded, which are code."""


def plan_rows(bundle: Bundle, options: BenchOptions | None = None) -> tuple[tuple[BenchConfig, ...], tuple[str, ...]]:
    """Choose the configurations to measure.

    What is asked for by name is measured even if it turns out not to work here. What is not is chosen: every backend
    that is installed and that the bundle has a file for, but no fake; the CPU, and CUDA where there is a driver for it;
    all precisions that the bundle has for the backend.

    Returns:
        The configurations, and notes for a person.

    Raises:
        InputError: an unknown backend or precision, or a number out of range.
        EngineNotInstalled: no backend was asked for, and none of those that the bundle has a file for is here.
    """
    options = BenchOptions() if options is None else options
    _check_names("backend", options.backends, tuple(BACKENDS))
    _check_names("precision", options.precisions, PRECISIONS)
    for what, values in (
        ("batch size", options.batch_sizes),
        ("number of threads", [options.threads]),
        ("number of streams", options.streams),
    ):
        for value in values:
            if value is not None and not 1 <= value <= _MAX_VALUE:
                raise ArgumentError(f"the {what} must be between 1 and {_MAX_VALUE}, got {value}")
    notes: list[str] = []
    names = _each(options.backends) if options.backends else _installed(bundle, notes)
    configs = [
        BenchConfig(
            name,
            device,
            cast(Precision, precision),
            batch_size,
            options.threads,
            stream_count,
            options.trust_plans,
        )
        for name in names
        for device in _each(options.devices or _devices(BACKENDS[name]))
        for precision in _each(options.precisions or _precisions(bundle, name))
        for batch_size in _each(options.batch_sizes)
        for stream_count in _each(options.streams)
    ]
    if not configs:
        raise ArgumentError("nothing is to be measured; name at least one batch size")
    if len(configs) > MAX_ROWS:
        raise ArgumentError(f"{len(configs):,} rows are too many, at most {MAX_ROWS:,} are measured; ask for fewer")
    if any(BACKENDS[name].is_fake for name in names):
        notes.append("the fake backend runs no model: its row times all that is around an engine")
    return tuple(configs), tuple(notes)


def _check_names(what: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            raise ArgumentError(f"there is no {what} '{printable(name[:40])}'; choose among {', '.join(known)}")


def check_effort(options: BenchOptions) -> None:
    """Check rounds and seconds.

    Raises:
        InputError: a number is out of range.
    """
    if not 1 <= options.repeats <= 1000:
        raise ArgumentError(f"the number of repeats must be between 1 and 1000, got {options.repeats}")
    for what, value in (("seconds of a measurement", options.seconds), ("seconds of a time-out", options.timeout_s)):
        if not (math.isfinite(value) and 0 < value <= 86400):
            raise ArgumentError(f"the {what} must be more than 0 and at most 86400, got {value:g}")


def _each(values: Iterable[_T]) -> list[_T]:
    """Return the values, each once."""
    return list(dict.fromkeys(values))


def _installed(bundle: Bundle, notes: list[str]) -> list[str]:
    """Return the backends that are installed and that the bundle has a file for; note what is missing."""
    engines = {engine for model in bundle.manifest.models for engine in model.engines}
    wanted = {name: entry for name, entry in BACKENDS.items() if name in engines and not entry.is_fake}
    here = [name for name, entry in wanted.items() if is_installed(entry)]
    if not here:
        commands = "; or ".join(f"for {name}: {entry.install}" for name, entry in wanted.items())
        raise EngineNotInstalled(f"no inference engine is installed that this bundle has a file for: {commands}")
    for name, entry in wanted.items():
        if name not in here:
            notes.append(f"{name} is not measured, as {' or '.join(entry.packages)} is not installed: {entry.install}")
    return here


def _devices(entry: BackendEntry) -> list[str]:
    """Return the CPU, and CUDA where there is a driver."""
    has_driver = any(path.exists() for path in _NVIDIA)
    return [device for device in entry.devices if device == "cpu" or (device == "cuda" and has_driver)] or ["auto"]


def _precisions(bundle: Bundle, backend: str) -> list[Precision]:
    """Return those the bundle has for a backend; where it has none, any, so that the row can say so."""
    models = bundle.manifest.models
    found = [model.precision for model in models if backend in model.engines]
    return found or [models[0].precision]
