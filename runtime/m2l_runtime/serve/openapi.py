"""Describe the service in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from m2l_runtime._version import __version__
from m2l_runtime.output.encoding import SYNTHETIC
from m2l_runtime.output.formats import FORMATS, MAX_QUALITY, MIN_QUALITY
from m2l_runtime.serve import inference, pictures
from m2l_runtime.serve.parameters import IMAGE_FORMATS, MAX_APPEARANCE_CHARS, MAX_NAME_CHARS, MAX_SAMPLE
from m2l_runtime.serve.tensors import DTYPES, HEADER_LENGTH
from m2l_runtime.serve.work import Workshop

_Json = dict[str, Any]

_ERRORS: Final = {
    "400": "The request is not one.",
    "401": "No token, or another one.",
    "403": "A page of another site asks.",
    "404": "There is no such address, model or version.",
    "405": "No such method here.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is of another type or encoding.",
    "421": "The Host is no name of this machine.",
    "500": "The engine failed.",
    "503": "Too much is under way, or the service is stopping.",
}
_ALWAYS: Final = ("400", "401", "403", "405", "421")
_OF_WORK: Final = (*_ALWAYS, "408", "413", "415", "500", "503")


def describe(workshop: Workshop) -> _Json:
    """Return the description of a service, with its model's name and limits.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> from m2l_runtime.serve.app import create_app, workshop_of
        >>> sorted(describe(workshop_of(create_app(Synthesizer.open(backend="fake"))))["paths"])[0]
        '/metrics'
    """
    options = workshop.options
    document: _Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "m2l",
            "version": __version__,
            "description": f"Lesion images from masks. {SYNTHETIC}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            pictures.PATH: {"post": _synthesize()},
            **_protocol_paths(options.model_name),
            "/metrics": {"get": _get("metrics", "Metrics for Prometheus.", None, "text/plain")},
            "/openapi.json": {"get": _get("openapi", "This description.", {"type": "object"})},
        },
        "components": {"schemas": _schemas(workshop)},
    }
    if options.token is not None:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "The token as the password of any user."},
        }
        document["security"] = [{"bearer": []}, {"password": []}]
    return document


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _responses(answer: _Json, statuses: Sequence[str]) -> _Json:
    content = {"application/json": {"schema": _ref("Error")}}
    errors: _Json = {one: {"description": _ERRORS[one], "content": content} for one in statuses}
    if "503" in errors and "408" in errors:
        errors["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {"200": answer, **errors}


def _get(
    name: str, summary: str, schema: _Json | None, media_type: str = "application/json", more: Sequence[str] = ()
) -> _Json:
    content = {media_type: {"schema": schema or {"type": "string"}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": _responses({"description": summary, "content": content}, (*_ALWAYS, *more)),
    }


def _query(name: str, schema: _Json, description: str) -> _Json:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _synthesize() -> _Json:
    pictures_out: _Json = {FORMATS[one].media_type: {"schema": {"type": "string"}} for one in IMAGE_FORMATS}
    formats = [alias for one in IMAGE_FORMATS for alias in (one, *FORMATS[one].aliases)]
    headers = {
        name: {"schema": {"type": "string"}, "description": text} for name, text in pictures.ANSWER_HEADERS.items()
    }
    seed = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1, "default": 0}
    return {
        "operationId": "synthesize",
        "summary": "Synthesize a lesion image of a mask picture.",
        "description": "The answer has the bytes that m2l synth writes for the same mask, name and seed.",
        "parameters": [
            _query("seed", seed, "Seed of the image, where the bundle varies."),
            _query(
                "sample",
                {"type": "integer", "minimum": 1, "maximum": MAX_SAMPLE, "default": 1},
                "Number of the image among those of the same mask.",
            ),
            _query(
                "name",
                {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS, "default": "mask"},
                "Name of the mask's file without its ending; the image depends on it.",
            ),
            _query(
                "appearance",
                {"type": "string", "maxLength": MAX_APPEARANCE_CHARS},
                "What the image is to look like: NAME=NUMBER,... or numbers by name as JSON; the others are sampled.",
            ),
            _query("format", {"type": "string", "enum": formats, "default": "png"}, "Format of the image."),
            _query(
                "quality",
                {"type": "integer", "minimum": MIN_QUALITY, "maximum": MAX_QUALITY},
                "Quality of JPEG and WebP.",
            ),
        ],
        "requestBody": {
            "required": True,
            "description": "The mask: PNG, JPEG, BMP, TIFF, WebP, GIF or PGM; white is the lesion.",
            "content": {
                one: {"schema": {"type": "string", "contentMediaType": one}}
                for one in ("image/png", "application/octet-stream")
            },
        },
        "responses": _responses({"description": "The image.", "headers": headers, "content": pictures_out}, _OF_WORK),
    }


def _protocol_paths(model: str) -> _Json:
    object_schema: _Json = {"type": "object"}
    paths: _Json = {
        "/v2": {"get": _get("server_metadata", "What the server is.", object_schema)},
        "/v2/health/live": {"get": _get("server_live", "Whether the server runs.", object_schema)},
        "/v2/health/ready": {"get": _get("server_ready", "Whether requests are taken.", object_schema, more=("503",))},
        "/v2/repository/index": {"post": _get("repository_index", "The models here.", {"type": "array"})},
        "/v2/models/stats": {"get": _get("all_statistics", "What was inferred.", object_schema)},
    }
    for start, ending in (
        (f"/v2/models/{model}", ""),
        (f"/v2/models/{model}/versions/{inference.VERSION}", "_of_version"),
    ):
        paths |= {
            start: {"get": _get(f"model_metadata{ending}", "Inputs and outputs of the model.", _ref("ModelMetadata"))},
            f"{start}/ready": {
                "get": _get(f"model_ready{ending}", "Whether the model is ready.", object_schema, more=("503",))
            },
            f"{start}/config": {"get": _get(f"model_config{ending}", "The model's configuration.", object_schema)},
            f"{start}/stats": {"get": _get(f"model_statistics{ending}", "What was inferred.", object_schema)},
            f"{start}/infer": {"post": _infer(ending)},
        }
    return paths


def _infer(ending: str) -> _Json:
    answer: _Json = {
        "application/json": {"schema": _ref("InferenceResponse")},
        "application/octet-stream": {"schema": {"type": "string"}},
    }
    length = {"schema": {"type": "integer"}, "description": "Length of the JSON; bytes of tensors follow it."}
    return {
        "operationId": f"infer{ending}",
        "summary": "Synthesize images of masks.",
        "parameters": [
            {"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}, "required": False}
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("InferenceRequest")}}},
        "responses": _responses(
            {"description": "The images.", "headers": {HEADER_LENGTH: length}, "content": answer}, _OF_WORK
        ),
    }


def _object(properties: Mapping[str, _Json], required: Sequence[str] = ()) -> _Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _schemas(workshop: Workshop) -> _Json:
    text: _Json = {"type": "string"}
    model = workshop.holder.current
    sides = {"type": "array", "items": {"type": "integer"}}
    tensor = {"name": text, "datatype": {"enum": list(DTYPES)}, "shape": sides}
    info = _object(tensor, ("name", "datatype", "shape"))
    values = {"type": "array"}
    flag = {"type": "boolean"}
    inputs = [one.name for one in inference.inputs_of(model)]
    outputs = [one.name for one in inference.outputs_of(model)]
    seed = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
    parameters = _object(
        {
            "seed": seed,
            "samples": {"type": "integer", "minimum": 1, "maximum": workshop.options.max_images},
            "names": text,
            "appearance": text,
            "binary_data_output": flag,
        }
    )
    size = _object({"binary_data_size": {"type": "integer", "minimum": 0}})
    asked = _object({"name": {"enum": outputs}, "parameters": _object({"binary_data": flag})}, ("name",))
    given = _object({**tensor, "name": {"enum": inputs}, "data": values, "parameters": size}, tuple(tensor))
    answered = _object({**tensor, "data": values, "parameters": size}, tuple(tensor))
    return {
        "Error": _object({"error": text}, ("error",)),
        "ModelMetadata": _object(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array", "items": info},
                "outputs": {"type": "array", "items": info},
                "parameters": {"type": "object"},
            },
            ("name", "versions", "platform", "inputs", "outputs"),
        ),
        "InferenceRequest": _object(
            {
                "id": text,
                "parameters": parameters,
                "inputs": {"type": "array", "items": given, "minItems": 1, "maxItems": len(inputs)},
                "outputs": {"type": "array", "items": asked},
            },
            ("inputs",),
        ),
        "InferenceResponse": _object(
            {
                "id": text,
                "model_name": text,
                "model_version": text,
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": answered},
            },
            ("model_name", "outputs"),
        ),
    }
