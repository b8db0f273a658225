"""Write a deploy graph with PyTorch's own ONNX exporter: an oracle for m2l's writer, which takes seconds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import torch

from m2l_export.graph.deploy import ByteGraph
from m2l_export.graph.onnx_writer import BATCH, IMAGE, OPSET
from m2l_runtime.bundle.schema import TensorSpec

DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


def exported(graph: ByteGraph, inputs: Sequence[TensorSpec]) -> bytes:
    """Trace the graph and write what was found: ONNX of `inputs` to `image`, as `onnx_writer.to_onnx` does."""
    examples = {s.name: torch.zeros((2, *(n for n in s.shape if n != BATCH)), dtype=DTYPES[s.dtype]) for s in inputs}
    batch = torch.export.Dim(BATCH, min=1)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    finally:
        logging.disable(disabled)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
