"""Generators of their own for each fraction and seed: the pairs they are trained on, and bundles matched to cells."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from PIL import Image
from usefulness_data import QUICK, write_bundle_of_fakes

from m2l_runtime._utils import atomic
from m2l_runtime.errors import InputError, OutputError
from m2l_train.data.data_folder import open_data
from m2l_train.data.data_record import record_data
from m2l_train.evaluate import Usefulness, UsefulnessOptions, evaluate_usefulness, write_own_pairs
from m2l_train.evaluate.html_report.experiments import experiment_facts

SMALL: dict[str, Any] = QUICK | {"arms": ("ClassicAug", "AllAug"), "fractions": (25.0, 100.0), "seeds": 2}
DRAWS = ("25pct-seed0", "25pct-seed1", "100pct-seed0", "100pct-seed1")
COUNTS = {"25": 8, "100": 32}
CHECKPOINT = b"weights"


@pytest.fixture(scope="module")
def folders(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "pairs"
    write_own_pairs(pairs, out, UsefulnessOptions(**SMALL))
    return out


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles that say that they come from runs on as many pairs as each has."""
    root = tmp_path_factory.mktemp("own") / "bundles"
    for draw in DRAWS:
        say(write_bundle_of_fakes(root / draw), draw, COUNTS[draw.partition("pct")[0]])
    return root


def say(bundle: Path, name: str, count: int | None) -> None:
    """Let a bundle say its name, and how many pairs its generator was trained on."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    training: dict[str, Any] = {
        "config": {}, "pair_count": count, "epoch": 1, "step": 1, "hours": 0.1, "val_l1_levels": None, "device": "cpu",
        "versions": {},
    }  # fmt: skip
    manifest["name"] = name
    manifest["provenance"] |= {
        "checkpoint": "latest_net_G.pth", "checkpoint_sha256": hashlib.sha256(CHECKPOINT).hexdigest(),
        "training": training,
    }  # fmt: skip
    if count is None:
        del manifest["provenance"]["training"]
    path.write_text(json.dumps(manifest))


def record_runs(folders: Path, root: Path) -> Path:
    """What runs of m2l train on the folders would leave, as far as it is looked at."""
    for draw in DRAWS:
        (root / draw).mkdir(parents=True)
        (root / draw / "latest_net_G.pth").write_bytes(CHECKPOINT)
        with ThreadPoolExecutor(1) as pool:
            record = record_data(open_data(folders / draw), pool, None)
        (root / draw / "data.json").write_bytes(record.to_json())
    return root


def run(data: Path, out: Path, bundles: Path, training_runs: Path | None = None, **options: Any) -> Usefulness:
    given = UsefulnessOptions(**SMALL | options)
    report = evaluate_usefulness(data, out, given, bundles=bundles, training_runs=training_runs, backend="fake")
    assert report.result is not None
    return report.result


@pytest.fixture(scope="module")
def ran(pairs: Path, bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    run(pairs, out, bundles)
    return out


def cell(ran: Path, draw: str, arm: str = "AllAug") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran / "cells" / f"{arm}-{draw}.json").read_text())
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_write_own_pairs__folders_hold_the_pairs_of_the_cells_and_no_others(
    pairs: Path, folders: Path, ran: Path
) -> None:
    assert sorted(path.name for path in folders.iterdir()) == sorted(DRAWS)
    tested = set(names(pairs / "val" / "images"))
    for draw in DRAWS:
        for arm in ("ClassicAug", "AllAug"):
            one = cell(ran, draw, arm)
            for split, key in (("train", "training_pairs"), ("val", "validation_pairs")):
                for kind in ("images", "masks"):
                    found = names(folders / draw / split / kind)
                    assert found == sorted(one[key])
                    assert not tested & set(found)
        for path in (folders / draw).rglob("*.png"):
            kind, name = path.parent.name, path.name
            assert path.read_bytes() == (pairs / "train" / kind / name).read_bytes()
        assert len(open_data(folders / draw).train) == COUNTS[draw.partition("pct")[0]]


def test_write_own_pairs__combined_pictures_stay_combined(pairs: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for path in (pairs / split / "images").iterdir():
            picture = Image.new("RGB", (64, 32))
            for kind, left in (("masks", 0), ("images", 32)):
                with Image.open(pairs / split / kind / path.name) as half:
                    picture.paste(half.convert("RGB"), (left, 0))
            picture.save(tmp_path / "data" / split / path.name)
    report = write_own_pairs(
        tmp_path / "data", tmp_path / "out", UsefulnessOptions(**SMALL | {"fractions": (25.0,), "seeds": 1})
    )
    (folder,) = report.folders
    found = open_data(folder)
    assert (len(found.train), len(found.val), found.layout) == (8, 2, "combined pictures in train")


def test_write_own_pairs__goes_on_after_a_kill_and_keeps_what_is_there(
    pairs: Path, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "pairs", UsefulnessOptions(**SMALL)
    link, count = os.link, [0]

    def killed(source: Path, target: Path) -> None:
        count[0] += 1
        if count[0] == 30:  # amid the second folder
            raise KeyboardInterrupt
        if count[0] % 2:
            raise OSError("no hard links here")
        link(source, target)

    monkeypatch.setattr("m2l_train.evaluate.usefulness.own_pairs.os.link", killed)
    with pytest.raises(KeyboardInterrupt):
        write_own_pairs(pairs, out, options)
    assert [path.name for path in out.iterdir()] == [DRAWS[0]]
    left = out / f".{DRAWS[1]}.m2l-0123456789ab.partial"  # as a kill leaves it
    (left / "train").mkdir(parents=True)
    stopped = write_own_pairs(pairs, out, options, should_stop=lambda: (out / DRAWS[1]).exists())
    assert (stopped.was_stopped, len(stopped.folders), stopped.total) == (True, 2, 4)
    kept = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    report = write_own_pairs(pairs, out, options)
    assert [path.name for path in report.folders] == list(DRAWS)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    def contents(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert contents(out) == contents(folders)


def test_write_own_pairs__other_pairs_in_a_folder_are_refused(pairs: Path, folders: Path, tmp_path: Path) -> None:
    options = UsefulnessOptions(**SMALL)
    for number in range(3):
        out = Path(shutil.copytree(folders, tmp_path / f"{number}"))
        picture = next((out / DRAWS[3] / "train" / "images").iterdir())
        if number == 0:
            picture.unlink()
        elif number == 1:
            picture.write_bytes(picture.read_bytes() + b" ")
        else:
            shutil.copy(picture, picture.with_name("other.png"))
        with pytest.raises(OutputError, match="100pct-seed1 holds other pairs than are drawn now"):
            write_own_pairs(pairs, out, options)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is not a folder"):
        write_own_pairs(pairs, tmp_path / "file", options)


def test_evaluate_usefulness__each_cell_has_the_bundle_of_its_fraction_and_seed(bundles: Path, ran: Path) -> None:
    settings = json.loads((ran / "settings.json").read_text())
    assert settings["bundle_sha256"] is None
    for draw in DRAWS:
        manifest = (bundles / draw / "manifest.json").read_bytes()
        assert cell(ran, draw)["bundle_sha256"] == hashlib.sha256(manifest).hexdigest()
        assert cell(ran, draw, "ClassicAug")["bundle_sha256"] == ""
    result = json.loads((ran / "usefulness.json").read_text())
    assert result["generator"] is None
    assert [(one["draw"], one["name"], one["training_pairs"]) for one in result["generators"]] == [
        (draw, draw, COUNTS[draw.partition("pct")[0]]) for draw in DRAWS
    ]
    assert result["conclusions"][-1].endswith(
        "by their number, which its bundle says: no generator saw more pairs than its arms."
    )


def test_evaluate_usefulness__runs_are_compared_file_by_file(
    pairs: Path, bundles: Path, folders: Path, ran: Path, tmp_path: Path
) -> None:
    runs, out = record_runs(folders, tmp_path / "runs"), Path(shutil.copytree(ran, tmp_path / "run"))
    found = run(pairs, out, bundles, runs)
    assert all(one.is_record_compared for one in found.generators)
    assert "file by file, as its training run has recorded: no generator saw more" in found.conclusions[-1]
    assert dict(experiment_facts(found))["pairs that the generator saw"] == "8, 8, 32, 32"
    record = runs / DRAWS[0] / "data.json"
    content = record.read_text()
    other = (runs / DRAWS[1] / "data.json").read_text()
    document = json.loads(content)
    document["train"][0][0][1] = "0" * 64
    for text, message in (
        (other, r"25pct-seed0 was trained on \d other pairs?, such as p00.*usefulness-pairs"),
        (json.dumps(document), "25pct-seed0 was trained on others, not on the pairs"),
        (content[:50], "data.json is damaged"),
    ):
        record.write_text(text)
        with pytest.raises(InputError, match=message):
            run(pairs, out, bundles, runs)
    record.unlink()
    with pytest.raises(InputError, match="data.json"):
        run(pairs, out, bundles, runs)
    record.write_text(content)
    (runs / DRAWS[2] / "latest_net_G.pth").write_bytes(b"trained on")
    with pytest.raises(InputError, match="100pct-seed0 was not exported from .* as it is now"):
        run(pairs, out, bundles, runs)


def test_evaluate_usefulness__missing_bundles_are_named_before_any_work(
    pairs: Path, bundles: Path, tmp_path: Path
) -> None:
    some = Path(shutil.copytree(bundles, tmp_path / "some"))
    for draw in DRAWS[1:3]:
        shutil.rmtree(some / draw)
    with pytest.raises(InputError, match=r"some lacks 2 bundles of 4: 25pct-seed1, 100pct-seed0; expected"):
        run(tmp_path / "no data", tmp_path / "run", some)
    with pytest.raises(InputError, match=r"some lacks 2 runs of 4"):
        run(pairs, tmp_path / "run", bundles, some)
    with pytest.raises(InputError, match="training runs belong to bundles of each fraction and seed"):
        evaluate_usefulness(pairs, tmp_path / "run", training_runs=some)
    with pytest.raises(InputError, match="expected one bundle for all"):
        evaluate_usefulness(pairs, tmp_path / "run", bundle=bundles / DRAWS[0], bundles=bundles)
    assert not (tmp_path / "run").exists()


def test_evaluate_usefulness__a_generator_that_saw_other_numbers_of_pairs_is_refused(
    pairs: Path, bundles: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundles, tmp_path / "other"))
    say(other / DRAWS[0], "x", 40)
    with pytest.raises(
        InputError, match="other/25pct-seed0 was trained on 40 pairs, and the arms of 25pct-seed0 on 8;"
    ):
        run(pairs, tmp_path / "run", other)
    say(other / DRAWS[0], "x", None)
    with pytest.raises(InputError, match="was trained on at least 60 pairs"):  # rows of its table of appearances
        run(pairs, tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


def test_evaluate_usefulness__a_cell_of_another_bundle_is_refused(
    pairs: Path, bundles: Path, ran: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundles, tmp_path / "other"))
    say(other / DRAWS[3], "trained longer", 32)
    out = Path(shutil.copytree(ran, tmp_path / "run"))
    with pytest.raises(InputError, match=r"AllAug-100pct-seed1.json was trained on images of another bundle"):
        run(pairs, out, other)
    (out / "cells" / "AllAug-100pct-seed1.json").unlink()
    assert run(pairs, out, other).generators[3].name == "trained longer"
    with pytest.raises(InputError, match="other settings: bundle_sha256 None, now"):
        evaluate_usefulness(pairs, out, UsefulnessOptions(**SMALL), bundle=bundles / DRAWS[0], backend="fake")


@pytest.mark.slow
def test_usefulness_pairs__at_the_command_line(m2l: CommandLine, pairs: Path, folders: Path, tmp_path: Path) -> None:
    command = ("evaluate", "usefulness-pairs", pairs, tmp_path / "pairs", "--fractions", "25,100", "--seeds", 2)
    done = m2l(*command, "--side", 32, "--workers", 1)
    assert (done.code, done.out.strip()) == (0, "4 of 4 folders are there"), done
    assert "25pct-seed0: 8 pairs to train on, 2 to validate on" in done.err
    for draw in DRAWS:
        assert names(tmp_path / "pairs" / draw / "train" / "images") == names(folders / draw / "train" / "images")
    assert not list((tmp_path / "pairs").rglob(f"*{atomic.SUFFIX}"))
    refused = m2l("evaluate", "usefulness-pairs", tmp_path / "none", tmp_path / "x")
    assert (refused.code, "Traceback" in refused.err) == (1, False)
