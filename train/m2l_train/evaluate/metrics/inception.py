"""Compute features of the Inception network, from a file that the user has, and FID of features.

FID: Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017:
the squared Frechet distance of the Gaussians with the features' means and covariances, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1
C2)^(1/2)). Estimated from N images it is too large, by much where N is not many times the 2,048 features (Binkowski et
al. 2018); metrics of equal N may be compared, others may not.

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
from m2l_train.evaluate.tensorfile import read_tensors

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
        except (RuntimeError, TypeError, AttributeError, KeyError, ValueError):
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


def frechet_distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to features (N, d) and (M, d), N and M at least 2.

    With centred features A and B, each divided by the root of its count less one, C1 = A'A and C2 = B'B, and the trace
    of (C1 C2)^(1/2) is the sum of the singular values of A B': exact, and quick for fewer images than features.
    """
    means = [rows.mean(0, dtype=np.float64) for rows in (one, other)]
    a, b = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((one, other), means, strict=True))
    if min(len(a), len(b)) > a.shape[1]:  # the same sum from square roots of the covariances
        a, b = (np.linalg.qr(rows, mode="r") for rows in (a, b))
    between = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    apart = float(np.square(means[0] - means[1]).sum())
    return max(0.0, apart + float(np.square(a).sum()) + float(np.square(b).sum()) - 2 * between)
