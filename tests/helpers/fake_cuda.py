"""A fake of a CUDA card and of an engine, for tests of what drives them.

Where CUDA leaves an order open, the fake takes a random one: streams are queues of which nothing runs until somebody
waits, and then the next of any stream that recorded and awaited events allow. What CUDA leaves undefined is a
violation, or gives garbage.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from support import Array

from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import EngineError

HEIGHT, WIDTH = 4, 3
MASK = TensorSpec(name="mask", role="mask", dtype="uint8", shape=("batch", HEIGHT, WIDTH))
APPEARANCE = TensorSpec(name="appearance", role="appearance", dtype="float32", shape=("batch", 2))
IMAGE = TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", HEIGHT, WIDTH, 3))


def images_of(masks: Array, appearances: npt.NDArray[np.float32]) -> Array:
    """What the fake engine computes: uint8 (N, H, W, 3) of masks (N, H, W) and whole numbers (N, 2)."""
    first, second = appearances.astype(np.uint8).T[:, :, None, None]
    return np.stack([masks, 255 - masks, masks // 2 + first - second], axis=-1)


@dataclass
class _Operation:
    kind: str
    run: Callable[[], None]
    is_ready: Callable[[], bool] = lambda: True
    touches: frozenset[int] = frozenset()
    """Bases of the memory that it reads or writes."""


@dataclass
class _Capture:
    stream: int
    thread: int
    operations: list[_Operation] = field(default_factory=list)
    error: str | None = None


class FakeCuda:
    """A fake GPU, see :class:`CudaRuntime` of m2l_runtime.backends.cuda: orders are random, errors are on demand.

    Args:
        seed: of the orders in which streams advance.
        memory_bytes: what the card holds.
    """

    def __init__(self, seed: int = 0, memory_bytes: int = 1 << 30) -> None:
        self.violations: list[str] = []
        self.executed: list[tuple[str, frozenset[int]]] = []
        """Kind of each operation that has run, and the memory it touched."""
        self.calls: Counter[str] = Counter()
        self.fails: dict[tuple[str, int], str] = {}
        """(method, how manieth call of it) to the message of the error that it raises."""
        self.breaks: set[tuple[str, int]] = set()
        """(kind, how manieth operation of it) that leaves the card unusable when it runs."""
        self._random = np.random.default_rng(seed)
        self._memory_bytes = memory_bytes
        self._state = threading.Condition(threading.RLock())
        self._numbers = iter(range(1, 1 << 40))
        self._next_address = 0x7F0000000000
        self._card: dict[int, Array] = {}
        self._pinned: dict[int, Array] = {}
        self._streams: dict[int, deque[_Operation]] = {}
        self._events: dict[int, int | None] = {}
        self._reached: set[int] = set()
        self._graphs: dict[int, list[_Operation]] = {}
        self._capture: _Capture | None = None
        self._held: set[str] = set()
        self._broken: str | None = None
        self._current = threading.local()
        self._ran: Counter[str] = Counter()

    # What tests and the fake engine ask for.

    @property
    def live(self) -> dict[str, int]:
        """How much of each kind was not given back."""
        kinds: dict[str, Mapping[int, object]] = {
            "card": self._card,
            "pinned": self._pinned,
            "streams": self._streams,
            "events": self._events,
            "graphs": self._graphs,
        }
        return {kind: len(things) for kind, things in kinds.items() if things}

    @property
    def is_broken(self) -> bool:
        """Whether the card is unusable."""
        return self._broken is not None

    @property
    def pending(self) -> int:
        """Operations on streams that have not run."""
        with self._state:
            return sum(map(len, self._streams.values()))

    @contextmanager
    def held(self, kind: str) -> Any:
        """While the block runs, no operation of a kind runs: copy_in, compute or copy_out."""
        with self._state:
            self._held.add(kind)
        try:
            yield
        finally:
            with self._state:
                self._held.discard(kind)
                self._state.notify_all()

    def await_executed(self, kind: str, count: int) -> None:
        """Wait until so many operations of a kind have run."""
        with self._state:
            assert self._state.wait_for(lambda: self._ran[kind] >= count, 10), (kind, self._ran)

    def await_calls(self, name: str, count: int) -> None:
        """Wait until a method was called so often."""
        with self._state:
            assert self._state.wait_for(lambda: self.calls[name] >= count, 10), (name, self.calls)

    def is_current(self) -> bool:
        """Whether this thread has made the card its current one."""
        return getattr(self._current, "is_set", False)

    def on_gpu(self, address: int, size: int) -> Array:
        """Memory of the card; a violation where it was freed or ends earlier."""
        for base, memory in self._card.items():
            if base <= address and address + size <= base + len(memory):
                return memory[address - base : address - base + size]
        raise self._violation(f"{size} bytes at {address:#x} are not allocated on the card")

    def base(self, address: int) -> int:
        """The address of the allocation that has this one."""
        return next((base for base, memory in self._card.items() if base <= address < base + len(memory)), 0)

    def is_capturing(self, stream: int) -> bool:
        return self._capture is not None and self._capture.stream == stream

    def put(self, kind: str, stream: int, run: Callable[[], None], touches: frozenset[int] = frozenset()) -> None:
        """What launching a kernel is to CUDA."""
        with self._state:
            self._check("put")
            self._append(stream, _Operation(kind, run, lambda: kind not in self._held, touches))

    # What the ring asks for.

    def make_current(self) -> None:
        self._check("make_current")
        self._current.is_set = True

    def allocate_pinned(self, size: int) -> Array:
        with self._state:
            self._check("allocate_pinned", is_forbidden_in_capture=True)
            memory = self._garbage(size)
            self._pinned[memory.ctypes.data] = memory
            return memory[:]

    def free_pinned(self, memory: Array) -> None:
        with self._state:
            self._check("free_pinned", is_forbidden_in_capture=True)
            self._release("pinned memory", self._pinned, memory.ctypes.data)

    def allocate(self, size: int) -> int:
        with self._state:
            self._check("allocate", is_forbidden_in_capture=True)
            if sum(map(len, self._card.values())) + size > self._memory_bytes:
                raise EngineError(f"the memory of the fake does not hold {size} bytes more (out of memory)")
            address = self._next_address
            self._next_address += (size + 511) // 256 * 256
            self._card[address] = self._garbage(size)
            return address

    def free(self, address: int) -> None:
        with self._state:
            self._check("free", is_forbidden_in_capture=True)
            self._release("memory of the card", self._card, address)

    def create_stream(self) -> int:
        with self._state:
            self._check("create_stream")
            return self._new(self._streams, deque())

    def destroy_stream(self, stream: int) -> None:
        with self._state:
            self._check("destroy_stream")
            if self._queue(stream):
                self._violation("a stream was destroyed that still had work")
            del self._streams[stream]

    def create_event(self) -> int:
        with self._state:
            self._check("create_event")
            return self._new(self._events, None)

    def destroy_event(self, event: int) -> None:
        with self._state:
            self._check("destroy_event")
            if self._recorded(event) not in {None, *self._reached}:
                self._violation("an event was destroyed that was still to be reached")
            del self._events[event]

    def record(self, event: int, stream: int) -> None:
        with self._state:
            self._check("record")
            self._recorded(event)
            if self.is_capturing(stream):
                raise self._violation("the fake captures no events")
            token = self._events[event] = next(self._numbers)
            self._append(stream, _Operation("record", lambda: self._reached.add(token)))

    def wait(self, stream: int, event: int) -> None:
        with self._state:
            self._check("wait")
            token = self._recorded(event)
            self._append(stream, _Operation("wait", lambda: None, lambda: token is None or token in self._reached))

    def synchronize_event(self, event: int) -> None:
        with self._state:
            self._check("synchronize_event")
            token = self._recorded(event)
        self._advance(lambda: token is None or token in self._reached)

    def synchronize_stream(self, stream: int) -> None:
        with self._state:
            self._check("synchronize_stream")
            self._queue(stream)
            capture = self._capture
            if capture is not None and self.is_capturing(stream):
                capture.error = "operation not permitted when stream is capturing"
                raise EngineError(f"CUDA failed: {capture.error}")
        done = threading.Event()
        with self._state:
            self._append(stream, _Operation("mark", done.set))
        self._advance(done.is_set)

    def copy_in(self, address: int, memory: Array, stream: int) -> None:
        with self._state:
            self._check("copy_in")
            here, there = self._in_pinned(memory), self.on_gpu(address, memory.nbytes)
            before = memory.copy()

            def run() -> None:
                self._in_pinned(memory)
                if not np.array_equal(memory, before):
                    self._violation("pinned memory was written to before it was copied to the card")
                there[:] = memory

            self.put("copy_in", stream, run, frozenset({here, self.base(address)}))

    def copy_out(self, memory: Array, address: int, stream: int) -> None:
        with self._state:
            self._check("copy_out")
            here, there = self._in_pinned(memory), self.on_gpu(address, memory.nbytes)
            before = self._garbage(memory.nbytes)
            memory[:] = before  # for whoever reads too early

            def run() -> None:
                self._in_pinned(memory)
                if not np.array_equal(memory, before):
                    self._violation("pinned memory was written to before the copy from the card")
                memory[:] = there

            self.put("copy_out", stream, run, frozenset({here, self.base(address)}))

    def capture(self, stream: int, call: Callable[[], None]) -> int:
        with self._state:
            self._check("capture")
            self._queue(stream)
            if self._capture is not None:
                raise self._violation("a capture began within another")
            capture = self._capture = _Capture(stream, threading.get_ident())
        try:
            call()  # without the lock: what others put on the stream meanwhile is captured, too
        finally:
            with self._state:
                self._capture = None
        with self._state:
            if capture.error is not None:
                raise EngineError(f"CUDA failed in capture: {capture.error}")
            return self._new(self._graphs, capture.operations)

    def launch(self, graph: int, stream: int) -> None:
        with self._state:
            self._check("launch")
            if graph not in self._graphs:
                raise self._violation("a graph was launched that is not there")
            for operation in self._graphs[graph]:
                self._append(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        with self._state:
            self._check("destroy_graph")
            if self._graphs.pop(graph, None) is None:
                raise self._violation("a graph was destroyed that is not there")

    # What it is made of.

    def _check(self, name: str, is_forbidden_in_capture: bool = False) -> None:
        with self._state:
            self.calls[name] += 1
            self._state.notify_all()
            if self._broken is not None:
                raise EngineError(self._broken)
            message = self.fails.get((name, self.calls[name]))
            if message is not None:
                raise EngineError(message)
            capture = self._capture
            if is_forbidden_in_capture and capture is not None and capture.thread == threading.get_ident():
                capture.error = f"{name} is not permitted while its thread captures"
                raise EngineError(f"CUDA failed: {capture.error}")

    def _violation(self, what: str) -> EngineError:
        self.violations.append(what)
        return EngineError(f"violation: {what}")

    def _garbage(self, size: int) -> Array:
        return self._random.integers(0, 256, size, np.uint8)

    def _new(self, things: dict[int, Any], thing: Any) -> int:
        number = next(self._numbers)
        things[number] = thing
        return number

    def _release(self, what: str, things: dict[int, Array], base: int) -> None:
        if base not in things:
            raise self._violation(f"{what} was freed that is not allocated")
        if any(base in operation.touches for queue in self._streams.values() for operation in queue):
            self._violation(f"{what} was freed that is still used")
        things[base][:] = self._garbage(len(things[base]))
        del things[base]

    def _in_pinned(self, memory: Array) -> int:
        """The base of the pinned memory that has this."""
        start = memory.ctypes.data
        for base, pinned in self._pinned.items():
            if base <= start and start + memory.nbytes <= base + pinned.nbytes:
                return base
        raise self._violation("a copy of memory that is not pinned, or not any more")

    def _queue(self, stream: int) -> deque[_Operation]:
        if stream not in self._streams:
            raise self._violation("there is no such stream")
        return self._streams[stream]

    def _recorded(self, event: int) -> int | None:
        if event not in self._events:
            raise self._violation("there is no such event")
        return self._events[event]

    def _append(self, stream: int, operation: _Operation) -> None:
        queue, capture = self._queue(stream), self._capture
        if capture is None or not self.is_capturing(stream):
            queue.append(operation)
            self._state.notify_all()
            return
        if capture.thread != threading.get_ident():
            self._violation("a thread put work on a stream that another captures")
        capture.operations.append(operation)

    def _advance(self, is_done: Callable[[], bool]) -> None:
        """Run what may run, in random order, until it is done; others may come between two operations."""
        while True:
            with self._state:
                if is_done():
                    return
                if self._broken is not None:
                    raise EngineError(self._broken)
                ready = [queue for queue in self._streams.values() if queue and queue[0].is_ready()]
                if ready:
                    self._execute(ready[self._random.integers(len(ready))].popleft())
                elif self._held:
                    self._state.wait(0.01)
                else:
                    raise self._violation("somebody waits for what cannot come")

    def _execute(self, operation: _Operation) -> None:
        kind = operation.kind
        self._ran[kind] += 1
        if (kind, self._ran[kind]) in self.breaks:
            self._broken = "CUDA failed: an illegal memory access was encountered (cudaErrorIllegalAddress)"
            raise EngineError(self._broken)
        operation.run()
        self.executed.append((kind, operation.touches))
        self._state.notify_all()


class FakeEngine:
    """A fake engine, see :class:`m2l_runtime.backends.cuda.engine.Engine`: computes :func:`images_of`.

    Args:
        driver: the fake card.
        captures_itself: as of the protocol.
        refuses_capture: whether its calls raise while they are captured.
        fails: which of all its calls, from 1, raise, once their work is on the stream.
        takes: batch sizes that it takes; None: all.
    """

    def __init__(
        self,
        cuda_runtime: FakeCuda,
        captures_itself: bool = False,
        refuses_capture: bool = False,
        fails: Sequence[int] = (),
        takes: Sequence[int] | None = None,
    ) -> None:
        self.captures_itself = captures_itself
        self.prepared: list[tuple[int, int]] = []
        """Address of the images and batch size of each."""
        self.calls = 0
        self.captured = 0
        self.closed = 0
        self.masks: list[Array] = []
        """What came in, padding and all, by call that ran."""
        self.appearances: list[npt.NDArray[np.float32]] = []
        self.while_captured: Callable[[], None] = lambda: None
        self._cuda_runtime = cuda_runtime
        self._refuses_capture = refuses_capture
        self._fails = set(fails)
        self._takes = takes
        self._alone = threading.Lock()
        self._addresses: set[int] = set()
        self._made: list[weakref.ref[Callable[[], None]]] = []

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        self._enter()
        try:
            if self._takes is not None and batch_size not in self._takes:
                raise EngineError(f"the engine takes no {batch_size} items")
            assert addresses.keys() == {MASK.name, APPEARANCE.name, IMAGE.name}
            self.prepared.append((addresses[IMAGE.name], batch_size))
            self._addresses |= set(addresses.values())
        finally:
            self._alone.release()
        cuda_runtime = self._cuda_runtime
        mask, appearance, image = (addresses[spec.name] for spec in (MASK, APPEARANCE, IMAGE))
        pixels = batch_size * HEIGHT * WIDTH

        def compute() -> None:
            masks = cuda_runtime.on_gpu(mask, pixels).reshape(batch_size, HEIGHT, WIDTH)
            appearances = cuda_runtime.on_gpu(appearance, batch_size * 8).view(np.float32).reshape(batch_size, 2)
            self.masks.append(masks.copy())
            self.appearances.append(appearances.copy())
            with np.errstate(invalid="ignore"):  # garbage
                images = images_of(masks, appearances)
            cuda_runtime.on_gpu(image, 3 * pixels)[:] = images.reshape(-1)

        def call() -> None:
            self._enter()
            try:
                self.calls += 1
                number = self.calls
                if cuda_runtime.is_capturing(stream):
                    if self._refuses_capture:
                        raise RuntimeError("this engine cannot be captured")
                    self.captured += 1
                    self.while_captured()
                cuda_runtime.put("compute", stream, compute, frozenset({mask, appearance, image}))
                if number in self._fails:
                    raise EngineError(f"call {number} of the engine failed")
            finally:
                self._alone.release()

        self._made.append(weakref.ref(call))
        return call

    def close(self) -> None:
        self._enter()
        try:
            self.closed += 1
            if self._is_held():
                gc.collect()  # tracebacks of errors hold calls, too
            if self._is_held() and not self._cuda_runtime.is_broken:
                self._cuda_runtime.violations.append("the engine was closed while its calls were held")
            for address in self._addresses:
                self._cuda_runtime.on_gpu(address, 1)
        finally:
            self._alone.release()

    def _is_held(self) -> bool:
        return any(made() is not None for made in self._made)

    def _enter(self) -> None:
        if self.closed:
            self._cuda_runtime.violations.append("the engine was used after it was closed")
        if not self._cuda_runtime.is_current():
            self._cuda_runtime.violations.append("the engine was called in a thread without a card")
        if not self._alone.acquire(blocking=False):
            self._cuda_runtime.violations.append("two threads are in the engine")
            self._alone.acquire()
