"""Ways to run a network in PyTorch to backends, so that they are timed as m2l's own are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime.backends.base import BackendSettings, Inputs
from m2l_train.models.networks import UnetGenerator, UnetSpec

TorchMode = Literal["eager", "channels_last", "compiled", "bf16"]
"""As the original's test; in another order in memory; that compiled; that within autocast."""


class TorchBackend:
    """A network in PyTorch on all CPUs, one call at a time; bytes in, bytes out, as for any backend."""

    def __init__(self, network: torch.nn.Module, mode: TorchMode, batch_size: int) -> None:
        torch.set_num_threads(usable_cpus())
        self.settings: Final = BackendSettings(
            backend="PyTorch",
            engine=f"torch {torch.__version__}",
            device="cpu",
            precision="bf16" if mode == "bf16" else "fp32",
            batch_size=batch_size,
            threads=torch.get_num_threads(),
        )
        self.notes: tuple[str, ...] = ()
        self._format = torch.contiguous_format if mode == "eager" else torch.channels_last
        self._network = network.eval().to(memory_format=self._format)  # type: ignore[call-overload]
        if mode == "compiled":
            self._network = torch.compile(self._network)
        self._autocast = torch.autocast("cpu", torch.bfloat16) if mode == "bf16" else nullcontext()

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        x = torch.from_numpy(inputs["mask"])[:, None].expand(-1, 3, -1, -1).float() / 127.5 - 1
        with torch.no_grad(), self._autocast:
            y = self._network(x.contiguous(memory_format=self._format))
        images = ((y.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        found: npt.NDArray[np.uint8] = images.contiguous().numpy()
        return found

    def close(self) -> None:
        """See :class:`m2l_runtime.backends.base.Backend`."""


def unet_256(ngf: int, **more: Any) -> UnetSpec:
    """What the network of a width is made of."""
    return UnetSpec(levels=8, ngf=ngf, input_nc=3, output_nc=3, norm="instance", **more)


def load_network(checkpoint: Path, spec: UnetSpec) -> UnetGenerator:
    """A network with the weights of a checkpoint."""
    network = UnetGenerator(spec)
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network.eval()
