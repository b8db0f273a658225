"""Draw masks of geometric shapes: circles, ellipses, polygons, stars and blobs, anywhere in the frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.conditioning.random import check_seed, uniform
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import resize
from m2l_runtime.masks.sources.mask_source import check_number, check_size
from m2l_runtime.types import Mask

POLYGONS: Final[Mapping[str, int]] = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "octagon": 8}
"""Regular polygons and their corners."""

KINDS: Final = ("circle", "ellipse", *POLYGONS, "star", "blob")

OVERSAMPLING: Final = 4
"""Shapes are drawn so many times larger and then resized as in training, so that their edges have the greys of real
masks."""

_AROUND: Final = 3
"""Pixels around a shape that the greys of its edge may reach into."""
_ROUND_POINTS: Final = 360
_STAR_POINTS: Final = 5
_BLOB_WAVES: Final = 5
_MARGIN: Final = 2
"""Pixels between a shape and the frame, for the greys of its edge."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """Describe one shape, in fractions of the frame's side."""

    kind: str
    x: float
    """Center of its circumscribed circle, from the left."""
    y: float
    """The same, from the top."""
    radius: float
    """Of the circumscribed circle."""
    rotation: float
    """In radians, clockwise as seen."""
    form: tuple[float, ...] = ()
    """Numbers of its kind: the ratio of an ellipse's axes, the ratio of a star's radii, or the waves of a blob."""

    def outline(self) -> Points:
        """Compute the corners (N, 2) as x, y in fractions of the side."""
        points = _unit_outline(self.kind, self.form)
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        placed: Points = turned * self.radius + (self.x, self.y)
        return placed


@check_types()
@dataclass(frozen=True)
class Shapes:
    """Draw masks of geometric shapes, of several kinds by turns, with random place, size and rotation: a MaskSource.

    Example:
        >>> shapes = Shapes(kinds=("circle", "star"), size=64, seed=3)
        >>> shapes.label(1)
        'star'
        >>> mask = shapes.draw(1)
        >>> mask.shape, mask.dtype
        ((64, 64), dtype('uint8'))

    Raises:
        InputError: an unknown kind, or a shape larger than the frame.
    """

    kinds: tuple[str, ...] = KINDS
    size: int = 256
    """Side of the masks in pixels."""
    smallest: float = 0.12
    """Smallest radius of the circumscribed circle, as a fraction of the side."""
    largest: float = 0.42
    """Largest radius. At 0.5 a circle fills the frame, except for two pixels along it."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size)
        check_seed(self.seed)
        if not self.kinds:
            raise InputError(f"no kind of shape is given; choose some of {', '.join(KINDS)}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"there is no kind of shape '{kind[:40]}'; choose some of {', '.join(KINDS)}")
        if not 0 < self.smallest <= self.largest <= 0.5:
            raise InputError(
                f"radii go from above 0 to 0.5 of the side, where a circle fills the frame; "
                f"got {self.smallest:g} to {self.largest:g}"
            )

    def label(self, number: int) -> str:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        check_number(number)
        return self.kinds[number % len(self.kinds)]

    def shape(self, number: int) -> Shape:
        """Return the shape that mask `number` shows."""
        kind = self.label(number)
        place = uniform(4, self.seed, "shapes", number)
        most = 0.5 - _MARGIN / self.size
        radius = min(most, self.smallest + (self.largest - self.smallest) * float(place[0]))
        room = most - radius
        x, y = (0.5 + (2 * place[1:3] - 1) * room).tolist()
        more = uniform(2 * _BLOB_WAVES, self.seed, "shapes form", number)
        return Shape(kind, x, y, radius, float(2 * np.pi * place[3]), _form(kind, more))

    def draw(self, number: int) -> Mask:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        return render(self.shape(number).outline(), self.size)


def render(outline: Points, size: int) -> Mask:
    """Draw a polygon with antialiased edges as a mask (size, size); corners (N, 2): x, y in fractions of the side."""
    low = np.clip(np.floor(outline.min(0) * size) - _AROUND, 0, size).astype(int)
    high = np.clip(np.ceil(outline.max(0) * size) + _AROUND, low + 1, size).astype(int)
    width, height = (high - low).tolist()
    canvas = PillowImage.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    corners = (outline * size - low) * OVERSAMPLING
    ImageDraw.Draw(canvas).polygon(corners.ravel().tolist(), fill=255)
    mask = np.zeros((size, size), np.uint8)
    mask[low[1] : high[1], low[0] : high[0]] = resize(np.asarray(canvas), (height, width))
    return mask


def _form(kind: str, numbers: Points) -> tuple[float, ...]:
    if kind == "ellipse":
        return (0.4 + 0.45 * float(numbers[0]),)
    if kind == "star":
        return (0.4 + 0.2 * float(numbers[0]),)
    if kind == "blob":
        amplitudes = numbers[:_BLOB_WAVES] * 0.35 / np.arange(2, 2 + _BLOB_WAVES)
        return (*amplitudes.tolist(), *(2 * np.pi * numbers[_BLOB_WAVES:]).tolist())
    return ()


def _unit_outline(kind: str, form: tuple[float, ...]) -> Points:
    """Compute corners (N, 2); the farthest has the distance 1 from the origin."""
    if kind in POLYGONS:
        return _circle(POLYGONS[kind])
    if kind == "star":
        radii = np.where(np.arange(2 * _STAR_POINTS) % 2 == 0, 1.0, form[0])
        return _circle(2 * _STAR_POINTS) * radii[:, None]
    points = _circle(_ROUND_POINTS)
    if kind == "ellipse":
        return points * (1.0, form[0])
    if kind == "blob":
        angles = 2 * np.pi * np.arange(_ROUND_POINTS) / _ROUND_POINTS
        radii = np.ones(_ROUND_POINTS)
        for wave in range(_BLOB_WAVES):
            radii += form[wave] * np.cos((2 + wave) * angles + form[_BLOB_WAVES + wave])
        points = points * (radii / radii.max())[:, None]
    return points


def _circle(count: int) -> Points:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], 1)
