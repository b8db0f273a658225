"""The usefulness experiment as a whole: what is kept, resumed, dealt out, compared and refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from preloaded import M2L, PreloadedProcess
from steered_bundle import contrasts, steered_bundle, table
from support import slow
from usefulness_data import QUICK, SIDE, TEST, TRAIN, pair, write_bundle_of_fakes, write_pairs

from m2l_runtime import Synthesizer
from m2l_runtime.errors import ArgumentError, Diverged, InputError, OutputError
from m2l_train.evaluate import (
    Usefulness,
    UsefulnessCallbacks,
    UsefulnessOptions,
    UsefulnessReport,
    evaluate_usefulness,
    fitting,
)
from m2l_train.evaluate.segmenter import SegmenterSpec
from m2l_train.evaluate.usefulness.arms import ARMS
from m2l_train.evaluate.usefulness.data import read_masks
from m2l_train.evaluate.usefulness.plan import cells
from m2l_train.evaluate.usefulness.report import conclude, describe_usefulness
from m2l_train.evaluate.usefulness.result import Comparison, Generator, Interval

SMALL: dict[str, Any] = QUICK | {"arms": ("ClassicAug", "AllAug"), "fractions": (100.0,), "seeds": 2}
CELLS = "m2l_train.evaluate.usefulness.cells"
FLAGS = (
    *("--arms", "ClassicAug,AllAug", "--fractions", 100, "--seeds", 2),
    *("--steps", 3, "--width", 1, "--side", 32, "--threads", 1, "--workers", 1),
)


def run(data: Path, out: Path, bundle: Path, call: dict[str, Any] | None = None, **options: Any) -> UsefulnessReport:
    given = UsefulnessOptions(**SMALL | options)
    return evaluate_usefulness(data, out, given, bundle=bundle, backend="fake", **call or {})


def result_of(report: UsefulnessReport) -> Usefulness:
    assert report.result is not None
    return report.result


def contents(out: Path) -> dict[str, Any]:
    """The cells and the result, but for what differs from run to run."""
    found = {path.name: json.loads(path.read_text()) for path in [*out.glob("cells/*.json"), out / "usefulness.json"]}
    for document in found.values():
        del document["seconds"]
    return found


@pytest.fixture(scope="module")
def finished(pairs: Path, fakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("usefulness") / "run"
    run(pairs, out, fakes)
    return out


@pytest.mark.slow
def test_evaluate_usefulness__all_arms_and_fractions(pairs: Path, fakes: Path, tmp_path: Path) -> None:
    counted: list[int] = []
    notes: list[str] = []
    started: list[tuple[int, int]] = []
    callbacks = UsefulnessCallbacks(lambda total, done: started.append((total, done)), counted.append, notes.append)
    call = {"callbacks": callbacks}
    report = run(pairs, tmp_path / "run", fakes, call, arms=tuple(ARMS), fractions=(100.0, 25.0))
    found = result_of(report)
    assert (report.done, report.total, report.was_stopped) == (20, 20, False)
    assert (sum(counted), started) == (20 * 3, [(20 * 3, 0)])
    assert sum("synthesizing" in note for note in notes) == 4  # once for each fraction and seed
    assert (found.arms, found.fractions, found.seeds, found.test_pairs) == (list(ARMS), [25.0, 100.0], 2, TEST)
    assert (found.pairs, found.validation_pairs) == ({"25": 8, "100": 32}, {"25": 2, "100": 8})
    assert found.comparison_count == 2 * 7
    assert len(found.scores) == 2 * 5 * 5
    assert msgspec.json.decode((tmp_path / "run" / "usefulness.json").read_bytes(), type=Usefulness) == found
    for arm, made in (("NoAug", 0), ("ClassicAug", 0), ("Mask2LesionAug", 8), ("AllAug", 8), ("SyntheticOnly", 8)):
        cell = json.loads((tmp_path / "run" / "cells" / f"{arm}-25pct-seed1.json").read_text())
        assert (cell["synthesized_count"], len(cell["training_pairs"]), len(cell["validation_dice"])) == (made, 8, 3)
        assert cell["engine"].startswith("fake") is (made > 0)
        assert [len(values) for values in cell["scores"].values()] == [TEST] * 5
    dice = json.loads((tmp_path / "run" / "cells" / "AllAug-100pct-seed0.json").read_text())["scores"]["dice"]
    other = json.loads((tmp_path / "run" / "cells" / "AllAug-100pct-seed1.json").read_text())["scores"]["dice"]
    row = next(one for one in found.scores if (one.arm, one.fraction, one.metric) == ("AllAug", 100.0, "dice"))
    assert row.mean.value == pytest.approx(np.mean([dice, other]))
    assert (tmp_path / "run" / "forest.svg").read_text().startswith("<?xml")
    with Image.open(tmp_path / "run" / "forest.png") as picture:
        assert picture.width > 500
    text = describe_usefulness(found)
    assert "fake backend, which runs no model" in text
    assert text.count("SyntheticOnly") >= 2


@pytest.mark.slow
def test_evaluate_usefulness__every_arm_takes_the_same_steps_from_the_same_weights(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    train = fitting.Fitting.train

    def counted(self: fitting.Fitting, images: Any, masks: Any) -> float:
        if self.step == 0:
            weights = b"".join(value.numpy().tobytes() for value in self.network.state_dict().values())
            steps.append((hashlib.sha256(weights).hexdigest(), 0))
        steps[-1] = (steps[-1][0], steps[-1][1] + len(images))
        return train(self, images, masks)

    monkeypatch.setattr(fitting.Fitting, "train", counted)
    run(pairs, tmp_path / "run", fakes, arms=tuple(ARMS))
    assert {count for _, count in steps} == {3 * 16}
    weights = [weights for weights, _ in steps]
    assert weights == [weights[0]] * 5 + [weights[5]] * 5
    assert weights[0] != weights[5]


@pytest.mark.parametrize(
    ("arm", "real", "is_all"),
    [("NoAug", 48, True), ("ClassicAug", 0, False), ("Mask2LesionAug", 24, True), ("AllAug", 0, False)],
)
def test_evaluate_usefulness__arms_see_what_they_say(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, real: int, is_all: bool
) -> None:
    seen: list[Any] = []
    train = fitting.Fitting.train

    def watched(self: fitting.Fitting, images: Any, masks: Any) -> float:
        seen.extend(images)
        return train(self, images, masks)

    monkeypatch.setattr(fitting.Fitting, "train", watched)
    run(pairs, tmp_path / "run", fakes, arms=(arm,), seeds=1)
    cell = json.loads((tmp_path / "run" / "cells" / f"{arm}-100pct-seed0.json").read_text())
    ours = {pair(int(name[1:]))[0].tobytes() for name in cell["training_pairs"]}
    assert len(seen) == 48
    assert sum(image.tobytes() in ours for image in seen) == pytest.approx(real, abs=0 if is_all else 3)


def test_evaluate_usefulness__precision_is_resolved_kept_and_heeded(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"arms": ("ClassicAug",), "seeds": 1}
    made: list[bool] = []
    new = fitting.Fitting.__init__

    def watched(self: fitting.Fitting, *given: Any, is_bf16: bool) -> None:
        made.append(is_bf16)
        new(self, *given, is_bf16=is_bf16)

    monkeypatch.setattr(fitting.Fitting, "__init__", watched)
    for precision in ("fp32", "bf16"):
        run(pairs, tmp_path / precision, fakes, **options, precision=precision)
        assert json.loads((tmp_path / precision / "settings.json").read_text())["precision"] == precision
    assert made == [False, True]
    for computes, resolved in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("m2l_train.evaluate.usefulness.experiment.computes_bf16", lambda _, is_it=computes: is_it)
        run(pairs, tmp_path / resolved, fakes, **options)
        with pytest.raises(InputError, match=rf"precision {'fp32' if computes else 'bf16'}, now {resolved}"):
            run(pairs, tmp_path / ("fp32" if computes else "bf16"), fakes, **options)


def test_fitting__bf16_stays_near_fp32() -> None:
    """The loss of the same network and images, to the three digits that bfloat16 has; weights stay in fp32."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    masks = np.where(rng.random((4, 32, 32)) < 0.5, 255, 0).astype(np.uint8)
    first = {}
    for is_bf16 in (False, True):
        spec = SegmenterSpec(width=4, levels=2, side=32)
        fit = fitting.Fitting(spec, 0, 10, torch.device("cpu"), is_bf16=is_bf16)
        first[is_bf16] = fit.train(images, masks)
        assert {parameter.dtype for parameter in fit.network.parameters()} == {torch.float32}
    assert first[True] != first[False]
    assert first[True] == pytest.approx(first[False], rel=0.02)


def test_evaluate_usefulness__the_network_of_the_best_check_is_tested(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_check: list[bytes] = []
    tested: list[bytes] = []

    def weights(network: Any) -> bytes:
        return b"".join(value.numpy().tobytes() for value in network.state_dict().values())

    def rigged(network: Any, images: Any, masks: Any, device: torch.device) -> float:
        at_check.append(weights(network))
        return [0.1, 0.7, 0.3, 0.7, 0.2][len(at_check) - 1]

    def find(network: Any, images: Any, device: torch.device) -> Any:
        tested.append(weights(network))
        return fitting.find_lesions(network, images, device)

    monkeypatch.setattr(f"{CELLS}.mean_dice", rigged)
    monkeypatch.setattr(f"{CELLS}.find_lesions", find)
    run(pairs, tmp_path / "run", fakes, arms=("ClassicAug",), seeds=1, steps=5)
    cell = json.loads((tmp_path / "run" / "cells" / "ClassicAug-100pct-seed0.json").read_text())
    assert (cell["best_step"], cell["validation_dice"]) == (4, [0.1, 0.7, 0.3, 0.7, 0.2])
    assert tested == [at_check[3]]


def test_evaluate_usefulness__only_an_arms_own_training_masks_are_synthesized_from(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []

    def watched(chosen: Any, side: int, options: Any) -> Any:
        read.append([one.name for one in chosen])
        return read_masks(chosen, side, options)

    monkeypatch.setattr(f"{CELLS}.read_masks", watched)
    run(pairs, tmp_path / "run", fakes, arms=("SyntheticOnly",), fractions=(50.0,), seeds=1, ratio=2.0)
    cell = json.loads((tmp_path / "run" / "cells" / "SyntheticOnly-50pct-seed0.json").read_text())
    assert read == [cell["training_pairs"]]
    assert (len(read[0]), cell["synthesized_count"]) == (16, 32)
    assert not set(read[0]) & set(cell["validation_pairs"])
    assert not any(name.startswith("p1") for name in read[0])


@pytest.mark.parametrize(("use", "masks"), [("mixed", "deform"), slow("pretrain", "pca")])
def test_evaluate_usefulness__other_masks_and_uses_change_arms_that_synthesize_alone(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, masks: str
) -> None:
    seen: list[list[bytes]] = []
    train = fitting.Fitting.train

    def watched(self: fitting.Fitting, images: Any, masks: Any) -> float:
        if self.step == 0:
            seen.append([])
        seen[-1].append(images.tobytes() + masks.tobytes())
        return train(self, images, masks)

    monkeypatch.setattr(fitting.Fitting, "train", watched)
    run(pairs, tmp_path / "plain", fakes, seeds=1)
    run(pairs, tmp_path / "other", fakes, seeds=1, use=use, masks=masks)
    classic, mixed, same, other = seen
    assert classic == same
    assert mixed != other


def test_evaluate_usefulness__shards_together_are_one_run(
    pairs: Path, fakes: Path, finished: Path, tmp_path: Path
) -> None:
    reports = [run(pairs, tmp_path / "run", fakes, {"shard": (number, 3)}) for number in (3, 1, 2)]
    assert [report.result is None for report in reports] == [True, True, False]
    assert [(report.done, report.total) for report in reports] == [(1, 4), (3, 4), (4, 4)]
    assert contents(tmp_path / "run") == contents(finished)
    for name in ("forest.svg", "forest.png"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_evaluate_usefulness__a_stop_loses_the_running_cell_alone(
    pairs: Path, fakes: Path, finished: Path, tmp_path: Path
) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return sum(1 for _ in (tmp_path / "run" / "cells").iterdir()) == 1

    report = run(pairs, tmp_path / "run", fakes, {"callbacks": UsefulnessCallbacks(should_stop=stop)})
    assert (report.result, report.done, report.total, report.was_stopped) == (None, 1, 4, True)
    started: list[tuple[int, int]] = []
    callbacks = UsefulnessCallbacks(on_start=lambda total, done: started.append((total, done)))
    report = run(pairs, tmp_path / "run", fakes, {"callbacks": callbacks})
    assert started == [(12, 3)]
    assert contents(tmp_path / "run") == contents(finished)


def test_evaluate_usefulness__goes_on_after_a_kill(pairs: Path, fakes: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("evaluate", "usefulness", pairs, "--out", out, "--bundle", fakes, "--backend", "fake", *FLAGS)
    process = PreloadedProcess(M2L, *arguments)
    deadline = time.monotonic() + 120
    while len(list(out.glob("cells/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert len(kept) >= 2
    (out / "cells" / ".m2l-usefulness-1-of-1-abc.partial").write_text("left by a kill")
    process = PreloadedProcess(M2L, *arguments)
    assert process.wait() == 0, process.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(out) == contents(finished)
    assert not list(out.rglob("*.partial"))


def test_evaluate_usefulness__more_seeds_and_arms_extend_a_run(
    pairs: Path, fakes: Path, finished: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in out.glob("cells/*.json")}
    found = result_of(run(pairs, out, fakes, seeds=3, arms=("NoAug", "ClassicAug", "AllAug")))
    assert (found.seeds, len(list(out.glob("cells/*.json")))) == (3, 9)
    assert all((out / "cells" / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 4}, r"holds results of other settings: steps 3, now 4; choose another folder"),
        ({"width": 2}, "width 1, now 2"),
        ({"ratio": 0.5}, "ratio 1.0, now 0.5; share 0.5, now 0.3"),
        ({"use": "pretrain"}, "use mixed, now pretrain"),
        ({"masks": "deform"}, "masks as-they-are, now deform"),
        ({"appearance": "min_contrast=0"}, "appearance , now min_contrast=0"),
    ],
)
def test_evaluate_usefulness__results_of_other_settings_are_refused(
    pairs: Path, fakes: Path, finished: Path, options: dict[str, Any], message: str
) -> None:
    before = contents(finished)
    with pytest.raises(InputError, match=message):
        run(pairs, finished, fakes, **options)
    assert contents(finished) == before


def test_evaluate_usefulness__other_data_and_bundles_are_other_settings(
    pairs: Path, fakes: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="test_fingerprint"):
        run(write_pairs(tmp_path / "data", TRAIN, TEST - 1), finished, fakes)
    other = write_bundle_of_fakes(tmp_path / "bundle")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steered"', '"other"'))
    with pytest.raises(InputError, match="bundle_sha256"):
        run(pairs, finished, other)


def test_evaluate_usefulness__files_of_other_versions_and_damaged_ones(
    pairs: Path, fakes: Path, finished: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    cell, settings = out / "cells" / "AllAug-100pct-seed1.json", out / "settings.json"
    for path, change, message in (
        (settings, {"schema_version": 2}, r"settings.json is of m2l-usefulness version 2, this m2l writes m2l-use.* 1"),
        (settings, {"m2l": "9.9.9"}, "other settings: m2l 9.9.9, now"),
        (settings, {"more": 1}, r"settings.json is damaged.* discard it with --overwrite$"),
        (cell, {"schema_version": 2}, r"AllAug-100pct-seed1.json is of m2l-usefulness version 2.*trains it again"),
        (cell, {"settings_sha256": "0"}, "is of other settings than settings.json beside it"),
        (cell, {"seed": 0}, "is of another cell, or scores are missing"),
        (cell, {"scores": {"dice": [0.5]}}, "is of another cell, or scores are missing"),
        (cell, {"scores": "none"}, "is damaged"),
    ):
        content = path.read_bytes()
        path.write_text(json.dumps(json.loads(content) | change))
        with pytest.raises(InputError, match=message):
            run(pairs, out, fakes)
        path.write_bytes(content[:100])
        with pytest.raises(InputError, match=f"{path.name} is damaged"):
            run(pairs, out, fakes)
        path.write_bytes(content)
    assert contents(out) == contents(finished)
    cell.unlink()
    run(pairs, out, fakes)
    assert contents(out) == contents(finished)
    run(pairs, out, fakes, {"overwrite": True}, steps=4, seeds=1)
    assert [path.name for path in sorted(out.glob("cells/*"))] == [
        "AllAug-100pct-seed0.json",
        "ClassicAug-100pct-seed0.json",
    ]


def test_evaluate_usefulness__folders_that_are_not_its_own(pairs: Path, fakes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, message in (("mine", "holds other files, such as notes.txt"), ("file", "is not a folder")):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=message):
                run(pairs, tmp_path / name, fakes, {"overwrite": overwrite})
    (tmp_path / "mine" / "settings.json").write_text('{"color": "blue"}')
    with pytest.raises(OutputError, match="is not of m2l evaluate usefulness"):
        run(pairs, tmp_path / "mine", fakes, {"overwrite": True})
    with pytest.raises(InputError, match=r"settings.json is damaged.*; choose another folder$"):  # none to overwrite
        run(pairs, tmp_path / "mine", fakes)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(ArgumentError, match="a shard is I/N"):
            run(pairs, tmp_path / "new", fakes, {"shard": shard})
    with pytest.raises(ArgumentError, match="overwriting goes with a whole run"):
        run(pairs, tmp_path / "new", fakes, {"shard": (1, 2), "overwrite": True})
    assert not (tmp_path / "new").exists()


def test_evaluate_usefulness__too_few_pairs_are_told_before_anything_is_trained(
    pairs: Path, fakes: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="5 % of 40 training pairs is 2 pairs, too few for an arm"):
        run(pairs, tmp_path / "run", fakes, fractions=(5.0, 100.0))
    assert not (tmp_path / "run").exists()


def test_evaluate_usefulness__appearances_are_those_asked_for(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of little contrast are in a bundle, and are synthesized with where they are asked for."""
    limit = float(np.quantile(contrasts(), 0.9))
    bundle = steered_bundle(tmp_path / "bundle", side=2 * SIDE, min_contrast=limit).path
    seen: list[set[tuple[float, ...]]] = []
    synthesize = Synthesizer.synthesize_checked

    def watched(self: Synthesizer, masks: Any, seeds: Any = None, appearances: Any = None) -> Any:
        seen[-1] |= set(map(tuple, appearances))
        return synthesize(self, masks, seeds, appearances)

    monkeypatch.setattr(Synthesizer, "synthesize_checked", watched)
    rows = {tuple(row): float(apart) for row, apart in zip(table(), contrasts(), strict=True)}
    for name, text in (("usual", None), ("all", "min_contrast=0"), ("dark", "lesion_L=35")):
        seen.append(set())
        run(pairs, tmp_path / name, bundle, arms=("AllAug",), seeds=1, ratio=4.0, appearance=text)
    usual, every, dark = seen
    assert usual == {row for row, apart in rows.items() if apart >= limit}
    assert every <= set(rows)
    assert min(rows[row] for row in every) < limit
    assert {row[0] for row in dark} == {35.0}
    for text, message in (("hair=1", "of this bundle have no 'hair'"), ("lesion_L", "expected NAME=NUMBER")):
        with pytest.raises(InputError, match=message):
            run(pairs, tmp_path / "run", bundle, appearance=text)
        assert not (tmp_path / "run").exists()


def test_evaluate_usefulness__equal_images_of_a_mask_are_refused(
    pairs: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="several images of a mask would be the same"):
        run(pairs, tmp_path / "run", bundle_copy, ratio=2.0)


def test_evaluate_usefulness__a_loss_that_is_no_number_keeps_the_cells_before(
    pairs: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pairs, tmp_path / "run", fakes, arms=("ClassicAug",))
    monkeypatch.setattr(fitting, "loss", lambda logits, target: (logits * torch.nan).sum())
    with pytest.raises(Diverged, match="at step 1"):
        run(pairs, tmp_path / "run", fakes)
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 2


@pytest.mark.slow
def test_evaluate_usefulness__segmenters_learn(pairs: Path, fakes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"arms": ("ClassicAug",), "seeds": 1, "steps": 60, "width": 4}
    found = result_of(run(pairs, tmp_path / "run", fakes, **options))
    means = {one.metric: one.mean.value for one in found.scores}
    assert means["dice"] > 0.85
    assert means["jaccard"] > 0.7
    assert means["boundary_px"] < 20
    assert found.comparisons == []
    assert found.generator is None
    assert not (tmp_path / "run" / "forest.svg").exists()


def test_cells__are_every_arm_fraction_and_seed_once() -> None:
    options = UsefulnessOptions(fractions=(100.0, 12.5), seeds=2)
    names = [cell.name for cell in cells(options)]
    assert len(names) == len(set(names)) == 5 * 2 * 2
    assert names[:2] == ["NoAug-12.5pct-seed0", "ClassicAug-12.5pct-seed0"]


def comparison(verdict: Any, arm: str = "AllAug", value: float = 0.01) -> Comparison:
    return Comparison(
        arm=arm,
        baseline="ClassicAug",
        fraction=5.0,
        metric="dice",
        difference=Interval(value=value, low=value - 0.005, high=value + 0.005),
        p=0.01,
        p_holm=0.02,
        verdict=verdict,
    )


def test_conclude__says_plainly_whether_there_is_a_gain() -> None:
    none = conclude([comparison("no difference shown")], None, {"5": 72}, 5, ["AllAug"])
    assert none[0].startswith(
        "At 5 % of the real pairs AllAug was not shown to differ from ClassicAug: +1.00 [+0.50, +1"
    )
    assert none[1] == "No gain of synthesized pairs over ClassicAug was shown."
    assert none[0].endswith("(the ranks of images differ, their mean does not: a few outweigh many).")
    worse = conclude([comparison("worse", value=-0.01)], None, {"5": 72}, 5, ["AllAug"])
    assert "was worse than ClassicAug: -1.00" in worse[0]
    assert worse[1] == none[1]
    gain = conclude([comparison("better")], None, {"5": 72}, 3, ["AllAug"])
    assert "was better than ClassicAug" in gain[0]
    assert gain[1].startswith("With 3 seeds little is known")


def test_conclude__names_what_the_generator_has_seen() -> None:
    def said(training_pairs: int | None, at_least: int | None) -> str:
        seen = Generator(name="b", sha256="0", engine="e", training_pairs=training_pairs, at_least=at_least)
        return conclude([], seen, {"5": 72, "100": 1693}, 5, ["AllAug"])[-1]

    assert said(1792, 1377).startswith(
        "The generator was trained on 1,792 real pairs, more than the arms have at 5 % (72)"
    )
    assert "100 % (1,693)" in said(1792, 1377)
    assert "100 %" not in said(1000, None)
    assert "at least 1,377 (the bundle does not say how many)" in said(None, 1377)
    assert said(50, None).endswith("no more than any arm has, if they are the same ones.")
    assert said(None, None) == "The bundle does not say how many real pairs its generator was trained on."


@pytest.mark.slow
def test_usefulness__at_the_command_line(
    m2l: CommandLine, pairs: Path, fakes: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("evaluate", "usefulness", pairs, "--out", out, "--bundle", fakes, "--backend", "fake", *FLAGS)
    half = m2l(*command, "--shard", "1/2")
    assert (half.code, half.out, "2 of 4 segmenters are done" in half.err) == (0, "", True), half
    done = m2l(*command)
    assert done.code == 0, done
    assert "AllAug, 100 %, seed 1: Dice" in done.err
    assert "100 %, 32" in done.out
    assert contents(out) == contents(finished)
    again = m2l(*command, "--json")
    assert json.loads(again.out)["schema"] == "m2l-usefulness"
    for options, code, message in (
        (("--steps", 4), 1, "other settings: steps 3, now 4"),
        (("--arms", "AllAug,Other"), 2, "there is no arm 'Other'"),
        (("--fractions", "5,all"), 2, "--fractions are percents"),
        (("--fractions", "0"), 2, "a fraction is above 0"),
        (("--shard", "3/2"), 2, "--shard is I/N"),
        (("--masks", "drawn"), 2, "drawn"),
        (("--appearance", "lesion_L=101"), 2, "lesion_L must be between 0 and 100, got 101"),
        (("--device", "tpu"), 2, "no device 'tpu'"),
    ):
        refused = m2l(*command, *options)
        assert (refused.code, message in refused.err, "Traceback" in refused.err) == (code, True, False), refused

    train = fitting.Fitting.train

    def interrupted(self: fitting.Fitting, images: Any, masks: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(fitting.Fitting, "train", train)
        return train(self, images, masks)

    monkeypatch.setattr(fitting.Fitting, "train", interrupted)
    stopped = m2l(*command, "--seeds", 3)
    assert (stopped.code, "stopped; 4 of 6 segmenters are done; the same command goes on" in stopped.err) == (130, True)
    assert contents(out) == contents(finished)
