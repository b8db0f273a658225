"""ONNX files on onnxruntime: CPU, or CUDA with an error where CUDA does not really load."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends import BackendOptions, Inputs, ModelSource, Settings, read_device
from m2l_runtime.backends.messages import failure, notes_on_cpu
from m2l_runtime.cpu import lacks_int8_products, share_threads
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it keeps what to tell a server of its makers' on disk

import onnxruntime

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_OPSET: Final = re.compile(r"Opset (\d+) is under development")
_ERRORS_ONLY: Final = 3
_FATAL_ONLY: Final = 4

# On a CPU larger batches were not faster and made the last, padded batch dearer (docs/architecture.md).
_BATCH_SIZE: Final = {CPU: 1, CUDA: 16}


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
    notes = notes_on_cpu(options, source.precision) if provider == CPU else ()
    if options.cache_dir is not None:
        notes += ("onnxruntime keeps no compiled models; the folder for them is not used",)
    return OnnxRuntimeBackend(session, settings, source.outputs[0].name, notes)


class OnnxRuntimeBackend:
    """An onnxruntime session. Its `run` may be called from several threads at once."""

    def __init__(self, session: Any, settings: Settings, output_name: str, notes: tuple[str, ...]) -> None:
        self.settings = settings
        self.notes = notes
        self._session = session
        self._output_names = [output_name]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _FATAL_ONLY  # errors are raised; printed as well they are noise

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.Backend`."""
        session = self._session
        if session is None:
            raise EngineError("the backend is closed")
        try:
            images: npt.NDArray[np.uint8] = session.run(self._output_names, dict(inputs), self._run_options)[0]
        except Exception as error:
            raise failure(self.settings, error, _short(error)) from error
        return images

    def close(self) -> None:
        """Give the session back."""
        self._session = None


def _provider(device: str) -> tuple[str, int]:
    """(provider, index of the device)."""
    kind, index = read_device(device)
    if kind == "auto":
        return (CUDA if CUDA in onnxruntime.get_available_providers() else CPU), 0
    return (CUDA if kind == "cuda" else CPU), index


def _share_threads(options: BackendOptions, provider: str) -> tuple[int, int]:
    """(threads of each call, calls at once)."""
    is_open_on_cuda = provider == CUDA and options.streams is None
    return share_threads(options.threads, 1 if is_open_on_cuda else options.streams)


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
    if lacks_int8_products():
        # Sums of int8 products saturate by default there: images were 5 dB farther off. Elsewhere it halves the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _start_session(content: bytes, session_options: Any, provider: str, provider_options: dict[str, str]) -> Any:
    providers = [(provider, provider_options)] + ([(CPU, {})] if provider != CPU else [])
    try:
        session = onnxruntime.InferenceSession(content, session_options, providers=providers)
    except Exception as error:
        if provider != CPU:
            raise DeviceUnavailable(f"CUDA does not start: {_short(error)}") from error
        opset = _OPSET.search(str(error))
        if opset:
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} does not know version {opset[1]} of ONNX's operators, which "
                "the model is written in; update it (pip install --upgrade onnxruntime) or take another --backend"
            ) from error
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
