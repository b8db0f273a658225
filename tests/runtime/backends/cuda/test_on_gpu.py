"""The ring and CUDA itself on a real card; skipped where there is none, or no NVRTC to compile the kernel with.

Written against CUDA's documentation. The kernel's compilation was checked without a card; all else here needs one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fake_cuda import APPEARANCE, HEIGHT, IMAGE, MASK, WIDTH, images_of
from support import ROOT, Array

from m2l_runtime.backends.cuda.devices import Gpu, find_gpus, memory_in_use_bytes
from m2l_runtime.backends.cuda.executor import Executor
from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import EngineError

pytest.importorskip("cuda.bindings")

import nvrtc_engine

Maker = Callable[..., Executor]


@pytest.fixture(scope="module")
def card() -> Gpu:
    try:
        found = find_gpus()[0]
    except EngineError as error:
        pytest.skip(str(error))
    reason = nvrtc_engine.reason_without_nvrtc()
    if reason is not None:
        pytest.skip(reason)
    return found


@pytest.fixture
def make(card: Gpu) -> Iterator[Maker]:
    made: list[Executor] = []

    def make(
        batch_sizes: tuple[int, ...] = (1, 4, 16), slots: int = 2, use_graphs: bool = True, **options: Any
    ) -> Executor:
        cuda_runtime = BindingsRuntime(card.index)
        engine = nvrtc_engine.KernelEngine(card, **options)
        made.append(Executor(cuda_runtime, engine, [MASK, APPEARANCE], [IMAGE], batch_sizes, slots, use_graphs))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def check(executor: Executor, count: int, seed: int) -> tuple[Array, Array]:
    """(images, those expected), which are equal."""
    random = np.random.default_rng(seed)
    masks = random.integers(0, 256, (count, HEIGHT, WIDTH), np.uint8)
    appearances = random.integers(0, 100, (count, 2)).astype(np.float32)
    images, expected = executor.run({MASK.name: masks, APPEARANCE.name: appearances}), images_of(masks, appearances)
    np.testing.assert_array_equal(images, expected)
    return images, expected


def test_on_gpu__cards(card: Gpu) -> None:
    assert card.memory_bytes > 1 << 30
    assert float(card.compute_capability) >= 7
    in_use = memory_in_use_bytes(card.index)
    assert in_use is not None
    assert 0 < in_use <= card.memory_bytes


@pytest.mark.parametrize("use_graphs", [True, False])
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("ticks", [0, 200_000])
def test_on_gpu__images_of_many_calls_in_many_threads(make: Maker, use_graphs: bool, slots: int, ticks: int) -> None:
    executor = make(slots=slots, use_graphs=use_graphs, ticks=ticks)
    counts = np.random.default_rng(slots).integers(1, 17, 200).tolist()
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda number: check(executor, counts[number], number), range(len(counts))))
    for images, expected in results:  # no later call changed them
        np.testing.assert_array_equal(images, expected)
    assert executor.notes == ()


def test_on_gpu__warming_up_while_others_run(make: Maker) -> None:
    """Captures in one thread, copies and waits in others."""
    executor = make(batch_sizes=tuple(range(1, 17)), slots=3)
    with ThreadPoolExecutor(4) as threads:
        warming = threads.submit(executor.warm_up)
        list(threads.map(lambda number: check(executor, 1 + number % 16, number), range(200)))
        warming.result(60)
    assert executor.notes == ()


def test_on_gpu__what_cannot_be_captured_runs_all_the_same(make: Maker) -> None:
    """The capture was begun and ended; the streams must be as they were."""
    executor = make(refuses_capture=True)
    for seed in range(20):
        check(executor, 1 + seed % 16, seed)
    assert len(executor.notes) == 1
    assert "do not run as CUDA graphs" in executor.notes[0]


def test_on_gpu__memory_that_the_card_does_not_have(make: Maker, card: Gpu) -> None:
    cuda_runtime = BindingsRuntime(card.index)
    with pytest.raises(EngineError, match=rf"the memory of cuda:{card.index} does not hold .* bytes more .*out of mem"):
        cuda_runtime.allocate(1 << 44)
    check(make(), 3, seed=0)  # the failure is not kept for others to find


def test_on_gpu__closing_gives_the_memory_of_the_card_back(make: Maker, card: Gpu) -> None:
    """Sixteen rings of 256 MiB, one after the other, take no more than one."""
    check(make(), 1, seed=0)
    wide = TensorSpec(name="wide", role="wide", dtype="uint8", shape=("batch", 1 << 24))
    cuda_runtime = BindingsRuntime(card.index)
    before = memory_in_use_bytes(card.index)
    for _ in range(16):
        engine = nvrtc_engine.KernelEngine(card)
        Executor(cuda_runtime, engine, [MASK, APPEARANCE], [IMAGE, wide], [16], slots=1).close()
    after = memory_in_use_bytes(card.index)
    assert before is not None
    assert after is not None
    assert after - before < 1 << 30


def test_on_gpu__a_card_left_unusable_is_an_error_for_every_later_call(card: Gpu) -> None:
    """In a process of its own, which cannot use the card any more."""
    code = (
        "import numpy as np\n"
        "from fake_cuda import *\n"
        "from nvrtc_engine import KernelEngine\n"
        "from m2l_runtime.backends.cuda.devices import find_gpus\n"
        "from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime\n"
        "from m2l_runtime.backends.cuda.executor import Executor\n"
        "driver = BindingsRuntime(0)\n"
        "engine = KernelEngine(find_gpus()[0], wrong_address=True)\n"
        "ring = Executor(driver, engine, [MASK, APPEARANCE], [IMAGE], [4], use_graphs=False)\n"
        "given = {'mask': np.zeros((4, HEIGHT, WIDTH), np.uint8), 'appearance': np.zeros((4, 2), np.float32)}\n"
        "for _ in range(3):\n"
        "    try: ring.run(given)\n"
        "    except Exception as error: print(f'{type(error).__name__}: {error}', flush=True)\n"
        "ring.close()\n"
        "print('closed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests" / "helpers",
        timeout=120,
    )
    first, *later, last = done.stdout.splitlines()
    assert first.startswith("EngineError: CUDA failed on cuda:0 in "), done
    assert last == "closed", done
    assert len(later) == 2
    assert all("an earlier call left the GPU unusable to this process: CUDA failed" in line for line in later), done
