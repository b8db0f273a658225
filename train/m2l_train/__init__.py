"""Train pix2pix on pairs of masks and photographs.

>>> from m2l_train import TrainConfig, prepare, train
>>> report = prepare("photographs", "masks", "data")  # doctest: +SKIP
>>> report = train("data", "run", TrainConfig(ngf=32), max_minutes=60)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import announce_moved_modules, lazy_attributes
from m2l_train._moved import MOVED

if TYPE_CHECKING:
    from m2l_train.config import PRESETS, TrainConfig
    from m2l_train.data.prepare import prepare
    from m2l_train.data.prepare_options import PrepareOptions, PrepareReport
    from m2l_train.training.options import StepResult, TrainOptions, TrainReport
    from m2l_train.training.trainer import train

_HOMES = {
    "PRESETS": "config",
    "PrepareOptions": "data.prepare_options",
    "PrepareReport": "data.prepare_options",
    "StepResult": "training.options",
    "TrainConfig": "config",
    "TrainOptions": "training.options",
    "TrainReport": "training.options",
    "prepare": "data.prepare",
    "train": "training.trainer",
}

__all__ = [
    "PRESETS",
    "PrepareOptions",
    "PrepareReport",
    "StepResult",
    "TrainConfig",
    "TrainOptions",
    "TrainReport",
    "prepare",
    "train",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        needs=("torch", "tensorboard"),
        hint='training needs {}, which is not installed: pip install "m2l[train]"',
        renamed={"Report": "PrepareReport"},
    )

announce_moved_modules(__name__, MOVED)
