"""ONNX files on onnxruntime: CPU, or CUDA with an error where CUDA does not really load."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from m2l_runtime.backends import BackendOptions, Inputs, ModelSource, Settings
from m2l_runtime.cpu import usable_cpus
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_ERRORS_ONLY: Final = 3

# On a CPU larger batches were not faster and made the last, padded batch dearer (docs/architecture.md).
_BATCH_SIZE: Final = {CPU: 1, CUDA: 16}

_MOST_STREAMS: Final = 16
"""Unless more are asked for: each holds the network's activations."""


def load(source: ModelSource, options: BackendOptions) -> OnnxRuntimeBackend:
    """A session for one ONNX file; see BackendModule."""
    provider, index = _provider(options.device)
    threads, streams = _share_threads(options, provider)
    session_options = _session_options(threads)
    provider_options = dict(options.provider_options)
    if provider == CUDA:
        _require_cuda_build()
        provider_options.setdefault("device_id", str(index))
    elif provider_options:
        raise EngineError("provider options are for CUDA; the CPU provider of onnxruntime takes none")
    try:
        session = _start_session(source.content, session_options, provider, provider_options)
    except DeviceUnavailable:
        if options.device != "auto":
            raise
        provider, provider_options = CPU, {}
        threads, streams = _share_threads(options, provider)
        session_options = _session_options(threads)
        session = _start_session(source.content, session_options, provider, provider_options)
    _check_signature(session, source)
    settings = Settings(
        backend="onnxruntime",
        engine=f"onnxruntime {onnxruntime.__version__}",
        device="cpu" if provider == CPU else f"cuda:{index}",
        precision=source.precision,
        batch_size=options.batch_size or _BATCH_SIZE[provider],
        threads=threads,
        streams=streams,
        provider_options=tuple(sorted(provider_options.items())),
    )
    return OnnxRuntimeBackend(session, settings, source.outputs[0].name)


class OnnxRuntimeBackend:
    """An onnxruntime session. Its `run` may be called from several threads at once."""

    def __init__(self, session: Any, settings: Settings, output_name: str) -> None:
        self.settings = settings
        self._session = session
        self._output_names = [output_name]

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.Backend`."""
        session = self._session
        if session is None:
            raise EngineError("the backend is closed")
        try:
            images: npt.NDArray[np.uint8] = session.run(self._output_names, dict(inputs))[0]
        except Exception as error:
            raise EngineError(f"onnxruntime failed on {self.settings.device}: {_short(error)}") from error
        return images

    def close(self) -> None:
        """Give the session back."""
        self._session = None


def _provider(device: str) -> tuple[str, int]:
    """(provider, index of the device)."""
    if device == "cpu":
        return CPU, 0
    if device == "auto":
        return (CUDA if CUDA in onnxruntime.get_available_providers() else CPU), 0
    kind, _, index = device.partition(":")
    if kind == "cuda" and (not index or index.isdecimal()):
        return CUDA, int(index or 0)
    raise DeviceUnavailable(f"there is no device '{device}' here; choose auto, cpu, cuda or cuda:N")


def _share_threads(options: BackendOptions, provider: str) -> tuple[int, int]:
    """(threads of each call, calls at once).

    Calls of one thread never wait for one another: on two cores, two of them at once gave more images/s than one call
    of two threads (docs/bulk.md).
    """
    total = options.threads or usable_cpus()
    most = 1 if provider == CUDA else min(total, _MOST_STREAMS)
    streams = most if options.streams is None else options.streams
    return max(1, total // streams), streams


def _require_cuda_build() -> None:
    if CUDA not in onnxruntime.get_available_providers():
        raise DeviceUnavailable(
            "the onnxruntime installed here is built without CUDA: "
            "pip uninstall --yes onnxruntime && pip install '.[gpu]' in a checkout of m2l"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their Python packages, where those are installed


def _session_options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def _start_session(content: bytes, session_options: Any, provider: str, provider_options: dict[str, str]) -> Any:
    providers = [(provider, provider_options)] + ([(CPU, {})] if provider != CPU else [])
    try:
        session = onnxruntime.InferenceSession(content, session_options, providers=providers)
    except Exception as error:
        if provider != CPU:
            raise DeviceUnavailable(f"CUDA does not start: {_short(error)}") from error
        raise BundleDamaged(f"onnxruntime {onnxruntime.__version__} cannot load the model: {_short(error)}") from error
    if provider not in session.get_providers():  # it falls back to the CPU without a word
        raise DeviceUnavailable(
            "onnxruntime is built with CUDA but could not start it and would run on the CPU instead; "
            f"check the driver and that CUDA and cuDNN are installed: pip install '.[gpu]' in a checkout of m2l "
            f"(onnxruntime {onnxruntime.__version__})"
        )
    return session


def _check_signature(session: Any, source: ModelSource) -> None:
    """The file's inputs and outputs are those the manifest declares."""
    types = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}

    def found(nodes: Any) -> dict[str, tuple[str, list[Any]]]:
        return {n.name: (types.get(n.type, n.type), list(n.shape[1:])) for n in nodes}

    def declared(specs: Any) -> dict[str, tuple[str, list[Any]]]:
        return {s.name: (s.dtype, list(s.shape[1:])) for s in specs}

    for got, said in (
        (found(session.get_inputs()), declared(source.inputs)),
        (found(session.get_outputs()), declared(source.outputs)),
    ):
        if got != said:
            raise BundleDamaged(f"{source.name} has {got}, the manifest declares {said}")


def _short(error: Exception) -> str:
    """The engine's message on one line, without its own source locations."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " ..."
