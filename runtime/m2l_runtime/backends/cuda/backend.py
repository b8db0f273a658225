"""Make a backend of an engine on a GPU: an executor drives it, warmed up before anybody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.base import BackendSettings, Inputs
from m2l_runtime.backends.cuda.engine import Engine
from m2l_runtime.backends.cuda.executor import Executor
from m2l_runtime.backends.cuda.runtime_api import CudaRuntime
from m2l_runtime.backends.messages import failure
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import M2LError

BATCH_SIZE: Final = 16
"""Masks per call where none is asked for."""
STREAMS: Final = 2
"""Calls at once where none is asked for: while one computes, the other's masks come in or its images go out."""


def open_executor(
    cuda_runtime: CudaRuntime,
    engine: Engine,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batch_size: int,
    streams: int,
) -> Executor:
    """Make an executor of one batch size whose slots have all made a call; the engine is closed where that fails.

    Raises:
        EngineError: the engine does not run, or memory does not hold what it needs.
    """
    try:
        executor = Executor(cuda_runtime, engine, inputs, outputs, (batch_size,), slots=streams)
    except BaseException:
        engine.close()
        raise
    try:
        executor.warm_up()
    except BaseException:
        executor.close()
        raise
    return executor


class CudaBackend:
    """Compute on a GPU; see :class:`m2l_runtime.backends.base.Backend`. `run` is safe on several threads."""

    def __init__(
        self, executor: Executor, settings: BackendSettings, notes: tuple[str, ...] = (), build_s: float | None = None
    ) -> None:
        self.settings = settings
        self.build_s = build_s
        self._executor = executor
        self._notes = notes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, with what the executor found out while it ran."""
        return self._notes + self._executor.notes

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        try:
            return self._executor.run(inputs)
        except M2LError:
            raise
        except Exception as error:
            raise failure(self.settings, error, " ".join(str(error).split())[:400]) from error

    def close(self) -> None:
        """Release what is held on the GPU."""
        self._executor.close()
