"""Run onnxruntime's CUDA provider as an executor's engine: bound to its memory, on its stream, as CUDA graphs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import DeviceUnavailable, EngineError, M2LError

PROVIDER: Final = "CUDAExecutionProvider"
BATCH: Final = "batch"
"""The open axis of the graph, as the exporter names it."""
DEFAULTS: Final = {
    "use_tf32": "0",  # or convolutions in fp32 multiply with 10 bits of 23, on GPUs that can, without a word
    "enable_cuda_graph": "1",
}
RESERVED_OPTIONS: Final = {
    "user_compute_stream": "m2l brings a stream of its own",
    "device_id": "name the GPU by the device, cuda:N",
}
"""Provider options that are not for users, and why."""
_GRAPH_ID: Final = "gpu_graph_id"
_DO_NOT_WAIT: Final = "disable_synchronize_execution_providers"
_NO_CPU: Final = "session.disable_cpu_ep_fallback"
_ON_CPU: Final = "default CPU EP"
_FLAGS: Final = {"1": "1", "true": "1", "True": "1", "0": "0", "false": "0", "False": "0"}


class OnnxRuntimeCudaEngine:
    """Compute on onnxruntime's CUDA provider; see :class:`m2l_runtime.backends.cuda.engine.Engine`.

    There is a session for each batch size, with the batch fixed: what computes shapes, on the CPU, is folded away, so
    that a node which is left to the CPU is a mistake, and refused.
    """

    def __init__(
        self,
        library: Any,
        content: bytes,
        device: int,
        session_options: Callable[[], Any],
        provider_options: Mapping[str, str],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        check: Callable[[Any], None],
        explain: Callable[[Exception], M2LError | None],
    ) -> None:
        """Keep what sessions are made of; they are made when their stream is known.

        Args:
            library: the module onnxruntime.
            content: of the ONNX file.
            device: number of the GPU.
            session_options: makes options, which each session changes.
            provider_options: of the CUDA provider; `DEFAULTS` where they leave it open.
            inputs: of the graph.
            outputs: of the graph.
            check: raises if a session is not of these inputs and outputs.
            explain: an error of the library to the one that says what is wrong with the file, if it is the file.

        Raises:
            EngineError: a provider option is not for users, or is neither on nor off.
        """
        for name, why in RESERVED_OPTIONS.items():
            if name in provider_options:
                raise EngineError(f"the provider option {name} is not for users: {why}")
        options = DEFAULTS | dict(provider_options)
        for name in DEFAULTS:
            if options[name] not in _FLAGS:
                raise EngineError(f"the provider option {name} is 1 or 0, got {options[name]!r}")
            options[name] = _FLAGS[options[name]]
        self.provider_options: Final = {"device_id": str(device), **options}
        self._library = library
        self._content = content
        self._device = device
        self._session_options = session_options
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._check, self._explain = check, explain
        self._sessions: dict[tuple[int, int], Any] = {}
        self._graph_ids = itertools.count(1)
        # onnxruntime keeps graphs, and CUDA's handles, for each thread that calls it: so one thread makes all calls.
        self._caller = ThreadPoolExecutor(1, "m2l-onnxruntime")

    @property
    def captures_itself(self) -> bool:
        """See :class:`m2l_runtime.backends.cuda.engine.Engine`."""
        return self.provider_options["enable_cuda_graph"] == "1"

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        """See :class:`m2l_runtime.backends.cuda.engine.Engine`."""
        return self._caller.submit(self._prepare, addresses, batch_size, stream).result()

    def _prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        session = self._sessions.get((batch_size, stream))
        if session is None:
            session = self._sessions[batch_size, stream] = self._start(batch_size, stream)
        binding = session.io_binding()
        for bind, specs in ((binding.bind_input, self._inputs), (binding.bind_output, self._outputs)):
            for spec in specs:
                shape = [batch_size, *spec.shape[1:]]
                bind(spec.name, "cuda", self._device, spec.dtype, shape, addresses[spec.name])
        options = self._library.RunOptions()
        options.log_severity_level = 4  # errors are raised; printed as well they are noise
        options.add_run_config_entry(_DO_NOT_WAIT, "1")
        if self.captures_itself:  # a graph holds addresses, so each pair of memory and batch size has its own
            options.add_run_config_entry(_GRAPH_ID, str(next(self._graph_ids)))

        def call() -> None:
            self._caller.submit(session.run_with_iobinding, binding, options).result()

        # Without graphs of its own the executor captures, which records what the capturing thread does, and no other.
        return call if self.captures_itself else lambda: session.run_with_iobinding(binding, options)

    def close(self) -> None:
        """Release the sessions."""
        self._caller.submit(self._sessions.clear).result()
        self._caller.shutdown()

    def _start(self, batch_size: int, stream: int) -> Any:
        try:
            session = self._session(batch_size, stream, is_cpu_forbidden=True)
        except M2LError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:400]
            explained = self._explain(error)
            if explained is not None:
                raise explained from error
            if _ON_CPU in text:
                raise self._cpu_fallback_error(batch_size, stream, text) from error
            if is_out_of_memory(error):
                raise EngineError(f"the GPU has too little memory for the model: {text}") from error
            raise DeviceUnavailable(f"CUDA does not start: {text}") from error
        self._require_cuda(session)
        self._check(session)
        return session

    def _session(self, batch_size: int, stream: int, is_cpu_forbidden: bool) -> Any:
        options = self._session_options()
        options.add_free_dimension_override_by_name(BATCH, batch_size)
        if is_cpu_forbidden:
            options.add_session_config_entry(_NO_CPU, "1")
        provider_options = self.provider_options | {"user_compute_stream": str(stream)}
        # By itself the library's Python would print what went wrong to standard output, and try again on the CPU.
        return self._library.InferenceSession(
            self._content, options, providers=[(PROVIDER, provider_options)], enable_fallback=0
        )

    def _cpu_fallback_error(self, batch_size: int, stream: int, text: str) -> EngineError:
        """Tell which of two it is: CUDA did not start, so that all is left to the CPU; or a part of the graph is."""
        try:
            self._require_cuda(self._session(batch_size, stream, is_cpu_forbidden=False))
        except DeviceUnavailable as error:
            return error
        except Exception as error:  # noqa: BLE001 - the reason given first is kept
            text = f"{text}; {' '.join(str(error).split())[:200]}"
        return EngineError(
            f"onnxruntime {self._library.__version__} would compute a part of this graph on the CPU, silently and "
            f"slowly: {text}; update it, or choose device cpu"
        )

    def _require_cuda(self, session: Any) -> None:
        if PROVIDER not in session.get_providers():  # it falls back to the CPU without a word
            raise DeviceUnavailable(
                "onnxruntime is built with CUDA but could not start it and would run on the CPU instead; check the "
                'driver and that CUDA and cuDNN are installed: pip install "m2l[gpu]" '
                f"(onnxruntime {self._library.__version__})"
            )
