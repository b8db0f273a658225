"""An engine of one small kernel, compiled for the card that is there, which computes what the fake engine does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Final

from cuda.bindings import driver, nvrtc
from fake_cuda import APPEARANCE, HEIGHT, IMAGE, MASK, WIDTH

from m2l_runtime.backends.cuda.devices import Gpu
from m2l_runtime.errors import EngineError

# Threads wait by the clock first, so that what does not wait for them comes too early.
SOURCE: Final = rb"""
extern "C" __global__ void images(const unsigned char *mask, const float *appearance, unsigned char *image,
                                  int pixels, int count, long long ticks)
{
    const long long begin = clock64();
    while (clock64() - begin < ticks) {}
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pixels * count) return;
    const float *own = appearance + 2 * (i / pixels);
    const unsigned char value = mask[i];
    image[3 * i] = value;
    image[3 * i + 1] = 255 - value;
    image[3 * i + 2] = value / 2 + (unsigned char)own[0] - (unsigned char)own[1];
}
"""
_TYPES: Final = (*[ctypes.c_void_p] * 3, *[ctypes.c_int] * 2, ctypes.c_longlong)
_BLOCK: Final = 64


def reason_without_nvrtc() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        return f"there is no NVRTC: {error}"
    return None


def compiled(compute_capability: str) -> bytes:
    """The kernel for cards of a compute capability, "8.9", by NVRTC, which has to be there."""
    program = _checked(nvrtc.nvrtcCreateProgram(SOURCE, b"images.cu", 0, None, None))
    options = [f"--gpu-architecture=sm_{compute_capability.replace('.', '')}".encode()]
    _checked(nvrtc.nvrtcCompileProgram(program, len(options), options))
    content = b" " * int(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, content))  # writes into it
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return content


class KernelEngine:
    """See :class:`m2l_runtime.backends.cuda.engine.Engine`. Made in a thread whose current card it is.

    Args:
        card: which it is.
        ticks: of the card's clock that each call takes at least.
        refuses_capture: whether calls wait for their stream, which ends a capture.
        wrong_address: whether calls write where nothing is, which leaves the card unusable to the process.
    """

    captures_itself = False

    def __init__(
        self, card: Gpu, ticks: int = 200_000, refuses_capture: bool = False, wrong_address: bool = False
    ) -> None:
        self._ticks = ticks
        self._refuses_capture = refuses_capture
        self._wrong_address = wrong_address
        self._module: Any = _checked(driver.cuModuleLoadData(compiled(card.compute_capability)))
        self._function = _checked(driver.cuModuleGetFunction(self._module, b"images"))

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        """See :class:`m2l_runtime.backends.cuda.engine.Engine`."""
        pixels = HEIGHT * WIDTH
        blocks = (pixels * batch_size + _BLOCK - 1) // _BLOCK
        image = 16 if self._wrong_address else addresses[IMAGE.name]
        values = (addresses[MASK.name], addresses[APPEARANCE.name], image, pixels, batch_size, self._ticks)

        def call() -> None:
            _checked(driver.cuLaunchKernel(self._function, blocks, 1, 1, _BLOCK, 1, 1, 0, stream, (values, _TYPES), 0))
            if self._refuses_capture:
                _checked(driver.cuStreamSynchronize(stream))

        return call

    def close(self) -> None:
        """See :class:`m2l_runtime.backends.cuda.engine.Engine`."""
        _checked(driver.cuModuleUnload(self._module))


def _checked(answer: tuple[Any, ...]) -> Any:
    code, *results = answer
    if code != 0:
        raise EngineError(f"{code.name} ({int(code)})")
    return results[0] if results else None
