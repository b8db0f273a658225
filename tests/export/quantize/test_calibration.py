"""Masks to tune on and masks to judge on: how many, which, and none in both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support import Array, disc, philox_stream, save
from synthetic_data import photograph

from m2l_export.graph.onnx_writer import input_specs
from m2l_export.parity import gate
from m2l_export.quantize.calibration import Calibration, describe_calibration, read_calibration
from m2l_runtime.errors import InputError, MaskFileError
from m2l_runtime.masks import mask_folder
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.sources.spec import open_source
from m2l_train.models.networks import UnetSpec

SIDE = 64
PLAIN = UnetSpec(6, 2, 3, 3, "instance")
STEERED = UnetSpec(6, 2, 3, 3, "instance", appearance_rows=30)
TABLE = np.arange(360, dtype=np.float32).reshape(30, 12)
ALWAYS = 5
"""Judged on whatever comes: black, white, and the three of the golden pairs."""


def read(masks: object, spec: UnetSpec = PLAIN, stochastic: bool = False) -> Calibration:
    specs = input_specs(spec, (SIDE, SIDE), stochastic)
    table = TABLE if spec.appearance_rows else None
    return read_calibration(str(masks), specs, table, golden(spec, stochastic))


@cache
def golden(spec: UnetSpec = PLAIN, stochastic: bool = False) -> gate.Inputs:
    masks = gate.gate_masks((SIDE, SIDE), None)
    table = TABLE if spec.appearance_rows else None
    inputs = gate.gate_inputs(masks, input_specs(spec, (SIDE, SIDE), stochastic), table)
    rows = gate.golden_rows(inputs, len(masks))
    return {name: array[rows] for name, array in inputs.items()}


def folder(path: Path, count: int, copies: int = 1) -> Path:
    """Discs of `count` kinds, each so many times."""
    path.mkdir()
    for number in range(count):
        for copy in range(copies):
            save(path / f"{number:04}-{copy}.png", make_disc(number))
    return path


def make_disc(number: int) -> Array:
    return disc(SIDE, 5 + number % 20, 20 + number // 20, 30)


def keys(masks: Sequence[Array] | Array) -> list[bytes]:
    return [mask.tobytes() for mask in masks]


def assert_apart(found: Calibration) -> None:
    """No mask in both sets, and none twice in either."""
    tuned, judged = keys(found.calibration_inputs["mask"]), keys(found.evaluation_inputs["mask"])
    assert len(set(tuned)) == len(tuned)
    assert len(set(judged)) == len(judged)
    assert not set(tuned) & set(judged)
    assert len(judged) == found.evaluation_mask_count


def test_calibration__a_large_folder(tmp_path: Path) -> None:
    masks = folder(tmp_path / "masks", 300)
    found = read(masks)
    assert_apart(found)
    assert len(found.calibration_inputs["mask"]) == 64
    assert found.evaluation_mask_count == 200 + ALWAYS
    assert found.drawn_count == 0
    own = {make_disc(number).tobytes(): number for number in range(300)}
    tuned = [own[key] for key in keys(found.calibration_inputs["mask"])]
    judged = [own[key] for key in keys(found.evaluation_inputs["mask"])[:-ALWAYS]]
    for numbers in (tuned, judged):  # evenly over the folder
        assert numbers == sorted(numbers)
        quarters = np.histogram(numbers, 4, (0, 300))[0]
        assert quarters.min() >= 0.9 * quarters.max()
    assert describe_calibration(found, is_calibrated=True) == "tuned on 64 masks, evaluated on 205 others"
    assert describe_calibration(found, is_calibrated=False) == "evaluated on 205 masks"


def test_calibration__drawn_shapes_make_up_for_what_a_folder_lacks(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "masks", 16))
    assert_apart(found)
    assert len(found.calibration_inputs["mask"]) == 5
    assert found.drawn_count == 100 - 11
    assert found.evaluation_mask_count == 100 + ALWAYS
    own = {make_disc(number).tobytes() for number in range(16)}
    assert sum(key in own for key in keys(found.evaluation_inputs["mask"])) == 11
    assert (
        describe_calibration(found, is_calibrated=True) == "tuned on 5 masks, evaluated on 105 others, 89 of them drawn"
    )


def test_calibration__masks_that_are_drawn_by_the_way_are_not_those_tuned_on(tmp_path: Path) -> None:
    """Someone calibrates on the very shapes that fill the gap, and on the probes."""
    (tmp_path / "masks").mkdir()
    same = open_source("shapes:30,seed=20190716", SIDE)
    for name in same.names:
        (tmp_path / "masks" / name).write_bytes(same.content(name))
    for name, mask in zip(
        ("a", "b", "c", "d", "e"), [gate.black((SIDE, SIDE)), gate.white((SIDE, SIDE)), *golden()["mask"]], strict=True
    ):
        save(tmp_path / "masks" / f"{name}.png", mask)
    found = read(tmp_path / "masks")
    assert_apart(found)
    assert len(found.calibration_inputs["mask"]) == 10
    assert found.evaluation_mask_count == 100 + ALWAYS


def test_calibration__what_is_always_judged_on() -> None:
    for spec, stochastic in ((PLAIN, False), (STEERED, True)):
        found, pairs = read("shapes:60", spec, stochastic), golden(spec, stochastic)
        assert found.evaluation_inputs.keys() == pairs.keys()
        for name, array in pairs.items():
            np.testing.assert_array_equal(found.evaluation_inputs[name][-3:], array)
        black, white = found.evaluation_inputs["mask"][-ALWAYS:-3]
        assert (black.max(), white.min()) == (0, 255)


@pytest.mark.parametrize(("given", "count"), [(16, 5), (40, 12), (300, 12)])
def test_calibration__layers_are_judged_by_images_from_all_over_and_by_extremes(
    tmp_path: Path, given: int, count: int
) -> None:
    found = read(folder(tmp_path / "masks", given), STEERED, stochastic=True)
    tuned = keys(found.calibration_inputs["mask"])
    places = [tuned.index(key) for key in keys(found.selection_inputs["mask"])[:count]]
    assert places[0] == 0
    assert len(np.unique(np.diff(places))) <= 2
    assert len(tuned) - places[-1] <= 1 + len(tuned) / count
    black, white = found.selection_inputs["mask"][count:]
    assert (black.max(), white.min()) == (0, 255)
    for name in ("appearance", "dropout_bits"):
        np.testing.assert_array_equal(found.selection_inputs[name][:count], found.calibration_inputs[name][places])
        assert len(found.selection_inputs[name]) == count + 2
    assert (found.selection_inputs["dropout_bits"][-2:] != found.evaluation_inputs["dropout_bits"][-ALWAYS:-3]).any()


def test_calibration__words(tmp_path: Path) -> None:
    found = read("shapes:200")
    assert_apart(found)
    assert (len(found.calibration_inputs["mask"]), found.evaluation_mask_count, found.drawn_count) == (
        64,
        136 + ALWAYS,
        0,
    )
    drawn = {
        open_source("shapes:200", SIDE).read(n, (SIDE, SIDE)).mask.tobytes()
        for n in open_source("shapes:200", SIDE).names
    }
    assert set(keys(found.calibration_inputs["mask"])) <= drawn
    assert (
        describe_calibration(found, is_calibrated=True) == "tuned on 64 masks (drawn: shapes), evaluated on 141 others"
    )
    assert describe_calibration(read("shapes:40"), is_calibrated=False) == "evaluated on 105 masks (drawn: shapes)"
    assert read("shapes:2000").evaluation_mask_count == 200 + ALWAYS
    folder(tmp_path / "masks", 3)
    source = read(f"deform:40,masks={tmp_path / 'masks'}").source
    assert source == " (drawn: deform)"  # no path


@pytest.mark.parametrize("side", [32, 128])
def test_calibration__shapes_at_the_sizes_of_other_networks(side: int) -> None:
    specs = input_specs(UnetSpec(5, 2, 3, 3, "none"), (side, side))
    masks = gate.gate_masks((side, side), None)
    found = read_calibration("shapes:40", specs, None, {"mask": masks[2:5]})
    assert found.calibration_inputs["mask"].shape == (13, side, side)
    assert_apart(found)


@pytest.mark.parametrize(("count", "copies", "got"), [(0, 1, 0), (1, 1, 1), (1, 50, 1), (15, 1, 15), (15, 3, 15)])
def test_calibration__too_few(tmp_path: Path, count: int, copies: int, got: int) -> None:
    masks = folder(tmp_path / "masks", count, copies)
    save(masks / "black.png", gate.black((SIDE, SIDE)))
    save(masks / "white.png", gate.white((90, 90)))
    (masks / "words.txt").write_text("no mask")
    with pytest.raises(
        InputError, match=f"at least 16 different masks .* got {got} from .*masks; .*--calibrate shapes:200"
    ):
        read(masks)


def test_calibration__no_folder_no_words(tmp_path: Path) -> None:
    save(tmp_path / "one.png", disc())
    (tmp_path / "empty").mkdir()
    for masks, said in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "one.png", "got 1 from"),
        (tmp_path / "empty", "got 0 from"),
        ("shapes:many", "does not say what to draw"),
        ("shapes:3", "got 3 from shapes:3"),
        ("shapes:200,color=red", "no setting 'color=red'"),
        ("new\nline", r"new\\nline does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            read(masks)


def test_calibration__photographs_in_the_folder(tmp_path: Path) -> None:
    masks = folder(tmp_path / "masks", 20)
    save(masks / "ISIC_0000003.jpg", photograph(disc(), 3))
    with pytest.raises(MaskFileError, match=r"ISIC_0000003\.jpg"):
        read(masks)


def test_calibration__of_a_huge_folder_a_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden()
    reads: list[int] = []

    def read_one(self: mask_folder.MaskFolder, name: str, size: tuple[int, int]) -> MaskFile:
        """Every two of them are the same."""
        reads.append(int(name))
        mask = np.zeros(size, np.uint8)
        mask[0, :32] = 255 * (int(name) // 2 + 1 >> np.arange(32) & 1)
        return MaskFile(mask, "", size, None, None)

    monkeypatch.setattr(mask_folder.MaskFolder, "read", read_one)
    monkeypatch.setattr(mask_folder, "_walk", lambda root: ([f"{number:06}" for number in range(100_000)], []))
    found = read(tmp_path)
    assert_apart(found)
    assert found.evaluation_mask_count == 200 + ALWAYS
    assert len(reads) == 264
    assert np.histogram(reads, 4, (0, 100_000))[0].tolist() == [66] * 4
    reads.clear()
    monkeypatch.setattr(mask_folder, "_walk", lambda root: ([f"{number:06}" for number in range(400)], []))
    found = read(tmp_path)
    assert_apart(found)
    assert len(found.calibration_inputs["mask"]) + found.evaluation_mask_count - found.drawn_count == 200 + ALWAYS
    assert sorted(reads) == list(range(400))


def test_calibration__appearances_and_bits_are_drawn_for_each_mask() -> None:
    found, again = read("shapes:60", STEERED, stochastic=True), read("shapes:60", STEERED, stochastic=True)
    assert list(found.calibration_inputs) == ["mask", "appearance", "dropout_bits"]
    for one, other in (
        (found.calibration_inputs, again.calibration_inputs),
        (found.evaluation_inputs, again.evaluation_inputs),
    ):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for purpose, inputs in (("tuned on", found.calibration_inputs), ("judged on", found.evaluation_inputs)):
        count = len(inputs["mask"]) - (3 if purpose == "judged on" else 0)
        rows = [number % 30 for number in philox_stream(count, 0, "calibration", purpose)]
        np.testing.assert_array_equal(inputs["appearance"][:count], TABLE[rows])
        assert inputs["appearance"].dtype == np.float32
        bits = inputs["dropout_bits"][:count]
        (item,) = philox_stream(1, 0, "item", f"calibration {purpose}", 2)
        raw = b"".join(number.to_bytes(8, "little") for number in philox_stream(len(bits[1]), item, "dropout_bits"))
        assert bits[1].tobytes() == raw[: len(bits[1])]
        assert len({row.tobytes() for row in bits}) == count
        assert 0.45 < np.unpackbits(bits).mean() < 0.55
