"""Open PyTorch devices by name, and set its number of threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from m2l_runtime._utils.text import plural
from m2l_runtime.errors import ArgumentError, DeviceUnavailable
from m2l_train.config import MAX_THREADS


def open_device(name: str) -> torch.device:
    """Open a device by its name: auto, cpu, cuda or cuda:N. `auto` is CUDA where there is a GPU, else the CPU.

    Raises:
        ArgumentError: no device is called so.
        DeviceUnavailable: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ArgumentError(f"there is no device '{name}'; choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("PyTorch finds no CUDA device here; choose cpu, or install a CUDA build of torch")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(f"there is no {name}, only {plural(torch.cuda.device_count(), 'CUDA device')}")
    return torch.device(name)


def computes_bf16(device: torch.device) -> bool:
    """Tell whether bfloat16 is fast: on GPUs of compute capability 8.0 or above, and CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch's operators use `count` CPU threads while the block runs.

    Raises:
        ArgumentError: fewer than one, or more than `MAX_THREADS`.
    """
    if not 1 <= count <= MAX_THREADS:
        raise ArgumentError(f"threads must be between 1 and {MAX_THREADS}, got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
