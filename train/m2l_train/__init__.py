"""Pairs of masks and photographs to a trained pix2pix generator.

>>> from m2l_train import TrainConfig, prepare, train
>>> prepare("photographs", "masks", "data")
>>> report = train("data", "run", TrainConfig(ngf=32), max_minutes=60)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from m2l_runtime.errors import EngineNotInstalled

if TYPE_CHECKING:
    from m2l_train.config import PRESETS, TrainConfig
    from m2l_train.loop import StepResult, TrainReport, train
    from m2l_train.preparation import PrepareOptions, Report, prepare

_HOME = {
    "PRESETS": "config",
    "PrepareOptions": "preparation",
    "Report": "preparation",
    "StepResult": "loop",
    "TrainConfig": "config",
    "TrainReport": "loop",
    "prepare": "preparation",
    "train": "loop",
}

__all__ = [
    "PRESETS",
    "PrepareOptions",
    "Report",
    "StepResult",
    "TrainConfig",
    "TrainReport",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import PyTorch when something that needs it is first used, with one error where it is missing."""
    if name not in _HOME:
        raise AttributeError(f"module 'm2l_train' has no attribute '{name}'")
    try:
        value = getattr(importlib.import_module(f"m2l_train.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("torch", "tensorboard"):
            raise
        raise EngineNotInstalled(
            f"training needs {error.name}, which is not installed: pip install '.[train]' in a checkout of m2l"
        ) from error
    globals()[name] = value
    return value
