"""Synthesized images and real ones to numbers that say how good the synthesized ones are.

>>> from m2l_train.evaluate import Options, evaluate_bundle, evaluate_images, train_segmenter
>>> train_segmenter("data", "segmenter.pt")
>>> found = evaluate_images("lesions", "data", Options(segmenter="segmenter.pt"))
>>> found.figures["dice"].value, found.figures["dice"].real.value
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from m2l_runtime.errors import EngineNotInstalled

if TYPE_CHECKING:
    from m2l_train.evaluate.evaluation import Options, evaluate_bundle, evaluate_images
    from m2l_train.evaluate.result import Evaluation, Figure, to_json
    from m2l_train.evaluate.segmenter import Segmenter, load_segmenter
    from m2l_train.evaluate.training import SegmenterReport, train_segmenter

_HOME = {
    "Evaluation": "result",
    "Figure": "result",
    "Options": "evaluation",
    "Segmenter": "segmenter",
    "SegmenterReport": "training",
    "evaluate_bundle": "evaluation",
    "evaluate_images": "evaluation",
    "load_segmenter": "segmenter",
    "to_json": "result",
    "train_segmenter": "training",
}
_NEEDED = ("torch", "scipy", "skimage")

__all__ = [
    "Evaluation",
    "Figure",
    "Options",
    "Segmenter",
    "SegmenterReport",
    "evaluate_bundle",
    "evaluate_images",
    "load_segmenter",
    "to_json",
    "train_segmenter",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy when something that needs it is first used, with one error where it is missing."""
    if name not in _HOME:
        raise AttributeError(f"module 'm2l_train.evaluate' has no attribute '{name}'")
    try:
        value = getattr(importlib.import_module(f"m2l_train.evaluate.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _NEEDED:
            raise
        raise EngineNotInstalled(
            f"evaluating needs {error.name}, which is not installed: pip install '.[evaluate]' in a checkout of m2l"
        ) from error
    globals()[name] = value
    return value
