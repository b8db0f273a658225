"""Run ONNX files on onnxruntime: on the CPU, or on CUDA with an error where CUDA does not really load."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.cpu import lacks_int8_products, share_threads
from m2l_runtime.backends.base import BackendOptions, BackendSettings, Inputs, ModelSource
from m2l_runtime.backends.messages import failure, load_failure, notes_on_cpu
from m2l_runtime.backends.registry import read_device
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError, EngineNotInstalled

if TYPE_CHECKING:
    from m2l_runtime.backends.cuda.backend import CudaBackend

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # or it keeps what to tell a server of its makers' on disk

import onnxruntime

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_OPSET: Final = re.compile(r"Opset (\d+) is under development")
_DAMAGED: Final = re.compile(r"INVALID_PROTOBUF|INVALID_GRAPH")
_ERRORS_ONLY: Final = 3
_FATAL_ONLY: Final = 4

_BATCH_SIZE: Final = 1
"""Larger batches were not faster on a CPU, and made the last, padded batch cost more (docs/architecture.md)."""


def load(source: ModelSource, options: BackendOptions) -> OnnxRuntimeBackend | CudaBackend:
    """Open a session for one ONNX file; see BackendModule."""
    kind, index = read_device(options.device)
    why_not = None
    if kind == "cuda" or (kind == "auto" and CUDA in onnxruntime.get_available_providers()):
        try:
            return _load_on_cuda(source, options, index)
        except (DeviceUnavailable, EngineNotInstalled) as error:
            if kind == "cuda":
                raise
            why_not = str(error)
    return _load_on_cpu(source, options, why_not)


def _load_on_cpu(source: ModelSource, options: BackendOptions, why_not_cuda: str | None) -> OnnxRuntimeBackend:
    """Open a session on the CPU; `why_not_cuda` says what kept a CUDA build from the GPU on device auto."""
    because = "" if why_not_cuda is None else f" ({why_not_cuda})"
    if source.precision == "fp16":
        raise DeviceUnavailable(
            "fp16 is for CUDA: on CPUs onnxruntime computes in fp32 between roundings, which is slower than fp32; "
            f"choose device cuda, or another precision{because}"
        )
    if options.provider_options:
        raise EngineError(f"provider options are for CUDA; the CPU provider of onnxruntime takes none{because}")
    threads, streams = share_threads(options.threads, options.streams)
    session = _start_session(source.content, _session_options(threads))
    _check_signature(session, source)
    notes = notes_on_cpu(options, source.precision) + _no_cache(options)
    if why_not_cuda is not None:
        notes += (f"onnxruntime runs on the CPU, as CUDA does not: {why_not_cuda}",)
    return OnnxRuntimeBackend(
        session,
        _settings(source, "cpu", options.batch_size or _BATCH_SIZE, threads, streams),
        source.outputs[0].name,
        notes,
    )


def _load_on_cuda(source: ModelSource, options: BackendOptions, index: int) -> CudaBackend:
    # Imported here, as a first image on a CPU would wait for it.
    from m2l_runtime.backends.cuda.backend import BATCH_SIZE, STREAMS, CudaBackend, open_executor
    from m2l_runtime.backends.cuda.devices import find_gpu
    from m2l_runtime.backends.cuda.runtime_api import BindingsRuntime
    from m2l_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaEngine

    _require_cuda_build()
    find_gpu(index)  # ahead of the library's own CUDA, whose words for a GPU that is not there are hard to read
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA and cuDNN from their Python packages, where those are installed
    streams = STREAMS if options.streams is None else options.streams
    threads, _ = share_threads(options.threads, 1)
    engine = OnnxRuntimeCudaEngine(
        onnxruntime,
        source.content,
        index,
        functools.partial(_session_options, threads),
        options.provider_options,
        source.inputs,
        source.outputs,
        lambda session: _check_signature(session, source),
        _is_file_error,
    )
    batch_size = options.batch_size or BATCH_SIZE
    executor = open_executor(BindingsRuntime(index), engine, source.inputs, source.outputs, batch_size, streams)
    settings = _settings(source, f"cuda:{index}", batch_size, threads, streams)
    settings = dataclasses.replace(settings, provider_options=tuple(sorted(engine.provider_options.items())))
    return CudaBackend(executor, settings, _no_cache(options))


def _settings(source: ModelSource, device: str, batch_size: int, threads: int, streams: int) -> BackendSettings:
    return BackendSettings(
        backend="onnxruntime",
        engine=f"onnxruntime {onnxruntime.__version__}",
        device=device,
        precision=source.precision,
        batch_size=batch_size,
        threads=threads,
        streams=streams,
    )


def _no_cache(options: BackendOptions) -> tuple[str, ...]:
    if options.cache_dir is None:
        return ()
    return ("onnxruntime keeps no compiled models; the folder for them is not used",)


class OnnxRuntimeBackend:
    """Run an onnxruntime session. `run` may be called from several threads at once."""

    def __init__(self, session: Any, settings: BackendSettings, output_name: str, notes: tuple[str, ...]) -> None:
        self.settings = settings
        self.notes = notes
        self._session = session
        self._output_names = [output_name]
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _FATAL_ONLY  # errors are raised; printed as well they are noise

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        session = self._session
        if session is None:
            raise EngineError("the backend is closed")
        try:
            images: npt.NDArray[np.uint8] = session.run(self._output_names, dict(inputs), self._run_options)[0]
        except Exception as error:
            raise failure(self.settings, error, _short(error)) from error
        return images

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _require_cuda_build() -> None:
    if CUDA not in onnxruntime.get_available_providers():
        raise DeviceUnavailable(
            "the onnxruntime installed here is built without CUDA: "
            'pip uninstall --yes onnxruntime && pip install "m2l[gpu]"'
        )


def _session_options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # No folder to read weights from: without it, that is the current one. A bundle's models have none outside.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if lacks_int8_products():
        # Sums of int8 products saturate by default there: images were 5 dB farther off. Elsewhere it halves the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _start_session(content: bytes, session_options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(content, session_options, providers=[CPU])
    except Exception as error:
        raise (_is_file_error(error, len(content)) or _cannot_load(error, len(content))) from error


def _is_file_error(error: Exception, model_bytes: int = 0) -> EngineError | BundleDamaged | None:
    """Make the error for a file that is damaged or needs a newer library; None if it is neither."""
    opset = _OPSET.search(str(error))
    if opset is None:
        return _cannot_load(error, model_bytes) if _DAMAGED.search(str(error)) else None
    return EngineError(
        f"onnxruntime {onnxruntime.__version__} does not know version {opset[1]} of ONNX's operators, which the model "
        "is written in; update it (pip install --upgrade onnxruntime) or take another --backend"
    )


def _cannot_load(error: Exception, model_bytes: int) -> EngineError | BundleDamaged:
    return load_failure(f"onnxruntime {onnxruntime.__version__}", error, _short(error), model_bytes)


def _check_signature(session: Any, source: ModelSource) -> None:
    """Check that the file's inputs and outputs are those the manifest declares."""
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
    """Put the engine's message on one line, without its own source locations."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " ..."
