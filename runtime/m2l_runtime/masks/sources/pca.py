"""Learn a model of the shapes of masks, and draw masks along its principal components.

Each lesion, its largest part if there are several, is moved to the middle, scaled to one area and rotated so that its
long axis is horizontal, the heavier end to the right; its signed distance map is sampled on a grid around it; the
principal components of those maps are the model (Leventon, Grimson and Faugeras, "Statistical shape influence in
geodesic active contours", CVPR 2000). Outlines are where a sum of the smooth maps is zero, so they are smooth too,
whatever the coefficients.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from threadpoolctl import threadpool_limits

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.npz import read_npz
from m2l_runtime._utils.reading import read_input, reader_errors
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.conditioning.random import check_seed, normal, uniform
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import resize
from m2l_runtime.masks.sources.lesions import LESION_FROM, Lesion, Lesions, pose, touches_frame
from m2l_runtime.masks.sources.mask_source import check_number, check_size
from m2l_runtime.masks.sources.signed_distance import Distances, aligned_distances
from m2l_runtime.masks.sources.statistics import largest_part
from m2l_runtime.types import Mask

FORMAT: Final = "m2l shape model 1"
MIN_MASKS: Final = 3
MAX_MASKS: Final = 2000
"""Most masks to learn from, evenly spaced."""
MAX_COMPONENTS: Final = 32
READ_SIDE: Final = 256
"""Side in pixels at which masks to learn from are read."""
MAX_SIGMAS: Final = 5.0
MAX_ATTEMPTS: Final = 100
_SIDE: Final = 128
_BOX_RADII: Final = 3.0
_NEAR_RADII: Final = 0.6
_OVERSAMPLING: Final = 2
_MAX_FILE_BYTES: Final = 1 << 26
_MAX_UNPACKED_BYTES: Final = 1 << 27
_HOW_TO_LEARN: Final = "; `m2l masks pca MASKS --model FILE` makes one"


@dataclass(frozen=True)
class ShapeModel:
    """Hold the mean of a set of shapes, and how they differ."""

    mean: npt.NDArray[np.float32]
    """(G, G) signed distances in radii, on a square that reaches `box_radii` radii from the center."""
    components: npt.NDArray[np.float32]
    """(K, G, G), of length 1, most variance first."""
    deviations: npt.NDArray[np.float64]
    """(K,) standard deviations along them."""
    explained: npt.NDArray[np.float64]
    """(K,) share of the total variance."""
    poses: npt.NDArray[np.float64]
    """(mask_count, 4) center y and x, radius (as fractions of the frame's side) and angle in radians, of the masks
    learned from."""
    box_radii: float
    mask_count: int
    """Number of masks learned from."""

    def distances(self, coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Compute the signed distances (G, G) of the shape with up to K coefficients, in standard deviations."""
        count = len(coefficients)
        weights = coefficients * self.deviations[:count]
        distances: npt.NDArray[np.float64] = self.mean + np.einsum("k,kij->ij", weights, self.components[:count])
        return distances

    def check_component(self, component: int) -> None:
        """Check that there is a component of this number, from 1.

        Raises:
            InputError: there is none.
        """
        count = len(self.components)
        if not 1 <= component <= count:
            raise InputError(
                f"the model has {plural(count, 'component')}, learnt from {plural(self.mask_count, 'mask')}; "
                f"expected from 1 to {count}, got {component}"
            )


def fit_shape_model(lesions: Lesions) -> ShapeModel:
    """Learn a model of shapes, of at most `MAX_COMPONENTS` components.

    Lesions that touch the frame are skipped: their shape is the frame's.

    Raises:
        InputError: too few masks, or all of one shape.
    """
    inside = [lesion for lesion in lesions.lesions if not lesion.touches_frame]
    count, cut = len(inside), len(lesions.lesions) - len(inside)
    if count < MIN_MASKS:
        raise InputError(
            f"principal components need at least {MIN_MASKS} masks whose lesion lies inside the frame, got {count}"
            + (f" and {cut} whose lesion touches it" if cut else "")
        )
    # Threads of the linear algebra that wait for one another cost more than they give.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cpus(), "m2l-worker") as pool:
        aligned = list(pool.map(_aligned, inside))
        maps = np.stack([one for one, _ in aligned]).reshape(count, -1)
        mean = maps.mean(0, dtype=np.float64)
        centered = maps - mean.astype(np.float32)
        gram = (centered @ centered.T).astype(np.float64)
        squares, vectors = np.linalg.eigh(gram)
        squares, vectors = squares[::-1], vectors[:, ::-1]
        total = max(float(np.trace(gram)), 1e-30)
        kept = min(MAX_COMPONENTS, count - 1, int((squares > 1e-6 * total).sum()))
        if kept < 1 or total / count < 1e-6 * maps.shape[1]:
            raise InputError(f"the {count} masks have one shape, so there is nothing to learn")
        components = (vectors[:, :kept].T.astype(np.float32) @ centered).astype(np.float64)
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    strongest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    components *= np.sign(strongest)  # an eigenvector's sign means nothing: fix it
    return ShapeModel(
        mean=mean.astype(np.float32).reshape(_SIDE, _SIDE),
        components=components.astype(np.float32).reshape(kept, _SIDE, _SIDE),
        deviations=np.sqrt(squares[:kept] / (count - 1)),
        explained=squares[:kept] / total,
        poses=np.array([place for _, place in aligned]),
        box_radii=_BOX_RADII,
        mask_count=count,
    )


def _aligned(lesion: Lesion) -> tuple[Distances, tuple[float, ...]]:
    """Return signed distances (G, G) in radii around the lesion's largest part, and its row of `ShapeModel.poses`."""
    inside = largest_part(lesion.mask() >= LESION_FROM)
    at, angle = pose(inside), orientation(inside)
    mask = np.where(inside, np.uint8(255), np.uint8(0))
    place = (at.y / lesion.side, at.x / lesion.side, at.radius / lesion.side, angle)
    return aligned_distances(mask, at, _SIDE, _BOX_RADII, _NEAR_RADII, angle), place


def orientation(inside: npt.NDArray[np.bool_]) -> float:
    """Compute the angle of the long axis in radians, clockwise, from the x axis to the heavier end.

    The long axis is that of the second moments; the heavier end is where the third moment along it is positive.
    """
    y, x = (values.astype(np.float64) for values in np.nonzero(inside))
    y, x = y - y.mean(), x - x.mean()
    angle = 0.5 * np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean())
    along = x * np.cos(angle) + y * np.sin(angle)
    return float(angle if (along**3).mean() >= 0 else angle + np.pi)


def render(
    model: ShapeModel, coefficients: npt.NDArray[np.float64], place: tuple[float, float, float, float], size: int
) -> Mask | None:
    """Draw the shape with `coefficients` at `place` (a row of `ShapeModel.poses`) as a mask (size, size).

    Of several pieces the largest is taken, holes are filled. None if nothing is left, or it touches the frame.
    """
    side = size * _OVERSAMPLING
    y, x, radius, angle = place
    rows, columns = np.meshgrid((np.arange(side) + 0.5) / side - y, (np.arange(side) + 0.5) / side - x, indexing="ij")
    along, across = (
        (np.cos(angle) * columns + np.sin(angle) * rows) / (radius * model.box_radii),
        (np.cos(angle) * rows - np.sin(angle) * columns) / (radius * model.box_radii),
    )
    grid = len(model.mean)
    at = ((across + 1) / 2 * grid - 0.5, (along + 1) / 2 * grid - 0.5)
    shown = ndimage.map_coordinates(model.distances(coefficients), at, np.float32, order=3, mode="nearest")
    inside = (shown < 0) & (np.maximum(np.abs(along), np.abs(across)) < 1)
    if not inside.any():
        return None
    whole = largest_part(inside)
    if touches_frame(whole, _OVERSAMPLING):
        return None
    return resize(np.where(whole, np.uint8(255), np.uint8(0)), (size, size))


@check_types()
@dataclass(frozen=True)
class AlongComponent:
    """Draw shapes along one component, from +`sigmas` over the mean to -`sigmas`, centered: a MaskSource.

    Raises:
        InputError: there is no such component, or a value is out of range.
    """

    model: ShapeModel
    component: int
    """From 1."""
    steps: int = 7
    sigmas: float = 3.0
    size: int = 256
    radius: float = 0.2
    """Radius of a disc of the area that shapes are scaled to, as a fraction of the side."""
    seed: None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        self.model.check_component(self.component)
        _check_sigmas(self.sigmas)
        if not 2 <= self.steps <= 1000:
            raise InputError(f"the number of steps must be between 2 and 1000, got {self.steps}")

    def sigma(self, number: int) -> float:
        """Return the coefficient of mask `number`, in standard deviations."""
        check_number(number)
        return self.sigmas * (1 - 2 * number / (self.steps - 1))

    def label(self, number: int) -> str:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        return f"pc{self.component}_{self.sigma(number):+.2f}".replace("+", "plus_").replace("-", "minus_")

    def draw(self, number: int) -> Mask:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        coefficients = np.zeros(self.component)
        coefficients[-1] = self.sigma(number)
        mask = render(self.model, coefficients, (0.5, 0.5, self.radius, 0.0), self.size)
        if mask is None:
            raise InputError(
                f"component {self.component} at {self.sigma(number):+g} standard deviations leaves no shape inside the "
                f"frame; give fewer --sigmas (got {self.sigmas:g})"
            )
        return mask


@check_types()
@dataclass(frozen=True)
class RandomShapes:
    """Draw shapes with normally distributed coefficients, placed as a mask learned from: a MaskSource.

    Raises:
        InputError: a value is out of range.
    """

    model: ShapeModel
    sigmas: float = 2.5
    """Largest coefficient, in standard deviations."""
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size)
        check_seed(self.seed)
        _check_sigmas(self.sigmas)

    def label(self, number: int) -> str:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        check_number(number)
        return "pca"

    def draw(self, number: int) -> Mask:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`.

        Raises:
            InputError: none of the shapes drawn fits the frame.
        """
        check_number(number)
        count = len(self.model.components)
        for attempt in range(MAX_ATTEMPTS):
            place, turn = uniform(2, self.seed, "pca place", number, attempt)
            coefficients = np.clip(normal(count, self.seed, "pca", number, attempt), -self.sigmas, self.sigmas)
            y, x, radius, _ = self.model.poses[int(place * len(self.model.poses))]
            mask = render(self.model, coefficients, (y, x, radius, 2 * np.pi * turn), self.size)
            if mask is not None:
                return mask
        raise InputError(f"none of {MAX_ATTEMPTS} shapes of the model fits the frame; give fewer --sigmas")


def _check_sigmas(sigmas: float) -> None:
    if not 0 < sigmas <= MAX_SIGMAS:
        raise InputError(f"sigmas must be above 0 and at most {MAX_SIGMAS:g} standard deviations, got {sigmas:g}")


def save(model: ShapeModel, path: str | os.PathLike[str]) -> None:
    """Write a model as a file of NumPy arrays (npz).

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(model, name) for name in ShapeModel.__dataclass_fields__}
    np.savez_compressed(buffer, allow_pickle=False, format=np.array(FORMAT), **arrays)
    atomic.write_file(Path(path), buffer.getvalue())


def load(path: str | os.PathLike[str]) -> ShapeModel:
    """Read a model; no code in the file is run.

    Raises:
        InputError: it is not there, or is not a file of a model.
    """
    name = printable(path)
    with reader_errors(InputError, path, "is no shape model, or a damaged one", _HOW_TO_LEARN):
        arrays = read_npz(read_input(path, _MAX_FILE_BYTES), _MAX_UNPACKED_BYTES)
        if str(arrays["format"]) != FORMAT:
            raise InputError(f"{name} is no shape model; expected a file of `m2l masks pca MASKS --model FILE`")
        return _checked({field: arrays[field] for field in ShapeModel.__dataclass_fields__}, name)


def _checked(arrays: dict[str, npt.NDArray[Any]], name: str) -> ShapeModel:
    mean, components = arrays["mean"], arrays["components"]
    count = len(components) if components.ndim == 3 else 0
    expected = {
        "mean": ("float32", (len(mean),) * 2),
        "components": ("float32", (count, len(mean), len(mean))),
        "deviations": ("float64", (count,)),
        "explained": ("float64", (count,)),
        "poses": ("float64", (len(arrays["poses"]) if arrays["poses"].ndim else 0, 4)),
    }
    for field, (kind, shape) in expected.items():
        array = arrays[field]
        if array.dtype != kind or array.shape != shape or not array.size or not np.isfinite(array).all():
            raise InputError(f"{name} is a damaged shape model: {field} is {array.shape} {array.dtype}")
    box_radii, mask_count = arrays["box_radii"], arrays["mask_count"]
    is_sound = (
        not (box_radii.shape or mask_count.shape)
        and 0 < float(box_radii) < 100
        and int(mask_count) >= MIN_MASKS
        and (arrays["poses"][:, 2] > 0).all()
        and np.abs(mean).max() < 100
        and np.abs(components).max() <= 1 + 1e-3
        and (arrays["deviations"] > 0).all()
        and (arrays["explained"] >= 0).all()
        and arrays["explained"].sum() <= 1 + 1e-3
    )
    if not is_sound:
        raise InputError(f"{name} is a damaged shape model: its figures are out of range; learn it again")
    return ShapeModel(**{f: arrays[f] for f in expected}, box_radii=float(box_radii), mask_count=int(mask_count))
