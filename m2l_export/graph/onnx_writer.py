"""A deploy graph to the bytes of one self-contained ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

import onnx
import torch

from m2l_export.graph.deploy import ByteGraph, dropout_byte_count
from m2l_runtime._utils.signals import raise_interrupt
from m2l_runtime._version import __version__
from m2l_runtime.bundle.schema import TensorSpec
from m2l_train.models.networks import APPEARANCE_SIZE, UnetSpec

OPSET: Final = 20
MASK: Final = "mask"
APPEARANCE: Final = "appearance"
DROPOUT_BITS: Final = "dropout_bits"
IMAGE: Final = "image"
BATCH: Final = "batch"


def input_specs(spec: UnetSpec, image_size: tuple[int, int], stochastic: bool = False) -> tuple[TensorSpec, ...]:
    """What the graph of such a network takes, in order."""
    mask = TensorSpec(name=MASK, role="mask", dtype="uint8", shape=(BATCH, *image_size))
    appearance = TensorSpec(name=APPEARANCE, role="appearance", dtype="float32", shape=(BATCH, APPEARANCE_SIZE))
    specs = (mask, appearance) if spec.appearance_rows else (mask,)
    if not stochastic:
        return specs
    byte_count = dropout_byte_count(spec, image_size)
    return (*specs, TensorSpec(name=DROPOUT_BITS, role="dropout_bits", dtype="uint8", shape=(BATCH, byte_count)))


def to_onnx(graph: ByteGraph, inputs: Sequence[TensorSpec]) -> bytes:
    """ONNX of `inputs`, all with the same open batch axis, to uint8 `image` (batch, H, W, 3).

    What the exporter notes about where it ran (paths, source lines) is taken out, so that the bytes depend on
    the weights and the versions of PyTorch and onnx alone.
    """
    dtypes = {"uint8": torch.uint8, "float32": torch.float32}
    examples = {s.name: torch.zeros((2, *(n for n in s.shape if n != BATCH)), dtype=dtypes[s.dtype]) for s in inputs}
    batch = torch.export.Dim(BATCH, min=1)
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph,
                (),
                kwargs=examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(examples),
                output_names=[IMAGE],
                dynamic_shapes={name: {0: batch} for name in examples},
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise_interrupt(error)
            raise
        assert program is not None  # noqa: S101 - None is only returned where a file name was given
        model = program.model_proto
    _strip(model)
    _name_convolutions(model)
    model.producer_name, model.producer_version = "m2l", __version__
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Remove metadata and documentation from the model and all its parts."""
    graph = model.graph
    parts: Iterable[Any] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]


def _name_convolutions(model: Any) -> None:
    """Call each convolution by its place, downs.0 (outermost) to ups.0, which engines and their logs then do, too."""
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            place = convolution_name(node.input[1])
            if place:
                node.name = place


def convolution_name(weight: str) -> str:
    """The place of a convolution in the network from the name of its weights, such as unet.downs.0.layer.weight."""
    return ".".join(part for part in weight.split(".") if part in ("downs", "ups") or part.isdecimal())


class _quiet:  # noqa: N801 - reads as a verb
    """Loggers by name held at ERROR while the block runs."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]
        self._levels = [logger.level for logger in self._loggers]

    def __enter__(self) -> None:
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
