"""Export a trained generator as a bundle, validated against PyTorch before it is written.

from m2l_export import export_checkpoint

export_checkpoint("latest_net_G.pth", "my-bundle")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_export._moved import MOVED
from m2l_runtime._utils.imports import announce_moved_modules, lazy_attributes

if TYPE_CHECKING:
    from m2l_export.export import ExportReport, export_checkpoint
    from m2l_export.options import ExportOptions
    from m2l_export.parity.metrics import ParityLimits
    from m2l_export.tensorrt import PlanOptions

_HOMES = {
    "ExportOptions": "options",
    "ExportReport": "export",
    "ParityLimits": "parity.metrics",
    "PlanOptions": "tensorrt",
    "export_checkpoint": "export",
}

__all__ = ["ExportOptions", "ExportReport", "ParityLimits", "PlanOptions", "export_checkpoint"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        needs=("torch", "onnx"),
        hint='export needs {}, which is not installed: pip install "m2l[export,cpu]" '
        '(or "m2l[export,gpu]" for NVIDIA GPUs)',
        renamed={"Limits": "ParityLimits"},
    )

announce_moved_modules(__name__, MOVED)
