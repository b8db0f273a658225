"""Choose a backend for a bundle and load it.

Each backend is one module here, imported only when it is asked for; :mod:`m2l_runtime.backends.engines` lists them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from typing import Final, cast, get_args

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.signals import raise_interrupt
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.base import Backend, BackendModule, BackendOptions, ModelSource, PlanRef
from m2l_runtime.backends.engines import BACKENDS, BackendEntry, is_installed
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import ModelFile, Precision
from m2l_runtime.errors import ArgumentError, DeviceUnavailable, EngineError, EngineNotInstalled

__all__ = [
    "BACKENDS",
    "GPU_DISTRIBUTION",
    "BackendChoice",
    "BackendEntry",
    "backend_module",
    "choose_backend",
    "is_installed",
    "load_backend",
    "read_device",
]

GPU_DISTRIBUTION: Final = "onnxruntime-gpu"
"""The build of onnxruntime for GPUs, with the same Python package; if it is installed, CUDA is wanted."""


@dataclass(frozen=True)
class BackendChoice:
    """Hold the name of a backend, and why it was chosen.

    Example:
        >>> BackendChoice("fake", "it was asked for", ("fake",)).name
        'fake'
    """

    name: str
    reason: str
    candidates: tuple[str, ...]
    """Backends that could have been taken; several where `auto` had a choice."""


@check_types()
def load_backend(bundle: Bundle, name: str, options: BackendOptions) -> Backend:
    """Load the backend `name`, or the one that :func:`choose_backend` takes for "auto".

    Example:
        >>> from m2l_runtime.bundle import embedded
        >>> from m2l_runtime.bundle.io import open_bundle
        >>> backend = load_backend(open_bundle(embedded.BUNDLE), "fake", BackendOptions(batch_size=4))
        >>> backend.settings.device
        'cpu'
        >>> backend.close()

    Raises:
        EngineNotInstalled: with the command that installs it.
        ArgumentError: unknown name, or options out of range.
        EngineError: the bundle was not made for it in that precision.
        DeviceUnavailable, BundleDamaged: see :class:`BackendModule`.
    """
    for what, value in (
        ("batch size", options.batch_size),
        ("number of threads", options.threads),
        ("number of streams", options.streams),
    ):
        if value is not None and not 1 <= value <= 4096:
            raise ArgumentError(f"the {what} must be between 1 and 4096, got {value}")
    name = choose_backend(bundle, name, options).name
    entry = BACKENDS[name]
    module, model = backend_module(name), _model_for(bundle, name, entry, options.precision)
    source = ModelSource(
        name=model.file.path,
        content=bundle.read_model(model),
        precision=model.precision,
        inputs=bundle.manifest.inputs,
        outputs=bundle.manifest.outputs,
        sha256=model.file.sha256,
        plans=tuple(
            PlanRef(plan, functools.partial(bundle.read, plan.file))
            for plan in bundle.manifest.plans
            if entry.runs_plans and plan.onnx_sha256 == model.file.sha256
        ),
        float_layer_count=len(model.float_layers),
    )
    return module.load(source, options)


def backend_module(name: str) -> BackendModule:
    """Import the module of a backend in `BACKENDS`, and with it its engine.

    Raises:
        EngineNotInstalled: with the command that installs it.
        EngineError: there is too little memory to load it.
    """
    entry = BACKENDS[name]
    if not is_installed(entry):
        needs = " or ".join(entry.packages)
        raise EngineNotInstalled(f"the backend '{name}' needs {needs}, which is not installed: {entry.install}")
    try:
        return cast(BackendModule, importlib.import_module(entry.module))
    except ImportError as error:
        raise_interrupt(error)
        if is_out_of_memory(error):
            raise EngineError(f"there is too little memory to load the backend '{name}'; free some") from error
        raise EngineNotInstalled(
            f"the backend '{name}' is installed but does not load ({error}); reinstall it: {entry.install}"
        ) from error


def why_unusable_here(name: str) -> str | None:
    """Tell why this process cannot use the engine of a backend although it is installed; None if it can.

    That is known of engines that are loaded already: one may not outlive a fork.

    Example:
        >>> why_unusable_here("fake") is None
        True
    """
    tell = getattr(sys.modules.get(BACKENDS[name].module), "why_unusable_here", None)
    return None if tell is None else cast("str | None", tell())


@check_types()
def choose_backend(bundle: Bundle, name: str, options: BackendOptions) -> BackendChoice:
    """Choose `name` itself, or for "auto" the fastest installed backend that has a file in the precision asked for.

    That is onnxruntime where CUDA is asked for, or where the device is left open and onnxruntime-gpu is installed; else
    the first of `BACKENDS`.

    Example:
        >>> from m2l_runtime.bundle import embedded
        >>> from m2l_runtime.bundle.io import open_bundle
        >>> choose_backend(open_bundle(embedded.BUNDLE), "fake", BackendOptions()).reason
        'it was asked for'

    Raises:
        EngineNotInstalled: none is installed; with the commands that install one.
        ArgumentError: unknown name of a backend, a device or a precision.
        EngineError: the bundle was made for no backend in that precision.
        DeviceUnavailable: no backend that runs on the device asked for is among those that the bundle was made for in
            that precision.
    """
    device, _ = read_device(options.device)
    precision = options.precision
    if precision not in get_args(Precision):
        raise ArgumentError(f"there is no precision {str(precision)!r}; choose one of {', '.join(get_args(Precision))}")
    if name != "auto":
        if name not in BACKENDS:
            raise ArgumentError(f"there is no backend '{name}'; choose one of auto, {', '.join(BACKENDS)}")
        return BackendChoice(name, "it was asked for", (name,))
    compatible = [
        (name, entry) for name, entry in BACKENDS.items() if not entry.is_fake and _models(bundle, name, precision)
    ]
    if not compatible:
        raise EngineError(_unsupported_message(bundle, "any backend known here", precision))
    fitting = [(name, entry) for name, entry in compatible if device == "auto" or device in entry.devices]
    if not fitting:
        names, other = ", ".join(name for name, _ in compatible), "cpu" if device == "cuda" else "cuda"
        lacks = "has no CUDA" if device == "cuda" else "runs on NVIDIA GPUs alone"
        raise DeviceUnavailable(
            f"in {precision} the bundle was made for {names}, which {lacks}; choose device {other}, or "
            "another precision"
        )
    installed = tuple(name for name, entry in fitting if is_installed(entry))
    if not installed:
        commands = "; ".join(entry.install for _, entry in fitting)
        raise EngineNotInstalled(
            f"no inference engine is installed that this bundle was made for in {precision}: {commands}"
        )
    if len(installed) > 1 and (device == "cuda" or precision == "fp16") and not _is_distribution(GPU_DISTRIBUTION):
        installed = tuple(name for name in installed if name != "onnxruntime")  # a build for CPUs
    usable = tuple(name for name in installed if why_unusable_here(name) is None)
    if usable and usable != installed:
        others = ", ".join(name for name in installed if name not in usable)
        return BackendChoice(usable[0], f"{others} cannot be used in a fork of a process that has used it", usable)
    if len(installed) == 1:
        return BackendChoice(installed[0], "the only one installed that runs this bundle so", installed)
    if "onnxruntime" in installed:
        if options.provider_options:
            return BackendChoice("onnxruntime", "provider options are its own", installed)
        if device == "cuda" or precision == "fp16":
            return BackendChoice("onnxruntime", "it needs no plan to be built", installed)
        if device == "auto" and _is_distribution(GPU_DISTRIBUTION):
            return BackendChoice("onnxruntime", f"{GPU_DISTRIBUTION} is installed", installed)
    return BackendChoice(installed[0], "the fastest installed on a CPU", installed)


def read_device(device: str) -> tuple[str, int]:
    """Split a device into (auto | cpu | cuda, its number, 0 unless it is given).

    Example:
        >>> read_device("cuda:1")
        ('cuda', 1)

    Raises:
        ArgumentError: no device is called so.
    """
    kind, colon, number = device.partition(":")
    if device in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and number.isdecimal()):
        return kind, int(number or 0)
    raise ArgumentError(f"there is no device '{device}' here; choose auto, cpu, cuda or cuda:N")


def _is_distribution(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _models(bundle: Bundle, name: str, precision: Precision) -> list[ModelFile]:
    """Return the files of a bundle for a backend and a precision: one or none."""
    return [m for m in bundle.manifest.models if name in m.engines and m.precision == precision]


def _model_for(bundle: Bundle, name: str, entry: BackendEntry, precision: Precision) -> ModelFile:
    if entry.is_fake:
        return bundle.manifest.models[0]
    for model in _models(bundle, name, precision):
        return model
    raise EngineError(_unsupported_message(bundle, f"the backend '{name}'", precision))


def _unsupported_message(bundle: Bundle, what: str, precision: Precision) -> str:
    available = sorted(
        f"{printable(engine)} in {model.precision}" for model in bundle.manifest.models for engine in model.engines
    )
    words = f"{'--tensorrt ' if 'tensorrt' in what else ''}--precision {precision}"
    return (
        f"the bundle was not made for {what} in {precision}, only for {', '.join(available)}; "
        f"choose among these, or export it with {words} for an engine that computes in it"
    )
