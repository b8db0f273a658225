"""Collect single items into batches for a worker thread, with bounded delay and a bounded queue.

It knows nothing of HTTP, nor of images: it takes whatever `run` computes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from m2l_runtime.errors import ArgumentError, EngineError

_I = TypeVar("_I")
_R = TypeVar("_R")


class QueueFull(EngineError):
    """Signal that the queue of a batcher holds no more items; asking later may help.

    Example:
        >>> raise QueueFull("the queue is full: 16 images wait; try again later")
        Traceback (most recent call last):
        m2l_runtime.serve.batcher.QueueFull: the queue is full: 16 images wait; try again later
    """


class Clock(Protocol):
    """Tell the time and call back later, as an event loop does."""

    def time(self) -> float:
        """Return seconds from an arbitrary point."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Handle:
        """Call back after a delay in seconds."""
        ...


class _Handle(Protocol):
    def cancel(self) -> None: ...


@dataclass(frozen=True)
class BatchReport:
    """Report a batch that was run."""

    size: int
    waited_s: tuple[float, ...]
    """Seconds that each item waited for the batch to begin."""
    run_s: float
    is_failed: bool


@dataclass
class _Waiting(Generic[_I, _R]):
    item: _I
    group: object
    since: float
    future: asyncio.Future[_R]


@dataclass(eq=False)
class _Batch(Generic[_I, _R]):
    items: list[_Waiting[_I, _R]]
    is_early: bool
    """Whether all workers were busy when it was handed over: it lies ready for the first that is free."""
    began: float | None = None

    @property
    def waiting_count(self) -> int:
        """Items that wait still, those whose caller is gone left out."""
        return len(self.live) if self.is_early and self.began is None else 0

    @property
    def live(self) -> list[_Waiting[_I, _R]]:
        return [one for one in self.items if not one.future.done()]


class MicroBatcher(Generic[_I, _R]):
    """Collect items that arrive one by one into batches, and run each batch on a worker thread.

    A batch begins when a worker is free and either `max_batch` items wait, or the first of them has waited
    `max_delay_s`. Items of one batch are of one group. Items whose caller was cancelled are dropped from the queue.
    Full batches lie ready for busy workers, which then need not wait for the event loop between two of them.
    All methods belong to the event loop that `submit` is first awaited on.

    Example:
        >>> async def double(numbers: list[int]) -> list[int]:
        ...     batcher = MicroBatcher(lambda batch: [2 * one for one in batch], max_batch=2, max_queue=8)
        ...     answers = await asyncio.gather(*(batcher.submit([one]) for one in numbers))
        ...     await batcher.close()
        ...     return [one for (one,) in answers]
        >>> asyncio.run(double([1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(
        self,
        run: Callable[[Sequence[_I]], Sequence[_R]],
        *,
        max_batch: int,
        max_queue: int,
        max_delay_s: float = 0.0,
        workers: int = 1,
        group_of: Callable[[_I], object] = lambda _: None,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        """Make a batcher; its threads start with the first batch.

        Args:
            run: computes a batch on a worker thread: an answer for each item, in order.
            max_batch: items of a batch, at least 1.
            max_queue: items that wait, at least 1. More items than that are taken at once only where none wait.
            max_delay_s: seconds that an item waits for others; 0: no longer than the workers are busy.
            workers: batches that run at once.
            group_of: tells which items may share a batch.
            on_batch: called on the event loop after each batch.
            clock: time and timers; None: the running event loop.

        Raises:
            ArgumentError: a number is out of range.
        """
        if min(max_batch, max_queue, workers) < 1 or max_delay_s < 0:
            raise ArgumentError(
                f"a batcher takes at least 1 item a batch, 1 in the queue and 1 worker, and no negative delay; got "
                f"{max_batch}, {max_queue}, {workers}, {max_delay_s}"
            )
        self.max_batch: Final = max_batch
        self.max_queue: Final = max_queue
        self.workers: Final = workers
        self._run, self._group_of, self._on_batch = run, group_of, on_batch
        self._max_delay_s = max_delay_s
        self._clock = clock
        self._pool = ThreadPoolExecutor(workers, "m2l-engine")
        self._queue: deque[_Waiting[_I, _R]] = deque()
        self._batches: set[_Batch[_I, _R]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: _Handle | None = None
        self._is_closed = False

    @property
    def queue_length(self) -> int:
        """Items that wait."""
        return len(self._queue) + sum(batch.waiting_count for batch in self._batches)

    @property
    def running_count(self) -> int:
        """Batches that run."""
        return sum(not batch.waiting_count for batch in self._batches)

    async def submit(self, items: Sequence[_I]) -> list[_R]:
        """Queue items, wait for their batches, and return an answer for each, in order.

        If the caller is cancelled, those of the items that still wait are dropped.

        Raises:
            QueueFull: more would wait than may.
            EngineError: the batcher is closed, or `run` gave another number of answers.
            Exception: whatever `run` raised for the batch of an item.
        """
        if self._is_closed:
            raise EngineError("the service is stopping; ask another one, or later")
        if not items:
            return []
        length = self.queue_length
        if length and length + len(items) > self.max_queue:
            raise QueueFull(f"the queue is full: {length} images wait, of {self.max_queue}; try again later")
        loop = asyncio.get_running_loop()
        now = self._time()
        waiting = [_Waiting(one, self._group_of(one), now, loop.create_future()) for one in items]
        self._queue.extend(waiting)
        self._pump()
        try:
            return list(await asyncio.gather(*(one.future for one in waiting)))
        finally:
            for one in waiting:
                one.future.cancel()
            self._drop_cancelled()

    async def close(self) -> None:
        """Take nothing more, run what waits, and wait until all of it is done. Closing twice is fine."""
        self._is_closed = True
        self._pump()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _time(self) -> float:
        return (self._clock or asyncio.get_running_loop()).time()

    def _drop_cancelled(self) -> None:
        if any(one.future.done() for one in self._queue):
            left = [one for one in self._queue if not one.future.done()]
            self._queue.clear()
            self._queue.extend(left)

    def _pump(self) -> None:
        """Begin every batch that can begin now; else set a timer for the next."""
        self._drop_cancelled()
        while self._queue:
            size, is_early = self._batch_size(), len(self._batches) >= self.workers
            if is_early:
                if size < self.max_batch or len(self._batches) >= 2 * self.workers:
                    return
            else:
                is_cut = size == self.max_batch or size < len(self._queue)  # no item that comes could join it
                left_s = self._queue[0].since + self._max_delay_s - self._time()
                if not (is_cut or self._is_closed or left_s <= 0):
                    if self._timer is None:
                        self._timer = (self._clock or asyncio.get_running_loop()).call_later(left_s, self._on_timer)
                    return
            batch = _Batch([self._queue.popleft() for _ in range(size)], is_early)
            self._batches.add(batch)
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _batch_size(self) -> int:
        """Count the items at the head of the queue that make a batch."""
        group, size = self._queue[0].group, 0
        for one in self._queue:
            if one.group is not group or size == self.max_batch:
                break
            size += 1
        return size

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._pump()

    async def _run_batch(self, batch: _Batch[_I, _R]) -> None:
        time = (self._clock or asyncio.get_running_loop()).time
        error: Exception | None = None
        live: list[_Waiting[_I, _R]] = []
        answers: Sequence[_R] = ()

        def run() -> None:
            nonlocal live, answers, error
            batch.began = time()
            live = batch.live
            try:
                answers = self._run([one.item for one in live]) if live else ()
            except BaseException as raised:  # noqa: BLE001 - handed to those who wait; the worker and the loop live
                error = _to_hand_over(raised)

        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, run)
        except Exception as raised:  # noqa: BLE001 - the pool takes nothing more, so nothing of it was run
            error, live = raised, batch.live
        finally:
            self._batches.discard(batch)
        if error is None and len(answers) != len(live):
            error = EngineError(f"the engine gave {len(answers)} answers to {len(live)} items")
        for place, one in enumerate(live):
            if one.future.done():
                continue
            if error is None:
                one.future.set_result(answers[place])
            else:
                one.future.set_exception(error)
        if live and batch.began is not None:
            began = batch.began
            waited_s = tuple(began - one.since for one in live)
            self._on_batch(BatchReport(len(live), waited_s, time() - began, is_failed=error is not None))


def _to_hand_over(raised: BaseException) -> Exception:
    """Make of what a batch raised an error that a future holds, and that ends neither a task nor the process."""
    if isinstance(raised, MemoryError):
        return EngineError("memory does not hold a batch; serve with a smaller --batch-size")
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration):
        return raised
    return EngineError(f"a batch ended with {type(raised).__name__}: {raised}")
