"""Synthesize dermoscopic lesion images from segmentation masks, without PyTorch.

Example:
    >>> import numpy as np
    >>> from m2l_runtime import DrawnMasks, Shapes, Synthesizer, iterate_folder
    >>> synth = Synthesizer.open(backend="fake")  # leave out the backend to run the model inside the package
    >>> synth(np.zeros((2, 256, 256), np.uint8)).shape
    (2, 256, 256, 3)
    >>> for result in iterate_folder(DrawnMasks(Shapes(), 2), synth):  # or a folder of masks
    ...     print(result.name, result.image.shape)
    000000-circle.png (256, 256, 3)
    000001-ellipse.png (256, 256, 3)
    >>> synth.close()

`synthesize_folder` writes the images of a folder of masks to files, `save_image` one image of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._moved import MOVED
from m2l_runtime._utils.imports import announce_moved_modules, lazy_attributes
from m2l_runtime._version import __version__

if TYPE_CHECKING:
    from m2l_runtime.bundle.io import Bundle, open_bundle
    from m2l_runtime.conditioning.conditions import AppearanceChoice
    from m2l_runtime.errors import M2LError
    from m2l_runtime.masks.mask_file import MaskFile, read_mask
    from m2l_runtime.masks.sources.mask_source import DrawnMasks, MaskSource
    from m2l_runtime.masks.sources.shapes import Shapes
    from m2l_runtime.masks.sources.spec import open_source
    from m2l_runtime.output.encoding import Encoding
    from m2l_runtime.output.options import OutputOptions
    from m2l_runtime.runs.folder import RunCallbacks, Summary, synthesize_folder
    from m2l_runtime.runs.pipeline import Result, iterate_folder
    from m2l_runtime.runs.save import save_image
    from m2l_runtime.synthesizer import Synthesizer
    from m2l_runtime.types import Images, Masks

_HOMES = {
    "AppearanceChoice": "conditioning.conditions",
    "Bundle": "bundle.io",
    "DrawnMasks": "masks.sources.mask_source",
    "Encoding": "output.encoding",
    "Images": "types",
    "M2LError": "errors",
    "MaskFile": "masks.mask_file",
    "MaskSource": "masks.sources.mask_source",
    "Masks": "types",
    "OutputOptions": "output.options",
    "Result": "runs.pipeline",
    "RunCallbacks": "runs.folder",
    "Shapes": "masks.sources.shapes",
    "Summary": "runs.folder",
    "Synthesizer": "synthesizer",
    "iterate_folder": "runs.pipeline",
    "open_bundle": "bundle.io",
    "open_source": "masks.sources.spec",
    "read_mask": "masks.mask_file",
    "save_image": "runs.save",
    "synthesize_folder": "runs.folder",
}

__all__ = [
    "AppearanceChoice",
    "Bundle",
    "DrawnMasks",
    "Encoding",
    "Images",
    "M2LError",
    "MaskFile",
    "MaskSource",
    "Masks",
    "OutputOptions",
    "Result",
    "RunCallbacks",
    "Shapes",
    "Summary",
    "Synthesizer",
    "__version__",
    "iterate_folder",
    "open_bundle",
    "open_source",
    "read_mask",
    "save_image",
    "synthesize_folder",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(__name__, _HOMES)

announce_moved_modules(__name__, MOVED)
