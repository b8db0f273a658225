"""Batches are filled within bounds of delay and queue, whoever comes and goes. Time is a fake's, told by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from m2l_runtime.errors import ArgumentError, EngineError
from m2l_runtime.serve.batcher import BatchReport, MicroBatcher, QueueFull


class FakeClock:
    """A clock that stands until it is told the time."""

    class Handle:
        def __init__(self, due: float, callback: Callable[[], object]) -> None:
            self.due, self.callback, self.is_cancelled = due, callback, False

        def cancel(self) -> None:
            self.is_cancelled = True

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeClock.Handle] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> FakeClock.Handle:
        timer = self.Handle(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [one for one in self.timers if one.due <= self.now and not one.is_cancelled]
        self.timers = [one for one in self.timers if one not in due]
        for timer in due:
            timer.callback()


class Engine:
    """An engine that notes its batches, and holds each until it is let go."""

    def __init__(self, *, is_held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        if not is_held:
            self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.gate.wait(30)
        return [-item for item in items]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_micro_batcher__answers_go_to_whom_they_belong() -> None:
    async def main() -> None:
        batcher = MicroBatcher(Engine(), max_batch=4, max_queue=100, workers=2)
        answers = await asyncio.gather(*(batcher.submit([n, n + 100]) for n in range(30)))
        assert answers == [[-n, -n - 100] for n in range(30)]
        await batcher.close()

    run(main())


def test_micro_batcher__a_full_batch_does_not_wait() -> None:
    async def main() -> None:
        engine, clock = Engine(), FakeClock()
        batcher = MicroBatcher(engine, max_batch=2, max_queue=8, max_delay_s=5, clock=clock)
        assert list(await asyncio.gather(batcher.submit([1]), batcher.submit([2]))) == [[-1], [-2]]
        assert engine.batches == [[1, 2]]
        await batcher.close()

    run(main())


def test_micro_batcher__a_single_item_waits_as_long_as_was_said() -> None:
    async def main() -> None:
        engine, clock = Engine(), FakeClock()
        batcher = MicroBatcher(engine, max_batch=2, max_queue=8, max_delay_s=5, clock=clock)
        answer = asyncio.ensure_future(batcher.submit([1]))
        await settle()
        clock.advance(4.9)
        await settle()
        assert (engine.batches, batcher.queue_length) == ([], 1)
        clock.advance(0.2)
        assert await answer == [-1]
        await batcher.close()

    run(main())


def test_micro_batcher__the_delay_is_of_the_first_item() -> None:
    async def main() -> None:
        engine, clock = Engine(), FakeClock()
        batcher = MicroBatcher(engine, max_batch=3, max_queue=8, max_delay_s=5, clock=clock)
        first = asyncio.ensure_future(batcher.submit([1]))
        await settle()
        clock.advance(4)
        second = asyncio.ensure_future(batcher.submit([2]))
        await settle()
        clock.advance(1)
        assert list(await asyncio.gather(first, second)) == [[-1], [-2]]
        assert engine.batches == [[1, 2]]
        await batcher.close()

    run(main())


def test_micro_batcher__what_waited_for_a_worker_waits_no_longer() -> None:
    async def main() -> None:
        engine, clock = Engine(is_held=True), FakeClock()
        batcher = MicroBatcher(engine, max_batch=2, max_queue=8, max_delay_s=5, clock=clock)
        first = asyncio.ensure_future(batcher.submit([1, 2]))
        await settle()
        second = asyncio.ensure_future(batcher.submit([3]))
        await settle()
        clock.advance(6)
        engine.gate.set()
        assert list(await asyncio.gather(first, second)) == [[-1, -2], [-3]]
        await batcher.close()

    run(main())


def test_micro_batcher__a_full_batch_lies_ready_for_a_busy_worker() -> None:
    """It begins while the event loop is busy."""

    async def main() -> None:
        engine = Engine(is_held=True)
        batcher = MicroBatcher(engine, max_batch=2, max_queue=8)
        taken = [asyncio.ensure_future(batcher.submit([n])) for n in range(5)]  # one runs, two lie ready
        await settle()
        assert (engine.batches, batcher.queue_length, batcher.running_count) == ([[0]], 4, 1)
        taken[2].cancel()
        taken[3].cancel()
        await settle()
        assert batcher.queue_length == 2
        engine.gate.set()
        end = time.monotonic() + 30
        while len(engine.batches) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert engine.batches == [[0], [1]]
        assert [await taken[n] for n in (0, 1, 4)] == [[0], [-1], [-4]]
        assert batcher.queue_length == batcher.running_count == 0
        await batcher.close()

    run(main())


def test_micro_batcher__the_queue_is_bounded_and_a_refusal_takes_no_time() -> None:
    async def main() -> None:
        engine = Engine(is_held=True)
        batcher = MicroBatcher(engine, max_batch=1, max_queue=2)
        taken = [asyncio.ensure_future(batcher.submit([n])) for n in range(3)]  # one runs, two wait
        await settle()
        with pytest.raises(QueueFull, match="2 images wait, of 2"):
            await batcher.submit([3])
        assert batcher.queue_length == 2
        engine.gate.set()
        assert list(await asyncio.gather(*taken)) == [[0], [-1], [-2]]
        assert await batcher.submit([4]) == [-4]
        await batcher.close()

    run(main())


def test_micro_batcher__more_than_the_queue_holds_is_taken_where_none_waits() -> None:
    async def main() -> None:
        batcher = MicroBatcher(Engine(), max_batch=2, max_queue=2)
        assert await batcher.submit(list(range(5))) == [0, -1, -2, -3, -4]
        await batcher.close()

    run(main())


def test_micro_batcher__what_was_cancelled_is_not_run_and_leaves_room() -> None:
    async def main() -> None:
        engine = Engine(is_held=True)
        batcher = MicroBatcher(engine, max_batch=1, max_queue=2)
        first, gone, third = (asyncio.ensure_future(batcher.submit([n])) for n in (1, 2, 3))
        await settle()
        gone.cancel()
        await settle()
        assert batcher.queue_length == 1
        fourth = asyncio.ensure_future(batcher.submit([4]))
        await settle()
        engine.gate.set()
        assert list(await asyncio.gather(first, third, fourth)) == [[-1], [-3], [-4]]
        assert engine.batches == [[1], [3], [4]]
        await batcher.close()

    run(main())


def test_micro_batcher__a_batch_is_of_one_group_and_keeps_the_order() -> None:
    async def main() -> None:
        engine = Engine(is_held=True)
        odd_or_even = (object(), object())
        batcher = MicroBatcher(engine, max_batch=4, max_queue=16, group_of=lambda item: odd_or_even[item % 2])
        answers = asyncio.gather(*(batcher.submit([n]) for n in (9, 2, 4, 6, 1, 3, 8)))
        await settle()
        engine.gate.set()
        await answers
        assert engine.batches == [[9], [2, 4, 6], [1, 3], [8]]
        await batcher.close()

    run(main())


def test_micro_batcher__an_error_goes_to_its_batch_alone_and_the_worker_lives() -> None:
    def compute(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise EngineError("13 is too much")
        return list(items)

    async def main() -> None:
        reports: list[BatchReport] = []
        batcher = MicroBatcher(compute, max_batch=1, max_queue=8, on_batch=reports.append)
        answers = await asyncio.gather(*(batcher.submit([n]) for n in (12, 13, 14)), return_exceptions=True)
        assert [answers[0], answers[2]] == [[12], [14]]
        assert isinstance(answers[1], EngineError)
        assert [report.is_failed for report in reports] == [False, True, False]
        await batcher.close()

    run(main())


@pytest.mark.parametrize("wrong", [MemoryError(), None])
def test_micro_batcher__no_memory_and_a_missing_answer_are_errors_of_the_engine(wrong: Exception | None) -> None:
    def compute(items: Sequence[int]) -> list[int]:
        if wrong is not None:
            raise wrong
        return []

    async def main() -> None:
        batcher = MicroBatcher(compute, max_batch=1, max_queue=8)
        with pytest.raises(EngineError, match="memory" if wrong is not None else "0 answers to 1 items"):
            await batcher.submit([1])
        await batcher.close()

    run(main())


@pytest.mark.parametrize(
    "wrong",
    [StopIteration(5), asyncio.CancelledError(), SystemExit(3), GeneratorExit()],
    ids=lambda one: type(one).__name__,
)
def test_micro_batcher__whatever_a_batch_raises_is_an_answer_and_the_worker_lives(wrong: BaseException) -> None:
    def compute(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise wrong
        return list(items)

    async def main() -> None:
        batcher = MicroBatcher(compute, max_batch=2, max_queue=8)
        asked = (asyncio.ensure_future(batcher.submit([n, n + 100])) for n in (13, 14, 15))
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert isinstance(answers[0], EngineError)
        assert answers[1:] == [[14, 114], [15, 115]]
        assert (batcher.queue_length, batcher.running_count) == (0, 0)
        await asyncio.wait_for(batcher.close(), 5)

    run(main())


def test_micro_batcher__as_many_batches_run_at_once_as_there_are_workers() -> None:
    async def main() -> None:
        engine = Engine(is_held=True)
        batcher = MicroBatcher(engine, max_batch=1, max_queue=8, workers=3)
        answers = asyncio.gather(*(batcher.submit([n]) for n in range(5)))
        await settle()
        assert (batcher.running_count, batcher.queue_length) == (3, 2)
        engine.gate.set()
        await answers
        await batcher.close()

    run(main())


def test_micro_batcher__closing_finishes_what_waits_and_takes_nothing_more() -> None:
    async def main() -> None:
        clock = FakeClock()
        batcher = MicroBatcher(Engine(), max_batch=8, max_queue=8, max_delay_s=1000, clock=clock)
        answer = asyncio.ensure_future(batcher.submit([1]))
        await settle()
        await batcher.close()
        assert await answer == [-1]
        with pytest.raises(EngineError, match="stopping"):
            await batcher.submit([2])
        await batcher.close()

    run(main())


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_queue": 0}, {"workers": 0}, {"max_delay_s": -1.0}])
def test_micro_batcher__numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="at least 1 item a batch"):
        MicroBatcher(Engine(), **{"max_batch": 1, "max_queue": 1, **options})
