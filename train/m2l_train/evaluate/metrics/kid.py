"""Compute the kernel inception distance of two sets of images, on any features.

Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018: the unbiased estimate of the squared maximum
mean discrepancy with the kernel (x.y / d + 1)^3, d the number of features. It is 0 on average for two samples of one
distribution, however few they are, and so is below 0 as often as above.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate, pair_means

Kernel = npt.NDArray[np.float64]


def kernel(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> Kernel:
    """Return (x.y / d + 1)^3 of rows (N, d) and (M, d): (N, M)."""
    product: Kernel = (one.astype(np.float64) @ other.astype(np.float64).T / one.shape[1] + 1) ** 3
    return product


def standardized(features: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return features (N, d) less the mean of others (M, d), over their standard deviation where there is any.

    The kernel depends on where the features' zero lies and on their scales. Inception's are used as they are, as
    everybody does; those of another network need this before a few large ones outweigh all the others.
    """
    spread = base.std(0, dtype=np.float64)
    scaled: npt.NDArray[np.float32] = (
        (features - base.mean(0, dtype=np.float64)) / np.where(spread > 1e-6, spread, 1)
    ).astype(np.float32)
    return scaled


def distance(
    one: npt.NDArray[np.float32],
    other: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    other_weights: npt.NDArray[np.float64],
) -> Estimate:
    """Estimate the KID of features (N, d) and (M, d), N and M at least 2.

    Args:
        one: of one set.
        other: of the other.
        weights: (R, N), of :func:`m2l_train.evaluate.metrics.bootstrap.multiplicities`. Within a set only pairs of
            different originals count.
        other_weights: (R, M).
    """
    within, other_within, across = kernel(one, one), kernel(other, other), kernel(one, other)
    resampled = _mmd(within, other_within, across, weights, other_weights)
    ones = np.ones((1, len(one))), np.ones((1, len(other)))
    value = float(_mmd(within, other_within, across, *ones)[0])
    return estimate(value, resampled, min(len(one), len(other)))


def _mmd(
    within: Kernel,
    other_within: Kernel,
    across: Kernel,
    weights: npt.NDArray[np.float64],
    other_weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    between = np.einsum("rn,rn->r", weights, other_weights @ across.T) / (weights.sum(1) * other_weights.sum(1))
    found: npt.NDArray[np.float64] = pair_means(within, weights) + pair_means(other_within, other_weights) - 2 * between
    return found
