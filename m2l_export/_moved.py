"""List the modules that moved in 0.2.0, so that an import of an old name says the new one."""

from __future__ import annotations

from typing import Final

MOVED: Final = {
    "calibration": "quantize.calibration",
    "card": "model_card",
    "commands": "cli",
    "deploy": "graph.deploy",
    "equalise": "quantize.equalize",
    "fidelity": "parity.metrics",
    "gate": "parity.gate",
    "half": "graph.fp16_weights",
    "job": "export",
    "onnxwriter": "graph.onnx_writer",
    "origin": "run_provenance",
    "plans": "tensorrt",
    "quantise": "quantize.quantizer",
    "sensitivity": "quantize.sensitivity",
    "typed": "graph.half_precision",
}
"""New module by old module, both relative to this package."""
