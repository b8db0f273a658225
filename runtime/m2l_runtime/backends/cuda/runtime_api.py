"""Call the CUDA runtime API that an executor needs: memory, streams, events, copies and graphs, every call checked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.cuda.devices import load_runtime, unavailable, words
from m2l_runtime.errors import EngineError

Bytes = npt.NDArray[np.uint8]
"""uint8 (size,) in C order."""


class CudaRuntime(Protocol):
    """Use one GPU. Streams, events, graphs and addresses on the GPU are CUDA's handles as numbers.

    All methods may be called from several threads, and raise EngineError where CUDA does not do what is asked;
    some of these errors leave the GPU unusable to the process, and every later call then raises the same.
    """

    def make_current(self) -> None:
        """Make the GPU the calling thread's current one, for whoever calls CUDA next in this thread."""
        ...

    def allocate_pinned(self, size: int) -> Bytes:
        """Allocate `size` bytes of the host's memory as copies to and from the GPU need it; their content is arbitrary.

        They are not freed with the array, and the array must not be touched after :meth:`free_pinned`.
        """
        ...

    def free_pinned(self, memory: Bytes) -> None:
        """Free what :meth:`allocate_pinned` gave."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of the GPU's memory and return their address; their content is arbitrary."""
        ...

    def free(self, address: int) -> None:
        """Free what :meth:`allocate` gave."""
        ...

    def create_stream(self) -> int:
        """Make a stream that does not wait for the legacy default stream, nor makes it wait."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def create_event(self) -> int:
        """Make an event; until it is recorded it counts as reached."""
        ...

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Have the event stand for all that is on the stream so far."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Have what comes later on the stream wait for what the event stands for now."""
        ...

    def synchronize_event(self, event: int) -> None:
        """Wait until what the event stands for is done. Other threads of Python run meanwhile."""
        ...

    def copy_in(self, address: int, memory: Bytes, stream: int) -> None:
        """Put on the stream a copy of pinned memory, all of it, to the GPU. Does not wait for it."""
        ...

    def copy_out(self, memory: Bytes, address: int, stream: int) -> None:
        """Put on the stream a copy from the GPU to pinned memory, all of it. Does not wait for it."""
        ...

    def synchronize_stream(self, stream: int) -> None:
        """Wait until all on the stream is done. Other threads of Python run meanwhile."""
        ...

    def capture(self, stream: int, call: Callable[[], None]) -> int:
        """Capture what `call` puts on the stream as a graph, ready to be launched; none of it runs.

        What `call` raises is raised on; the stream can be used again either way. Nobody else may put anything on the
        stream meanwhile.
        """
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Put all of a graph on the stream."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...


# What a call gives back where the GPU is not there for this process, rather than the call wrong.
_UNAVAILABLE: Final = frozenset(
    {
        "cudaErrorInitializationError",
        "cudaErrorInsufficientDriver",
        "cudaErrorDevicesUnavailable",
        "cudaErrorNoDevice",
        "cudaErrorInvalidDevice",
        "cudaErrorSystemNotReady",
        "cudaErrorSystemDriverMismatch",
        "cudaErrorCompatNotSupportedOnDevice",
    }
)


class BindingsRuntime:
    """Use the GPU cuda:`index` by CUDA's runtime; see :class:`CudaRuntime`.

    The current GPU is a thread's own and anyone may change it, so every call here sets it first.

    Raises:
        EngineNotInstalled, DeviceUnavailable: see :func:`m2l_runtime.backends.cuda.devices.find_gpus`.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._runtime = load_runtime()
        self.make_current()

    def make_current(self) -> None:
        """See :class:`CudaRuntime`."""
        self._result("cudaSetDevice", self._runtime.cudaSetDevice(self._index))

    def allocate_pinned(self, size: int) -> Bytes:
        """See :class:`CudaRuntime`."""
        address = int(self._call("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: Bytes) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def allocate(self, size: int) -> int:
        """See :class:`CudaRuntime`."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaFree", address)

    def create_stream(self) -> int:
        """See :class:`CudaRuntime`."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> int:
        """See :class:`CudaRuntime`."""
        # Who waits for one spins: sooner told, at the price of a CPU; cudaEventBlockingSync is the other way.
        return int(self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming))

    def destroy_event(self, event: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaEventSynchronize", event)

    def copy_in(self, address: int, memory: Bytes, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, memory.ctypes.data, memory.nbytes, kind, stream)

    def copy_out(self, memory: Bytes, address: int, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", memory.ctypes.data, address, memory.nbytes, kind, stream)

    def synchronize_stream(self, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, call: Callable[[], None]) -> int:
        """See :class:`CudaRuntime`."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            call()
        except BaseException:
            _, graph = self._runtime.cudaStreamEndCapture(stream)
            self._runtime.cudaGetLastError()
            if graph is not None and int(graph) != 0:
                self._runtime.cudaGraphDestroy(graph)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            executable = int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)
        try:
            self._call("cudaGraphUpload", executable, stream)
        except BaseException:
            self._runtime.cudaGraphExecDestroy(executable)
            raise
        return executable

    def launch(self, graph: int, stream: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """See :class:`CudaRuntime`."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CUDA with the GPU current, and return what it gives, if anything."""
        self.make_current()
        return self._result(name, getattr(self._runtime, name)(*arguments), *arguments)

    def _result(self, name: str, answer: tuple[Any, ...], *arguments: Any) -> Any:
        code, *results = answer
        if code == 0:
            return results[0] if results else None
        self._runtime.cudaGetLastError()  # CUDA keeps it, and who asks for it next would take it for their own
        said = words(self._runtime, code)
        if code.name == "cudaErrorMemoryAllocation":
            wanted = self._requested_bytes(name, *arguments)
            raise EngineError(f"{wanted} ({name}: {said}); choose a smaller batch size or fewer streams")
        if code.name in _UNAVAILABLE:
            raise unavailable(self._runtime, code)
        raise EngineError(f"CUDA failed on cuda:{self._index} in {name}: {said}")

    def _requested_bytes(self, name: str, *arguments: Any) -> str:
        if name == "cudaHostAlloc":
            return f"this machine's memory does not hold {arguments[0]:,} bytes to copy to and from cuda:{self._index}"
        wanted = f"{arguments[0]:,} bytes more" if name == "cudaMalloc" else "what this takes"
        return f"the memory of cuda:{self._index} does not hold {wanted}"
