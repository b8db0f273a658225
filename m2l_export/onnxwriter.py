"""A deploy graph to the bytes of one self-contained ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any, Final

import onnx
import torch

from m2l_export.deploy import ByteGraph
from m2l_runtime._version import __version__

OPSET: Final = 20
MASK: Final = "mask"
IMAGE: Final = "image"
BATCH: Final = "batch"


def to_onnx(graph: ByteGraph, image_size: tuple[int, int]) -> bytes:
    """ONNX of uint8 `mask` (batch, H, W) to uint8 `image` (batch, H, W, 3), the batch axis left open.

    What the exporter notes about where it ran (paths, source lines) is taken out, so that the bytes depend on
    the weights and the versions of PyTorch and onnx alone.
    """
    example = torch.zeros((2, *image_size), dtype=torch.uint8)
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[MASK],
            output_names=[IMAGE],
            dynamic_shapes={"mask": {0: torch.export.Dim(BATCH, min=1)}},
            external_data=False,
            verbose=False,
        )
        assert program is not None  # noqa: S101 - None is only returned where a file name was given
        model = program.model_proto
    _strip(model)
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
