"""onnxruntime's CUDA provider to what a ring drives: bound to the ring's memory, on its stream, as CUDA graphs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from m2l_runtime.bundle import TensorSpec
from m2l_runtime.errors import DeviceUnavailable, EngineError

PROVIDER: Final = "CUDAExecutionProvider"
BATCH: Final = "batch"
"""The open axis of the graph, as the exporter names it."""
DEFAULTS: Final = {
    "use_tf32": "0",  # or convolutions in fp32 multiply with 10 bits of 23, on cards that can, without a word
    "enable_cuda_graph": "1",
}
_GRAPH_ID: Final = "gpu_graph_id"
_DO_NOT_WAIT: Final = "disable_synchronize_execution_providers"
_NO_CPU: Final = "session.disable_cpu_ep_fallback"


class OnnxRuntimeCudaEngine:
    """Implements :class:`m2l_runtime.cuda.engine.Engine`.

    There is a session for each batch size, with the batch fixed: what computes shapes, on the CPU, is folded away, so
    that a node which is left to the CPU is a mistake, and refused.
    """

    def __init__(
        self,
        library: Any,
        content: bytes,
        session_options: Callable[[], Any],
        provider_options: Mapping[str, str],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        check: Callable[[Any], None],
    ) -> None:
        """Keep what sessions are made of; they are made when their stream is known.

        Args:
            library: the module onnxruntime.
            content: of the ONNX file.
            session_options: makes options, which each session changes.
            provider_options: of the CUDA provider, with `device_id`; `DEFAULTS` where they leave it open.
            inputs: of the graph.
            outputs: of the graph.
            check: raises if a session is not of these inputs and outputs.
        """
        self.provider_options: Final = DEFAULTS | dict(provider_options)
        if "user_compute_stream" in self.provider_options:
            raise EngineError(
                "the provider option user_compute_stream is not for users: m2l brings a stream of its own"
            )
        self._library = library
        self._content = content
        self._session_options = session_options
        self._check = check
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._sessions: dict[tuple[int, int], Any] = {}
        self._graph_ids = itertools.count(1)

    @property
    def captures_itself(self) -> bool:
        """See :class:`m2l_runtime.cuda.engine.Engine`."""
        return self.provider_options["enable_cuda_graph"] == "1"

    @property
    def device(self) -> int:
        """Number of the card."""
        return int(self.provider_options["device_id"])

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        """See :class:`m2l_runtime.cuda.engine.Engine`."""
        session = self._sessions.get((batch_size, stream))
        if session is None:
            session = self._sessions[batch_size, stream] = self._start(batch_size, stream)
        binding = session.io_binding()
        for bind, specs in ((binding.bind_input, self._inputs), (binding.bind_output, self._outputs)):
            for spec in specs:
                shape = [batch_size, *spec.shape[1:]]
                bind(spec.name, "cuda", self.device, spec.dtype, shape, addresses[spec.name])
        options = self._library.RunOptions()
        options.log_severity_level = 4  # errors are raised; printed as well they are noise
        options.add_run_config_entry(_DO_NOT_WAIT, "1")
        if self.captures_itself:  # a graph holds addresses, so each pair of memory and batch size has its own
            options.add_run_config_entry(_GRAPH_ID, str(next(self._graph_ids)))
        return functools.partial(session.run_with_iobinding, binding, options)

    def close(self) -> None:
        """Give the sessions back."""
        self._sessions.clear()

    def _start(self, batch_size: int, stream: int) -> Any:
        options = self._session_options()
        options.add_free_dimension_override_by_name(BATCH, batch_size)
        options.add_session_config_entry(_NO_CPU, "1")
        provider_options = self.provider_options | {"user_compute_stream": str(stream)}
        try:
            session = self._library.InferenceSession(self._content, options, providers=[(PROVIDER, provider_options)])
        except Exception as error:
            text = " ".join(str(error).split())[:400]
            if "CPU EP" in text or "fallback" in text.lower():
                raise EngineError(
                    f"onnxruntime {self._library.__version__} would compute a part of this graph on the CPU, silently "
                    f"and slowly: {text}; update it, or choose device cpu"
                ) from error
            raise DeviceUnavailable(f"CUDA does not start: {text}") from error
        if PROVIDER not in session.get_providers():  # it falls back to the CPU without a word
            raise DeviceUnavailable(
                "onnxruntime is built with CUDA but could not start it and would run on the CPU instead; "
                "check the driver and that CUDA and cuDNN are installed: pip install '.[gpu]' in a checkout of m2l "
                f"(onnxruntime {self._library.__version__})"
            )
        self._check(session)
        return session
