"""Read what the convolutions of a finished engine compute in, as TensorRT's inspector tells it.

That takes a GPU: without one, making an engine of a plan ends the process.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from m2l_runtime.backends.trt.library import logger
from m2l_runtime.bundle.schema import ConvolutionArithmetic

# The inspector names formats in words, "Half" and "FP16" among them, with the layout behind.
_FORMATS: Final[tuple[tuple[str, LayerType], ...]] = (
    (r"int8", "int8"),
    (r"fp8", "fp8"),
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|half|float16", "fp16"),
    (r"fp32|float", "fp32"),
)


def convolutions(library: Any, plan: bytes) -> tuple[ConvolutionType, ...]:
    """Read the types of a plan for the GPU that is here; empty where the inspector tells of none."""
    engine = library.Runtime(logger(library)).deserialize_cuda_engine(plan)
    if engine is None:
        return ()
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(library.LayerInformationFormat.JSON)
    return read(text)


def read(text: str) -> tuple[ConvolutionType, ...]:
    """Find convolutions in the inspector's JSON by the type of their first input; unknown types are left out."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return ()
    found = []
    for layer in layers:
        if not isinstance(layer, dict) or "conv" not in str(layer.get("LayerType", "")).lower():
            continue
        inputs = layer.get("Inputs") or [{}]
        told = str(inputs[0].get("Format/Datatype", inputs[0].get("Format", ""))).lower()
        kind = next((kind for words, kind in _FORMATS if re.search(words, told)), None)
        if kind is not None:
            found.append(ConvolutionType(str(layer.get("Name", "?")), kind))
    return tuple(found)


LayerType = ConvolutionArithmetic


TYPES: Final[dict[str, LayerType]] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


@dataclass(frozen=True)
class ConvolutionType:
    """Hold a convolution, and what it computes in."""

    name: str
    type: LayerType
