"""Compute the Frechet inception distance of two sets of images, on any features.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017: the
squared Frechet distance of the Gaussians with the features' means and covariances, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1
C2)^(1/2)). Estimated from N images it is too large, by much where N is not many times the number of features (Binkowski
et al. 2018); metrics of equal N may be compared, others may not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
