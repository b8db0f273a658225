"""Interpolate the displacements of a grid of control points at every place.

Free-form deformation on cubic B-splines: Rueckert, Sonoda, Hayes, Hill, Leach and Hawkes, "Nonrigid registration using
free-form deformations: application to breast MR images", IEEE Transactions on Medical Imaging 1999.

A grid has n x n control points inside a square, spaced 1 / (n + 1) of its side. Outside of it there are none
(`clamped` off: the displacement fades out within two spacings), or the grid goes on as its own negative mirror image
(`clamped` on: the displacement is exactly zero all along the square's edge).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
"""float64 (2, H, W): displacements in y and x, in fractions of the square's side."""

NEVER_FOLDS: Final = 0.48
"""While no control point moves farther than so much of the spacing, in y or in x, a cubic B-spline cannot fold. Choi
and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", Graphical Models 2000: 1 / 2.0464."""


def pixel_places(size: int) -> npt.NDArray[np.float64]:
    """Return the centers of pixels, (size,), in fractions of the side."""
    return (np.arange(size) + 0.5) / size


def basis(at: npt.NDArray[np.float64], n: int, *, clamped: bool, slope: bool = False) -> npt.NDArray[np.float64]:
    """Compute the control points' weights (len(at), n) at places in fractions of the side, or their derivatives."""
    scaled = at * (n + 1)
    cell = np.floor(scaled)
    t = scaled - cell
    if slope:
        weights = np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], 1) * (n + 1) / 2
    else:
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    index = cell.astype(np.int64)[:, None] + np.arange(-1, 3)
    signs = np.ones_like(weights)
    if clamped:  # the odd extension repeats after two squares
        index %= 2 * (n + 1)
        signs[index > n + 1] = -1
        index = np.where(index > n + 1, 2 * (n + 1) - index, index)
    index = np.clip(index, 0, n + 1)  # places 0 and n + 1 hold what does not move
    matrix = np.zeros((len(at), n + 2))
    np.add.at(matrix, (np.arange(len(at))[:, None], index), signs * weights)
    return matrix[:, 1:-1]


def spread(control: Field, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Field:
    """Interpolate control points (2, n, n) at places; `rows` (H, n) and `columns` (W, n) are their :func:`basis`."""
    half = np.einsum("yi,aij->ayj", rows, control)  # not a matrix product: those start threads, and their sums
    field: Field = np.einsum("ayj,xj->ayx", half, columns)  # differ from processor to processor
    return field


def stretch(along_y: Field, along_x: Field) -> npt.NDArray[np.float64]:
    """Compute the determinant (H, W) of the Jacobian of place -> place + displacement; below 0 the frame folds.

    Args:
        along_y: derivative in y of the displacement (2, H, W).
        along_x: in x.
    """
    determinant: npt.NDArray[np.float64] = (1 + along_y[0]) * (1 + along_x[1]) - along_x[0] * along_y[1]
    return determinant


def vibrations(n: int, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the smoothest vibrations of n x n control points, held along the frame and joined by springs.

    Eigenvectors of the stiffness matrix of a clamped membrane, which are sines; of each the frequency is that of
    ``4 sin^2(pi p / (2 (n + 1))) + 4 sin^2(pi q / (2 (n + 1)))``, in y and in x alike. (Strang, "The discrete cosine
    transform", SIAM Review 1999, has the one-dimensional case; two dimensions add up.)

    Returns:
        Modes (count, 2, n, n) of length 1, the smoothest first, and their standard deviations (count,): 1 over the
        frequency, as an elastic body in a heat bath has them.
    """
    k = np.arange(1, n + 1)
    sines = np.sin(np.pi * np.outer(k, k) / (n + 1)) * np.sqrt(2 / (n + 1))
    stiffness = 4 * np.sin(np.pi * k / (2 * (n + 1))) ** 2
    squares = (stiffness[:, None] + stiffness[None, :]).ravel()
    chosen = np.argsort(np.repeat(squares, 2), kind="stable")[:count]
    modes = np.zeros((len(chosen), 2, n, n))
    for row, which in enumerate(chosen):
        pair, axis = divmod(int(which), 2)
        modes[row, axis] = np.outer(sines[pair // n], sines[pair % n])
    return modes, 1 / np.sqrt(np.repeat(squares, 2)[chosen])
