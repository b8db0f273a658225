"""Bundles whose appearances have other numbers than the first twelve, and whose generators take noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from steered_bundle import ROWS, SIDE, contrasts, image, steered_bundle, table, table_of
from support import Array, philox_stream, save

from m2l_runtime import AppearanceChoice, Synthesizer, open_bundle
from m2l_runtime.bundle.io import Bundle, write_bundle
from m2l_runtime.bundle.validate import lowest_schema_version
from m2l_runtime.conditioning.conditions import (
    AppearanceSampler,
    Conditions,
    ExtraInputs,
    noise_bytes,
    sampled_appearances,
)
from m2l_runtime.conditioning.numbers import MEASURED_NAMES, NUMBERS, measure_numbers
from m2l_runtime.errors import ArrayError, BundleDamaged, InputError
from m2l_runtime.types import KNOWN_NAMES, LOOK_NAMES, NAMES, STYLE_NAMES

TWELVE = ("style_2", "hair", *NAMES[2:10], "vignette", "style_1")
"""As many as the generator of `steered_bundle` shows in green, two of the first twelve replaced at either end."""

ALL = (*MEASURED_NAMES, "style_1", "style_2")


def test_numbers__the_registry_has_what_bundles_may_have() -> None:
    assert tuple(NUMBERS) == KNOWN_NAMES == (*NAMES, *LOOK_NAMES, *STYLE_NAMES)
    assert [name for name, number in NUMBERS.items() if number.measure is None] == list(STYLE_NAMES)
    assert all(number.name == name and number.low < number.high for name, number in NUMBERS.items())
    assert {(NUMBERS[name].low, NUMBERS[name].high) for name in STYLE_NAMES} == {(-8, 8)}


def test_measure_numbers__what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="'style_1' cannot be measured in a photograph; expected some of lesion_L"):
        measure_numbers(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), ("hair", "style_1"))


@pytest.mark.parametrize(
    ("roles", "names", "version"),
    [
        (("appearance", "dropout_bits"), NAMES, 1),
        (("appearance", "noise"), NAMES, 2),
        (("noise",), NAMES, 2),
        (("appearance",), TWELVE, 2),
        (("appearance",), tuple(reversed(NAMES)), 2),
        (("appearance",), ALL, 2),
    ],
)
def test_write_bundle__in_the_lowest_version_that_says_it(
    tmp_path: Path, roles: Any, names: tuple[str, ...], version: int
) -> None:
    bundle = steered_bundle(tmp_path / "b", roles, names=names)
    assert json.loads((bundle.path / "manifest.json").read_text())["schema_version"] == version
    assert bundle.manifest.schema_version == lowest_schema_version(bundle.manifest) == version
    raised = msgspec.structs.replace(bundle.manifest, schema_version=2)
    contents = {entry.path: bundle.read(entry) for entry in bundle.manifest.files}
    assert write_bundle(tmp_path / "again", raised, contents).manifest == bundle.manifest


def test_write_bundle__appearances_that_are_not_sampled_take_version_3(tmp_path: Path) -> None:
    """A reader that knows versions 1 and 2 refuses it: it would sample what is not to be."""
    limit = float(np.median(contrasts()))
    bundle = steered_bundle(tmp_path / "b", min_contrast=limit)
    assert json.loads((bundle.path / "manifest.json").read_text())["schema_version"] == 3
    rows = table()[contrasts() >= limit]
    assert 0 < len(rows) < ROWS
    np.testing.assert_array_equal(sampled_appearances(bundle), rows)
    extra = ExtraInputs(bundle)
    found = {
        text: {tuple(sampler.sample(seed)) for seed in range(1000)}
        for text, sampler in (
            ("", Conditions(extra)._sampler),
            ("min_contrast=0", Conditions(extra, choice=AppearanceChoice.parse("min_contrast=0"))._sampler),
        )
        if sampler is not None
    }
    assert found == {"": set(map(tuple, rows)), "min_contrast=0": set(map(tuple, table()))}


@pytest.mark.parametrize(("count", "limit"), [(ROWS, 30.0), (ROWS + 1, 30.0), (5, 0.0)])
def test_open_bundle__counts_of_sampled_appearances_that_cannot_be(tmp_path: Path, count: int, limit: float) -> None:
    bundle = steered_bundle(tmp_path / "b", min_contrast=30.0)
    assert bundle.manifest.appearance is not None
    wrong = msgspec.structs.replace(bundle.manifest.appearance, sampled_count=count, min_contrast=limit)
    path = bundle.path / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(bundle.manifest, appearance=wrong).fields()))
    with pytest.raises(BundleDamaged, match=f"{count} of {ROWS} appearances are sampled, of a contrast of {limit:g} "):
        open_bundle(bundle.path)


@pytest.mark.parametrize(("count", "limit"), [(7, None), (None, 99.5)])
def test_open_bundle__counts_of_sampled_appearances_that_the_table_has_not(
    tmp_path: Path, m2l: CommandLine, count: int | None, limit: float | None
) -> None:
    bundle = steered_bundle(tmp_path / "b", min_contrast=30.0)
    there = bundle.manifest.appearance
    assert there is not None
    assert there.sampled_count is not None
    count, limit = count or there.sampled_count, limit or there.min_contrast
    wrong = msgspec.structs.replace(there, sampled_count=count, min_contrast=limit)
    path = bundle.path / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(bundle.manifest, appearance=wrong).fields()))
    found = int((contrasts() >= limit).sum())
    message = f"has {found} appearances of a contrast of {limit:g} at least; the manifest says {count}"
    with pytest.raises(BundleDamaged, match=message):
        Synthesizer.open(bundle.path, backend="fake")
    save(tmp_path / "m.png", np.zeros((SIDE, SIDE), np.uint8))
    for command in (
        ("inspect", bundle.path),
        ("verify", bundle.path),
        ("synth", tmp_path / "m.png", tmp_path / "out", "--bundle", bundle.path),
    ):
        done = m2l(*command)
        assert (done.code, message in " ".join(done.err.split())) == (1, True), done.err
    assert not (tmp_path / "out").exists()


def test_synth__appearances_of_any_contrast(tmp_path: Path, m2l: CommandLine) -> None:
    """Images give their appearance back; 600 draws meet each of 60 rows."""
    limit = float(np.median(contrasts()))
    bundle = steered_bundle(tmp_path / "b", min_contrast=limit)
    save(tmp_path / "m.png", np.zeros((SIDE, SIDE), np.uint8))
    for number, (more, rows) in enumerate(
        (((), table()[contrasts() >= limit]), (("--appearance", "min_contrast=0"), table()))
    ):
        out = tmp_path / f"out{number}"
        done = m2l(
            *("synth", tmp_path / "m.png", out, "--bundle", bundle.path, "--samples", "600"),
            *("--backend", "onnxruntime", *more),
        )
        assert done.code == 0, done.err
        found = {tuple(np.asarray(Image.open(path))[0, :, 1].tolist()) for path in out.glob("**/*.png")}
        assert found == {tuple(int(number) for number in row) for row in rows}
    done = m2l("synth", tmp_path / "m.png", tmp_path / "c", "--bundle", bundle.path, "--appearance", "min_contrast=101")
    assert (done.code, (tmp_path / "c").exists()) == (2, False)
    assert "min_contrast must be between 0 and 100, got 101" in done.err
    shown = " ".join(m2l("inspect", bundle.path).out.split())
    assert f"of {ROWS} training images, sampled from the {(contrasts() >= limit).sum()} of a contrast of" in shown


def test_open_bundle__version_2_is_read_where_1_would_do(tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "b")
    path = bundle.path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    assert open_bundle(bundle.path).manifest.schema_version == 2


def test_noise_bytes__are_the_stream_of_the_definition() -> None:
    expected = b"".join(number.to_bytes(8, "little") for number in philox_stream(2, 5, "noise"))
    assert noise_bytes(5, 11).tobytes() == expected[:11]


def drawn(seed: int, name: str) -> tuple[Any, Array]:
    """(appearance, noise) of an item by their definition, with another Philox."""
    (item,) = philox_stream(1, seed, "item", name, 1)
    (row,) = philox_stream(1, item, "appearance")
    raw = b"".join(number.to_bytes(8, "little") for number in philox_stream(2, item, "noise"))
    return table()[row % ROWS], np.frombuffer(raw[:SIDE], np.uint8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return steered_bundle(tmp_path / "bundle", ("appearance", "noise"), names=TWELVE)


def test_synth__names_of_the_bundle_in_images_and_logs_and_noise_in_the_image(
    bundle: Bundle, tmp_path: Path, m2l: CommandLine
) -> None:
    mask = np.where(np.random.default_rng(3).random((SIDE, SIDE)) < 0.5, 0, 255).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks" / "a.png", mask)
    common = ("--bundle", bundle.path, "--backend", "onnxruntime", "--seed", "3", "--json")
    assert m2l("synth", tmp_path / "masks", tmp_path / "out", *common).code == 0
    appearance, noise = drawn(3, "a")
    with Image.open(tmp_path / "out" / "a.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), image(mask, appearance, noise))
        text = dict(one.split("=") for one in opened.info["m2l-appearance"].split(","))
    assert tuple(text) == TWELVE
    assert [float(number) for number in text.values()] == appearance.tolist()
    outcome = m2l("synth", tmp_path / "masks", tmp_path / "asked", *common, "--appearance", "hair=2,style_1=-1.5")
    assert json.loads(outcome.out)["appearance"] == "hair=2.0,style_1=-1.5"
    (line,) = [json.loads(one) for one in (tmp_path / "asked" / ".m2l/m2l-log.jsonl").read_text().splitlines()]
    assert (line["appearance"][1], line["appearance"][11]) == (2, -1.5)
    assert line["appearance_choice"] == "hair=2.0,style_1=-1.5"
    again = m2l(
        "synth", tmp_path / "masks", tmp_path / "asked", *common, "--appearance", "style_1=-1.5,hair=2", "--resume"
    )
    assert json.loads(again.out)["kept"] == 1


def test_synth__numbers_that_the_bundle_does_not_have_are_refused_by_name(tmp_path: Path, m2l: CommandLine) -> None:
    save(tmp_path / "a.png", np.zeros((SIDE, SIDE), np.uint8))
    bundle = steered_bundle(tmp_path / "old")
    asked = ("--bundle", bundle.path, "--backend", "fake", "--appearance", "hair=0,vignette=0")
    outcome = m2l("synth", tmp_path / "a.png", tmp_path / "out", *asked)
    assert outcome.code == 1
    assert "the appearances of this bundle have no 'vignette'; they have lesion_L, lesion_a" in outcome.err
    with Synthesizer.open(bundle, backend="fake") as synth, pytest.raises(InputError, match="have no 'ink'"):
        AppearanceSampler(table(), AppearanceChoice.from_values({"ink": 0}), synth.appearance_names)


def test_synth__a_photograph_gives_what_can_be_measured_and_the_style_of_a_near_row(
    tmp_path: Path, m2l: CommandLine
) -> None:
    rng = np.random.default_rng(8)
    pixels, mask = rng.integers(60, 200, (SIDE, SIDE, 3)).astype(np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    mask[3:9, 3:9] = 255
    photograph, mask_path = save(tmp_path / "photo.png", pixels), save(tmp_path / "m.png", mask)
    bundle = steered_bundle(tmp_path / "b", ("appearance", "noise"), names=ALL)
    asked = ("--appearance", photograph, "--appearance-mask", mask_path)
    outcome = m2l("synth", mask_path, tmp_path / "out", "--bundle", bundle.path, "--backend", "fake", "--json", *asked)
    assert json.loads(outcome.out)["appearance"].startswith(f"{len(MEASURED_NAMES)} given, BLAKE2b ")
    (line,) = [json.loads(one) for one in (tmp_path / "out" / ".m2l/m2l-log.jsonl").read_text().splitlines()]
    expected = measure_numbers(pixels, mask)
    np.testing.assert_allclose(line["appearance"][:-2], expected, atol=1e-3)
    rows = table_of(ALL)
    away = (((rows[:, :-2] - expected) / rows[:, :-2].std(0)) ** 2).sum(1)
    nearest = rows[np.argsort(away)[: ROWS // 20], -2:]
    assert line["appearance"][-2:] in nearest.tolist()


def test_synthesizer__takes_arrays_of_the_bundles_numbers(tmp_path: Path) -> None:
    masks = np.zeros((2, SIDE, SIDE), np.uint8)
    with Synthesizer.open(steered_bundle(tmp_path / "b", ("appearance",), names=ALL), backend="fake") as synth:
        assert synth.appearance_names == ALL
        assert synth(masks, appearances=np.zeros(len(ALL), np.float32)).shape == (2, SIDE, SIDE, 3)
        with pytest.raises(ArrayError, match=rf"appearances must be \(2, {len(ALL)}\) or \({len(ALL)},\) float32"):
            synth(masks, appearances=np.zeros((2, 12), np.float32))


def test_inspect__lists_the_bundles_numbers(tmp_path: Path, m2l: CommandLine) -> None:
    bundle = steered_bundle(tmp_path / "b", ("appearance", "noise"), names=ALL)
    outcome = m2l("inspect", bundle.path, "--json")
    assert list(json.loads(outcome.out)["appearances"]) == list(ALL)
    text = m2l("inspect", bundle.path).out
    assert "noise: uint8, 12" in text
    assert "style_2" in text
