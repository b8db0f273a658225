"""Geometric shapes: areas and places in closed form, what is legal, what repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import Array, disc

from m2l_runtime.errors import InputError
from m2l_runtime.masks.sources import DrawnMasks
from m2l_runtime.masks.sources.lesions import touches_frame
from m2l_runtime.masks.sources.shapes import KINDS, POLYGONS, Shape, Shapes, render


def center(mask: Array) -> tuple[float, float]:
    weights = mask / 255
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    return float((weights * y).sum() / weights.sum()), float((weights * x).sum() / weights.sum())


def area(shape: Shape, side: int) -> float:
    """In closed form, in pixels."""
    radius = shape.radius * side
    if shape.kind in POLYGONS:
        corners = POLYGONS[shape.kind]
        return corners / 2 * radius**2 * math.sin(2 * math.pi / corners)
    if shape.kind == "star":
        return 5 * shape.form[0] * radius**2 * math.sin(math.pi / 5)
    return math.pi * radius**2 * (shape.form[0] if shape.kind == "ellipse" else 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "blob"])
def test_shapes__area_and_centre_are_those_of_the_closed_form(kind: str) -> None:
    source = Shapes((kind,), smallest=0.2)
    for number in range(8):
        shape, mask = source.shape(number), source.draw(number)
        drawn = mask.sum() / 255
        assert drawn == pytest.approx(area(shape, 256), rel=0.01)
        assert center(mask) == pytest.approx((shape.y * 256, shape.x * 256), abs=0.3)


def test_shapes__a_corner_points_where_the_rotation_says() -> None:
    """x to the right, y down, angles clockwise as seen."""
    for rotation, corner, opposite in (
        (0.0, (128, 189), (128, 67)),
        (np.pi / 2, (189, 128), (67, 128)),
        (np.pi, (128, 67), (128, 189)),
    ):
        mask = render(Shape("triangle", 0.5, 0.5, 0.25, rotation).outline(), 256)
        assert mask[corner] > 200
        assert mask[opposite] == 0


def test_shapes__edges_have_the_greys_of_a_mask_brought_to_its_size() -> None:
    """A disc of 1024 pixels, squashed as training does, is what a circle is drawn as."""
    from m2l_runtime.masks.mask_file import resize

    drawn = render(Shape("circle", 0.5, 0.45, 0.3, 0.0).outline(), 256)
    squashed = resize(disc(1024, 0.3 * 1024, 0.45 * 1024 - 0.5, 0.5 * 1024 - 0.5), (256, 256))
    difference = np.abs(drawn.astype(int) - squashed)
    assert len(np.unique(drawn)) > 20
    assert difference.max() <= 80  # Pillow fills what an outline touches: up to a quarter of a pixel here
    assert difference.mean() < 0.25


def test_shapes__stay_inside_and_come_by_turns() -> None:
    source = Shapes(size=64, largest=0.46)
    for number in range(180):
        mask = source.draw(number)
        assert not touches_frame(mask > 0), source.shape(number)
        assert mask.max() > 200
        assert source.label(number) == KINDS[number % len(KINDS)]


def test_shapes__a_mask_depends_on_seed_and_number_alone() -> None:
    one, again, other = Shapes(seed=5), Shapes(seed=5), Shapes(seed=6)
    later = one.draw(7)
    for number in range(9):
        np.testing.assert_array_equal(one.draw(number), again.draw(number))
        assert (one.draw(number) != other.draw(number)).any()
    np.testing.assert_array_equal(later, again.draw(7))
    assert (Shapes(("circle",), seed=5).draw(0) == one.draw(0)).all()


def test_shapes__golden_parameters() -> None:
    """A change here changes every mask that people have drawn with a seed."""
    shape = Shapes(seed=1).shape(8)
    assert (shape.kind, len(shape.form)) == ("blob", 10)
    assert (shape.x, shape.y, shape.radius, shape.rotation) == pytest.approx(GOLDEN, abs=1e-12)


GOLDEN = (0.5254650683545482, 0.5296412502300162, 0.24704966468722125, 2.357546040072098)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ()}, "no kind of shape is given"),
        ({"kinds": ("circle", "cube")}, "there is no kind of shape 'cube'; choose some of circle"),
        (
            {"largest": 0.51},
            "radii go from above 0 to 0.5 of the side, where a circle fills the frame; got 0.12 to 0.51",
        ),
        ({"smallest": 0.0}, "radii go from above 0"),
        ({"smallest": 0.3, "largest": 0.2}, "got 0.3 to 0.2"),
        ({"smallest": float("nan")}, "got nan to 0.42"),
        ({"size": 8}, "size must be between 16 and 4096 pixels, got 8"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_shapes__what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        Shapes(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -3, 10_000_001])
def test_shapes__a_number_of_masks_that_cannot_be(count: int) -> None:
    with pytest.raises(InputError, match="number of masks must be between 1 and 10,000,000"):
        DrawnMasks(Shapes(), count)


def test_shapes__names_are_in_order_and_tell_the_kind() -> None:
    names = DrawnMasks(Shapes(("star", "circle")), 11).names
    assert names == sorted(names)
    assert names[:2] == ["000000-star.png", "000001-circle.png"]
