"""Quantize an ONNX file, so that convolutions compute in 8-bit integers.

onnxruntime's own static quantizer does it. Weights are signed, symmetric and per output channel. Activations are
unsigned, as the VNNI and AMX instructions want them, with one scale a tensor, from the range of the values seen: all of
it, or what is left once the rarest are cut off. Targets:

- `onnxruntime` has an integer kernel only for a convolution whose output is quantized, too.
- `openvino` gives convolutions' results as floats at no cost, and so keeps what an 8-bit result loses: at ngf 24, 9 dB.
  Its weights have 7 bits, -64 to 64: on CPUs without VNNI it adds products in pairs at 16 bits, which 8 bits would
  overflow, at 12 dB (docs/quantization.md). onnxruntime's backend is told not to add them so.
- `tensorrt` takes signed activations with a zero point of 0, and biases as floats; transposed convolutions as well.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from m2l_export.graph.onnx_writer import FIXED_WEIGHTS, convolution_name
from m2l_runtime._utils.temporary import temporary_errors
from m2l_runtime._version import __version__
from m2l_runtime.errors import EngineNotInstalled

Target = Literal["onnxruntime", "openvino", "tensorrt"]

OPERATORS: Final[dict[Target, list[str]]] = {
    "onnxruntime": ["Conv"],
    "openvino": ["Conv"],
    "tensorrt": ["Conv", "ConvTranspose"],
}
"""Operators that are quantized for each target: those it has integer kernels for."""

PERCENTILES: Final = (100.0, 99.9999, 99.9995, 99.999, 99.99)
"""Percent of a tensor's values that its range may hold; the same share is cut off at both ends. A few values far out
leave all others few of the 256 steps. Where they are what an image shows, cutting them off costs more."""
_BINS: Final = 2048
"""Of the histogram of each tensor, over the first image's values; it grows with those of others."""


@dataclass(frozen=True)
class Layer:
    """Describe a convolution of the graph."""

    name: str
    """downs.0 (outermost) to downs.7, ups.7 to ups.0, in the order in which they run."""
    node: str
    multiplications: int
    """For one image."""


class Quantizer:
    """Quantize a file that was calibrated once, with any choice of layers left in float, and of ranges."""

    def __init__(self, content: bytes, inputs: Mapping[str, npt.NDArray[Any]], target: Target) -> None:
        """Run the file on `inputs`, one row at a time, and keep how the values of each tensor are distributed.

        Args:
            content: ONNX whose weights are fp32 initializers.
            inputs: arrays by input name, one row for each image.
            target: the engine that is to run the results.

        Raises:
            EngineNotInstalled: onnxruntime or its quantizer is missing.
        """
        try:
            from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
            from onnxruntime.quantization.calibrate import create_calibrator
            from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
        except ImportError as error:
            raise EngineNotInstalled(
                f"int8 is made by onnxruntime's quantiser, which does not load ({error}): "
                'pip install "m2l[cpu,export]"'
            ) from error

        class Rows(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, row: int) -> None:
                self._rows = iter([{name: array[row : row + 1] for name, array in inputs.items()}])

            def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
                return next(self._rows, None)

        self.target: Final = target
        with temporary_errors(), tempfile.TemporaryDirectory(prefix="m2l-quantise-") as folder, _quiet():
            path = Path(folder) / "fp32.onnx"
            path.write_bytes(content)
            calibrator = create_calibrator(
                path,
                OPERATORS[target],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.Percentile,
                providers=["CPUExecutionProvider"],
                extra_options={"num_bins": _BINS, "symmetric": False},
            )
            for row in range(len(next(iter(inputs.values())))):  # all at once, it keeps every tensor of every image
                calibrator.collect_data(Rows(row))
            self._histograms: Any = calibrator.collector.get_histogram_dict()
            self._model = load_model_with_shape_infer(path)
        self.layers: Final = _layers(content, OPERATORS[target])

    def quantize(self, float_layers: Collection[str] = (), percentile: float = 100.0) -> bytes:
        """Write ONNX with all layers in int8 but those named in `float_layers`.

        Args:
            float_layers: names of layers.
            percentile: percent of the values of each tensor that its range holds; 100: all of them.

        Raises:
            ValueError: there is no layer of such a name.
        """
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import TensorsData

        unknown = set(float_layers) - {layer.name for layer in self.layers}
        if unknown:
            raise ValueError(f"there is no layer {', '.join(sorted(unknown))}")
        options: dict[str, Any] = {}
        if self.target == "openvino":
            options["OpTypesToExcludeOutputQuantization"] = ["Conv"]
        if self.target == "tensorrt":
            options |= {
                "OpTypesToExcludeOutputQuantization": OPERATORS["tensorrt"],
                "QuantizeBias": False,
                "ActivationSymmetric": True,
                "DedicatedQDQPair": True,
            }
        with _quiet():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._model),
                per_channel=True,
                reduce_range=self.target == "openvino",
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self.target == "tensorrt" else QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, self._ranges(percentile)),
                nodes_to_quantize=[],
                nodes_to_exclude=[
                    *_fixed_filters(self._model.graph),
                    *(layer.node for layer in self.layers if layer.name in float_layers),
                ],
                op_types_to_quantize=OPERATORS[self.target],
                extra_options=options,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        model = quantizer.model.model
        model.producer_name, model.producer_version = "m2l", __version__
        del model.graph.value_info[:]
        del model.metadata_props[:]
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _ranges(self, percentile: float) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Compute the least and greatest value of each tensor's range, to a bin of its histogram.

        onnxruntime's own percentile ends at the lower edge of a bin, so that not even 100 % hold the greatest value.
        """
        cut = (100 - percentile) / 200
        ranges = {}
        for tensor, (counts, edges, least, greatest, _) in self._histograms.items():
            below = np.cumsum(counts)
            low = edges[np.searchsorted(below, cut * below[-1], side="right")]
            high = edges[np.searchsorted(below, (1 - cut) * below[-1]) + 1]
            ranges[tensor] = (np.array(max(low, least), np.float32), np.array(min(high, greatest), np.float32))
        return ranges


def _fixed_filters(graph: onnx.GraphProto) -> list[str]:
    """Name the convolutions whose weights are part of no network."""
    return [node.name for node in graph.node if len(node.input) > 1 and node.input[1].endswith(FIXED_WEIGHTS)]


def _layers(content: bytes, operators: Collection[str]) -> tuple[Layer, ...]:
    """List the convolutions of a deploy graph in order."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    sides = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    layers = []
    for node in model.graph.node:
        if node.op_type in operators and not node.input[1].endswith(FIXED_WEIGHTS):
            output, weight = sides[node.output[0]], numpy_helper.to_array(weights[node.input[1]])
            pixels = math.prod(output[2:])
            if node.op_type == "ConvTranspose":  # multiplies once for each pixel that comes in: a quarter of these
                pixels //= 4
            layers.append(Layer(convolution_name(node.input[1]), node.name, pixels * int(np.prod(weight.shape))))
    return tuple(layers)


class _quiet:  # noqa: N801 - reads as a verb
    """Silence the quantizer: its advice on preprocessing, which the deploy graph does not need, and its progress."""

    def __enter__(self) -> None:
        self._output = contextlib.redirect_stdout(io.StringIO())
        self._output.__enter__()
        self._catcher = warnings.catch_warnings()
        self._catcher.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._level)
        self._catcher.__exit__(None, None, None)
        self._output.__exit__(None, None, None)
