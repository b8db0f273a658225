"""Read and write the settings of a run as config.json."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import msgspec

from m2l_runtime._utils.reading import decode_line, reason
from m2l_runtime.errors import InputError
from m2l_train.config import TrainConfig

FORMAT: Final = 1


def to_json(config: TrainConfig) -> bytes:
    """Encode a config as indented JSON, with a line break at the end."""
    return msgspec.json.format(msgspec.json.encode({"format": FORMAT, **dataclasses.asdict(config)}), indent=2) + b"\n"


def from_json(content: bytes, name: str) -> TrainConfig:
    """Decode a config that :func:`to_json` has encoded.

    Raises:
        InputError: it is no such document; the message begins with `name`.
    """
    try:
        found = msgspec.json.decode(content)
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise InputError(f"not a training config of format {FORMAT}")
        unknown = found.keys() - {f.name for f in dataclasses.fields(TrainConfig)}
        if unknown:
            raise InputError(f"unknown settings {', '.join(sorted(map(str, unknown)))}")
        return msgspec.convert(found, TrainConfig)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it
        raise InputError(f"{name} is damaged or of another version of m2l: {reason(error)}") from None


def is_config(content: bytes) -> bool:
    """Tell whether `content` is a document of :func:`to_json`, of this version or another."""
    found = decode_line(content, dict[str, Any])
    return isinstance(found, dict) and type(found.get("format")) is int and {"image_size", "ngf", "ndf"} <= found.keys()
