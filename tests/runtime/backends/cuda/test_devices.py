"""Cards and the driver: what is said where there is none, and how CUDA is called, on a fake of its runtime."""

from __future__ import annotations

import ctypes
import enum
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m2l_runtime.backends.cuda.devices import Gpu, find_gpu, find_gpus, memory_in_use_bytes
from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime
from m2l_runtime.errors import DeviceUnavailable, EngineError, EngineNotInstalled


class Code(enum.IntEnum):
    """Of cudaError_t."""

    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInitializationError = 3  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


class FakeRuntime(ModuleType):
    """A fake of cuda.bindings.runtime with two cards: notes calls, fails where it is told to."""

    cudaError_t = Code  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaEventDisableTiming = 2  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")  # noqa: N815

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Code] = {}
        self.gives: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceCount": (2,),
            "cudaDriverGetVersion": (13020,),
            "cudaRuntimeGetVersion": (13050,),
            "cudaMemGetInfo": (3 << 30, 8 << 30),
            "cudaMalloc": (0x1000,),
            "cudaStreamCreateWithFlags": (11,),
            "cudaEventCreateWithFlags": (12,),
            "cudaStreamEndCapture": (13,),
            "cudaGraphInstantiate": (14,),
        }
        self.threads: set[int] = set()
        self.memory = (ctypes.c_uint8 * 64)()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            self.threads.add(threading.get_ident())
            code = self.fails.get(name, Code.cudaSuccess)
            gives = self.gives.get(name, ())
            return (code, *(gives if code == 0 else [None for _ in gives]))

        return call

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:  # noqa: N802
        name = b"NVIDIA H100\x1b".ljust(256, b"\0") if index else b"NVIDIA RTX 4070"
        return Code.cudaSuccess, SimpleNamespace(name=name, major=8 + index, minor=9, totalGlobalMem=(8 + index) << 30)

    def cudaGetErrorString(self, code: Code) -> tuple[Any, ...]:  # noqa: N802
        return Code.cudaSuccess, {2: b"out of memory", 100: b"no CUDA-capable device"}.get(code, b"some words")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        self.calls.append(("cudaHostAlloc", size, flags))
        code = self.fails.get("cudaHostAlloc", Code.cudaSuccess)
        return code, ctypes.addressof(self.memory) if code == 0 else None

    def said(self) -> list[tuple[Any, ...]]:
        """The calls since it was asked last, each of which had the card set ahead of it, without that."""
        calls, self.calls = self.calls, []
        return [call for call in calls if call != ("cudaSetDevice", 1)]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return fake


@pytest.fixture
def cuda_runtime(runtime: FakeRuntime) -> BindingsRuntime:
    made = BindingsRuntime(1)
    assert runtime.calls == [("cudaSetDevice", 1)]
    runtime.calls.clear()
    return made


@pytest.mark.usefixtures("runtime")
def test_devices__two_cards() -> None:
    cards = find_gpus()
    assert cards == (
        Gpu(0, "NVIDIA RTX 4070", "8.9", 8 << 30, "13.2"),
        Gpu(1, "NVIDIA H100\\x1b", "9.9", 9 << 30, "13.2"),
    )
    assert find_gpu(1) == cards[1]
    for index in (2, -1):
        words = f"there is no cuda:{index}, only 2 NVIDIA GPUs; choose among cuda:0 (NVIDIA RTX 4070), cuda:1 (NVIDIA H"
        with pytest.raises(DeviceUnavailable, match=re.escape(words)):
            find_gpu(index)


def test_devices__no_driver(runtime: FakeRuntime) -> None:
    runtime.fails["cudaGetDeviceCount"] = Code.cudaErrorInsufficientDriver
    runtime.gives["cudaDriverGetVersion"] = (0,)
    words = "there is no NVIDIA driver (cudaErrorInsufficientDriver); install it, start the container with the GPUs, or"
    with pytest.raises(DeviceUnavailable, match=re.escape(words)):
        find_gpus()
    with pytest.raises(DeviceUnavailable, match=re.escape(words)):
        find_gpu(0)


def test_devices__a_driver_too_old(runtime: FakeRuntime) -> None:
    runtime.fails["cudaGetDeviceCount"] = Code.cudaErrorInsufficientDriver
    runtime.gives["cudaDriverGetVersion"] = (12040,)
    with pytest.raises(DeviceUnavailable, match=r"the driver supports CUDA 12\.4 and CUDA 13 is needed: update the"):
        find_gpus()


@pytest.mark.parametrize("is_zero", [True, False])
def test_devices__no_card(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, is_zero: bool) -> None:
    """As an error, and as none of it with a count of zero."""
    if is_zero:
        runtime.gives["cudaGetDeviceCount"] = (0,)
    else:
        runtime.fails["cudaGetDeviceCount"] = Code.cudaErrorNoDevice
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        DeviceUnavailable, match=r"no CUDA-capable device \(cudaErrorNoDevice\); see whether nvidia-smi"
    ):
        find_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(DeviceUnavailable, match="; CUDA_VISIBLE_DEVICES is '7', which may hide the GPUs: unset it"):
        find_gpus()


def test_devices__a_process_forked_from_one_that_used_cuda(runtime: FakeRuntime) -> None:
    runtime.fails["cudaGetDeviceCount"] = Code.cudaErrorInitializationError
    with pytest.raises(DeviceUnavailable, match="have child processes spawned, or choose device cpu"):
        find_gpus()


@pytest.mark.parametrize("name", ["cuda.bindings.runtime", "cuda.bindings", "cuda"])
def test_devices__a_missing_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    words = 'cuda-bindings, which is not installed: pip install "m2l[gpu]"'
    with pytest.raises(EngineNotInstalled, match=re.escape(words)):
        find_gpus()
    with pytest.raises(EngineNotInstalled, match=re.escape(words)):
        BindingsRuntime(0)
    assert memory_in_use_bytes(0) is None


def test_devices__a_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ImportError("libdl.so.2: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(
        EngineNotInstalled, match=r'does not load \(ImportError: libdl.*\); reinstall it: pip install "m2l\[gpu\]"'
    ):
        find_gpus()


def test_devices__memory_in_use(runtime: FakeRuntime) -> None:
    """Asked in a thread of its own, whose current card nobody else has."""
    assert memory_in_use_bytes(1) == 5 << 30
    assert ("cudaSetDevice", 1) in runtime.calls
    assert threading.get_ident() not in runtime.threads
    assert memory_in_use_bytes(2) is None
    runtime.fails["cudaMemGetInfo"] = Code.cudaErrorIllegalAddress
    assert memory_in_use_bytes(0) is None


def test_devices__how_the_driver_calls_cuda(cuda_runtime: BindingsRuntime, runtime: FakeRuntime) -> None:
    """Every call has its card current in the thread that calls, whatever others made current there."""
    address = ctypes.addressof(runtime.memory)
    memory = cuda_runtime.allocate_pinned(64)
    assert memory.dtype == np.uint8
    assert memory.shape == (64,)
    memory[:] = 7
    assert bytes(runtime.memory) == b"\7" * 64
    calls: list[tuple[Callable[[], object], object, tuple[Any, ...]]] = [
        (lambda: cuda_runtime.allocate(5), 0x1000, ("cudaMalloc", 5)),
        (lambda: cuda_runtime.free(0x1000), None, ("cudaFree", 0x1000)),
        (cuda_runtime.create_stream, 11, ("cudaStreamCreateWithFlags", 1)),
        (lambda: cuda_runtime.destroy_stream(11), None, ("cudaStreamDestroy", 11)),
        (cuda_runtime.create_event, 12, ("cudaEventCreateWithFlags", 2)),
        (lambda: cuda_runtime.destroy_event(12), None, ("cudaEventDestroy", 12)),
        (lambda: cuda_runtime.record(12, 11), None, ("cudaEventRecord", 12, 11)),
        (lambda: cuda_runtime.wait(11, 12), None, ("cudaStreamWaitEvent", 11, 12, 0)),
        (lambda: cuda_runtime.synchronize_event(12), None, ("cudaEventSynchronize", 12)),
        (lambda: cuda_runtime.synchronize_stream(11), None, ("cudaStreamSynchronize", 11)),
        (
            lambda: cuda_runtime.copy_in(0x1000, memory[8:12], 11),
            None,
            ("cudaMemcpyAsync", 0x1000, address + 8, 4, "in", 11),
        ),
        (
            lambda: cuda_runtime.copy_out(memory[:9], 0x1000, 11),
            None,
            ("cudaMemcpyAsync", address, 0x1000, 9, "out", 11),
        ),
        (lambda: cuda_runtime.launch(14, 11), None, ("cudaGraphLaunch", 14, 11)),
        (lambda: cuda_runtime.destroy_graph(14), None, ("cudaGraphExecDestroy", 14)),
        (lambda: cuda_runtime.free_pinned(memory), None, ("cudaFreeHost", address)),
    ]
    assert runtime.calls == [("cudaSetDevice", 1), ("cudaHostAlloc", 64, 0)]
    for call, given, said in calls:
        runtime.calls.clear()
        assert call() == given
        assert runtime.calls == [("cudaSetDevice", 1), said]


def test_devices__a_capture(cuda_runtime: BindingsRuntime, runtime: FakeRuntime) -> None:
    assert cuda_runtime.capture(11, lambda: runtime.calls.append(("the call",))) == 14
    assert runtime.said() == [
        ("cudaStreamBeginCapture", 11, "thread local"),
        ("the call",),
        ("cudaStreamEndCapture", 11),
        ("cudaGraphInstantiate", 13, 0),
        ("cudaGraphDestroy", 13),
        ("cudaGraphUpload", 14, 11),
    ]


@pytest.mark.parametrize("error", [EngineError("refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_graph", [True, False])
def test_devices__a_capture_in_which_the_call_raises_is_ended(
    cuda_runtime: BindingsRuntime, runtime: FakeRuntime, error: BaseException, is_graph: bool
) -> None:
    def fail() -> None:
        raise error

    if not is_graph:
        runtime.fails["cudaStreamEndCapture"] = Code.cudaErrorStreamCaptureInvalidated
    with pytest.raises(type(error)) as raised:
        cuda_runtime.capture(11, fail)
    assert raised.value is error
    assert runtime.said() == [
        ("cudaStreamBeginCapture", 11, "thread local"),
        ("cudaStreamEndCapture", 11),
        ("cudaGetLastError",),
        *([("cudaGraphDestroy", 13)] if is_graph else []),
    ]


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("cudaStreamEndCapture", []),
        ("cudaGraphInstantiate", [("cudaGraphDestroy", 13)]),
        ("cudaGraphUpload", [("cudaGraphExecDestroy", 14)]),
    ],
)
def test_devices__a_capture_that_comes_to_nothing_leaves_nothing(
    cuda_runtime: BindingsRuntime, runtime: FakeRuntime, name: str, ending: list[tuple[Any, ...]]
) -> None:
    runtime.fails[name] = Code.cudaErrorStreamCaptureInvalidated
    with pytest.raises(EngineError, match=rf"CUDA failed on cuda:1 in {name}: some words \(cudaErrorStreamCaptureInv"):
        cuda_runtime.capture(11, lambda: None)
    said = runtime.said()
    failed = next(place for place, call in enumerate(said) if call[0] == name)
    assert said[failed + 1 :] == [("cudaGetLastError",), *ending]


@pytest.mark.parametrize(
    ("name", "code", "kind", "message"),
    [
        ("cudaMalloc", 2, EngineError, r"the memory of cuda:1 does not hold 5,000 bytes more \(cudaMalloc: out of mem"),
        ("cudaHostAlloc", 2, EngineError, r"this machine's memory does not hold 5,000 bytes to copy .* from cuda:1 \("),
        (
            "cudaGraphLaunch",
            2,
            EngineError,
            r"the memory of cuda:1 does not hold what this takes .*; choose a smaller ",
        ),
        ("cudaMalloc", 700, EngineError, r"^CUDA failed on cuda:1 in cudaMalloc: some words \(cudaErrorIllegalAddress"),
        ("cudaSetDevice", 700, EngineError, r"CUDA failed on cuda:1 in cudaSetDevice"),
        ("cudaSetDevice", 100, DeviceUnavailable, "no NVIDIA GPU can be used: no CUDA-capable device"),
    ],
)
def test_devices__what_the_driver_says_of_codes(
    cuda_runtime: BindingsRuntime, runtime: FakeRuntime, name: str, code: int, kind: type[Exception], message: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "cudaMalloc": lambda: cuda_runtime.allocate(5000),
        "cudaHostAlloc": lambda: cuda_runtime.allocate_pinned(5000),
        "cudaGraphLaunch": lambda: cuda_runtime.launch(14, 11),
        "cudaSetDevice": cuda_runtime.make_current,
    }
    runtime.fails[name] = Code(code)
    with pytest.raises(kind, match=message):
        calls[name]()
    assert runtime.said()[-1] == ("cudaGetLastError",)  # or who asks next takes it for their own


@pytest.mark.parametrize("visible", [None, ""])
def test_devices__the_real_library_where_it_has_no_card(visible: str | None) -> None:
    """It answers, in a process that goes on; with each function as it is really called, none knows of a card."""
    pytest.importorskip("cuda.bindings")
    code = (
        "import numpy, sys\n"
        "from cuda.bindings import runtime\n"
        "from m2l_runtime.backends.cuda.devices import find_gpu, find_gpus, memory_in_use_bytes\n"
        "from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime\n"
        "from m2l_runtime.errors import DeviceUnavailable\n"
        "if runtime.cudaGetDeviceCount()[0] == 0: sys.exit('there is a card')\n"
        "def expect(call):\n"
        "    try: call()\n"
        "    except DeviceUnavailable as error: assert 'no NVIDIA GPU can be used: ' in str(error), error\n"
        "    else: raise AssertionError(call)\n"
        "for call in (find_gpus, lambda: find_gpu(0), lambda: BindingsRuntime(0)): expect(call)\n"
        "assert memory_in_use_bytes(0) is None\n"
        "if runtime.cudaDriverGetVersion()[1] == 0:\n"  # handles that are none are given to no driver
        "    class Blind(BindingsRuntime):\n"
        "        def make_current(self): pass\n"
        "    driver, memory = Blind(0), numpy.zeros(4, numpy.uint8)\n"
        "    for name, *arguments in [\n"
        "        ('allocate_pinned', 4), ('free_pinned', memory), ('allocate', 4), ('free', 64), ('create_stream',),\n"
        "        ('destroy_stream', 64), ('create_event',), ('destroy_event', 64), ('record', 64, 64),\n"
        "        ('wait', 64, 64), ('synchronize_event', 64), ('copy_in', 64, memory, 64),\n"
        "        ('copy_out', memory, 64, 64), ('synchronize_stream', 64), ('capture', 64, list), ('launch', 64, 64),\n"
        "        ('destroy_graph', 64)\n"
        "    ]: expect(lambda: getattr(driver, name)(*arguments))\n"
        "print('went on')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if "there is a card" in done.stderr:
        pytest.skip("there is a card")
    assert (done.returncode, done.stdout) == (0, "went on\n"), done
