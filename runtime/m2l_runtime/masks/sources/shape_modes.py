"""Learn the modes in which the shapes of lesions differ, as displacements of control points.

Each lesion is moved to the middle and scaled to one area; the mean of the signed distance maps is registered to each
of them by a free-form deformation (Rueckert et al. 1999) that makes the squared difference of the maps near the
outlines small, a bending penalty keeping it smooth (Gauss-Newton); the principal components of those deformations are
the modes (Rueckert, Frangi and Schnabel, "Automatic construction of 3-D statistical deformation models of the brain
using nonrigid registration", IEEE Transactions on Medical Imaging 2003).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from threadpoolctl import threadpool_limits

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import plural
from m2l_runtime.errors import InputError
from m2l_runtime.masks.sources.freeform import Field, basis, pixel_places, spread
from m2l_runtime.masks.sources.lesions import Lesion, Lesions
from m2l_runtime.masks.sources.signed_distance import Distances, aligned_distances

BOX_RADII: Final = 2.0
"""The control points lie in a square that reaches so many radii from the lesion's center."""

MIN_MASKS: Final = 3
MAX_MASKS: Final = 300
"""Most masks to learn from, evenly spaced."""

_CONTROL_POINTS: Final = 8
_SIDE: Final = 64
_NEAR_RADII: Final = 0.35
_BENDING: Final = 3e-3
_ROUNDS: Final = 8


@dataclass(frozen=True)
class Variation:
    """Hold the modes in which shapes differ."""

    modes: npt.NDArray[np.float64]
    """(K, 2, n, n): displacements in radii of the lesion, of length 1."""
    deviations: npt.NDArray[np.float64]
    """(K,) standard deviations along them, the largest first."""
    explained: npt.NDArray[np.float64]
    """(K,) share of the total variance."""

    def sample(self, coefficients: npt.NDArray[np.float64]) -> Field:
        """Compute the displacement (2, n, n) in radii, for coefficients (K,) in standard deviations."""
        found: Field = np.einsum("k,kaij->aij", coefficients * self.deviations, self.modes)
        return found


def fit_variation(lesions: Lesions, modes: int) -> Variation:
    """Learn the `modes` strongest modes, or as many as there are.

    Raises:
        InputError: too few masks.
    """
    count = len(lesions.lesions)
    if count < MIN_MASKS:
        raise InputError(
            f"a variational part is learnt from at least {MIN_MASKS} masks, got {plural(count, 'usable mask')}; "
            "--alpha 1 does without one"
        )
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_MASKS)).astype(int))
    # Threads of the linear algebra that wait for one another cost more than these small systems.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cpus(), "m2l-worker") as pool:
        maps = np.stack(list(pool.map(lambda index: _bounding_pose(lesions.lesions[index]), chosen)))
        mean = maps.mean(0)
        controls = np.stack(list(pool.map(lambda target: register(mean, target), maps))).reshape(len(maps), -1)
        _, singular, directions = np.linalg.svd(controls - controls.mean(0), full_matrices=False)
    kept = min(modes, count - 1, int((singular > 1e-9 * max(singular[0], 1e-30)).sum()))
    if kept < 1 or singular[0] < 1e-6:
        raise InputError("all masks have one shape, so there is no variation to learn; --alpha 1 does without it")
    variances = singular**2 / (len(maps) - 1)
    return Variation(
        directions[:kept].reshape(kept, 2, _CONTROL_POINTS, _CONTROL_POINTS),
        np.sqrt(variances[:kept]),
        variances[:kept] / variances.sum(),
    )


def _bounding_pose(lesion: Lesion) -> Distances:
    return aligned_distances(lesion.mask(), lesion.pose, _SIDE, BOX_RADII, 1.0)


def register(moving: Distances, target: Distances) -> Field:
    """Find control points (2, n, n), in radii: `moving` at place + displacement is `target` near the outlines."""
    side, n = len(moving), _CONTROL_POINTS
    weights = basis(pixel_places(side), n, clamped=False)
    grid = np.mgrid[:side, :side].astype(np.float64)
    per_radius = side / (2 * BOX_RADII)  # pixels
    bending = _laplacian(n)
    penalty = np.kron(np.eye(2), bending.T @ bending) * _BENDING * side * side
    outer = np.kron(weights, weights)  # the share of each control point in each pixel, row by row
    control = np.zeros((2, n, n))
    for _ in range(_ROUNDS):
        at = grid + spread(control, weights, weights) * per_radius
        shown = ndimage.map_coordinates(moving, at, order=1, mode="nearest")
        slopes = np.stack(np.gradient(shown)) * per_radius
        near = np.exp(-((np.minimum(np.abs(shown), np.abs(target)) / _NEAR_RADII) ** 2))
        design = np.concatenate([outer * slopes[axis].reshape(-1, 1) for axis in range(2)], 1)
        weighted = design * near.reshape(-1, 1)
        residual = (target - shown).ravel()
        flat = control.ravel()
        step = np.linalg.solve(weighted.T @ design + penalty, weighted.T @ residual - penalty @ flat)
        control = control + step.reshape(control.shape)
    return control


def _laplacian(n: int) -> npt.NDArray[np.float64]:
    """Build the Laplacian (n * n, n * n) of the control points, with zeros beyond the grid."""
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)
