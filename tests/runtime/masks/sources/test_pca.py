"""Principal components of shapes: on ellipses, whose components and outlines are known."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Array, disc, save

from m2l_runtime.errors import InputError, OutputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.lesions import read_lesions, touches_frame
from m2l_runtime.masks.sources.pca import (
    READ_SIDE,
    AlongComponent,
    RandomShapes,
    ShapeModel,
    fit_shape_model,
    load,
    orientation,
    render,
)
from m2l_runtime.masks.sources.pca import save as save_model
from m2l_runtime.masks.sources.statistics import count_holes, count_parts, perimeter

pytestmark = pytest.mark.once


def ellipse(a: float, b: float, y: float = 128, x: float = 128, angle: float = 0.0, side: int = 256) -> Array:
    rows, columns = np.mgrid[:side, :side] + 0.5
    u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    v = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    return np.where((u / a) ** 2 + (v / b) ** 2 < 1, np.uint8(255), np.uint8(0))


def egg(angle: float, y: float = 128, x: float = 128) -> Array:
    """Long and heavier at one end."""
    heavy = ellipse(40, 34, y + 18 * np.sin(angle), x + 18 * np.cos(angle), angle)
    tail = ellipse(66, 16, y - 20 * np.sin(angle), x - 20 * np.cos(angle), angle)
    return np.maximum(heavy, tail)


def axes(mask: Array) -> tuple[float, float]:
    """Half axes of the ellipse of the same second moments, in pixels."""
    y, x = np.nonzero(mask > 127)
    values = np.linalg.eigvalsh(np.cov(np.stack([y, x]).astype(float)))
    return float(2 * np.sqrt(values[1])), float(2 * np.sqrt(values[0]))


def ramanujan(a: float, b: float) -> float:
    """Length of an ellipse's outline."""
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ShapeModel:
    """Of ellipses of any place, size and direction; the logarithm of the ratio of their axes from 0.1 to 0.9."""
    folder = tmp_path_factory.mktemp("ellipses")
    generator = np.random.default_rng(0)
    for number in range(60):
        root = np.exp((0.1 + 0.8 * number / 59) / 2)
        size, y, x, angle = generator.uniform((30, 110, 110, 0), (50, 146, 146, np.pi))
        save(folder / f"{number:02}.png", ellipse(size * root, size / root, y, x, angle))
    return fit_shape_model(read_lesions(find_masks(folder), READ_SIDE))


def test_pca__ellipses_differ_in_one_way(model: ShapeModel) -> None:
    assert model.mask_count == 60
    assert model.explained[0] > 0.85
    assert model.explained.sum() <= 1 + 1e-9
    assert (np.diff(model.deviations) <= 0).all()
    flat = model.components.reshape(len(model.components), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-4)


def test_pca__the_mean_is_the_mean_ellipse(model: ShapeModel) -> None:
    mask = render(model, np.zeros(1), (0.5, 0.5, 0.2, 0.0), 256)
    assert mask is not None
    root = np.exp(0.25)
    expected = ellipse(51.2 * root, 51.2 / root) > 127
    found = mask > 127
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97


def test_pca__along_the_component_the_ratio_of_axes_goes_one_way_and_outlines_stay_smooth(model: ShapeModel) -> None:
    """A ragged outline is longer than the ellipse's."""
    source = AlongComponent(model, 1, steps=9, sigmas=1.8)
    masks = [source.draw(number) for number in range(9)]
    ratios = [a / b for a, b in map(axes, masks)]
    steps = np.diff(ratios)
    assert (steps > 0).all() or (steps < 0).all()
    assert max(ratios) > 2.2
    assert min(ratios) < 1.25
    for mask in masks:
        assert count_parts(mask > 127) == 1
        assert perimeter(mask > 127) == pytest.approx(ramanujan(*axes(mask)), rel=0.03)
    np.testing.assert_array_equal(masks[4], AlongComponent(model, 1, steps=3, sigmas=3.0).draw(1))  # the mean
    assert [source.sigma(n) for n in (0, 4, 8)] == [1.8, 0, -1.8]
    assert source.label(0) == "pc1_plus_1.80"


@pytest.mark.parametrize("angle", np.radians([0, 30, 90, 135, 200, 300]))
def test_pca__orientation_follows_a_turned_shape(angle: float) -> None:
    found = orientation(egg(angle) > 127) - orientation(egg(0.0) > 127)
    assert (found - angle + np.pi) % (2 * np.pi) - np.pi == pytest.approx(0, abs=0.03)


def test_pca__orientation_in_the_picture() -> None:
    """x to the right, y down: an ellipse that falls to the right."""
    assert math.sin(2 * orientation(ellipse(60, 20, angle=0.5) > 127)) == pytest.approx(math.sin(1.0), abs=0.05)


def test_pca__a_shape_is_put_where_its_pose_says(tmp_path: Path) -> None:
    """Learn from eggs, draw the mean at the pose of one: the same egg comes out, not a mirrored one."""
    angles = np.radians([10, 75, 150, 222, 318])
    for number, angle in enumerate(angles):
        save(tmp_path / f"{number}.png", np.roll(egg(angle), (3 * number - 6, 5 * number - 10), (0, 1)))
    save(tmp_path / "x.png", ellipse(50, 40))  # so that there is something to learn
    model = fit_shape_model(read_lesions(find_masks(tmp_path), READ_SIDE))
    for number in range(5):
        mask = render(model, np.zeros(1), tuple(model.poses[number]), 256)
        assert mask is not None
        original = np.roll(egg(angles[number]), (3 * number - 6, 5 * number - 10), (0, 1)) > 127
        found = mask > 127
        assert 2 * (found & original).sum() / (found.sum() + original.sum()) > 0.94


def test_pca__random_shapes_lie_inside_in_one_piece(model: ShapeModel) -> None:
    source = RandomShapes(model, size=128, seed=2)
    for number in range(20):
        mask = source.draw(number)
        np.testing.assert_array_equal(mask, RandomShapes(model, size=128, seed=2).draw(number))
        inside = mask > 127
        assert (count_parts(inside), count_holes(inside)) == (1, 0)
        assert not touches_frame(inside)
    assert (source.draw(0) != RandomShapes(model, size=128, seed=3).draw(0)).any()


def test_pca__a_model_is_read_as_it_was_written(model: ShapeModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    for name in ShapeModel.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    first = (tmp_path / "m.npz").read_bytes()
    save_model(again, tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == first
    with pytest.raises(OutputError):
        save_model(model, tmp_path / "no" / "m.npz")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("boom",))


def test_pca__other_files_are_refused(model: ShapeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.npz"
    save_model(model, path)
    whole = path.read_bytes()
    arrays = dict(np.load(path))

    def written(**changes: Any) -> None:
        np.savez(path, **{**arrays, **changes})

    damages: tuple[Callable[[], object], ...] = (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"hello"),
        lambda: path.write_bytes(whole[: len(whole) // 2]),
        lambda: path.write_bytes(pickle.dumps(Bomb())),
        lambda: np.savez(path, mean=np.zeros(3)),
        lambda: written(format=np.array([Bomb()], object)),
        lambda: written(mean=arrays["mean"][:5]),
        lambda: written(components=arrays["components"].astype(np.float64)),
        lambda: written(deviations=arrays["deviations"] * np.nan),
        lambda: written(poses=arrays["poses"] * 0),
        lambda: written(box_radii=np.array([1.0, 2.0])),
        lambda: written(components=arrays["components"][:0]),
    )
    for number, damage in enumerate(damages):
        damage()
        with pytest.raises(InputError, match=r"m\.npz (is|has)|cannot read"):
            load(path)
        assert "boom" not in capsys.readouterr().out, number
    for missing in (tmp_path, tmp_path / "gone.npz"):
        with pytest.raises(InputError, match="cannot read"):
            load(missing)


def test_pca__components_beyond_the_rank(model: ShapeModel) -> None:
    count = len(model.components)
    for component in (0, -1, count + 1):
        with pytest.raises(InputError, match=f"learnt from 60 masks; expected from 1 to {count}, got {component}"):
            AlongComponent(model, component)


def test_pca__few_masks_have_few_components(tmp_path: Path) -> None:
    for number, ratio in enumerate((1.2, 1.5, 2.0)):
        save(tmp_path / f"{number}.png", ellipse(50 * ratio**0.5, 50 / ratio**0.5))
    assert len(fit_shape_model(read_lesions(find_masks(tmp_path), READ_SIDE)).components) <= 2


def test_pca__what_cannot_be_learnt(tmp_path: Path) -> None:
    save(tmp_path / "a.png", disc())
    with pytest.raises(InputError, match="at least 3 masks whose lesion lies inside the frame, got 1$"):
        fit_shape_model(read_lesions(find_masks(tmp_path), READ_SIDE))
    for name in "bcd":
        save(tmp_path / f"{name}.png", disc(256, 60, 0, 128))  # cut off by the frame
    with pytest.raises(InputError, match="got 1 and 3 whose lesion touches it"):
        fit_shape_model(read_lesions(find_masks(tmp_path), READ_SIDE))
    for name in "bcd":
        save(tmp_path / f"{name}.png", disc())
    with pytest.raises(InputError, match="the 4 masks have one shape"):
        fit_shape_model(read_lesions(find_masks(tmp_path), READ_SIDE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "number of steps must be between 2 and 1000, got 1"),
        ({"sigmas": 0.0}, "sigmas must be above 0 and at most 5"),
        ({"sigmas": float("nan")}, "sigmas must be above 0"),
        ({"size": 4}, "size must be between"),
    ],
)
def test_pca__what_is_refused(model: ShapeModel, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlongComponent(model, 1, **options)  # type: ignore[arg-type]


def test_pca__a_shape_that_does_not_fit(model: ShapeModel) -> None:
    with pytest.raises(InputError, match="leaves no shape inside the frame; give fewer --sigmas"):
        AlongComponent(model, 1, radius=0.6).draw(0)
