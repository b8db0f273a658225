"""List NVIDIA GPUs, or say why none can be used.

Ask here ahead of whatever loads an engine's own CUDA library: some of these end the process where there is no GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from m2l_runtime._utils.signals import raise_interrupt
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled

INSTALL: Final = 'pip install "m2l[gpu]"'
"""The command that installs what this package needs."""

_PACKAGES: Final = ("cuda", "cuda.bindings", "cuda.bindings.runtime")


@dataclass(frozen=True)
class Gpu:
    """Describe a GPU that CUDA lets this process use."""

    index: int
    """N of cuda:N, from 0, among the GPUs that CUDA_VISIBLE_DEVICES leaves visible."""
    name: str
    compute_capability: str
    """Major and minor number: "8.9"."""
    memory_bytes: int
    """Bytes of all of the GPU's memory, whoever uses it."""
    driver_version: str
    """The newest CUDA that the driver supports: "13.0"."""


def find_gpus() -> tuple[Gpu, ...]:
    """List all GPUs, at least one, by index. Takes none of their memory.

    Raises:
        EngineNotInstalled: CUDA's Python package is missing; with the command that installs it.
        DeviceUnavailable: no driver, one too old, or no GPU; with CUDA's own words for it and what to do.
    """
    runtime = load_runtime()
    code, count = runtime.cudaGetDeviceCount()
    if code != 0:
        raise unavailable(runtime, code)
    if count == 0:
        raise unavailable(runtime, runtime.cudaError_t.cudaErrorNoDevice)
    _, version = runtime.cudaDriverGetVersion()
    gpus = []
    for index in range(count):
        code, properties = runtime.cudaGetDeviceProperties(index)
        if code != 0:
            raise unavailable(runtime, code)
        gpus.append(
            Gpu(
                index=index,
                name=printable(properties.name.partition(b"\0")[0].decode("utf-8", "replace")),
                compute_capability=f"{properties.major}.{properties.minor}",
                memory_bytes=int(properties.totalGlobalMem),
                driver_version=_version(version),
            )
        )
    return tuple(gpus)


def find_gpu(index: int) -> Gpu:
    """Find the GPU of an index.

    Raises:
        EngineNotInstalled, DeviceUnavailable: as :func:`find_gpus`; or there is no GPU of that index.
    """
    gpus = find_gpus()
    if 0 <= index < len(gpus):
        return gpus[index]
    there = ", ".join(f"cuda:{found.index} ({found.name})" for found in gpus)
    raise DeviceUnavailable(f"there is no cuda:{index}, only {plural(len(gpus), 'NVIDIA GPU')}; choose among {there}")


def memory_in_use_bytes(index: int) -> int | None:
    """Return the bytes of a GPU's memory in use, by all processes together; None where it cannot be told.

    Asking starts CUDA on the GPU, and what CUDA itself takes there for this process is part of the answer.
    """
    try:
        runtime = load_runtime()
    except EngineNotInstalled:
        return None
    with ThreadPoolExecutor(1) as own:  # which GPU is current is a thread's own: this one's is left alone
        return own.submit(_memory_in_use_bytes, runtime, index).result()


def load_runtime() -> Any:
    """Import the module `cuda.bindings.runtime`.

    Raises:
        EngineNotInstalled: it is missing or does not load; with the command that installs it.
    """
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
        _ = runtime.cudaGetDeviceCount
        return runtime
    except Exception as error:
        raise_interrupt(error)
        if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
            raise EngineNotInstalled(
                f"NVIDIA GPUs are reached through cuda-bindings, which is not installed: {INSTALL}"
            ) from None
        raise EngineNotInstalled(
            f"cuda-bindings is installed but does not load ({type(error).__name__}: {error}); reinstall it: {INSTALL}"
        ) from error


def unavailable(runtime: Any, code: Any) -> DeviceUnavailable:
    """Make the error for a code (cudaError_t) that means that no GPU, or not this one, can be used."""
    if code.name == "cudaErrorInsufficientDriver" and runtime.cudaDriverGetVersion()[1] == 0:
        return DeviceUnavailable(  # CUDA's words would be that it is too old
            "no NVIDIA GPU can be used: there is no NVIDIA driver (cudaErrorInsufficientDriver); install it, start "
            "the container with the GPUs, or choose device cpu"
        )
    advice = _ADVICE.get(code.name, lambda _: "see what nvidia-smi says of the GPU and its driver")
    return DeviceUnavailable(
        f"no NVIDIA GPU can be used: {words(runtime, code)}; {advice(runtime)}, or choose device cpu"
    )


def words(runtime: Any, code: Any) -> str:
    """Return CUDA's words for a code (cudaError_t), and its name."""
    _, text = runtime.cudaGetErrorString(code)
    return f"{text.decode()} ({code.name})"


def _memory_in_use_bytes(runtime: Any, index: int) -> int | None:
    code, count = runtime.cudaGetDeviceCount()
    if code != 0 or not 0 <= index < count or runtime.cudaSetDevice(index)[0] != 0:
        return None
    code, free, total = runtime.cudaMemGetInfo()
    return int(total) - int(free) if code == 0 else None


def _driver_advice(runtime: Any) -> str:
    _, version = runtime.cudaDriverGetVersion()
    _, needed = runtime.cudaRuntimeGetVersion()
    return f"the driver supports CUDA {_version(version)} and CUDA {needed // 1000} is needed: update the driver"


def _visibility_advice(_: Any) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "see whether nvidia-smi lists a GPU"
    return f"CUDA_VISIBLE_DEVICES is {visible!r}, which may hide the GPUs: unset it"


_ADVICE: Final[Mapping[str, Callable[[Any], str]]] = {
    "cudaErrorInsufficientDriver": _driver_advice,
    "cudaErrorNoDevice": _visibility_advice,
    "cudaErrorInvalidDevice": lambda _: "choose one of the GPUs that nvidia-smi lists",
    "cudaErrorDevicesUnavailable": lambda _: "another process may hold the GPU for itself: wait for its end",
    "cudaErrorInitializationError": lambda _: (
        "where a process has used CUDA, its forks cannot: have child processes spawned"
    ),
    "cudaErrorSystemDriverMismatch": lambda _: "restart the machine, so that the driver updated last is the one loaded",
}


def _version(number: int) -> str:
    """Format a version: 13020 becomes "13.2"."""
    return f"{number // 1000}.{number % 1000 // 10}"
