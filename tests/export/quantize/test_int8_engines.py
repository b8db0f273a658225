"""A quantised file on both engines: near what it is in fp32, and nearer still to one another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support import TINY_BUNDLE, Array, disc

from m2l_runtime import open_bundle
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module


class Masks(CalibrationDataReader):  # type: ignore[misc]
    """Hands masks out one by one."""

    def __init__(self, masks: Array) -> None:
        self._left = list(masks)

    def get_next(self) -> dict[str, Any] | None:
        return {"mask": self._left.pop()[None]} if self._left else None


@pytest.mark.filterwarnings("ignore")
def test_int8_engines__int8_on_both_engines(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle = open_bundle(TINY_BUNDLE)
    model, manifest = bundle.manifest.models[0], bundle.manifest
    exact = ModelSource(model.file.path, bundle.read_model(model), "fp32", manifest.inputs, manifest.outputs)
    masks = np.stack([disc(radius=radius, x=x) for radius, x in ((60, 130), (30, 90), (90, 120), (45, 160))])
    (tmp_path / "fp32.onnx").write_bytes(exact.content)
    quantize_static(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        Masks(masks),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    int8 = dataclasses.replace(exact, content=(tmp_path / "int8.onnx").read_bytes(), precision="int8")

    def images(source: ModelSource, engine: str) -> Array:
        backend = backend_module(engine).load(source, BackendOptions(device="cpu", threads=1, batch_size=len(masks)))
        assert backend.settings.precision == source.precision
        return backend.run({"mask": masks})

    expected = images(exact, "onnxruntime")
    one, other = images(int8, "onnxruntime"), images(int8, "openvino")
    for quantized in (one, other):
        assert 0.05 < mean_square(quantized, expected) < 2
    assert mean_square(one, other) < min(mean_square(one, expected), mean_square(other, expected))


def mean_square(one: Array, other: Array) -> float:
    return float(np.square(one.astype(np.float64) - other).mean())
