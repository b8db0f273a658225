"""Masks from nothing, or from few: shapes, deformations of given masks, shapes along principal components.

A source draws any of its masks by its number, without the ones before it. So a run over them can be divided,
stopped and resumed like one over a folder:

>>> from m2l_runtime.masksource import DrawnMasks, Shapes, open_source
>>> masks = DrawnMasks(Shapes(seed=3), 200)         # or open_source("shapes:200,seed=3")
>>> synthesize_folder(masks, "lesions", synth, OutputOptions(pairs=True))

`Shapes` needs nothing but the runtime; `deform`, `pca` and `statistics` need SciPy (``m2l[masks]``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2l_runtime.masksource.drawn import DrawnMasks, MaskSource
    from m2l_runtime.masksource.shapes import Shapes
    from m2l_runtime.masksource.spec import open_source

_HOME = {"DrawnMasks": "drawn", "MaskSource": "drawn", "Shapes": "shapes", "open_source": "spec"}

__all__ = ["DrawnMasks", "MaskSource", "Shapes", "open_source"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `m2l --help` need not wait for NumPy."""
    if name not in _HOME:
        raise AttributeError(f"module 'm2l_runtime.masksource' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"m2l_runtime.masksource.{_HOME[name]}"), name)
    globals()[name] = value
    return value
