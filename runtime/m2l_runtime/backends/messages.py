"""Word notes on options and failures of engines, the same for all engines."""

from __future__ import annotations

from typing import Final

from m2l_runtime._utils.cpu import lacks_int8_products, usable_cpus
from m2l_runtime._utils.text import plural
from m2l_runtime.backends.base import BackendOptions, BackendSettings
from m2l_runtime.errors import EngineError

_OUT_OF_MEMORY: Final = (
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "outofmemory",
    "could not be allocated",
)


def notes_on_cpu(options: BackendOptions, precision: str) -> tuple[str, ...]:
    """Note what was asked for and does not pay on this machine's CPUs: threads, streams, int8."""
    cpus, notes = usable_cpus(), []
    asked = (("thread", options.threads), ("stream", options.streams))
    excess = [plural(count, what) for what, count in asked if count is not None and count > cpus]
    if excess:
        notes.append(f"asked for {' and '.join(excess)}; this process may use {plural(cpus, 'CPU')}, more do not pay")
    if precision == "int8" and lacks_int8_products():
        notes.append("this CPU has no instructions for products of int8 (VNNI): int8 may be no faster than fp32")
    return tuple(notes)


def failure(settings: BackendSettings, error: Exception, message: str) -> EngineError:
    """Make the error for a batch that failed with `error`, in short `message`; too little memory is told apart."""
    if is_out_of_memory(error):
        return EngineError(out_of_memory_advice(settings.batch_size, settings.streams))
    return EngineError(f"{settings.backend} failed on {settings.device}: {message}")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an engine failed for want of memory, which each says in its own words."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def out_of_memory_advice(batch_size: int, streams: int) -> str:
    """Advise a person who asked for more than memory holds."""
    return (
        f"there is too little memory for {plural(batch_size, 'image')} a call and {plural(streams, 'call')} at once; "
        "choose a smaller batch size or fewer streams"
    )
