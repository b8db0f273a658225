"""Seeds and appearances arrive at the right item, whatever the batches, threads, shards and formats.

The bundle gives its inputs back as pixels, and what is expected is drawn by another Philox.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from steered_bundle import BOTH, SIDE, Role, drawn, image, onnx_of, steered_bundle, table
from support import TINY_BUNDLE, Array, disc, edit, npz, replace_file, save

from m2l_runtime import AppearanceChoice, Bundle, Synthesizer, iterate_folder, open_bundle
from m2l_runtime.backends import fake as fake_backend
from m2l_runtime.conditioning.appearance import measure
from m2l_runtime.conditioning.conditions import item_seed, mask_seed
from m2l_runtime.errors import ArrayError, BundleDamaged, BundleError, BundleTooNew, InputError, OutputError
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import synthesize_folder
from m2l_runtime.types import NAMES

NAMED = ["a", "a_b", "sub/a", "sub/b.c", "z", "a_sample1"]
MASKS = np.stack([np.full((SIDE, SIDE), 20 * i, np.uint8) for i in range(11)])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return steered_bundle(tmp_path_factory.mktemp("steered") / "bundle")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(NAMED):
        save(folder / f"{name}.png", disc(SIDE, 2 + i / 2, 6, 6))
    return folder


def opened(path: Path) -> Array:
    with Image.open(path) as picture:
        return np.array(picture)


def expected(masks: Path, name: str, seed: int, sample: int = 1) -> Array:
    return image(opened(masks / f"{name}.png"), *drawn(seed, name, sample))


def pixels(out: Path) -> dict[str, Array]:
    return {path.relative_to(out).as_posix().removesuffix(".png"): opened(path) for path in out.rglob("*.png")}


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text().splitlines()]


# The synthesizer


@pytest.mark.parametrize(("batch_size", "streams"), [(1, 1), (4, 1), (4, 3), (16, 1)])
def test_appearance_and_samples__each_mask_gets_its_own(bundle: Bundle, batch_size: int, streams: int) -> None:
    seeds = [item_seed(2, f"m{i}") for i in range(len(MASKS))]
    with Synthesizer.open(bundle, device="cpu", batch_size=batch_size, threads=3, streams=streams) as synth:
        found = synth(MASKS, seeds)
        given = np.arange(11 * 12, dtype=np.float32).reshape(11, 12)
        steered = synth(MASKS, seeds, given)
        same = synth(MASKS, seeds, given[3])
    for i, mask in enumerate(MASKS):
        appearance, bits = drawn(2, f"m{i}")
        np.testing.assert_array_equal(found[i], image(mask, appearance, bits))
        np.testing.assert_array_equal(steered[i], image(mask, given[i], bits))
        np.testing.assert_array_equal(same[i], image(mask, given[3], bits))


def test_appearance_and_samples__without_seeds_a_mask_has_its_own_image_alone_and_among_others(bundle: Bundle) -> None:
    with Synthesizer.open(bundle, device="cpu", batch_size=4) as synth:
        found = synth(MASKS)
        np.testing.assert_array_equal(found[::-1], synth(MASKS[::-1]))
        np.testing.assert_array_equal(found[5], synth(MASKS[5:6])[0])
        np.testing.assert_array_equal(found, synth(MASKS, [mask_seed(mask) for mask in MASKS]))
        assert synth(MASKS[:0]).shape == (0, SIDE, SIDE, 3)
    assert len({one[..., 1:].tobytes() for one in found}) > 8  # rows of the table may be drawn twice, bits are not
    assert len({one[..., 2].tobytes() for one in found}) == len(MASKS)


@pytest.mark.parametrize("roles", [("appearance",), ("dropout_bits",)])
def test_appearance_and_samples__generators_with_one_of_the_two(tmp_path: Path, roles: tuple[Role, ...]) -> None:
    with Synthesizer.open(steered_bundle(tmp_path / "b", roles), device="cpu") as synth:
        assert synth.extra.is_random
        (found,) = synth(MASKS[:1], [item_seed(0, "x")])
        appearance, bits = drawn(0, "x")
        one = (appearance, None) if roles == ("appearance",) else (None, bits)
        np.testing.assert_array_equal(found, image(MASKS[0], *one))
        if roles == ("dropout_bits",):
            with pytest.raises(ArrayError, match=r"takes no appearance; .*m2l train --appearance"):
                synth(MASKS[:1], appearances=table()[0])


def test_appearance_and_samples__a_generator_of_the_mask_alone(tiny_synth: Synthesizer) -> None:
    mask = disc()[None]
    assert not tiny_synth.extra.is_random
    np.testing.assert_array_equal(tiny_synth(mask, [1]), tiny_synth(mask, [2]))
    with pytest.raises(ArrayError, match="takes no appearance"):
        tiny_synth(mask, appearances=table()[0])
    with pytest.raises(ArrayError, match="seeds must be"):
        tiny_synth(mask, [1, 2])


def test_appearance_and_samples__the_fake_shows_what_comes_in(tmp_path: Path) -> None:
    with Synthesizer.open(steered_bundle(tmp_path / "b"), backend="fake", batch_size=4) as synth:
        seeds = [item_seed(0, f"m{i}") for i in range(len(MASKS))]
        found = synth(MASKS, seeds)
        for i, mask in enumerate(MASKS):
            level = fake_backend.SKIN + (fake_backend.LESION - fake_backend.SKIN) * (int(mask[0, 0]) / 255)
            shifts = [fake_backend.shift(array) for array in drawn(0, f"m{i}")]
            np.testing.assert_array_equal(found[i, 0, 0], level.round().astype(np.uint8) + sum(shifts))
    assert len({tuple(fake_backend.shift(np.array([n], np.uint8))) for n in range(99)}) > 90


# Folders


@pytest.mark.parametrize(("batch_size", "streams", "workers"), [(1, 1, 1), (4, 2, 3)])
def test_appearance_and_samples__a_run_draws_by_names(
    bundle: Bundle, masks: Path, tmp_path: Path, batch_size: int, streams: int, workers: int
) -> None:
    with Synthesizer.open(bundle, device="cpu", batch_size=batch_size, threads=2, streams=streams) as synth:
        synthesize_folder(masks, tmp_path / "out", synth, workers=workers, seed=5)
        iterated = {result.name: result for result in iterate_folder(masks, synth, seed=5, workers=workers)}
    found = pixels(tmp_path / "out")
    assert sorted(found) == sorted(NAMED)
    for name in NAMED:
        np.testing.assert_array_equal(found[name], expected(masks, name, 5))
        result = iterated[f"{name}.png"]
        np.testing.assert_array_equal(result.image, found[name])
        assert result.seed == item_seed(5, name)
        np.testing.assert_array_equal(result.appearance, drawn(5, name)[0])


def test_appearance_and_samples__the_log_and_the_image_say_what_it_was_drawn_with(
    bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    with Synthesizer.open(bundle, device="cpu") as synth:
        synthesize_folder(masks, tmp_path / "out", synth, seed=5)
        with Image.open(tmp_path / "out" / "sub" / "a.png") as picture:
            about = picture.info
        synthesize_folder(masks, tmp_path / "jpeg", synth, OutputOptions("jpeg"), overwrite=True, seed=5)
        (again,) = synth(opened(masks / "sub" / "a.png")[None], [int(about["m2l-seed"])])
    np.testing.assert_array_equal(again, expected(masks, "sub/a", 5))
    for line in log(tmp_path / "out"):
        name = line["name"].removesuffix(".png")
        assert line["appearance"] == drawn(5, name)[0].tolist()
        assert (line["image_seed"], line["appearance_choice"], line["seed"]) == (5, "drawn", None)
    assert about["m2l-appearance"].split(",")[0] == f"lesion_L={drawn(5, 'sub/a')[0][0]}"


def test_appearance_and_samples__samples_are_named_sorted_and_the_first_is_the_one_without(
    bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    options = OutputOptions(pairs=True)
    with Synthesizer.open(bundle, device="cpu", batch_size=4) as synth:
        summary = synthesize_folder(masks, tmp_path / "out", synth, options, samples=10, seed=1)
        assert (summary.image_count, summary.samples, summary.image_seed, summary.appearance) == (60, 10, 1, "drawn")
        results = list(iterate_folder(masks, synth, samples=10, seed=1))
    found = pixels(tmp_path / "out" / "images")
    assert len(found) == 60
    for name, sample in itertools.product(NAMED, range(1, 11)):
        np.testing.assert_array_equal(found[f"{name}_sample{sample:02}"], expected(masks, name, 1, sample))
    for result in results:
        np.testing.assert_array_equal(result.image, found[result.name.removesuffix(".png")])
    with (tmp_path / "out" / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for row in rows:
        assert row["image"] == f"images/{row['source'].removesuffix('.png')}_sample{row['image'][-6:-4]}.png"
    assert {row["source"] for row in rows} == {f"{name}.png" for name in NAMED}
    for row in rows:
        with Image.open(tmp_path / "out" / row["image"]) as picture:
            assert row["seed"] == picture.info["m2l-seed"]
    assert len({row["seed"] for row in rows}) == 60


def test_appearance_and_samples__tars_shards_and_resuming_of_samples_give_the_files_of_one_run(
    bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    options = OutputOptions(format="webdataset", masks_per_file=4)
    (masks / "bad.png").write_text("no")
    with Synthesizer.open(bundle, device="cpu", batch_size=4) as synth:
        synthesize_folder(masks, tmp_path / "one", synth, options, samples=3)
        for number in (2, 3, 1):
            synthesize_folder(masks, tmp_path / "split", synth, options, samples=3, shard=(number, 3))
        tars = sorted((tmp_path / "one").glob("*.tar"))
        assert len(tars) == 6
        for tar in tars:
            assert tar.read_bytes() == (tmp_path / "split" / tar.name).read_bytes()
        kept = {tar.name: tar.read_bytes() for tar in tars}
        tars[1].unlink()
        summary = synthesize_folder(masks, tmp_path / "one", synth, options, samples=3, resume=True)
        assert (summary.image_count, summary.kept_count) == (4, 14)
        assert {tar.name: tar.read_bytes() for tar in tars} == kept
        with pytest.raises(OutputError, match=r"made with other options .* 3 samples; now .* 2 samples\)"):
            synthesize_folder(masks, tmp_path / "split", synth, options, samples=2, shard=(1, 2), resume=True)
    with tarfile.open(tars[0]) as tar_file:
        about = [json.load(tar_file.extractfile(m)) for m in tar_file if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert [one["name"] for one in about] == ["a_b_sample1.png", "a_b_sample2.png", "a_b_sample3.png", "a_sample1.png"]
    assert about[1]["m2l-seed"] == str(item_seed(0, "a_b", 2))


def test_appearance_and_samples__resuming_makes_again_what_was_drawn_otherwise(
    bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    dark = AppearanceChoice.from_values({"lesion_L": 35})
    with Synthesizer.open(bundle, device="cpu") as synth:

        def run(**told: Any) -> tuple[int, int]:
            summary = synthesize_folder(masks, tmp_path / "out", synth, resume=True, **told)
            return summary.image_count, summary.kept_count

        assert run() == (6, 0)
        assert run() == (0, 6)
        (tmp_path / "out" / "z.png").unlink()
        assert run(seed=0) == (1, 5)
        assert run(seed=1) == (6, 0)
        assert run(seed=1, appearance=dark) == (6, 0)
        assert run(seed=1, appearance=dark) == (0, 6)
        assert run(seed=1) == (6, 0)
        assert run(seed=1, samples=2) == (12, 0)
        assert sorted(pixels(tmp_path / "out")) == sorted(f"{n}_sample{k}" for n in NAMED for k in (1, 2))
        assert run(seed=1, samples=3) == (6, 12)
        found = pixels(tmp_path / "out")
        assert len(found) == 18
        for sample in (1, 2, 3):
            np.testing.assert_array_equal(found[f"z_sample{sample}"], expected(masks, "z", 1, sample))


def test_appearance_and_samples__logs_of_plain_bundles_are_as_they_were_and_go_on_whatever_the_seed(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer
) -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth:
        synthesize_folder(masks, tmp_path / "out", synth)
        assert not {"image_seed", "appearance_choice", "appearance"} & {
            key for line in log(tmp_path / "out") for key in line
        }
        summary = synthesize_folder(masks, tmp_path / "out", synth, resume=True, seed=9)
        assert (summary.kept_count, summary.image_seed, summary.appearance) == (6, None, None)
        with pytest.raises(InputError, match=r"all 3 images of a mask would be the same.*m2l export --stochastic"):
            synthesize_folder(masks, tmp_path / "three", synth, samples=3)
        with pytest.raises(InputError, match="takes no appearance"):
            list(iterate_folder(masks, synth, appearance=AppearanceChoice.from_values({"skin_a": 1})))
    assert not (tmp_path / "three").exists()


def test_appearance_and_samples__one_mask_to_a_file_name(bundle: Bundle, masks: Path, tmp_path: Path) -> None:
    with Synthesizer.open(bundle, device="cpu") as synth:
        synthesize_folder(masks / "z.png", tmp_path / "z.png", synth, seed=3)
        np.testing.assert_array_equal(opened(tmp_path / "z.png"), expected(masks, "z", 3))
        with Image.open(tmp_path / "z.png") as picture:
            assert picture.info["m2l-seed"] == str(item_seed(3, "z"))
        with pytest.raises(OutputError, match="is the name of a file, but several samples needs a folder"):
            synthesize_folder(masks / "z.png", tmp_path / "y.png", synth, samples=2)
        synthesize_folder(masks / "z.png", tmp_path / "out", synth, samples=2)
        assert sorted(pixels(tmp_path / "out")) == ["z_sample1", "z_sample2"]
        with pytest.raises(InputError, match="samples of each mask must be between 1 and"):
            synthesize_folder(masks, tmp_path / "none", synth, samples=0)
        with pytest.raises(InputError, match="seed must be at least 0"):
            synthesize_folder(masks, tmp_path / "none", synth, seed=-1)
        with pytest.raises(OutputError, match="sheet would overwrite"):
            synthesize_folder(
                masks / "z.png",
                tmp_path / "o",
                synth,
                OutputOptions(contact_sheet=masks / "z.png"),
                samples=2,
                overwrite=True,
            )


def test_appearance_and_samples__masks_of_one_name_collide_by_their_own_names(
    bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    save(masks / "z.jpg", disc(SIDE), quality=95)
    with (
        Synthesizer.open(bundle, device="cpu") as synth,
        pytest.raises(InputError, match=r"masks/z\.jpg and .*masks/z\.png would both become z_sample1\.png"),
    ):
        synthesize_folder(masks, tmp_path / "out", synth, samples=2)


# The command line


def test_appearance_and_samples__the_options_of_synth(
    bundle: Bundle, masks: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    common = ("--bundle", bundle.path, "--device", "cpu", "--json", "--overwrite")
    outcome = m2l("synth", masks, tmp_path / "out", *common, "--seed", 4, "--samples", 2)
    facts = json.loads(outcome.out)
    assert (facts["images"], facts["samples"], facts["seed"], facts["appearance"]) == (12, 2, 4, "drawn")
    np.testing.assert_array_equal(pixels(tmp_path / "out")["sub/a_sample2"], expected(masks, "sub/a", 4, 2))

    facts = json.loads(m2l("synth", masks, tmp_path / "out", *common, "--appearance", "lesion_L=7,skin_a=9").out)
    assert facts["appearance"] == "lesion_L=7.0,skin_a=9.0"
    for found in pixels(tmp_path / "out").values():
        assert found[0, 0, 1] == 7
        assert found[0, NAMES.index("skin_a"), 1] == 9

    photograph = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    path, mask = save(tmp_path / "p.png", photograph), save(tmp_path / "q.png", disc(SIDE, 4, 6, 6))
    outcome = m2l("synth", masks, tmp_path / "out", *common, "--appearance", path, "--appearance-mask", mask)
    assert json.loads(outcome.out)["appearance"].startswith("all given")
    wanted = measure(photograph, disc(SIDE, 4, 6, 6)).round(3).tolist()
    for line in log(tmp_path / "out"):
        np.testing.assert_allclose(line["appearance"], wanted, atol=1e-3)

    outcome = m2l("synth", masks, tmp_path / "out", *common[:-2], "--overwrite", "--appearance", path)
    assert "Otsu's threshold" in outcome.err
    assert "drawn with seed 0, 1 sample of each mask, appearance: all given" in outcome.out


def test_appearance_and_samples__the_command_line_warns_and_refuses(
    bundle: Bundle, masks: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    def synth(*options: Any, from_values: Path | str = "") -> Any:
        return m2l("synth", masks, tmp_path / "out", "--overwrite", "--bundle", from_values or bundle.path, *options)

    assert "skin_a -120 is far from all that the network was trained with" in synth("--appearance", "skin_a=-120").err
    for options, status, message in (
        (("--appearance", "skin=1"), 2, "appearances have no 'skin'; expected some of lesion_L"),
        (("--appearance", tmp_path / "none.jpg"), 1, "none.jpg: cannot be read"),
        (("--appearance-mask", masks / "a.png"), 2, "goes with --appearance FILE"),
        (("--samples", 0), 2, "must be between 1 and"),
        (("--seed", 1 << 64), 2, "below 2^64"),
    ):
        outcome = synth(*options)
        assert outcome.code == status
        assert message in outcome.err
    for options, message in (
        (("--samples", 2), "all 2 images of a mask would be the same"),
        (("--appearance", "skin_a=1"), "takes no appearance"),
    ):
        outcome = synth(*options, from_values=TINY_BUNDLE)
        assert outcome.code == 1
        assert message in outcome.err
    assert synth("--seed", 3, from_values=TINY_BUNDLE).code == 0


def test_appearance_and_samples__drawn_masks_and_the_contact_sheet(
    bundle: Bundle, tmp_path: Path, m2l: CommandLine
) -> None:
    outcome = m2l(
        "synth", f"shapes:3,size={SIDE + 4}", tmp_path / "out", "--bundle", bundle.path, "--samples", 2,
        "--contact-sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    assert outcome.code == 0
    assert len(pixels(tmp_path / "out" / "images")) == 6
    assert opened(tmp_path / "sheet.png").shape[1] > 600
    found = pixels(tmp_path / "out" / "images")
    for name in found:
        stem, sample = name.rsplit("_sample", 1)
        np.testing.assert_array_equal(found[name][..., 1:], image(MASKS[0], *drawn(0, stem, int(sample)))[..., 1:])


# The bundle


def test_appearance_and_samples__inspect_and_verify(bundle: Bundle, m2l: CommandLine) -> None:
    text = m2l("inspect", bundle.path).out
    column = table()[:, 0].astype(float)
    for words in (
        "appearance: float32, 12 (colors",
        "dropout_bits: uint8, 12 (which features",
        "of 60 training images",
        f"lesion_L {column.min():.1f} to {column.max():.1f}, {column.mean():.1f} ± {column.std():.1f} (mean of L*",
        "all 4 are as they were",
    ):
        assert words in text
    facts = json.loads(m2l("inspect", bundle.path, "--json").out)
    found = [facts["appearances"]["lesion_L"][what] for what in ("least", "greatest", "mean", "deviation")]
    assert found == pytest.approx([column.min(), column.max(), column.mean(), column.std()], abs=1e-3)
    assert facts["manifest"]["appearance"]["count"] == 60
    assert m2l("verify", bundle.path).code == 0


@pytest.mark.parametrize("changed", ["appearance", "dropout_bits"])
def test_appearance_and_samples__verify_gives_the_engine_every_input(
    tmp_path: Path, m2l: CommandLine, changed: str
) -> None:
    bundle = steered_bundle(tmp_path / "b")
    inputs, images = bundle.read_golden()
    inputs[changed] = inputs[changed].copy()
    inputs[changed][1, 3] += 9
    replace_file(bundle.path, "golden.npz", npz(image=images, **inputs))
    outcome = m2l("verify", bundle.path)
    assert outcome.code == 1
    assert "9 levels at most" in outcome.out


def remove_table(manifest: dict[str, Any]) -> None:
    del manifest["appearance"]


def swap(manifest: dict[str, Any]) -> None:
    manifest["inputs"].reverse()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (remove_table, BundleDamaged, "go together; got the input alone"),
        (lambda m: m["inputs"].pop(1), BundleDamaged, "go together; got the table alone"),
        (swap, BundleDamaged, "takes one uint8 mask"),
        (lambda m: m["inputs"].append(dict(m["inputs"][2], name="more")), BundleDamaged, "takes one uint8 mask"),
        (lambda m: m["inputs"][2].update(name="mask"), BundleDamaged, "a name of its own"),
        (lambda m: m["inputs"][1].update(dtype="uint8"), BundleDamaged, "one float32 appearance"),
        (lambda m: m["inputs"][1].update(shape=["batch", 11]), BundleDamaged, "its table has 12 names"),
        (lambda m: m["inputs"][2].update(shape=["batch", 3, 4]), BundleDamaged, "one uint8 dropout_bits"),
        (lambda m: m["inputs"][2].update(shape=["batch", 1 << 25]), BundleDamaged, r"inputs\[2\].shape"),
        (lambda m: m["inputs"][2].update(dtype="float32"), BundleDamaged, "one uint8 dropout_bits"),
        (lambda m: m["inputs"][2].update(role="hair"), BundleTooNew, "supply mask, appearance, dropout_bits"),
        (
            lambda m: m["appearance"].update(names=["fur", *NAMES[1:]]),
            BundleTooNew,
            "have a number 'fur'; this m2l knows lesion_L, .*style_1 to style_16; install a newer m2l",
        ),
        (lambda m: m["appearance"].update(names=["hair"]), BundleDamaged, "its table has 1 names; expected as many"),
        (lambda m: m["appearance"].update(names=["hair"] * 12), BundleDamaged, "two numbers of one name: hair, hair"),
        (
            lambda m: m["appearance"].update(names=["hair", *NAMES[1:]]),
            BundleDamaged,
            "says schema version 1, and has inputs, appearances, orientations or a network of version 2",
        ),
        (
            lambda m: m["inputs"][2].update(role="noise"),
            BundleDamaged,
            "inputs, appearances, orientations or a network of version 2",
        ),
        (lambda m: m["appearance"].update(count=0), BundleDamaged, r"\$.appearance.count"),
    ],
)
def test_appearance_and_samples__manifests_that_are_refused(
    tmp_path: Path, change: Any, error: type[BundleError], message: str
) -> None:
    bundle = steered_bundle(tmp_path / "b")
    edit(bundle.path, change)
    with pytest.raises(error, match=message):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(appearance=table()[1:]), r"'appearance' must be \(60, 12\) float32, got \(59, 12\)"),
        (npz(appearance=table().astype(float)), "float64"),
        (npz(other=table()), "got nothing"),
        (npz(appearance=np.where(table() == table()[3, 3], np.nan, table())), "infinite or undefined"),
        (b"no zip", "is not an .npz of arrays"),
    ],
)
def test_appearance_and_samples__tables_that_are_refused(
    tmp_path: Path, content: bytes, message: str, m2l: CommandLine
) -> None:
    bundle = steered_bundle(tmp_path / "b")
    replace_file(bundle.path, "appearances.npz", content)
    for call in (lambda: open_bundle(bundle.path).check(), lambda: Synthesizer.open(bundle.path, device="cpu")):
        with pytest.raises(BundleDamaged, match=message):
            call()


def test_appearance_and_samples__golden_arrays_of_every_input_are_checked(tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "b")
    inputs, images = bundle.read_golden()
    assert list(inputs) == ["mask", *BOTH]
    for name in BOTH:
        replace_file(bundle.path, "golden.npz", npz(image=images, **{**inputs, name: inputs[name][:1]}))
        with pytest.raises(BundleDamaged, match=f"'{name}' must be"):
            open_bundle(bundle.path).read_golden()


def test_appearance_and_samples__a_model_with_other_inputs_than_declared_is_refused(tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "b")
    replace_file(bundle.path, "generator.onnx", onnx_of(("appearance",)))
    with pytest.raises(BundleDamaged, match="the manifest declares"):
        Synthesizer.open(bundle.path, device="cpu")


def test_appearance_and_samples__a_plain_bundle_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no table of appearances"):
        open_bundle(TINY_BUNDLE).read_appearances()
    plain = steered_bundle(tmp_path / "b", ())
    assert "appearance" not in json.loads((plain.path / "manifest.json").read_text())
    assert io.BytesIO(plain.read(plain.manifest.golden.file)).read(2) == b"PK"


CALL = np.stack([np.full((SIDE, SIDE), 20 * i, np.uint8) for i in (2, 3, 4)])


@pytest.mark.parametrize(
    "asked",
    [
        "lesion_L=35,skin_a=12",
        {"lesion_L": 35, "skin_a": 12},
        AppearanceChoice.from_values({"lesion_L": 35, "skin_a": 12}),
    ],
    ids=["text", "mapping", "choice"],
)
def test_call__appearances_by_name_are_those_of_a_run(bundle: Bundle, masks: Path, asked: Any) -> None:
    choice = AppearanceChoice.from_values({"lesion_L": 35, "skin_a": 12})
    with Synthesizer.open(bundle, device="cpu") as synth:
        for result in iterate_folder(masks, synth, seed=1, appearance=choice):
            assert result.mask is not None
            again = synth(result.mask[None], seeds=[result.seed], appearances=asked)  # type: ignore[list-item]
            np.testing.assert_array_equal(again[0], result.image)
        assert synth(CALL[:0], appearances=asked).shape == (0, SIDE, SIDE, 3)
        np.testing.assert_array_equal(synth(CALL, appearances=asked), synth(CALL, appearances=asked))
        with pytest.raises(InputError, match="have no 'no_such'"):
            synth(CALL, appearances="no_such=3")
        with pytest.raises(InputError, match="lesion_L must be between"):
            synth(CALL, appearances={"lesion_L": 300})
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth, pytest.raises(ArrayError, match="takes no appearance"):
        synth(np.zeros((1, 256, 256), np.uint8), appearances=asked)


def test_call__seeds_are_drawn_anew_or_from_a_generator(bundle: Bundle) -> None:
    with Synthesizer.open(bundle, device="cpu") as synth:
        np.testing.assert_array_equal(synth(CALL), synth(CALL))
        assert (synth(CALL, seeds="fresh") != synth(CALL, seeds="fresh")).any()
        for make in (np.random.default_rng, random.Random):
            one, other = make(5), make(5)
            first, second = synth(CALL, seeds=one), synth(CALL, seeds=one)
            assert (first != second).any()
            np.testing.assert_array_equal(synth(CALL, seeds=other), first)
            np.testing.assert_array_equal(synth(CALL, seeds=other), second)
        drawn = np.random.default_rng(7).integers(0, (1 << 64) - 1, 3, np.uint64, endpoint=True)
        np.testing.assert_array_equal(synth(CALL, seeds=np.random.default_rng(7)), synth(CALL, seeds=drawn))
        for wrong in ("other", iter(range(3))):
            with pytest.raises(ArrayError, match=r"'fresh', or a numpy.random.Generator, got"):
                synth(CALL, seeds=wrong)  # type: ignore[arg-type]
