"""Answer the Open Inference Protocol, version 2: health, metadata, configuration, statistics and inference.

The protocol: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md, with
Triton's extensions for binary tensors, the configuration, statistics and the index of models, which its clients use.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from m2l_runtime._utils.text import shown
from m2l_runtime._version import __version__
from m2l_runtime.conditioning.conditions import AppearanceChoice, Condition, check_appearances, check_seeds
from m2l_runtime.errors import ArgumentError
from m2l_runtime.masks.mask_file import stack_gray
from m2l_runtime.serve.body import header_value
from m2l_runtime.serve.errors import HttpError, json_response
from m2l_runtime.serve.model import DEFAULT_NAME, Job, ServedModel
from m2l_runtime.serve.parameters import (
    appearance_choice,
    check_names,
    mask_name,
    sample_number,
    whole_number,
)
from m2l_runtime.serve.tensors import (
    BINARY,
    BINARY_OUTPUT,
    DTYPES,
    HEADER_LENGTH,
    InferRequest,
    Tensor,
    parse_request,
    write_response,
)
from m2l_runtime.serve.work import Workshop
from m2l_runtime.types import Masks, check_masks, is_black_and_white

VERSION: Final = "1"
SEEDS: Final = "seeds"
APPEARANCE: Final = "appearance"
PARAMETERS: Final = ("seed", "samples", "names", "appearance", BINARY_OUTPUT)
"""Parameters of a request."""

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")

_SMALL_BYTES: Final = 1 << 18
_SMALL_TEXT_BYTES: Final = 1 << 12

_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class TensorInfo:
    """Describe a tensor of the model; a side of -1 may be any."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_optional: bool = False

    def metadata(self) -> dict[str, Any]:
        """Return it as the protocol's metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def config(self) -> dict[str, Any]:
        """Return it as a model's configuration has it, where the batch is no side."""
        config: dict[str, Any] = {
            "name": self.name,
            "data_type": f"TYPE_{self.datatype}",
            "dims": list(self.shape[1:]) or [1],
        }
        return {**config, "optional": True} if self.is_optional else config


def inputs_of(model: ServedModel) -> list[TensorInfo]:
    """List what a request may bring: masks, and seeds and appearances where the generator takes them."""
    mask = model.synthesizer.bundle.manifest.inputs[0]
    infos = [TensorInfo(mask.name, "UINT8", (-1, *model.image_size))]
    return infos + [_optional(one) for one in _conditions_of(model)]


def outputs_of(model: ServedModel) -> list[TensorInfo]:
    """List what an answer has: images, and the seeds and appearances that they were made with."""
    image = model.synthesizer.bundle.manifest.outputs[0]
    return [TensorInfo(image.name, "UINT8", (-1, *model.image_size, 3)), *_conditions_of(model)]


def _conditions_of(model: ServedModel) -> list[TensorInfo]:
    extra = model.synthesizer.extra
    infos = [TensorInfo(SEEDS, "UINT64", (-1,))] if extra.is_random else []
    return infos + ([TensorInfo(APPEARANCE, "FP32", (-1, len(extra.names)))] if extra.names else [])


def _optional(info: TensorInfo) -> TensorInfo:
    return TensorInfo(info.name, info.datatype, info.shape, is_optional=True)


def routes(workshop: Workshop) -> list[Route]:
    """Make the routes of the protocol."""
    options, holder, name = workshop.options, workshop.holder, workshop.options.model_name
    statistics = _Statistics(workshop)

    async def live(_: Request) -> Response:
        return json_response({"live": True})

    async def ready(_: Request) -> Response:
        return json_response({"ready": holder.is_ready}, 200 if holder.is_ready else 503)

    async def server(_: Request) -> Response:
        return json_response({"name": "m2l", "version": __version__, "extensions": list(EXTENSIONS)})

    async def model_ready(_: Request) -> Response:
        return json_response({"name": name, "ready": holder.is_ready}, 200 if holder.is_ready else 503)

    async def metadata(_: Request) -> Response:
        return json_response(_metadata(name, holder.current))

    async def config(_: Request) -> Response:
        return json_response(_config(workshop))

    async def stats(_: Request) -> Response:
        return json_response({"model_stats": [statistics.describe()]})

    async def index(_: Request) -> Response:
        state = "READY" if holder.is_ready else "UNAVAILABLE"
        return json_response([{"name": name, "version": VERSION, "state": state, "reason": ""}])

    async def infer(request: Request) -> Response:
        began = time.perf_counter_ns()
        is_done = False
        try:
            body = await workshop.receive(request)
            with workshop.admit(), holder.current.lease() as model:
                body = await workshop.unpack(request, body)
                header_length = header_value(request, HEADER_LENGTH)

                def read() -> _Asked:
                    return _read(body, header_length, model, options.max_images)

                def write() -> Response:
                    return _write(asked, np.stack(images), model, name)

                # Bytes are read and written sooner than another thread is woken; JSON takes a while.
                asked = read() if _is_small(body, header_length) else await workshop.in_thread(read)
                images = await workshop.synthesize(request, asked.jobs)
                answer = write() if asked.is_answered_in_bytes else await workshop.in_thread(write)
            is_done = True
            return answer
        finally:
            statistics.count(time.perf_counter_ns() - began, is_done=is_done)

    def of_model(path: str, handler: _Handler, method: str = "GET") -> list[Route]:
        async def checked(request: Request) -> Response:
            _check_model(request, name)
            return await handler(request)

        starts = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [Route(start + path, checked, methods=[method], name=f"{start}{path}") for start in starts]

    return [
        Route("/v2", server, name="/v2"),
        Route("/v2/health/live", live, name="/v2/health/live"),
        Route("/v2/health/ready", ready, name="/v2/health/ready"),
        Route("/v2/repository/index", index, methods=["POST"], name="/v2/repository/index"),
        Route("/v2/models/stats", stats, name="/v2/models/stats"),
        *of_model("", metadata),
        *of_model("/ready", model_ready),
        *of_model("/config", config),
        *of_model("/stats", stats),
        *of_model("/infer", infer, "POST"),
    ]


def _is_small(body: bytes, header_length: str | None) -> bool:
    """Tell whether a request is a little JSON, and bytes of tensors."""
    is_number = header_length is not None and header_length.isdecimal() and len(header_length) < 10
    return is_number and len(body) <= _SMALL_BYTES and int(header_length or 0) <= _SMALL_TEXT_BYTES


def _check_model(request: Request, name: str) -> None:
    """Refuse the name or version of another model.

    Raises:
        HttpError: 404.
    """
    model, version = request.path_params["model"], request.path_params.get("version", VERSION)
    if model != name:
        raise HttpError(404, f"there is no model {shown(model)} here; it is called '{name}'")
    if version != VERSION:
        raise HttpError(404, f"model '{name}' has no version {shown(version)}; it is version {VERSION}")


def _metadata(name: str, model: ServedModel) -> dict[str, Any]:
    bundle, settings = model.synthesizer.bundle, model.synthesizer.settings
    return {
        "name": name,
        "versions": [VERSION],
        "platform": f"m2l_{settings.backend}",
        "inputs": [one.metadata() for one in inputs_of(model)],
        "outputs": [one.metadata() for one in outputs_of(model)],
        "parameters": {
            "bundle": bundle.manifest.name,
            "bundle_sha256": bundle.sha256,
            "precision": settings.precision,
            "notice": model.text["Description"],
        },
    }


def _config(workshop: Workshop) -> dict[str, Any]:
    model, batcher = workshop.holder.current, workshop.batcher
    return {
        "name": workshop.options.model_name,
        "platform": f"m2l_{model.synthesizer.settings.backend}",
        "backend": "m2l",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": workshop.options.max_images,
        "input": [one.config() for one in inputs_of(model)],
        "output": [one.config() for one in outputs_of(model)],
        "dynamic_batching": {
            "preferred_batch_size": [batcher.max_batch],
            "max_queue_delay_microseconds": round(workshop.options.max_delay_ms * 1000),
        },
        "instance_group": [{"name": workshop.options.model_name, "kind": "KIND_CPU", "count": batcher.workers}],
    }


class _Statistics:
    """Count inferences as Triton's extension of statistics tells them."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._counts = {True: 0, False: 0}
        self._ns = {True: 0, False: 0}
        self._last_ms = 0

    def count(self, ns: int, *, is_done: bool) -> None:
        self._counts[is_done] += 1
        self._ns[is_done] += ns
        self._last_ms = time.time_ns() // 1_000_000

    def describe(self) -> dict[str, Any]:
        metrics = self._workshop.metrics
        images = {"count": metrics.image_count}
        return {
            "name": self._workshop.options.model_name,
            "version": VERSION,
            "last_inference": self._last_ms,
            "inference_count": metrics.image_count,
            "execution_count": metrics.batch_count,
            "inference_stats": {
                "success": {"count": self._counts[True], "ns": self._ns[True]},
                "fail": {"count": self._counts[False], "ns": self._ns[False]},
                "queue": {**images, "ns": metrics.queue_ns},
                "compute_infer": {"count": metrics.batch_count, "ns": metrics.engine_ns},
            },
            "batch_stats": [],
        }


@dataclass(frozen=True)
class _Asked:
    """Hold what a request asks for."""

    request: InferRequest
    jobs: list[Job]
    seed: int | None
    """None where seeds were given one by one, or the generator takes none."""

    @property
    def is_answered_in_bytes(self) -> bool:
        """Whether no image goes into JSON."""
        default = _flag(BINARY_OUTPUT, self.request.parameters)
        if self.request.outputs is None:
            return default
        return all(_flag(BINARY, one.parameters, default) for one in self.request.outputs)


def _read(body: bytes, header_length: str | None, model: ServedModel, max_images: int) -> _Asked:
    """Read a request and check it.

    Raises:
        InputError: it is not such a request, or asks for what there is not.
    """
    request = parse_request(body, header_length)
    tensors, parameters = request.tensors, request.parameters
    check_names(parameters, PARAMETERS, "the request's parameters")
    known = inputs_of(model)
    check_names(tensors, [one.name for one in known], "the request's inputs")
    for one in known:
        if one.name in tensors:
            _check_tensor(one, tensors[one.name])
    _check_outputs(request, model)
    masks = _masks_of(tensors, known[0], model)
    samples = sample_number("samples", parameters.get("samples", 1))
    if not 1 <= len(masks) * samples <= max_images:
        raise ArgumentError(
            f"a request asks for 1 to {max_images} images, got {len(masks)} masks of {samples:,} samples; "
            "send several requests"
        )
    choice = appearance_choice(parameters["appearance"]) if "appearance" in parameters else None
    if APPEARANCE in tensors and choice is not None:
        raise ArgumentError("an appearance is either a parameter or an input; leave one out")
    conditions = _conditions(model, tensors, parameters, len(masks), samples, choice)
    if APPEARANCE in tensors:
        rows = check_appearances(tensors[APPEARANCE].astype(np.float32), len(masks), model.synthesizer.extra.names)
        conditions = model.with_appearances(conditions, rows.repeat(samples, axis=0))
    jobs = [Job(model, masks[place // samples], one) for place, one in enumerate(conditions)]
    has_seed = SEEDS not in tensors and model.synthesizer.extra.is_random
    return _Asked(request, jobs, whole_number("seed", parameters.get("seed", 0)) if has_seed else None)


def _check_tensor(info: TensorInfo, tensor: Tensor) -> None:
    if np.dtype(DTYPES[info.datatype]) != tensor.dtype:
        raise ArgumentError(f"input {info.name} must be {info.datatype}, got {tensor.dtype}")
    fits = tensor.ndim == len(info.shape) and all(
        side in (-1, got) for side, got in zip(info.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise ArgumentError(f"input {info.name} must have the shape {list(info.shape)}, got {list(tensor.shape)}")


def _masks_of(tensors: Mapping[str, Tensor], info: TensorInfo, model: ServedModel) -> Masks:
    if info.name not in tensors:
        raise ArgumentError(f"the request has no input {info.name}; expected masks, UINT8 {list(info.shape)}")
    masks = check_masks(tensors[info.name], model.image_size)
    return masks if is_black_and_white(masks) else stack_gray(masks)


def _conditions(
    model: ServedModel,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Any],
    count: int,
    samples: int,
    choice: AppearanceChoice | None,
) -> Sequence[Condition | None]:
    if SEEDS not in tensors:
        seed = whole_number("seed", parameters.get("seed", 0))
        names = _names_of(parameters.get("names"), count)
        return model.conditions(names, seed, range(1, samples + 1), choice)
    beside = next((name for name in ("seed", "samples", "names") if name in parameters), None)
    if beside is not None:
        raise ArgumentError(f"seeds that are given one by one leave nothing to {beside}; leave one out")
    return model.conditions_of_seeds(check_seeds(tensors[SEEDS], count), choice)


def _names_of(text: Any, count: int) -> list[str]:
    """Read the names of masks, with commas between."""
    if text is None:
        return [DEFAULT_NAME] if count == 1 else [f"{DEFAULT_NAME}_{place}" for place in range(count)]
    if not isinstance(text, str):
        raise ArgumentError(f"names are text, with commas between, got {shown(text)}")
    names = [mask_name(one) for one in text.split(",")] if len(text) <= 1 << 16 else []
    if len(names) != count:
        raise ArgumentError(f"names must be {count}, with commas between, one for each mask; got {len(names)}")
    return names


def _check_outputs(request: InferRequest, model: ServedModel) -> None:
    known = [one.name for one in outputs_of(model)]
    asked = [] if request.outputs is None else [one.name for one in request.outputs]
    check_names(asked, known, "the request's outputs")
    if len(set(asked)) != len(asked):
        raise ArgumentError("an output is asked for twice; once is enough")
    for one in request.outputs or ():
        check_names(one.parameters, (BINARY,), f"output {one.name}")
        _flag(BINARY, one.parameters)
    _flag(BINARY_OUTPUT, request.parameters)


def _flag(name: str, parameters: Mapping[str, Any], default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be true or false, got {shown(value)}")
    return value


def _write(asked: _Asked, images: Tensor, model: ServedModel, name: str) -> Response:
    """Write the answer to a request."""
    conditions = [one.condition for one in asked.jobs if one.condition is not None]
    image, *others = outputs_of(model)
    outputs = {image.name: images}
    for info in others:
        if info.name == SEEDS:
            outputs[SEEDS] = np.array([one.seed for one in conditions], np.uint64)
        else:
            rows = [one.appearance for one in conditions if one.appearance is not None]
            outputs[APPEARANCE] = np.stack(rows)
    request = asked.request
    default = _flag(BINARY_OUTPUT, request.parameters)
    is_binary = dict.fromkeys(outputs, default)
    if request.outputs is not None:
        outputs = {one.name: outputs[one.name] for one in request.outputs}
        is_binary = {one.name: _flag(BINARY, one.parameters, default) for one in request.outputs}
    parameters: dict[str, Any] = {
        "notice": model.text["Description"],
        "bundle_sha256": model.text["m2l-bundle-sha256"],
    }
    if asked.seed is not None:
        parameters["seed"] = str(asked.seed)  # which may have more digits than numbers in JSON keep elsewhere
    head: dict[str, Any] = {"model_name": name, "model_version": VERSION, "parameters": parameters}
    if request.id is not None:
        head["id"] = request.id
    body, length = write_response(head, outputs, is_binary)
    if length is None:
        return Response(body, 200, None, "application/json")
    return Response(body, 200, {HEADER_LENGTH: str(length)}, "application/octet-stream")
