"""Draw masks: geometric shapes, deformations of given masks, shapes along principal components.

A source draws any of its masks by its number, without the ones before it. So a run over drawn masks can be divided,
stopped and resumed like one over a folder.

Example:
    >>> from m2l_runtime import DrawnMasks, Shapes, open_source
    >>> masks = DrawnMasks(Shapes(seed=3), 200)
    >>> masks.names == open_source("shapes:200,seed=3").names
    True

`Shapes` needs nothing but the runtime; `deform`, `pca` and `statistics` need SciPy (``m2l[masks]``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.masks.sources.mask_source import DrawnMasks, MaskSource
    from m2l_runtime.masks.sources.shapes import Shapes
    from m2l_runtime.masks.sources.spec import open_source

_HOMES = {
    "DrawnMasks": "mask_source",
    "MaskSource": "mask_source",
    "Shapes": "shapes",
    "open_source": "spec",
}

__all__ = ["DrawnMasks", "MaskSource", "Shapes", "open_source"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(__name__, _HOMES)
