"""Define an engine that an executor drives: it computes on device memory that it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Engine(Protocol):
    """Compute batches on one GPU, in memory that is not its own."""

    @property
    def captures_itself(self) -> bool:
        """Whether it makes CUDA graphs of its calls by itself; otherwise whoever drives it may capture them."""
        ...

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        """Return a function that puts one call on a stream each time it is called, without waiting for it.

        Two that were prepared may be called one after the other without a wait in between, as the stream orders them.
        Calls come from any thread, but only one at a time.

        Args:
            addresses: device addresses of all inputs and outputs by name, each of `batch_size` items of the manifest's
                shape and type in C order. They stay valid until :meth:`close`.
            batch_size: items of the call.
            stream: the address of a CUDA stream (cudaStream_t).

        Raises:
            EngineError: the engine does not take this batch size, or the GPU's memory does not hold what it needs.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds on the GPU. What was prepared must not be called afterwards."""
        ...
