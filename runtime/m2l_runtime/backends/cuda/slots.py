"""Hold what an executor's calls need on a GPU: streams, and for each call memory and events."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.base import Inputs
from m2l_runtime.backends.cuda.runtime_api import Bytes, CudaRuntime
from m2l_runtime.bundle.schema import TensorSpec


@dataclass(frozen=True)
class Streams:
    """Hold the streams of all slots: for copies to the GPU, the engine, and copies back."""

    copy_in: int
    compute: int
    copy_out: int

    @classmethod
    def create(cls, cuda_runtime: CudaRuntime, resources: contextlib.ExitStack) -> Streams:
        """Make three streams; `resources` destroys them."""

        def stream() -> int:
            return _owned(resources, cuda_runtime.create_stream(), cuda_runtime.destroy_stream)

        return cls(copy_in=stream(), compute=stream(), copy_out=stream())

    @property
    def all(self) -> tuple[int, int, int]:
        """The streams in the order in which a call passes them."""
        return self.copy_in, self.compute, self.copy_out


@dataclass(frozen=True)
class Tensor:
    """Hold memory for the items of an input or output of one call, on the host and on the GPU."""

    memory: Bytes
    """Pinned memory of the host."""
    items: npt.NDArray[Any]
    """The same memory by items, (items, *sides)."""
    address: int
    """Address on the GPU."""

    @classmethod
    def create(cls, cuda_runtime: CudaRuntime, resources: contextlib.ExitStack, spec: TensorSpec, count: int) -> Tensor:
        """Allocate memory for `count` items; `resources` frees it."""
        byte_count = _size(spec, count)
        memory = _owned(resources, cuda_runtime.allocate_pinned(byte_count), cuda_runtime.free_pinned)
        address = _owned(resources, cuda_runtime.allocate(byte_count), cuda_runtime.free)
        return cls(memory, memory.view(spec.dtype).reshape(count, *sides_of(spec)), address)

    def first(self, count: int) -> Bytes:
        """View the memory of the first items."""
        return self.memory[: count * self.items[0].nbytes]


@dataclass(frozen=True, eq=False)
class Slot:
    """Hold what one call needs while it is under way. Only the thread that has taken it touches it."""

    inputs: dict[str, Tensor]
    images: Tensor
    addresses: dict[str, int]
    """Memory of all inputs and outputs."""
    copied_in: int
    computed: int
    copied_out: int
    prepared: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Functions that the engine prepared, by batch size."""
    calls: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Functions that put a call on the stream, by batch size; there once it has been warmed up."""

    @classmethod
    def create(
        cls,
        cuda_runtime: CudaRuntime,
        resources: contextlib.ExitStack,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        count: int,
    ) -> Slot:
        """Make a slot for calls of up to `count` items; `resources` releases what it holds."""

        def event() -> int:
            return _owned(resources, cuda_runtime.create_event(), cuda_runtime.destroy_event)

        tensors = {spec.name: Tensor.create(cuda_runtime, resources, spec, count) for spec in inputs}
        images = Tensor.create(cuda_runtime, resources, outputs[0], count)
        addresses = {name: tensor.address for name, tensor in tensors.items()} | {outputs[0].name: images.address}
        for spec in outputs[1:]:
            addresses[spec.name] = _owned(resources, cuda_runtime.allocate(_size(spec, count)), cuda_runtime.free)
        return cls(tensors, images, addresses, copied_in=event(), computed=event(), copied_out=event())

    def fill(self, inputs: Inputs, count: int, batch_size: int) -> None:
        """Fill in the items of a call, and zeros up to the batch size."""
        for name, tensor in self.inputs.items():
            if count > 0:
                tensor.items[:count] = inputs[name]
            tensor.items[count:batch_size] = 0

    def reset(self) -> None:
        """Let go of the engine's calls."""
        self.calls.clear()
        self.prepared.clear()


_Resource = TypeVar("_Resource")


def _owned(resources: contextlib.ExitStack, resource: _Resource, release: Callable[[_Resource], None]) -> _Resource:
    resources.callback(release, resource)
    return resource


def sides_of(spec: TensorSpec) -> tuple[int, ...]:
    """Return a tensor's shape without the batch."""
    return tuple(side for side in spec.shape if side != "batch")


def _size(spec: TensorSpec, count: int) -> int:
    """Count the bytes of so many items."""
    return count * math.prod(sides_of(spec)) * np.dtype(spec.dtype).itemsize
