"""A trained generator to a bundle: checkpoint import, deploy graph, ONNX, and the gate that proves them equal.

>>> from m2l_export import export_checkpoint
>>> export_checkpoint("latest_net_G.pth", "my-bundle")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from m2l_runtime.errors import EngineNotInstalled

if TYPE_CHECKING:
    from m2l_export.fidelity import Limits
    from m2l_export.job import ExportReport, export_checkpoint

__all__ = ["ExportReport", "Limits", "export_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import PyTorch and ONNX when something here is first used, with one error where they are missing."""
    if name not in __all__:
        raise AttributeError(f"module 'm2l_export' has no attribute '{name}'")
    try:
        from m2l_export import job
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("torch", "onnx"):
            raise
        raise EngineNotInstalled(
            f"export needs {error.name}, which is not installed: pip install '.[export,cpu]' in a checkout of m2l "
            "(or '.[export,gpu]' for NVIDIA cards)"
        ) from error
    return getattr(job, name)
