"""Turn errors of short memory into one that says what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from m2l_runtime._utils import memory
from m2l_runtime.errors import M2LError, OutOfMemory
from m2l_train.config import TrainConfig


@contextlib.contextmanager
def memory_errors(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what PyTorch and NumPy raise when memory is short into an OutOfMemory.

    Args:
        advice: called for the message of that error.

    Raises:
        OutOfMemory: memory ran out within the block.
    """
    try:
        yield
    except M2LError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(advice()) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of PyTorch or NumPy says that memory is short."""
    return isinstance(error, torch.OutOfMemoryError) or memory.is_out_of_memory(error)


@dataclass(frozen=True)
class MemoryAdvice:
    """Say what did not fit, and which smaller setting may."""

    config: TrainConfig
    device: torch.device

    def step(self, tried: int) -> str:
        """Return the advice for a step on a batch of `tried` pairs."""
        config = self.config
        what = f"a batch of {tried} at {config.image_size} pixels, ngf {config.ngf}"
        if tried > 1:  # fewer than the batch size where the data has no more
            what = f"{self.device} has too little memory for {what}"
            return f"{what}; a batch of {tried // 2} may fit: --batch-size {tried // 2}"
        return self._narrower_network(what)

    def networks(self) -> str:
        """Return the advice for building the networks."""
        config = self.config
        return self._narrower_network(
            f"networks of ngf {config.ngf} and ndf {config.ndf} at {config.image_size} pixels"
        )

    def validation(self) -> str:
        """Return the advice for a validation."""
        return self._narrower_network(f"validation at {self.config.image_size} pixels, ngf {self.config.ngf}")

    def _narrower_network(self, what: str) -> str:
        ngf, ndf = (max(1, value // 2) for value in (self.config.ngf, self.config.ndf))
        return f"{self.device} has too little memory for {what}; a narrower network may fit: --ngf {ngf} --ndf {ndf}"
