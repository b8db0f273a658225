"""Run calls of an engine on one GPU, several at once: one is copied in while another is computed.

Every call has a slot: memory that the GPU copies to and from, memory on the GPU, and events. All slots share three
streams, for copies in, the engine, and copies out, which events keep in order.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.signals import raise_interrupt
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.base import Inputs
from m2l_runtime.backends.cuda.engine import Engine
from m2l_runtime.backends.cuda.runtime_api import CudaRuntime
from m2l_runtime.backends.cuda.slots import Slot, Streams, sides_of
from m2l_runtime.backends.messages import out_of_memory_advice
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import EngineError


class Executor:
    """Drive an engine with a slot for each call under way. `run` may be called from several threads at once.

    Closing it closes the engine; where the constructor raises, the engine is left to the caller.

    Args:
        driver: the GPU.
        engine: what computes there.
        inputs: all inputs of the engine.
        outputs: all outputs of the engine; the first are the images, uint8 (batch, H, W, 3), the others stay there.
        batch_sizes: how many items a call of the engine may have; a call of fewer is padded with zeros to the next.
        slots: calls that may be under way at once.
        use_graphs: whether calls become CUDA graphs, where the engine does not make its own.

    Raises:
        EngineError: batch sizes or slots below 1, no images among the outputs, or the memory of GPU or machine does
            not hold that much.
    """

    def __init__(
        self,
        cuda_runtime: CudaRuntime,
        engine: Engine,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        batch_sizes: Sequence[int],
        slots: int = 2,
        use_graphs: bool = True,
    ) -> None:
        if slots < 1 or min(batch_sizes, default=0) < 1:
            raise EngineError(
                f"batch sizes and slots must be 1 or more, got {list(batch_sizes)} and {slots}; give one of each"
            )
        if not outputs or outputs[0].dtype != "uint8":
            got = f"{outputs[0].dtype} {printable(outputs[0].name)}" if outputs else "no output"
            raise EngineError(f"the first output must be the images, uint8, got {got}; list them first")
        self._cuda_runtime = cuda_runtime
        self._engine = engine
        self._inputs = tuple(inputs)
        self._batch_sizes = sorted(set(batch_sizes))
        self._use_graphs = use_graphs and not engine.captures_itself
        self._notes: list[str] = []
        self._slot_count = slots
        self._process = os.getpid()
        self._submitting = threading.Lock()  # of streams, engine, and each slot's `prepared` and `calls`
        self._changed = threading.Condition()  # of the three below
        self._is_closed = False
        self._failure: str | None = None
        with contextlib.ExitStack() as resources, self._explaining_out_of_memory():
            cuda_runtime.make_current()
            self._streams = Streams.create(cuda_runtime, resources)
            self._slots = [
                Slot.create(cuda_runtime, resources, inputs, outputs, self._batch_sizes[-1]) for _ in range(slots)
            ]
            for slot in self._slots:  # so that a first call computes on zeros, not on whatever the GPU holds
                for tensor in slot.inputs.values():
                    tensor.memory[:] = 0
                    cuda_runtime.copy_in(tensor.address, tensor.memory, self._streams.copy_in)
            cuda_runtime.synchronize_stream(self._streams.copy_in)
            resources.callback(engine.close)  # ahead of the memory that it was told of
            for slot in self._slots:
                resources.callback(slot.reset)  # ahead of the engine, parts of which these calls hold
            self._resources = resources.pop_all()
        self._idle = self._slots[::-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how calls run here; more may come with the first calls."""
        return tuple(self._notes)

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """Compute the images of some items; waits for a slot to be free.

        Args:
            inputs: every input by name, of the shape and type that was declared; the same 1 to max(batch_sizes) items
                of each.

        Returns:
            uint8 (items, H, W, 3), a new array.

        Raises:
            EngineError: the inputs are not such, the engine or the GPU failed, or the executor is closed. Other calls
                go on after a failure, unless the GPU is left unusable; they then raise as well, and say so.
        """
        self._check_process()
        count = self._count(inputs)
        batch_size = self._batch_sizes[bisect_left(self._batch_sizes, count)]
        with self._reserve_slot(self._slots) as slot:
            slot.fill(inputs, count, batch_size)
            self._compute(slot, batch_size)
            return slot.images.items[:count].copy()

    def warm_up(self) -> None:
        """Do now what is otherwise done in the first calls: one call of each batch size in every slot.

        Raises:
            EngineError: as :meth:`run`.
        """
        self._check_process()
        for slot in self._slots:
            with self._reserve_slot([slot]):
                for batch_size in self._batch_sizes:
                    slot.fill({}, 0, batch_size)
                    self._compute(slot, batch_size)

    def close(self) -> None:
        """Wait for the calls under way, close the engine and release all memory; calls that wait for a slot raise.

        Closing again does nothing; nor does closing in a fork, which does not own the memory.
        """
        if os.getpid() != self._process:
            return
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == self._slot_count)
        # Of a GPU that is unusable nothing can be given back until the process ends.
        ignored: AbstractContextManager[Any]
        ignored = contextlib.nullcontext() if self._failure is None else contextlib.suppress(EngineError)
        with self._submitting, ignored:
            try:
                self._cuda_runtime.make_current()
            finally:
                self._resources.close()

    def _check_process(self) -> None:
        if os.getpid() != self._process:  # CUDA does not work in a fork, and its locks may be held for ever
            raise EngineError(
                f"the GPU was opened in process {self._process} and cannot be used in its fork {os.getpid()}; "
                "open the bundle in the child, or have children spawned"
            )

    def _count(self, inputs: Inputs) -> int:
        """Count the items, if they are what :meth:`run` takes."""
        names = [spec.name for spec in self._inputs]
        if set(inputs) != set(names):
            raise EngineError(f"got the inputs {_listed(inputs)}; expected {_listed(names)}")
        for spec in self._inputs:
            found, sides = inputs[spec.name], sides_of(spec)
            if found.dtype != np.dtype(spec.dtype) or found.shape[1:] != sides or found.ndim == 0:
                raise EngineError(
                    f"the input {printable(spec.name)} is {found.dtype} {found.shape}; "
                    f"expected {spec.dtype} ({', '.join(map(str, ('items', *sides)))})"
                )
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1:
            got = ", ".join(f"{len(inputs[name])} of {printable(name)}" for name in names)
            raise EngineError(f"got {got}; expected as many of each")
        (count,) = counts
        if not 1 <= count <= self._batch_sizes[-1]:
            raise EngineError(f"got {count} items; a call takes 1 to {self._batch_sizes[-1]}")
        return count

    @contextlib.contextmanager
    def _reserve_slot(self, wanted: Collection[Slot]) -> Iterator[Slot]:
        """Take a slot when one is idle; it is idle again after the block, however that ends."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._failure is not None or any(slot in wanted for slot in self._idle)
            )
            if self._is_closed:
                raise EngineError("the backend is closed")
            if self._failure is not None:
                raise EngineError(
                    f"an earlier call left the GPU unusable to this process: {self._failure}; start the process anew"
                )
            # The one used last, so that a single caller has one slot warmed up rather than all.
            slot = next(slot for slot in reversed(self._idle) if slot in wanted)
            self._idle.remove(slot)
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify_all()

    def _compute(self, slot: Slot, batch_size: int) -> None:
        """Compute a slot's images. Nothing touches its memory any more when this returns or raises."""
        with self._explaining_out_of_memory():
            try:
                with self._submitting:
                    self._submit(slot, batch_size)
                self._cuda_runtime.synchronize_event(slot.copied_out)
            except BaseException as error:
                self._drain_after_failure(error)
                raise

    def _submit(self, slot: Slot, batch_size: int) -> None:
        cuda_runtime, streams = self._cuda_runtime, self._streams
        cuda_runtime.make_current()
        call = slot.calls.get(batch_size) or self._prepare(slot, batch_size)
        for tensor in slot.inputs.values():
            cuda_runtime.copy_in(tensor.address, tensor.first(batch_size), streams.copy_in)
        cuda_runtime.record(slot.copied_in, streams.copy_in)
        cuda_runtime.wait(streams.compute, slot.copied_in)
        call()
        cuda_runtime.record(slot.computed, streams.compute)
        cuda_runtime.wait(streams.copy_out, slot.computed)
        cuda_runtime.copy_out(slot.images.first(batch_size), slot.images.address, streams.copy_out)
        cuda_runtime.record(slot.copied_out, streams.copy_out)

    def _prepare(self, slot: Slot, batch_size: int) -> Callable[[], None]:
        """Return a function that puts a call of this batch size on the stream, as a graph where it can be one."""
        cuda_runtime, stream = self._cuda_runtime, self._streams.compute
        if batch_size not in slot.prepared:
            slot.prepared[batch_size] = self._engine.prepare(slot.addresses, batch_size, stream)
        call = prepared = slot.prepared[batch_size]
        if self._use_graphs:
            prepared()  # engines load and allocate in their first call, which cannot be captured
            cuda_runtime.synchronize_stream(stream)
            try:
                graph = cuda_runtime.capture(stream, prepared)
            except Exception as error:  # noqa: BLE001 - engines say in many ways that they cannot be captured
                raise_interrupt(error)
                self._use_graphs = False
                self._notes.append(f"calls do not run as CUDA graphs, which may cost speed: {error}")
            else:
                self._resources.callback(cuda_runtime.destroy_graph, graph)
                call = functools.partial(cuda_runtime.launch, graph, stream)
        slot.calls[batch_size] = call
        return call

    def _drain_after_failure(self, cause: BaseException) -> None:
        """Wait for what a failed call may have left on the streams; where that fails as well, no call can follow."""
        try:
            with self._submitting:  # a stream that is captured must not be waited for
                for stream in self._streams.all:
                    self._cuda_runtime.synchronize_stream(stream)
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or str(cause) or type(cause).__name__
            if not isinstance(error, EngineError):
                raise

    @contextlib.contextmanager
    def _explaining_out_of_memory(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                raise EngineError(out_of_memory_advice(self._batch_sizes[-1], self._slot_count)) from error
            raise


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(printable, sorted(names))) or "nothing"
