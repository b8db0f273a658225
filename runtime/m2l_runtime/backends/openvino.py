"""Run ONNX files on OpenVINO: on CPUs, in fp32, bf16 or int8, as many calls at once as there are streams."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import queue
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.cpu import instructions, share_threads, usable_cpus
from m2l_runtime.backends.base import BackendOptions, BackendSettings, Inputs, ModelSource
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.backends.messages import failure, load_failure, notes_on_cpu
from m2l_runtime.backends.registry import read_device
from m2l_runtime.bundle.schema import Precision, TensorSpec
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError, M2LError, OutputError

# OpenVINO tells a server of its makers' of each import, unless this package of theirs is missing.
_modules = cast("dict[str, Any]", sys.modules)
_is_hidden = _modules.setdefault("openvino_telemetry", None) is None
try:
    import openvino
finally:
    if _is_hidden:
        del _modules["openvino_telemetry"]

VERSION: Final[str] = openvino.__version__.partition("-")[0]

CORE: Final = openvino.Core()
"""One for the process and its whole life. Each brings a stack for signal handlers, and of two, the one that goes last
puts that of the other back, which has been freed: the next signal ends the process with SIGSEGV."""

# These fill tables of the bindings when they are first used. Where two threads do so at once, one waits for the table
# with the interpreter's lock and the other for the lock with the table: for ever, and no signal gets through.
for _type in (np.uint8, np.float32):
    openvino.Type(_type).to_dtype()
    openvino.Tensor(np.zeros(1, _type)).data.any()

# OpenVINO takes bf16 unasked where a CPU has it. What int8 files leave in float stays in f32, so that their images do
# not depend on whether it has; docs/engines.md says what that costs.
_FLOATS: Final[dict[Precision, str]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_NAMES: Final = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_TYPES: Final = {"u8": "uint8", "f32": "float32"}

_TO_DO_IN_A_FORK: Final = (
    "its threads do not survive a fork, and a call would wait for them for ever: open the bundle in the child with "
    "backend onnxruntime, which auto does, or have children spawned (multiprocessing.get_context('spawn'))"
)

_PLACES: Final = re.compile(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:")
_UNKNOWN_OPERATORS: Final = re.compile(r"No conversion rule found for operations: .*")


class _Process:
    """Remember which process has used OpenVINO, and whether this one is a fork of it.

    A process that has only imported it has started no threads yet, and its forks may use it.
    """

    def __init__(self) -> None:
        self.user: int | None = None
        """Number of the process whose threads compile and compute; None: none has."""
        self.is_fork = False
        os.register_at_fork(after_in_child=self._note_fork)

    def _note_fork(self) -> None:
        self.is_fork = self.user is not None


_PROCESS: Final = _Process()


def why_unusable_here() -> str | None:
    """Tell why this process cannot use OpenVINO although it is installed; None if it can. See BackendModule."""
    if not _PROCESS.is_fork:
        return None
    return f"openvino was used in process {_PROCESS.user}, of which this one is a fork; {_TO_DO_IN_A_FORK}"


def computes(precision: Precision) -> bool:
    """Tell whether OpenVINO computes in a precision on this CPU, by a model of one addition. See BackendModule."""
    if precision not in _FLOATS or why_unusable_here() is not None:
        return False
    _PROCESS.user = os.getpid()
    place = openvino.opset13.parameter([1], np.float32)
    model = openvino.Model([openvino.opset13.add(place, place)], [place])
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _FLOATS[precision]})
    floats: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return floats == _FLOATS[precision]


def load(source: ModelSource, options: BackendOptions) -> OpenVinoBackend:
    """Compile the model of one ONNX file; see BackendModule.

    Raises:
        EngineError: among others, in a fork of a process that has used OpenVINO, where it would hang.
    """
    why_not = why_unusable_here()
    if why_not is not None:
        raise EngineError(why_not)
    if read_device(options.device)[0] == "cuda":
        raise DeviceUnavailable(
            f"the backend 'openvino' runs on CPUs, not on '{options.device}'; "
            "choose cpu, or the backend onnxruntime for CUDA"
        )
    if options.provider_options:
        raise EngineError("provider options are for onnxruntime on CUDA; openvino takes none")
    threads, streams = share_threads(options.threads, options.streams)
    batch_size = options.batch_size or 1
    config = {
        "INFERENCE_PRECISION_HINT": _FLOATS[source.precision],
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
        "ENABLE_HYPER_THREADING": True,  # as many threads as are asked for, wherever they run
        "ENABLE_CPU_PINNING": False,  # two processes would pin themselves to the same CPUs
    }
    notes = list(notes_on_cpu(options, source.precision))
    _PROCESS.user = os.getpid()
    try:
        compiled = _compile(source, batch_size, config, options.cache_dir, notes)
        streams = compiled.get_property("NUM_STREAMS")  # no more than there are CPUs, whatever was asked for
        threads = max(1, compiled.get_property("INFERENCE_NUM_THREADS") // streams)
        requests = [compiled.create_infer_request() for _ in range(streams)]
    except M2LError:
        raise
    except Exception as error:
        raise _cannot_load(error, len(source.content)) from error
    floats = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    is_as_asked = floats == _FLOATS[source.precision]
    settings = BackendSettings(
        backend="openvino",
        engine=f"openvino {VERSION}",
        device="cpu",
        precision=source.precision if is_as_asked else _NAMES.get(floats, floats),
        batch_size=batch_size,
        threads=threads,
        streams=streams,
    )
    if source.precision == "bf16":
        if not is_as_asked:
            notes.append(f"this CPU does not compute in bf16; openvino takes {settings.precision} in its place")
        elif "BF16" not in CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            notes.append("this CPU has no instructions for bf16 (AVX512_BF16 or AMX): it may be slower than fp32")
    return OpenVinoBackend(requests, settings, tuple(notes))


class OpenVinoBackend:
    """Run requests of one compiled model, one for each stream. `run` may be called from several threads at once."""

    def __init__(self, requests: Sequence[Any], settings: BackendSettings, notes: tuple[str, ...]) -> None:
        self.settings = settings
        self.notes = notes
        self._process = os.getpid()
        self._idle: queue.SimpleQueue[Any] | None = queue.SimpleQueue()
        for request in requests:
            self._idle.put(request)

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`; waits for a stream to be free."""
        idle = self._idle
        if idle is None:
            raise EngineError("the backend is closed")
        if os.getpid() != self._process:  # its threads were not forked along: the call would wait for ever
            raise EngineError(
                f"openvino was loaded in process {self._process} and cannot be used in its fork {os.getpid()}; "
                f"{_TO_DO_IN_A_FORK}"
            )
        request = idle.get()
        try:
            outputs = request.infer(dict(inputs), share_inputs=True)  # the results are copies
        except Exception as error:
            raise failure(self.settings, error, _short(error)) from error
        finally:
            idle.put(request)
        images: npt.NDArray[np.uint8] = outputs[0]
        return images

    def close(self) -> None:
        """Release the compiled model."""
        self._idle = None


def _compile(
    source: ModelSource, batch_size: int, config: Mapping[str, Any], cache_dir: Path | None, notes: list[str]
) -> Any:
    """Compile a model, or take it from the cache if it is there. If it cannot be kept, `notes` gets a note."""
    if cache_dir is None:
        return CORE.compile_model(_read(source, batch_size), "CPU", config)
    cache = CompiledCache(cache_dir)
    notes += cache.notes
    made_of = {
        "model": source.sha256 or hashlib.sha256(source.content).hexdigest(),
        "engine": openvino.__version__,
        "cpu": f"{CORE.get_property('CPU', 'FULL_DEVICE_NAME')}, {' '.join(sorted(instructions()))}, {usable_cpus()}",
        "batch size": str(batch_size),
        "config": repr(sorted(config.items())),
    }
    tensors = []

    def allocate(size: int) -> npt.NDArray[np.uint8]:
        tensors.append(openvino.Tensor(openvino.Type.u8, [size]))  # which the compiled model holds on to
        memory: npt.NDArray[np.uint8] = tensors[0].data
        return memory

    if cache.read(made_of, allocate):
        with contextlib.suppress(RuntimeError):  # compiled anew where it is not taken
            compiled = CORE.import_model(tensors[0], "CPU", config)
            _check_signature(source, compiled.inputs, source.inputs)
            _check_signature(source, compiled.outputs, source.outputs)
            return compiled
    compiled = CORE.compile_model(_read(source, batch_size), "CPU", config)
    content = io.BytesIO()
    compiled.export_model(content)
    try:
        cache.write(made_of, content.getvalue())
    except OutputError as error:
        notes.append(f"the compiled model is not kept for the next time: {error}")
    return compiled


def _read(source: ModelSource, batch_size: int) -> Any:
    """Read the file as OpenVINO's model of one fixed batch, which is faster than one that may vary.

    Raises:
        BundleDamaged: it cannot be read, or its inputs and outputs are not those the manifest declares.
    """
    try:
        model = CORE.read_model(source.content)
    except Exception as error:
        raise _cannot_load(error, len(source.content)) from error
    _check_signature(source, model.inputs, source.inputs)
    try:
        model.reshape({spec.name: [batch_size, *spec.shape[1:]] for spec in source.inputs})
    except Exception as error:
        raise _cannot_load(error, len(source.content)) from error
    _check_signature(source, model.outputs, source.outputs)
    return model


def _check_signature(source: ModelSource, ports: Iterable[Any], specs: Sequence[TensorSpec]) -> None:
    names = {spec.name for spec in specs}
    found = {min(port.names & names or port.names or {"?"}): _type_and_sides(port) for port in ports}
    declared = {spec.name: (spec.dtype, [str(side) for side in spec.shape[1:]]) for spec in specs}
    if found != declared:
        raise BundleDamaged(f"{source.name} has {found}, the manifest declares {declared}")


def _type_and_sides(port: Any) -> tuple[str, list[str]]:
    """Return type, and sides without the batch; '?' where a side is open."""
    kind, shape = port.element_type.get_type_name(), port.partial_shape
    sides = ["?"] if shape.rank.is_dynamic else [str(side) for side in shape][1:]
    return _TYPES.get(kind, kind), sides


def _cannot_load(error: Exception, model_bytes: int) -> EngineError | BundleDamaged:
    return load_failure(f"openvino {VERSION}", error, _short(error), model_bytes)


def _short(error: Exception) -> str:
    """Put the engine's message on one line, without its own source locations."""
    unknown = _UNKNOWN_OPERATORS.search(str(error))
    text = " ".join((unknown[0] if unknown else _PLACES.sub("", str(error))).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."
