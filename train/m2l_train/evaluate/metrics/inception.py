"""Compute features of the Inception network, from a file that the user has.

The network is torch-fidelity's, which takes a file of weights (`weights-inception-2015-12-05-6726825d.pth` or
`pt_inception-2015-12-05-6726825d.pth`). Nothing is ever downloaded, and no code in the file is run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError
from m2l_runtime.types import Images
from m2l_train.device import torch_threads
from m2l_train.evaluate.sets import in_threads
from m2l_train.tensorfile import read_tensors

FEATURES: Final = "2048"
_BATCH: Final = 16


class Inception:
    """Compute Inception features with the weights of a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file of weights.

        Raises:
            InputError: it is not there, cannot be read, or holds other weights.
        """
        expected = (
            "the Inception weights of torch-fidelity (pt_inception-2015-12-05-6726825d.pth), which m2l never downloads"
        )
        file = read_tensors(path, expected)
        self.sha256: Final = file.sha256
        checked = io.BytesIO()  # torch-fidelity unpickles what it is given: it is given what is known to be tensors
        torch.save(file.value, checked)
        checked.seek(0)
        try:
            self._network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat", [FEATURES], feature_extractor_weights_path=checked
            )
        except Exception:  # noqa: BLE001 - whatever is wrong with them
            raise InputError(
                f"{printable(path)} does not hold the weights of that network; expected {expected}"
            ) from None

    def __call__(
        self, images: Images, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
    ) -> npt.NDArray[np.float32]:
        """Return features (N, 2048) of images (N, S, S, 3) uint8, which the network itself brings to 299x299."""
        features = []
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        with torch_threads(1):
            for rows in in_threads(self._run, batches, workers):
                features.append(rows)
                on_image(len(rows))
        return np.concatenate(features)

    @torch.no_grad()
    def _run(self, images: Images) -> npt.NDArray[np.float32]:
        batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        rows: npt.NDArray[np.float32] = self._network(batch)[0].numpy()
        return rows
