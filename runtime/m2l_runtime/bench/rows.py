"""A bundle and wishes to the ways of running it that are measured, in the order of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

from m2l_runtime._utils.text import printable
from m2l_runtime.backends.registry import BACKENDS, BackendEntry, is_installed
from m2l_runtime.bench.messages import BenchConfig
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineNotInstalled, InputError

PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)
BATCH_SIZES: Final = (1, 8)
"""Measured unless others are asked for."""
MAX_ROWS: Final = 1000

_MAX_VALUE: Final = 4096
"""Batch size, threads and streams that a backend takes at most."""
_NVIDIA: Final = (Path("/dev/nvidiactl"), Path("/dev/dxg"))

_T = TypeVar("_T")


def plan(
    bundle: Bundle,
    *,
    backends: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: int | None = None,
    streams: Sequence[int | None] = (None,),
    trust_plans: bool = False,
) -> tuple[tuple[BenchConfig, ...], tuple[str, ...]]:
    """(ways to measure, notes for a person).

    What is asked for by name is a way even if it will turn out not to work here. What is not is chosen: every backend
    that is installed and that the bundle has a file for, but no fake; the CPU, and CUDA where there is a driver for it;
    all precisions that the bundle has for the backend.

    Raises:
        InputError: an unknown backend or precision, or a number out of range.
        EngineNotInstalled: no backend was asked for, and none of those that the bundle has a file for is here.
    """
    for name in backends or ():
        if name not in BACKENDS:
            raise InputError(f"there is no backend '{printable(name[:40])}'; choose among {', '.join(BACKENDS)}")
    for name in precisions or ():
        if name not in PRECISIONS:
            raise InputError(f"there is no precision '{printable(name[:40])}'; choose among {', '.join(PRECISIONS)}")
    for what, values in (("batch size", batch_sizes), ("number of threads", [threads]), ("number of streams", streams)):
        for value in values:
            if value is not None and not 1 <= value <= _MAX_VALUE:
                raise InputError(f"the {what} must be between 1 and {_MAX_VALUE}, got {value}")
    notes: list[str] = []
    names = _each(backends) if backends else _installed(bundle, notes)
    configs = [
        BenchConfig(name, device, cast(Precision, precision), batch_size, threads, stream_count, trust_plans)
        for name in names
        for device in _each(devices or _devices(BACKENDS[name]))
        for precision in _each(precisions or _precisions(bundle, name))
        for batch_size in _each(batch_sizes)
        for stream_count in _each(streams)
    ]
    if not configs:
        raise InputError("nothing is to be measured; name at least one batch size")
    if len(configs) > MAX_ROWS:
        raise InputError(f"{len(configs):,} rows are too many, at most {MAX_ROWS:,} are measured; ask for fewer")
    if any(BACKENDS[name].is_fake for name in names):
        notes.append("the fake backend runs no model: its row times all that is around an engine")
    return tuple(configs), tuple(notes)


def check_effort(repeats: int, seconds: float, timeout_s: float) -> None:
    """Rounds and seconds that can be.

    Raises:
        InputError
    """
    if not 1 <= repeats <= 1000:
        raise InputError(f"the number of repeats must be between 1 and 1000, got {repeats}")
    for what, value in (("seconds of a measurement", seconds), ("seconds of a time-out", timeout_s)):
        if not (math.isfinite(value) and 0 < value <= 86400):
            raise InputError(f"the {what} must be more than 0 and at most 86400, got {value:g}")


def _each(values: Iterable[_T]) -> list[_T]:
    """The same, each once."""
    return list(dict.fromkeys(values))


def _installed(bundle: Bundle, notes: list[str]) -> list[str]:
    """Backends that are here and that the bundle has a file for; what is missing is noted."""
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
    """The CPU, and CUDA where there is a driver."""
    has_driver = any(path.exists() for path in _NVIDIA)
    return [device for device in entry.devices if device == "cpu" or (device == "cuda" and has_driver)] or ["auto"]


def _precisions(bundle: Bundle, backend: str) -> list[Precision]:
    """Those the bundle has for a backend; where it has none, any, so that the row can say so."""
    models = bundle.manifest.models
    found = [model.precision for model in models if backend in model.engines]
    return found or [models[0].precision]
