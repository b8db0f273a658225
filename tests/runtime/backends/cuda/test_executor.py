"""The ring on a fake card: exact images in any order that CUDA may take, no slot lost, nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import APPEARANCE, HEIGHT, IMAGE, MASK, WIDTH, FakeCuda, FakeEngine, images_of
from support import ROOT, Array

from m2l_runtime.backends.cuda.executor import Executor
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import EngineError

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass
class Bench:
    """A ring with the fakes it drives."""

    cuda_runtime: FakeCuda
    engine: FakeEngine
    executor: Executor


Maker = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Maker]:
    """Rings by what differs; after the test all are closed, and must have broken no rule of CUDA's nor kept a thing."""
    made: list[Bench] = []

    def make(
        batch_sizes: tuple[int, ...] = (1, 4), slots: int = 2, use_graphs: bool = True, seed: int = 0, **options: Any
    ) -> Bench:
        cuda_runtime = FakeCuda(seed)
        engine = FakeEngine(cuda_runtime, **options)
        executor = Executor(cuda_runtime, engine, [MASK, APPEARANCE], [IMAGE], batch_sizes, slots, use_graphs)
        made.append(Bench(cuda_runtime, engine, executor))
        return made[-1]

    yield make
    for bench in made:
        bench.executor.close()
        assert bench.cuda_runtime.violations == []
        assert bench.engine.closed == 1
        if not bench.cuda_runtime.breaks:
            assert bench.cuda_runtime.live == {}


def inputs(count: int, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        MASK.name: random.integers(0, 256, (count, HEIGHT, WIDTH), np.uint8),
        APPEARANCE.name: random.integers(0, 100, (count, 2)).astype(np.float32),
    }


def expected(given: Arrays) -> Array:
    return images_of(given[MASK.name], given[APPEARANCE.name])


def check(executor: Executor, count: int, seed: int = 0) -> Array:
    given = inputs(count, seed)
    images = executor.run(given)
    np.testing.assert_array_equal(images, expected(given))
    return images


@pytest.mark.parametrize("use_graphs", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_executor__images_of_many_calls_in_many_threads(make: Maker, seed: int, use_graphs: bool) -> None:
    random = np.random.default_rng(seed)
    batch_sizes = tuple(random.choice(np.arange(1, 12), random.integers(1, 5), replace=False).tolist())
    bench = make(batch_sizes, int(random.integers(1, 5)), use_graphs, seed, captures_itself=seed % 5 == 4)
    counts = random.integers(1, max(batch_sizes) + 1, 40).tolist()
    with ThreadPoolExecutor(int(random.integers(1, 7))) as threads:
        results = list(threads.map(lambda number: check(bench.executor, counts[number], number), range(40)))
    for number, images in enumerate(results):  # no later call changed them
        np.testing.assert_array_equal(images, expected(inputs(counts[number], number)))
    assert bench.executor.notes == ()
    assert bench.cuda_runtime.pending == 0


def test_executor__a_call_takes_the_smallest_batch_that_holds_it_padded_with_zeros(make: Maker) -> None:
    """A full batch ahead of each leaves nothing in the padding."""
    bench = make((8, 2, 5, 2), slots=1, use_graphs=False)
    for count, batch_size in ((1, 2), (2, 2), (3, 5), (5, 5), (6, 8), (8, 8)):
        check(bench.executor, 8, seed=count)
        check(bench.executor, count)
        masks, appearances = bench.engine.masks[-1], bench.engine.appearances[-1]
        assert len(masks) == len(appearances) == batch_size
        np.testing.assert_array_equal(masks[:count], inputs(count)[MASK.name])
        assert not masks[count:].any()
        assert not appearances[count:].any()


def test_executor__images_belong_to_the_caller(make: Maker) -> None:
    bench = make(slots=1)
    first = check(bench.executor, 4)
    assert first.flags.owndata
    assert first.flags.writeable
    kept = first.copy()
    check(bench.executor, 4, seed=1)
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    check(bench.executor, 3)


def test_executor__images_are_copied_ahead_of_the_slot_s_next_call(make: Maker) -> None:
    class Slow(threading.Condition):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            time.sleep(0.005)  # in which others may take the slot that was just given back

    bench = make((2,), slots=1)
    bench.executor._changed = Slow()
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: check(bench.executor, 2, number), range(12)))


def test_executor__a_first_call_ahead_of_the_real_one_computes_on_zeros(make: Maker) -> None:
    bench = make((4,))
    check(bench.executor, 4)
    assert [masks.any() for masks in bench.engine.masks] == [False, True]
    assert not bench.engine.appearances[0].any()


def test_executor__inputs_of_any_layout(make: Maker) -> None:
    given = inputs(4)
    turned = {
        MASK.name: np.asfortranarray(given[MASK.name][::-1]),
        APPEARANCE.name: np.repeat(given[APPEARANCE.name], 2, axis=1)[::-1, ::2],
    }
    np.testing.assert_array_equal(make().executor.run(turned), expected(given)[::-1])


def test_executor__the_next_call_is_copied_in_while_one_is_computed(make: Maker) -> None:
    bench = make((2,), slots=2)
    bench.executor.warm_up()
    before = bench.cuda_runtime.executed.copy()
    computed = sum(kind == "compute" for kind, _ in before)
    copied = sum(kind == "copy_in" for kind, _ in before)
    with ThreadPoolExecutor(2) as threads:
        with bench.cuda_runtime.held("compute"):
            calls = [threads.submit(check, bench.executor, 2, seed) for seed in range(2)]
            bench.cuda_runtime.await_executed("copy_in", copied + 4)
            assert sum(kind == "compute" for kind, _ in bench.cuda_runtime.executed) == computed
            assert not any(call.done() for call in calls)
        for call in calls:
            call.result(10)


def test_executor__the_next_call_is_computed_while_images_of_one_are_copied_out(make: Maker) -> None:
    bench = make((2,), slots=2)
    bench.executor.warm_up()
    computed = sum(kind == "compute" for kind, _ in bench.cuda_runtime.executed)
    with ThreadPoolExecutor(2) as threads:
        with bench.cuda_runtime.held("copy_out"):
            calls = [threads.submit(check, bench.executor, 2, seed) for seed in range(2)]
            bench.cuda_runtime.await_executed("compute", computed + 2)
            assert not any(call.done() for call in calls)
        for call in calls:
            call.result(10)


def test_executor__no_more_calls_are_under_way_than_there_are_slots(make: Maker) -> None:
    bench = make((2,), slots=2)
    bench.executor.warm_up()
    submitted = bench.cuda_runtime.calls["launch"]
    with ThreadPoolExecutor(5) as threads:
        with bench.cuda_runtime.held("copy_out"):
            calls = [threads.submit(check, bench.executor, 2, seed) for seed in range(5)]
            bench.cuda_runtime.await_executed("compute", 4 + 2)
            assert bench.cuda_runtime.calls["launch"] == submitted + 2
        for call in calls:
            call.result(10)


def test_executor__a_graph_for_every_slot_and_batch_size_made_once(make: Maker) -> None:
    bench = make((1, 4, 6), slots=3)
    assert bench.engine.prepared == []
    bench.executor.warm_up()
    prepared = bench.engine.prepared.copy()
    assert len(set(prepared)) == len(prepared) == bench.engine.captured == bench.cuda_runtime.live["graphs"] == 9
    calls = bench.engine.calls
    bench.executor.warm_up()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda number: check(bench.executor, 1 + number % 6, number), range(60)))
    assert bench.engine.calls == calls
    assert bench.engine.prepared == prepared
    assert bench.executor.notes == ()


def test_executor__one_caller_makes_the_graphs_of_one_slot(make: Maker) -> None:
    bench = make((1, 4), slots=3)
    for seed in range(4):
        check(bench.executor, 4, seed)
    assert bench.cuda_runtime.live["graphs"] == bench.engine.captured == 1
    assert bench.engine.calls == 2  # one ahead of the capture, and the one captured


@pytest.mark.parametrize("seed", range(10))
def test_executor__graphs_made_while_others_run(make: Maker, seed: int) -> None:
    bench = make((1, 2, 3, 4), slots=3, seed=seed)
    with ThreadPoolExecutor(5) as threads:
        warming = [threads.submit(bench.executor.warm_up) for _ in range(2)]
        list(threads.map(lambda number: check(bench.executor, 1 + number % 4, number), range(24)))
        for one in warming:
            one.result(10)
    assert len(set(bench.engine.prepared)) == len(bench.engine.prepared) == bench.engine.captured == 12


@pytest.mark.parametrize("options", [{"captures_itself": True}, {"use_graphs": False}])
def test_executor__no_graphs_of_who_makes_its_own_or_where_they_are_not_wanted(
    make: Maker, options: dict[str, bool]
) -> None:
    bench = make(**options)
    bench.executor.warm_up()
    check(bench.executor, 3)
    assert bench.cuda_runtime.calls["capture"] == 0
    assert bench.engine.calls == 5
    assert bench.executor.notes == ()


def test_executor__an_engine_that_cannot_be_captured_runs_all_the_same_and_it_is_noted(make: Maker) -> None:
    bench = make(slots=2, refuses_capture=True)
    bench.executor.warm_up()
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: check(bench.executor, 1 + number % 4, number), range(20)))
    (note,) = bench.executor.notes
    assert note == "calls do not run as CUDA graphs, which may cost speed: this engine cannot be captured"
    assert bench.cuda_runtime.calls["capture"] == 1


def test_executor__a_capture_that_fails_later_leaves_the_graphs_there_are(make: Maker) -> None:
    bench = make((1, 4), slots=1)
    bench.cuda_runtime.fails["capture", 2] = "the memory of the fake does not hold what this takes (out of memory)"
    check(bench.executor, 1)
    check(bench.executor, 4)
    assert bench.cuda_runtime.live["graphs"] == 1
    launches = bench.cuda_runtime.calls["launch"]
    check(bench.executor, 1)
    check(bench.executor, 4)
    assert bench.cuda_runtime.calls["launch"] == launches + 1
    assert len(bench.executor.notes) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("use_graphs", [True, False])
def test_executor__an_engine_that_fails_once(make: Maker, use_graphs: bool, number: int) -> None:
    """In the call ahead of a capture or in a plain one; in the capture itself it is not a failure."""
    bench = make(slots=1, use_graphs=use_graphs, fails=[number])
    failed = 0
    for seed in range(12):
        try:
            check(bench.executor, 1 + 3 * (seed % 2), seed)
        except EngineError as error:
            assert str(error) == f"call {number} of the engine failed"
            failed += 1
        assert bench.cuda_runtime.pending == 0
    assert failed + len(bench.executor.notes) == (number <= bench.engine.calls)


@pytest.mark.parametrize(
    ("method", "number"),
    [
        ("copy_in", 3),
        ("copy_in", 4),
        ("record", 1),
        ("record", 2),
        ("record", 3),
        ("wait", 1),
        ("wait", 2),
        ("launch", 1),
        ("copy_out", 1),
        ("synchronize_event", 1),
        ("make_current", 2),
        ("synchronize_stream", 2),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_executor__any_call_of_cuda_that_fails_once(make: Maker, method: str, number: int, seed: int) -> None:
    """Its slot is not lost, and it has nothing under way any more; with one slot a lost one would wait for ever."""
    bench = make((3,), slots=1, seed=seed)
    bench.cuda_runtime.fails[method, number] = "CUDA failed once"
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(check, bench.executor, 3, number) for number in range(8)]
        errors = [call.exception(10) for call in calls]
    assert sorted(map(str, errors)) == sorted(["None"] * 7 + ["CUDA failed once"])
    check(bench.executor, 2)


@pytest.mark.parametrize("seed", range(10))
def test_executor__a_failed_call_leaves_nothing_under_way(make: Maker, seed: int) -> None:
    bench = make((3,), slots=1, seed=seed)
    check(bench.executor, 3)
    bench.cuda_runtime.fails["record", 6] = "CUDA failed once"
    with pytest.raises(EngineError, match="CUDA failed once"):
        bench.executor.run(inputs(3))
    assert bench.cuda_runtime.calls["copy_out"] == 2
    assert bench.cuda_runtime.pending == 0


def test_executor__a_failed_call_does_not_disturb_a_capture(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream must not be waited for while it is captured."""
    bench = make((1, 2), slots=2)
    check(bench.executor, 1)
    capturing, synchronize = threading.Event(), bench.cuda_runtime.synchronize_event

    def fail_once(event: int) -> None:
        monkeypatch.setattr(bench.cuda_runtime, "synchronize_event", synchronize)
        assert capturing.wait(10)
        raise EngineError("CUDA failed once")

    def while_captured() -> None:
        capturing.set()
        time.sleep(0.05)

    monkeypatch.setattr(bench.cuda_runtime, "synchronize_event", fail_once)
    bench.engine.while_captured = while_captured
    with ThreadPoolExecutor(2) as threads:
        failing = threads.submit(bench.executor.run, inputs(1))
        bench.cuda_runtime.await_calls("copy_out", 2)
        check(bench.executor, 2)
        assert str(failing.exception(10)) == "CUDA failed once"
    assert bench.executor.notes == ()


@pytest.mark.parametrize("kind", ["copy_in", "compute", "copy_out"])
@pytest.mark.parametrize("seed", range(5))
def test_executor__a_card_left_unusable_is_an_error_for_all_and_nobody_waits(make: Maker, kind: str, seed: int) -> None:
    bench = make((3,), slots=2, seed=seed)
    bench.cuda_runtime.breaks.add((kind, 9))
    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(check, bench.executor, 3, number) for number in range(30)]
        errors = [call.exception(10) for call in calls]
    assert all(error is None or isinstance(error, EngineError) for error in errors)
    assert any("an illegal memory access was encountered" in str(error) for error in errors)
    with pytest.raises(EngineError, match=r"left the GPU unusable to this process: CUDA .*IllegalAddress\); start"):
        bench.executor.run(inputs(1))
    bench.executor.close()
    with pytest.raises(EngineError, match="closed"):
        bench.executor.run(inputs(1))


def test_executor__an_interrupt_leaves_nothing_under_way(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make((3,), slots=1)
    check(bench.executor, 3)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.cuda_runtime, "synchronize_event", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.executor.run(inputs(3))
    assert bench.cuda_runtime.pending == 0
    check(bench.executor, 3, seed=1)


def test_executor__an_engine_that_does_not_take_a_batch_size(make: Maker) -> None:
    bench = make((1, 4), slots=1, takes=[4])
    with pytest.raises(EngineError, match="the engine takes no 1 items"):
        check(bench.executor, 1)
    check(bench.executor, 2)
    with pytest.raises(EngineError, match="the engine takes no 1 items"):
        bench.executor.warm_up()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.zeros((5, HEIGHT, WIDTH), np.uint8)}, "got 5 of mask, 2 of appearance; expected as many of each"),
        ({"mask": np.zeros((2, HEIGHT, 9), np.uint8)}, r"mask is uint8 \(2, 4, 9\); expected uint8 \(items, 4, 3\)"),
        ({"mask": np.zeros((2, HEIGHT, WIDTH), bool)}, r"mask is bool \(2, 4, 3\); expected uint8 \(items, 4, 3\)"),
        ({"mask": np.uint8(1)}, r"mask is uint8 \(\); expected"),
        ({"appearance": np.zeros((2, 2))}, r"appearance is float64 \(2, 2\); expected float32 \(items, 2\)"),
        ({"more\x1b": np.zeros(2)}, r"got the inputs appearance, mask, more\\x1b; expected appearance, mask"),
    ],
)
def test_executor__inputs_that_are_not_what_was_declared(make: Maker, changes: Arrays, message: str) -> None:
    bench = make()
    with pytest.raises(EngineError, match=message):
        bench.executor.run(inputs(2) | changes)
    with pytest.raises(EngineError, match="got the inputs nothing; expected appearance, mask"):
        bench.executor.run({})
    check(bench.executor, 2)


@pytest.mark.parametrize("count", [0, 5])
def test_executor__more_or_fewer_items_than_a_call_takes(make: Maker, count: int) -> None:
    with pytest.raises(EngineError, match=f"got {count} items; a call takes 1 to 4"):
        make().executor.run(inputs(count))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": []}, r"must be 1 or more, got \[\] and 2"),
        ({"batch_sizes": [4, 0]}, r"must be 1 or more, got \[4, 0\] and 2"),
        ({"slots": 0}, r"must be 1 or more, got \[1\] and 0"),
        ({"outputs": []}, "the first output must be the images, uint8"),
        ({"outputs": [APPEARANCE]}, "the first output must be the images, uint8"),
    ],
)
def test_executor__rings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    cuda_runtime = FakeCuda()
    engine = FakeEngine(cuda_runtime)
    arguments: dict[str, Any] = {
        "inputs": [MASK, APPEARANCE],
        "outputs": [IMAGE],
        "batch_sizes": [1],
        "slots": 2,
    } | changes
    with pytest.raises(EngineError, match=message):
        Executor(cuda_runtime, engine, **arguments)
    assert cuda_runtime.live == {}


def test_executor__other_outputs_stay_on_the_card() -> None:
    """They have memory there, which the engine is told of, and are not copied."""
    depth = TensorSpec(name="depth", role="depth", dtype="float32", shape=("batch", 3))
    cuda_runtime = FakeCuda()
    told: list[dict[str, int]] = []

    class Engine(FakeEngine):
        def prepare(self, addresses: Any, batch_size: int, stream: int) -> Callable[[], None]:
            told.append(dict(addresses))
            cuda_runtime.on_gpu(addresses["depth"], 4 * 3 * 4)
            rest = {name: address for name, address in addresses.items() if name != "depth"}
            return super().prepare(rest, batch_size, stream)

    executor = Executor(cuda_runtime, Engine(cuda_runtime), [MASK, APPEARANCE], [IMAGE, depth], [4])
    check(executor, 3)
    assert len(set(told[0].values())) == 4
    assert cuda_runtime.calls["copy_out"] == 1
    executor.close()
    assert (cuda_runtime.live, cuda_runtime.violations) == ({}, [])


def test_executor__a_card_whose_memory_does_not_hold_it() -> None:
    """What was allocated already is given back; the engine is left to who made it."""
    needed = 2 * 4 * (HEIGHT * WIDTH * 4 + 8)
    for memory_bytes in range(0, needed, 20):
        cuda_runtime = FakeCuda(memory_bytes=memory_bytes)
        engine = FakeEngine(cuda_runtime)
        message = "too little memory for 4 images a call and 2 calls at once; choose a smaller batch size or fewer str"
        with pytest.raises(EngineError, match=message):
            Executor(cuda_runtime, engine, [MASK, APPEARANCE], [IMAGE], [1, 4])
        assert (cuda_runtime.live, cuda_runtime.violations, engine.closed) == ({}, [], 0)
    cuda_runtime = FakeCuda(memory_bytes=needed)
    Executor(cuda_runtime, FakeEngine(cuda_runtime), [MASK, APPEARANCE], [IMAGE], [1, 4]).close()


@pytest.mark.parametrize("method", ["allocate_pinned", "allocate", "create_stream", "create_event", "copy_in"])
def test_executor__whatever_fails_when_it_is_made_leaves_nothing(method: str) -> None:
    for number in range(1, 7 if method != "create_stream" else 4):
        if method == "copy_in" and number > 4:
            break
        cuda_runtime = FakeCuda()
        cuda_runtime.fails[method, number] = "CUDA failed once"
        with pytest.raises(EngineError, match="CUDA failed once"):
            Executor(cuda_runtime, FakeEngine(cuda_runtime), [MASK, APPEARANCE], [IMAGE], [4])
        assert cuda_runtime.live == {}


def test_executor__a_call_for_which_the_card_has_no_memory_left(make: Maker) -> None:
    bench = make((1, 4), slots=3, use_graphs=False)
    bench.cuda_runtime.fails["copy_out", 1] = "CUDA error: out of memory"
    with pytest.raises(EngineError, match="too little memory for 4 images a call and 3 calls at once"):
        check(bench.executor, 1)
    check(bench.executor, 1)


def test_executor__closing_frees_all_and_once(make: Maker) -> None:
    bench = make((1, 4), slots=3)
    bench.executor.warm_up()
    check(bench.executor, 2)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: bench.executor.close(), range(8)))
    assert bench.cuda_runtime.live == {}
    assert bench.engine.closed == 1
    for call in (lambda: bench.executor.run(inputs(1)), bench.executor.warm_up):
        with pytest.raises(EngineError, match="the backend is closed"):
            call()


@pytest.mark.parametrize("seed", range(10))
def test_executor__closing_while_others_run(make: Maker, seed: int) -> None:
    """Each call gives its images or says that it is closed; none is cut off, none waits."""
    bench = make((1, 4), slots=2, seed=seed)
    started = threading.Barrier(7)

    def call(number: int) -> int:
        started.wait()
        done = 0
        try:
            while True:
                check(bench.executor, 1 + number % 4, number)
                done += 1
        except EngineError as error:
            assert str(error) == "the backend is closed"
        return done

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(call, number) for number in range(6)]
        started.wait()
        bench.cuda_runtime.await_executed("copy_out", 3)
        closing = [threads.submit(bench.executor.close) for _ in range(2)]
        for one in closing:
            one.result(10)
        assert bench.cuda_runtime.live == {}
        assert sum(one.result(10) for one in calls) >= 3


def test_executor__closing_waits_for_the_call_under_way_and_sends_away_who_waits_for_a_slot(make: Maker) -> None:
    bench = make((1,), slots=1)
    with ThreadPoolExecutor(3) as threads:
        with bench.cuda_runtime.held("copy_out"):
            first = threads.submit(check, bench.executor, 1)
            bench.cuda_runtime.await_executed("compute", 2)
            second = threads.submit(check, bench.executor, 1)
            closing = threads.submit(bench.executor.close)
            with pytest.raises(EngineError, match="the backend is closed"):
                second.result(10)
            assert not closing.done()
            assert not first.done()
        first.result(10)
        closing.result(10)


def test_executor__freeing_that_fails_does_not_keep_the_rest() -> None:
    cuda_runtime = FakeCuda()
    engine = FakeEngine(cuda_runtime)
    executor = Executor(cuda_runtime, engine, [MASK, APPEARANCE], [IMAGE], [1])
    check(executor, 1)
    cuda_runtime.fails["free", 2] = "CUDA failed once"
    with pytest.raises(EngineError, match="CUDA failed once"):
        executor.close()
    assert cuda_runtime.live == {"card": 1}
    assert engine.closed == 1
    executor.close()
    assert cuda_runtime.live == {"card": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_executor__a_fork_is_told_to_open_its_own() -> None:
    code = (
        "import os\n"
        "from fake_cuda import *\n"
        "from m2l_runtime.backends.cuda.executor import Executor\n"
        "driver = FakeCuda()\n"
        "ring = Executor(driver, FakeEngine(driver), [MASK, APPEARANCE], [IMAGE], [1])\n"
        "ring._submitting.acquire(), ring._changed.acquire()\n"  # as held by a thread that is not forked along
        "if os.fork() == 0:\n"
        "    try: ring.run({})\n"
        "    except Exception as error: print(f'{type(error).__name__}: {error}', flush=True)\n"
        "    ring.close()\n"
        "    os._exit(len(driver.live))\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    paths = [str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=20)
    error, kept = done.stdout.splitlines()
    assert error.startswith("EngineError: the GPU was opened in process ")
    assert error.endswith("; open the bundle in the child, or have children spawned")
    assert kept == "4"


def test_executor__the_fake_punishes_what_cuda_leaves_undefined() -> None:
    """Of orders that were not asked for some are taken, and garbage is what memory holds until it is written."""

    def value_read(cuda_runtime: FakeCuda, is_awaited: bool) -> int:
        """What is read from the card after a copy of 7 to it, if the event of the copy is awaited."""
        here, there = cuda_runtime.allocate_pinned(1), cuda_runtime.allocate(1)
        first, second, event = cuda_runtime.create_stream(), cuda_runtime.create_stream(), cuda_runtime.create_event()
        read: list[int] = []
        here[:] = 7
        if not is_awaited:
            cuda_runtime.wait(second, event)  # not recorded yet: waits for nothing
        cuda_runtime.copy_in(there, here, first)
        cuda_runtime.record(event, first)
        if is_awaited:
            cuda_runtime.wait(second, event)
        cuda_runtime.put("compute", second, lambda: read.append(int(cuda_runtime.on_gpu(there, 1)[0])))
        cuda_runtime.synchronize_event(event)
        cuda_runtime.synchronize_stream(second)
        return read[0]

    assert {value_read(FakeCuda(seed), True) for seed in range(20)} == {7}
    outcomes = {value_read(FakeCuda(seed), False) for seed in range(20)}
    assert 7 in outcomes
    assert len(outcomes) > 2

    cuda_runtime = FakeCuda()
    here, there, first = cuda_runtime.allocate_pinned(1), cuda_runtime.allocate(1), cuda_runtime.create_stream()
    here[:] = 1
    cuda_runtime.copy_in(there, here, first)
    here[:] = 2
    cuda_runtime.synchronize_stream(first)
    cuda_runtime.free(there)
    wrongs: list[Callable[[], object]] = [
        lambda: cuda_runtime.free(there),
        lambda: cuda_runtime.copy_in(there, here, first),
        lambda: cuda_runtime.launch(99, first),
        lambda: cuda_runtime.capture(first, lambda: cuda_runtime.synchronize_stream(first)),
        lambda: cuda_runtime.capture(first, lambda: cuda_runtime.free_pinned(here)),
    ]
    for wrong in wrongs:
        with pytest.raises(EngineError):
            wrong()
    assert len(cuda_runtime.violations) == 4
