"""Coordinate the processes that torchrun starts for one run.

Gradients are averaged after each backward pass, all in one message. PyTorch's DistributedDataParallel is not used: it
counts on one forward for each backward pass of a network, and the discriminator has two and then one more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from m2l_runtime.errors import InputError

_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """Describe one process among those of the run. Every method is called by all of them, in the same order."""

    rank: int = 0
    """From 0; the first one writes, the others compute."""
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors, in place, by their means over all processes."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.world_size
        for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors, in place, by those of the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def broadcast_object(self, value: Any) -> Any:
        """Return what the first process gives; made of plain Python objects."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor.item())

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.all_reduce_max(0)


def local_device(name: str) -> str:
    """Replace `auto` by the GPU of this process, where torchrun has started a process per GPU."""
    if name == "auto" and _started_by_torchrun() and torch.cuda.is_available():
        return f"cuda:{_variable('LOCAL_RANK')}"
    return name


def local_world_size() -> int:
    """Count the run's processes on this machine, which share its CPUs."""
    return _variable("LOCAL_WORLD_SIZE") if _started_by_torchrun() else 1


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started while the block runs; without torchrun there is one.

    Raises:
        InputError: torchrun's variables are in the environment but not all of them, or no numbers.
    """
    if not _started_by_torchrun() or _variable("WORLD_SIZE") == 1:
        yield ProcessGroup(device=device)
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise InputError(f"the environment has WORLD_SIZE but not {', '.join(missing)}; start with torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        process = ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
        yield process
        process.wait()  # whoever leaves while another still talks may bring it down
    finally:
        dist.destroy_process_group()


def _started_by_torchrun() -> bool:
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def _variable(name: str) -> int:
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"the environment's {name} must be a whole number, got {text[:40]!r}; start with torchrun")
    return int(text)
