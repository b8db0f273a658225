"""Write a bundle as a model repository of Triton Inference Server.

A repository has a folder a model: config.pbtxt, a version `1` with the model, and `warmup` with inputs to begin with.
Nothing of Triton is needed to write it. docs/triton.md says what was run in a server, and what was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.plain_file import read_plain
from m2l_runtime._utils.reading import decode_line
from m2l_runtime._utils.text import printable, shown
from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.bundle.schema import MANIFEST_NAME, MAX_MANIFEST_BYTES, ModelFile, PlanFile, Precision, TensorSpec
from m2l_runtime.errors import ArgumentError, BundleDamaged, OutputError
from m2l_runtime.triton.config_text import Value, Word, config_text, string_parameters

INDEX_NAME: Final = "m2l-triton.json"
"""File beside the models that says what the repository was made of; Triton passes over it."""

SCHEMA: Final = "m2l-triton-repository"
VERSION: Final = "1"
MASK: Final = "mask"
SEEDS: Final = "seeds"
APPEARANCE: Final = "appearance"
ERROR: Final = "error"

MAX_BATCH: Final = 4096
MAX_NAME: Final = 64

_TYPES: Final = {"uint8": Word("TYPE_UINT8"), "float32": Word("TYPE_FP32")}
_CPU, _GPU, _AUTO = Word("KIND_CPU"), Word("KIND_GPU"), Word("KIND_AUTO")
_KINDS: Final = {"cpu": _CPU, "gpu": _GPU, "auto": _AUTO}

_MODEL_PY: Final = b'''"""The model of this folder, in Triton's Python backend; what it does is in m2l_runtime."""

from m2l_runtime.triton.python_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@check_types()
@dataclass(frozen=True)
class TritonOptions:
    """Choose how models of a repository are called and run.

    Example:
        >>> TritonOptions(device="gpu", max_batch_size=32).instances
        1

    Raises:
        ArgumentError: an option is out of range.
    """

    name: str | None = None
    """Name of the model that takes masks; the others begin with it. None: the bundle's, in letters, digits and _."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where onnxruntime runs in fp32; "auto": on GPUs where there are any. The model in Python runs on the CPU unless
    this is "gpu". OpenVINO is for CPUs, plans and fp16 are for GPUs."""
    max_batch_size: int = 16
    """Largest number of masks in a call."""
    max_queue_delay_us: int = 2000
    """Microseconds that a request may wait for others to fill a batch."""
    max_queue_size: int = 256
    """Requests that may wait; further ones are refused at once."""
    instances: int = 1
    """Copies of each model, on each GPU or on the CPU."""
    threads: int | None = None
    """CPU threads of each copy; None: what the engine takes, which is all of them."""
    backend: str = "auto"
    """Engine of the model in Python, as `m2l synth --backend` takes it."""

    def __post_init__(self) -> None:
        if self.name is not None and re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}", self.name) is None:
            raise ArgumentError(
                f"a model's name has 1 to {MAX_NAME} letters, digits, _ or -, got {printable(self.name[:80])!r}"
            )
        for name, value, low, high in (
            ("max batch size", self.max_batch_size, 1, MAX_BATCH),
            ("max queue delay", self.max_queue_delay_us, 0, 10_000_000),
            ("max queue size", self.max_queue_size, 1, 1_000_000),
            ("instances", self.instances, 1, 1024),
            ("threads", 1 if self.threads is None else self.threads, 1, 4096),
        ):
            if not low <= value <= high:
                raise ArgumentError(f"the {name} must be between {low:,} and {high:,}, got {value:,}")
        if self.backend != "auto" and self.backend not in BACKENDS:
            raise ArgumentError(f"there is no backend {shown(self.backend)}; choose one of auto, {', '.join(BACKENDS)}")


@dataclass(frozen=True)
class TritonModel:
    """Describe a model of a repository.

    Example:
        >>> TritonModel("lesions", "python", "any").name
        'lesions'
    """

    name: str
    backend: str
    """Triton's backend that runs it."""
    precision: str


@dataclass(frozen=True)
class TritonRepository:
    """Report what was written.

    Example:
        >>> TritonRepository(Path("models"), (TritonModel("lesions", "python", "any"),)).models[0].backend
        'python'
    """

    path: Path
    models: tuple[TritonModel, ...]
    notes: tuple[str, ...] = ()
    """What of the bundle is not in the repository, and why."""


@check_types()
def write_model_repository(
    bundle: str | os.PathLike[str] | Bundle | None,
    repository: str | os.PathLike[str],
    options: TritonOptions | None = None,
    *,
    overwrite: bool = False,
) -> TritonRepository:
    """Write a bundle as a model repository of Triton Inference Server.

    The first model is called as the bundle: it takes masks of any size, a seed and an appearance, and samples the
    other inputs itself, with `m2l_runtime` in Triton's Python backend. Beside it there is a model for each file of the
    bundle and engine that Triton has; those take all inputs of the generator as they are.

    The repository is built beside its place and renamed: it is there whole, or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = write_model_repository(None, f"{folder}/models", TritonOptions(name="lesions"))
        ...     text = (made.path / "lesions" / "config.pbtxt").read_text()
        >>> [model.name for model in made.models]
        ['lesions', 'lesions_onnxruntime_fp32', 'lesions_openvino_fp32', 'lesions_openvino_int8']
        >>> text.splitlines()[:2]
        ['name: "lesions"', 'backend: "python"']

    Args:
        bundle: folder of a bundle, or an opened one; None: the model inside the package.
        repository: folder to make.
        options: names, batches, instances; None: the defaults.
        overwrite: replace a repository that m2l wrote. Anything else there is never replaced.

    Raises:
        BundleNotFound, BundleTooNew, BundleDamaged: the bundle cannot be used.
        OutputError: `repository` exists and may not be replaced, or cannot be written.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(embedded.BUNDLE if bundle is None else bundle)
    target = Path(repository)
    check_repository_path(target, overwrite=overwrite)
    plan = _plan(opened, options or TritonOptions())
    with atomic.staged_folder(target, may_replace=require_repository if overwrite else None) as staging:
        for model in plan.models:
            for name, content in model.files(opened):
                atomic.create_file(staging / model.model.name / name, content)
        atomic.create_file(staging / INDEX_NAME, _index(opened, plan))
    return TritonRepository(target, tuple(model.model for model in plan.models), tuple(plan.notes))


def check_repository_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no repository can be written, ahead of the work.

    Raises:
        OutputError: it is there and may not be replaced, or cannot be written.
    """
    if os.path.lexists(path):
        if not overwrite:
            raise OutputError(f"{printable(path)} exists already; choose another name or give --overwrite")
        require_repository(path)
    atomic.check_new_folder(path)


def require_repository(path: Path) -> None:
    """Refuse to replace anything but a repository that m2l wrote.

    Raises:
        OutputError: it is another folder, or a file.
    """
    head = None
    with contextlib.suppress(OSError):
        head = decode_line(read_plain(path / INDEX_NAME, 1 << 20), dict[str, Any])
    if path.is_symlink() or head is None or head.get("schema") != SCHEMA:
        raise OutputError(
            f"{printable(path)} is no model repository that m2l wrote, so it is not overwritten; choose another name"
        )


@dataclass(frozen=True)
class _PlannedModel:
    """Hold a model to write."""

    model: TritonModel
    config: Mapping[str, Value]
    warm_up: Mapping[str, npt.NDArray[Any]]
    """One item of each input."""
    contents: Mapping[str, ModelFile | PlanFile] = field(default_factory=dict)
    """Files of the bundle by their names in the version's folder."""
    has_bundle: bool = False
    """Whether the whole bundle lies in the version's folder."""

    def files(self, bundle: Bundle) -> Iterator[tuple[str, bytes]]:
        """Yield each file of the model's folder, by its name there."""
        yield "config.pbtxt", config_text(self.config).encode()
        for name, array in self.warm_up.items():
            yield f"warmup/{name}", np.ascontiguousarray(array).tobytes()
        for name, entry in self.contents.items():
            is_plan = isinstance(entry, PlanFile)
            yield f"{VERSION}/{name}", bundle.read(entry.file) if is_plan else bundle.read_model(entry)  # type: ignore[arg-type]
        if self.has_bundle:
            yield f"{VERSION}/model.py", _MODEL_PY
            yield f"{VERSION}/bundle/{MANIFEST_NAME}", _manifest_bytes(bundle)
            for file in bundle.manifest.files:
                yield f"{VERSION}/bundle/{file.path}", bundle.read(file)


def _manifest_bytes(bundle: Bundle) -> bytes:
    path = bundle.path / MANIFEST_NAME
    try:
        content = read_plain(path, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise BundleDamaged(f"{printable(path)} cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != bundle.sha256:
        raise BundleDamaged(f"{printable(path)} has changed since the bundle was opened; try again")
    return content


@dataclass(frozen=True)
class _Plan:
    models: Sequence[_PlannedModel]
    notes: Sequence[str]


def _plan(bundle: Bundle, options: TritonOptions) -> _Plan:
    """Settle what models there are."""
    name = options.name or model_name(bundle.manifest.name)
    notes: list[str] = []
    models = [_python_model(bundle, name, options)]
    for entry in bundle.manifest.models:
        for engine in entry.engines:
            if engine == "openvino" and entry.precision == "bf16":
                notes.append(
                    "openvino in bf16 is left out: Triton's OpenVINO backend takes no precision, and computes files in "
                    "fp32 in bf16 by itself where the CPU can"
                )
            elif engine in ("onnxruntime", "openvino"):
                models.append(_onnx_model(bundle, name, engine, entry, options))
    models += _plan_models(bundle, name, options, notes)
    return _Plan(models, tuple(dict.fromkeys(notes)))


def model_name(text: str) -> str:
    """Make the name of a model of any text: letters, digits and _.

    >>> model_name("my lesions/2"), model_name("../"), model_name("è")
    ('my_lesions_2', 'm2l', 'm2l')
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:MAX_NAME] or "m2l"


def _common(bundle: Bundle, options: TritonOptions, kind: Word, max_batch: int) -> dict[str, Value]:
    """Return the fields that say how requests are batched, and what runs them."""
    queue: dict[str, Value] = {
        "timeout_action": Word("REJECT"),
        "max_queue_size": options.max_queue_size,
    }
    return {
        "dynamic_batching": {
            "preferred_batch_size": [max_batch],
            "max_queue_delay_microseconds": options.max_queue_delay_us,
            "default_queue_policy": queue,
        },
        "instance_group": [{"count": options.instances, "kind": kind}],
    }


def _warm_up(inputs: Mapping[str, tuple[Word, Sequence[int]]], max_batch: int) -> list[Value]:
    """Return requests to begin with: one mask, and a full batch of it."""
    fields: list[Value] = [
        {"key": name, "value": {"data_type": kind, "dims": list(dims), "input_data_file": name}}
        for name, (kind, dims) in inputs.items()
    ]
    sizes = dict.fromkeys((1, max_batch))
    return [{"name": f"golden_{size}", "batch_size": size, "inputs": fields} for size in sizes]


def _tensor(spec: TensorSpec) -> dict[str, Value]:
    return {
        "name": spec.name,
        "data_type": _TYPES[spec.dtype],
        "dims": [side for side in spec.shape if side != "batch"],
    }


def _generator(
    bundle: Bundle, name: str, backend: str, options: TritonOptions, kind: Word, max_batch: int
) -> tuple[dict[str, Value], dict[str, npt.NDArray[Any]]]:
    """Return the configuration of a model that is a file of the generator, and its inputs to begin with."""
    manifest = bundle.manifest
    golden, _ = bundle.read_golden()
    inputs = {spec.name: golden[spec.name][0] for spec in manifest.inputs}
    dims = {
        spec.name: (_TYPES[spec.dtype], [int(side) for side in spec.shape if side != "batch"])
        for spec in manifest.inputs
    }
    config: dict[str, Value] = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch,
        "input": [_tensor(spec) for spec in manifest.inputs],
        "output": [_tensor(spec) for spec in manifest.outputs],
        **_common(bundle, options, kind, max_batch),
        "model_warmup": _warm_up(dims, max_batch),
    }
    return config, inputs


def _onnx_model(bundle: Bundle, name: str, engine: str, entry: ModelFile, options: TritonOptions) -> _PlannedModel:
    own = f"{name}_{engine}_{entry.precision}"
    kind = _KINDS[options.device]
    if engine == "openvino" or entry.precision == "int8":
        kind = _CPU
    elif entry.precision == "fp16":
        kind = _GPU
    config, inputs = _generator(bundle, own, engine, options, kind, options.max_batch_size)
    parameters: dict[str, object] = {}
    if options.threads is not None:
        parameters["INFERENCE_NUM_THREADS" if engine == "openvino" else "intra_op_thread_count"] = options.threads
    if engine == "openvino":
        config["default_model_filename"] = "model.onnx"
    if parameters:
        config["parameters"] = string_parameters(parameters)
    return _PlannedModel(TritonModel(own, engine, entry.precision), config, inputs, {"model.onnx": entry})


def _plan_models(bundle: Bundle, name: str, options: TritonOptions, notes: list[str]) -> list[_PlannedModel]:
    """Make a model for each precision of TensorRT's plans, with a file for each kind of GPU."""
    groups: dict[Precision, dict[str, PlanFile]] = {}
    for plan in bundle.manifest.plans:
        what = f"{plan.file.path} is left out"
        if plan.flavour != "tensorrt":
            notes.append(f"{what}: Triton runs plans of TensorRT, and it is one of TensorRT for RTX")
        elif plan.batch_sizes[0] > 1:
            notes.append(f"{what}: it takes {plan.batch_sizes[0]} masks at least, and requests have one")
        elif plan.compute_capability in (group := groups.setdefault(plan.precision, {})):
            first = group[plan.compute_capability].file.path
            notes.append(f"{what}: {first} is for the same GPUs (compute capability {plan.compute_capability})")
        else:
            group[plan.compute_capability] = plan
    models = []
    for precision, plans in groups.items():
        own = f"{name}_tensorrt_{precision}"
        largest = min(options.max_batch_size, *(plan.batch_sizes[2] for plan in plans.values()))
        config, inputs = _generator(bundle, own, "tensorrt", options, _GPU, largest)
        files = {f"model_{capability.replace('.', '_')}.plan": plan for capability, plan in plans.items()}
        config["default_model_filename"] = next(iter(files))
        config["cc_model_filenames"] = [
            {"key": plan.compute_capability, "value": file_name} for file_name, plan in files.items()
        ]
        models.append(_PlannedModel(TritonModel(own, "tensorrt", precision), config, inputs, dict(files)))
        versions = ", ".join(dict.fromkeys(plan.version for plan in plans.values()))
        notes.append(f"{own} needs a Triton with TensorRT {versions}, with which its plans were built")
    return models


def _python_model(bundle: Bundle, name: str, options: TritonOptions) -> _PlannedModel:
    """Make the model that takes masks and samples the other inputs itself."""
    manifest = bundle.manifest
    golden, _ = bundle.read_golden()
    mask_spec = manifest.inputs[0]
    mask = golden[mask_spec.name][0]
    is_random = len(manifest.inputs) > 1
    names = () if manifest.appearance is None else manifest.appearance.names
    seeds: dict[str, Value] = {"name": SEEDS, "data_type": Word("TYPE_UINT64"), "dims": [1]}
    looks: dict[str, Value] = {"name": APPEARANCE, "data_type": Word("TYPE_FP32"), "dims": [len(names)]}
    conditions = ([seeds] if is_random else []) + ([looks] if names else [])
    error: dict[str, Value] = {"name": ERROR, "data_type": Word("TYPE_STRING"), "dims": [1]}
    image: dict[str, Value] = {
        "name": manifest.outputs[0].name,
        "data_type": Word("TYPE_UINT8"),
        "dims": [*manifest.image_size, 3],
    }
    kind = _GPU if options.device == "gpu" else _CPU
    parameters: dict[str, object] = {"m2l_backend": options.backend, "m2l_bundle_sha256": bundle.sha256}
    if options.threads is not None:
        parameters["m2l_threads"] = options.threads
    config: dict[str, Value] = {
        "name": name,
        "backend": "python",
        "max_batch_size": options.max_batch_size,
        "input": [
            {"name": MASK, "data_type": Word("TYPE_UINT8"), "dims": [-1, -1]},
            *({**one, "optional": True} for one in conditions),
        ],
        "output": [image, *conditions, error],
        **_common(bundle, options, kind, options.max_batch_size),
        "parameters": string_parameters(parameters),
        "model_warmup": _warm_up({MASK: (Word("TYPE_UINT8"), mask.shape)}, options.max_batch_size),
    }
    return _PlannedModel(TritonModel(name, "python", "fp32"), config, {MASK: mask}, has_bundle=True)


def _index(bundle: Bundle, plan: _Plan) -> bytes:
    fields = {
        "schema": SCHEMA,
        "bundle": bundle.manifest.name,
        "bundle_sha256": bundle.sha256,
        "models": [model.model for model in plan.models],
        "notes": plan.notes,
    }
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"
