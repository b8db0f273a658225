"""Displacements against SciPy's splines, differences of nearby places, and eigenvectors that are computed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import BSpline

from m2l_runtime.masks.sources.freeform import NEVER_FOLDS, Field, basis, pixel_places, spread, stretch, vibrations


@pytest.mark.parametrize("n", [2, 5, 9])
def test_freeform__weights_are_those_of_scipys_cubic_splines(n: int) -> None:
    at = np.linspace(-0.4, 1.4, 181)
    found = basis(at, n, clamped=False)
    for control in range(1, n + 1):
        spline = BSpline.basis_element((control + np.arange(-2, 3)) / (n + 1), extrapolate=False)
        np.testing.assert_allclose(found[:, control - 1], np.nan_to_num(spline(at)), atol=1e-12)


@pytest.mark.parametrize("clamped", [True, False])
def test_freeform__slopes_are_differences_of_nearby_places(clamped: bool) -> None:
    at, step = np.linspace(0.01, 0.99, 57), 1e-6
    before, after = (basis(at + sign * step, 6, clamped=clamped) for sign in (-1, 1))
    np.testing.assert_allclose(basis(at, 6, clamped=clamped, slope=True), (after - before) / (2 * step), atol=1e-6)


def test_freeform__nothing_moves_along_the_frame_of_a_clamped_grid() -> None:
    control = np.random.default_rng(0).normal(size=(2, 5, 5))
    inner, edge = basis(pixel_places(32), 5, clamped=True), basis(np.array([0.0, 1.0]), 5, clamped=True)
    assert np.abs(spread(control, edge, inner)).max() < 1e-15
    assert np.abs(spread(control, inner, edge)).max() < 1e-15
    assert np.abs(spread(control, inner, inner)).max() > 0.5
    free = basis(np.array([0.0, 1.0]), 5, clamped=False)
    assert np.abs(spread(control, free, inner)).max() > 0.05


def test_freeform__stretch_is_how_areas_of_small_squares_change() -> None:
    control = np.random.default_rng(1).normal(0, 0.03, (2, 4, 4))
    side = 400
    rows = basis(pixel_places(side), 4, clamped=True)
    moved = spread(control, rows, rows) + np.stack(np.meshgrid(*[pixel_places(side)] * 2, indexing="ij"))
    corners = [moved[:, i : side - 1 + i, j : side - 1 + j] for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]
    areas = sum(
        (one[1] * other[0] - other[1] * one[0]) / 2
        for one, other in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    slopes = basis(pixel_places(side), 4, clamped=True, slope=True)
    found = stretch(spread(control, slopes, rows), spread(control, rows, slopes))
    middle = (found[:-1, :-1] + found[1:, 1:] + found[:-1, 1:] + found[1:, :-1]) / 4
    np.testing.assert_allclose(middle, areas * side**2, atol=2e-3)


def smallest_stretch(control: Field) -> float:
    n = control.shape[-1]
    rows, slopes = (basis(pixel_places(16 * (n + 1)), n, clamped=True, slope=slope) for slope in (False, True))
    return float(stretch(spread(control, slopes, rows), spread(control, rows, slopes)).min())


def test_freeform__displacements_below_the_bound_never_fold() -> None:
    generator = np.random.default_rng(2)
    worst = [generator.choice([-1.0, 1.0], (2, 6, 6)) / 7 for _ in range(200)]
    assert min(smallest_stretch(NEVER_FOLDS * one) for one in worst) > 0
    assert min(smallest_stretch(0.75 * one) for one in worst) < 0


def test_freeform__vibrations_are_eigenvectors_of_a_clamped_sheet_of_springs() -> None:
    n, count = 5, 14
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    stiffness = np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)
    squares = np.repeat(np.sort(np.linalg.eigvalsh(stiffness)), 2)
    modes, deviations = vibrations(n, count)
    np.testing.assert_allclose(deviations, 1 / np.sqrt(squares[:count]))
    flat = modes.reshape(count, 2, n * n)
    np.testing.assert_allclose(flat @ stiffness, flat / deviations[:, None, None] ** 2, atol=1e-12)
    gram = modes.reshape(count, -1) @ modes.reshape(count, -1).T
    np.testing.assert_allclose(gram, np.eye(count), atol=1e-12)
