"""Feed PyTorch with pairs of image and mask: synthesized as they are asked for, or read from what `m2l synth` wrote.

>>> from torch.utils.data import DataLoader
>>> from m2l_train.datasets import SyntheticDataset
>>> pairs = SyntheticDataset("shapes:8", seed=1)
>>> images, masks = next(iter(DataLoader(pairs, batch_size=4)))  # num_workers=2: each opens an engine of its own
>>> images.shape, masks.shape
(torch.Size([4, 3, 256, 256]), torch.Size([4, 1, 256, 256]))

`m2l_train.datasets.albumentations` and `m2l_train.datasets.monai` hold a transform for each of these libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_train.datasets.on_the_fly import SyntheticDataset, SyntheticIterableDataset
    from m2l_train.datasets.tensors import to_dictionary, to_tensors
    from m2l_train.datasets.written import PairsDataset, PairsIterableDataset

_HOMES = {
    "PairsDataset": "written",
    "PairsIterableDataset": "written",
    "SyntheticDataset": "on_the_fly",
    "SyntheticIterableDataset": "on_the_fly",
    "to_dictionary": "tensors",
    "to_tensors": "tensors",
}

__all__ = [
    "PairsDataset",
    "PairsIterableDataset",
    "SyntheticDataset",
    "SyntheticIterableDataset",
    "to_dictionary",
    "to_tensors",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        needs=("torch",),
        hint='datasets need {}, which is not installed: pip install "m2l[train]"',
    )
