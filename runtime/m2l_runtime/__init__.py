"""Lesion masks to synthetic dermoscopic images, without PyTorch.

>>> from m2l_runtime import Synthesizer
>>> with Synthesizer.open() as synth:           # the model inside the package
...     images = synth(masks)                   # (N, 256, 256) uint8 -> (N, 256, 256, 3) uint8
...     synthesize_folder("masks", "lesions", synth)              # files to files
...     for result in iterate_folder("masks", synth): ...         # files to arrays
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from m2l_runtime._version import __version__

if TYPE_CHECKING:
    from m2l_runtime.arrays import Images, Masks
    from m2l_runtime.bundle import Bundle, open_bundle
    from m2l_runtime.conditions import AppearanceChoice
    from m2l_runtime.encoders import Encoding
    from m2l_runtime.errors import M2LError
    from m2l_runtime.folder import Summary, synthesize_folder
    from m2l_runtime.maskfile import MaskFile, read_mask
    from m2l_runtime.pipeline import Result, iterate_folder
    from m2l_runtime.sinks import OutputOptions
    from m2l_runtime.synthesizer import Synthesizer

_HOME = {
    "AppearanceChoice": "conditions",
    "Bundle": "bundle",
    "Encoding": "encoders",
    "Images": "arrays",
    "M2LError": "errors",
    "MaskFile": "maskfile",
    "Masks": "arrays",
    "OutputOptions": "sinks",
    "Result": "pipeline",
    "Summary": "folder",
    "Synthesizer": "synthesizer",
    "iterate_folder": "pipeline",
    "open_bundle": "bundle",
    "read_mask": "maskfile",
    "synthesize_folder": "folder",
}

__all__ = [
    "AppearanceChoice",
    "Bundle",
    "Encoding",
    "Images",
    "M2LError",
    "MaskFile",
    "Masks",
    "OutputOptions",
    "Result",
    "Summary",
    "Synthesizer",
    "__version__",
    "iterate_folder",
    "open_bundle",
    "read_mask",
    "synthesize_folder",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `m2l --help` need not wait for NumPy."""
    if name not in _HOME:
        raise AttributeError(f"module 'm2l_runtime' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"m2l_runtime.{_HOME[name]}"), name)
    globals()[name] = value
    return value
