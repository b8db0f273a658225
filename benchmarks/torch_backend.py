"""Run a network in PyTorch as a backend, on a CPU or a GPU, so that it is timed as m2l's own backends are."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime.backends.base import BackendSettings, Inputs
from m2l_runtime.errors import DeviceUnavailable


@dataclass(frozen=True)
class TorchMode:
    """Describe how PyTorch computes."""

    autocast: torch.dtype | None = None
    tf32: bool = False
    """Whether convolutions of fp32 may round what they multiply to 10 bits, on tensor cores."""
    channels_last: bool = False
    compile_mode: str | None = None
    """Mode of torch.compile; None: not compiled. max-autotune: kernels chosen by timing, calls as CUDA graphs."""


CPU_MODES: Final = {
    "PyTorch eager": TorchMode(),
    "PyTorch eager, channels last": TorchMode(channels_last=True),
    "PyTorch compiled, channels last": TorchMode(channels_last=True, compile_mode="default"),
    "PyTorch bf16, channels last": TorchMode(torch.bfloat16, channels_last=True),
}
"""By title; the first is as the original's test."""

GPU_MODES: Final = {
    "PyTorch eager fp32": TorchMode(),
    "PyTorch eager TF32": TorchMode(tf32=True),
    "PyTorch autocast fp16, channels last": TorchMode(torch.float16, channels_last=True),
    "PyTorch autocast bf16, channels last": TorchMode(torch.bfloat16, channels_last=True),
    "PyTorch compiled max-autotune, autocast fp16, channels last": TorchMode(
        torch.float16, channels_last=True, compile_mode="max-autotune"
    ),
}
"""By title; the first is what ratios are to."""


class ByteNetwork(nn.Module):
    """Compute images as bytes, and the network's own pixels, from masks as bytes."""

    def __init__(self, network: nn.Module, mode: TorchMode) -> None:
        super().__init__()
        self._network, self._mode = network, mode
        self._format = torch.channels_last if mode.channels_last else torch.contiguous_format

    def forward(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (N, H, W, 3) uint8 and (N, 3, H, W) from (N, H, W) uint8."""
        x = mask[:, None].expand(-1, 3, -1, -1).float() / 127.5 - 1
        with self._autocast(mask.device.type):
            y = self._network(x.contiguous(memory_format=self._format))
        images = ((y.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return images.permute(0, 2, 3, 1).contiguous(), y

    def _autocast(self, device: str) -> AbstractContextManager[Any]:
        return nullcontext() if self._mode.autocast is None else torch.autocast(device, self._mode.autocast)


class TorchBackend:
    """Run a network in PyTorch, one call at a time on one thread (CUDA graphs belong to a thread); bytes in and out.

    On a CPU with all CPUs. On a GPU cuDNN chooses its kernels by timing them, as in the original, and copies to the GPU
    and back are part of a call.
    """

    def __init__(self, network: nn.Module, mode: TorchMode, device: str, batch_size: int) -> None:
        """Take a network to a device.

        Raises:
            DeviceUnavailable: PyTorch finds no GPU.
        """
        if device == "cpu":
            torch.set_num_threads(usable_cpus())
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailable(f"torch {torch.__version__} is built without CUDA, or finds no GPU")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = mode.tf32
        self.settings: Final = BackendSettings(
            backend="PyTorch",
            engine=f"torch {torch.__version__}",
            device="cuda:0" if device == "cuda" else device,
            precision="fp32" if mode.autocast is None else str(mode.autocast).removeprefix("torch."),
            batch_size=batch_size,
            threads=torch.get_num_threads(),
            provider_options=(("allow_tf32", str(torch.backends.cudnn.allow_tf32)),),
        )
        self.notes: tuple[str, ...] = ()
        self.is_finite = True
        """Whether all pixels were, of calls of :meth:`run_checked`: bytes cannot tell."""
        self._device = torch.device(self.settings.device)
        memory_format = torch.channels_last if mode.channels_last else torch.contiguous_format
        network = network.eval().to(self._device).to(memory_format=memory_format)  # type: ignore[call-overload]
        self._network: Any = ByteNetwork(network, mode)
        self._without_gradients = torch.no_grad if mode.compile_mode else torch.inference_mode
        if mode.compile_mode:
            self._network = torch.compile(self._network, mode=mode.compile_mode, dynamic=False)

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        return self._call(inputs)[0]

    def run_checked(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """Run likewise, and see whether pixels are finite before they are bytes."""
        images, pixels = self._call(inputs)
        self.is_finite &= bool(torch.isfinite(pixels).all())
        return images

    def _call(self, inputs: Inputs) -> tuple[npt.NDArray[np.uint8], Tensor]:
        with self._without_gradients():
            images, pixels = self._network(torch.from_numpy(inputs["mask"]).to(self._device))
            array: npt.NDArray[np.uint8] = images.cpu().numpy()
        return array, pixels

    def close(self) -> None:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        self._network = None
