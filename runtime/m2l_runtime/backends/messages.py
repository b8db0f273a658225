"""Word notes on options and failures of engines, the same for all engines."""

from __future__ import annotations

from m2l_runtime._utils.cpu import lacks_int8_products, usable_cpus
from m2l_runtime._utils.memory import is_memory_short, is_out_of_memory
from m2l_runtime._utils.text import plural
from m2l_runtime.backends.base import BackendOptions, BackendSettings
from m2l_runtime.errors import BundleDamaged, EngineError


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


def load_failure(engine: str, error: Exception, message: str, model_bytes: int) -> EngineError | BundleDamaged:
    """Make the error for a model that an engine did not load, with `error`, in short `message`.

    Engines blame the file for what they fail to allocate. So where they say nothing of memory, it is tried.

    Args:
        engine: name and version.
        error: what it raised.
        message: what it said, in short.
        model_bytes: size of the file.
    """
    if is_out_of_memory(error) or is_memory_short(model_bytes):
        return EngineError(
            f"there is too little memory for {engine} to load the model; choose a smaller batch size or "
            "fewer streams, or free some"
        )
    return BundleDamaged(
        f"{engine} cannot load the model: {message}; take another --backend, or export the bundle again"
    )


def out_of_memory_advice(batch_size: int, streams: int) -> str:
    """Advise a person who asked for more than memory holds."""
    return (
        f"there is too little memory for {plural(batch_size, 'image')} a call and {plural(streams, 'call')} at once; "
        "choose a smaller batch size or fewer streams"
    )
