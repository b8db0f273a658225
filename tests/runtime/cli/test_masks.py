"""`m2l masks`, and `m2l synth` on masks that are drawn."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from support import TINY_BUNDLE, disc, save, slow

from m2l_runtime import Synthesizer, iterate_folder
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.masks.sources import spec

PROGRAM = "from m2l_runtime.cli.main import main; main()"
TINY = ("--bundle", TINY_BUNDLE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    for number in range(5):
        mask = disc(96, 14 + 3 * number, 48, 44)
        mask[40:44, : 60 + 3 * number][:, 40:] = 255
        save(folder / f"m{number}.png", mask)
    return folder


def test_masks__shapes_lie_where_they_were_asked_for(m2l: CommandLine, tmp_path: Path) -> None:
    arguments = ("--count", 12, "--kinds", "star, circle", "--size", 64, "--seed", 9)
    done = m2l("masks", "shapes", tmp_path / "out", *arguments, "--sheet", tmp_path / "sheet.png")
    assert (done.code, done.out) == (0, f"12 masks in {tmp_path / 'out'}\n")
    files = contents(tmp_path / "out")
    assert len(files) == 13
    about = json.loads(files.pop("masks.json"))
    assert (about["seed"], about["kinds"], about["count"]) == (9, ["star", "circle"], 12)
    assert list(files)[:2] == ["000000-star.png", "000001-circle.png"]
    with Image.open(tmp_path / "out" / "000000-star.png") as picture:
        assert (picture.mode, picture.size) == ("L", (64, 64))
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size[0] > 900
    m2l("masks", "shapes", tmp_path / "again", *arguments, "--workers", 3)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")
    m2l("masks", "shapes", tmp_path / "more", *arguments[2:], "--count", 20)
    assert {n: c for n, c in contents(tmp_path / "more").items() if n in files} == files


def test_masks__only_folders_of_masks_are_overwritten(m2l: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    m2l("masks", "shapes", out, "--count", 3)
    before = contents(out)
    refused = m2l("masks", "shapes", out, "--count", 2)
    assert refused.code == 1
    assert "exists already; choose another name or --overwrite it" in refused.err
    assert contents(out) == before
    assert m2l("masks", "shapes", out, "--count", 2, "--overwrite").code == 0
    assert len(contents(out)) == 3
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    refused = m2l("masks", "shapes", other, "--overwrite")
    assert (refused.code, (other / "thesis.tex").read_text()) == (1, "years of work")
    assert "is no folder of `m2l masks`, so it is not overwritten" in refused.err


def test_masks__what_fails_in_the_middle_leaves_nothing(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    failed = m2l("masks", "deform", masks, tmp_path / "out", "--range", 9, "--modes", 72)
    assert failed.code == 1
    assert "100 deformations can be used" in failed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given"]


def drawing(out: Path, count: int) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "masks", "shapes", str(out), "--count", str(count), "--size", "64"]


def staging_folders(folder: Path) -> bool:
    return any(True for staging in folder.glob(".*.partial") for _ in staging.glob("*.png"))


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGTERM, slow(signal.SIGKILL)])
def test_masks__a_run_that_is_ended_leaves_nothing_under_its_name(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(drawing(tmp_path / "out", 100_000), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not staging_folders(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert not (tmp_path / "out").exists()
    if number is signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert b"stopped; nothing was written" in said
    subprocess.run(drawing(tmp_path / "out", 3), check=True, capture_output=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # what the killed one left is swept away


def test_masks__deform_names_what_it_passes_over(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    save(masks / "none.png", np.zeros((20, 20), np.uint8))
    done = m2l("masks", "deform", masks, tmp_path / "out", "--count", 6, "--size", 64, "--alpha", 0.5)
    assert done.code == 3
    assert "passed over none.png: is empty" in done.err
    about = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert (about["masks_used"], about["alpha"]) == (5, 0.5)
    assert sorted(contents(tmp_path / "out"))[:2] == ["000000-m0.png", "000001-m1.png"]


def test_masks__pca_learns_and_draws(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    model = tmp_path / "model.npz"
    learnt = m2l("masks", "pca", masks, "--model", model)
    assert learnt.code == 0, learnt.err
    assert "components of the shapes of 5 masks; the first explain" in learnt.out
    refused = m2l("masks", "pca", masks, "--model", model)
    assert (refused.code, "exists already" in refused.err) == (1, True)
    along = ("masks", "pca", "--model", model, tmp_path / "along", "--component", 1, "--size", 64)
    done = m2l(*along, "--sheet", tmp_path / "sheet.png")
    assert done.code == 0, done.err
    assert sorted(contents(tmp_path / "along"))[0] == "000000-pc1_plus_3.00.png"
    assert len(contents(tmp_path / "along")) == 8
    done = m2l("masks", "pca", "--model", model, tmp_path / "any", "--random", "--count", 4, "--size", 64)
    assert (done.code, len(contents(tmp_path / "any"))) == (0, 5)
    beyond = m2l("masks", "pca", "--model", model, tmp_path / "no", "--component", 40)
    assert (beyond.code, "expected from 1 to" in beyond.err) == (2, True)
    both = m2l("masks", "pca", "--model", model, tmp_path / "no", "--component", 1, "--random")
    assert both.code == 2
    assert not (tmp_path / "no").exists()


def test_masks__describe_prints_and_plots(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    m2l("masks", "shapes", tmp_path / "shapes", "--count", 30, "--size", 96)
    done = m2l("masks", "describe", tmp_path / "shapes", masks, "--plot", tmp_path / "plot.png")
    assert done.code == 0, done.err
    assert done.out.startswith("30 masks, reference 5 masks\n")
    assert {"area", "parts", "holes", "roundness", "touches"} <= {line.split()[0] for line in done.out.splitlines()}
    with Image.open(tmp_path / "plot.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    found = json.loads(m2l("masks", "describe", masks, masks, "--json").out)
    assert found["masks"]["figures"] == found["reference"]["figures"]
    assert found["differences"]["area"]["ks_statistic"] == 0
    (masks / "torn.png").write_bytes(b"\x89PNG")
    assert m2l("masks", "describe", masks).code == 3
    assert m2l("masks", "describe", tmp_path / "gone").code == 1


def test_masks__drawn_masks_and_their_images_come_out_as_pairs(m2l: CommandLine, tmp_path: Path) -> None:
    """The same bytes as masks drawn into a folder first."""
    drawn = m2l("synth", "shapes:5,seed=4,kinds=circle+star", tmp_path / "direct", *TINY)
    assert drawn.code == 0, drawn.err
    m2l("masks", "shapes", tmp_path / "masks", "--count", 5, "--seed", 4, "--kinds", "circle,star")
    m2l("synth", tmp_path / "masks", tmp_path / "folder", "--pairs", *TINY)
    direct, folder = contents(tmp_path / "direct"), contents(tmp_path / "folder")
    names = {name for name in direct if name.endswith(".png")}
    assert len(names) == 10
    assert {name: direct[name] for name in names} == {n: c for n, c in folder.items() if n.endswith(".png")}
    with (tmp_path / "direct" / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "image": "images/000001-star.png",
        "mask": "masks/000001-star.png",
        "source": "000001-star.png",
        "seed": "",  # the tiny generator takes the mask alone
        "mask_seed": "4",
    }
    hashes = [
        [json.loads(line)["mask_sha256"] for line in files[".m2l/m2l-log.jsonl"].splitlines()]
        for files in (direct, folder)
    ]
    assert hashes[0] == hashes[1]


def test_masks__drawn_masks_go_into_shards_and_are_resumed(m2l: CommandLine, tmp_path: Path) -> None:
    whole = ("synth", "shapes:7,size=64", tmp_path / "whole", "--format", "webdataset", "--masks-per-file", 2, *TINY)
    assert m2l(*whole).code == 0
    for number in (1, 2):
        arguments = (*whole[:2], tmp_path / "parts", *whole[3:], "--shard", f"{number}/2")
        assert m2l(*arguments).code == 0
    tars = {n: c for n, c in contents(tmp_path / "whole").items() if n.endswith(".tar")}
    assert len(tars) == 4
    assert {n: c for n, c in contents(tmp_path / "parts").items() if n.endswith(".tar")} == tars
    (tmp_path / "whole" / "lesions-000001.tar").unlink()
    resumed = json.loads(m2l(*whole, "--resume", "--json").out)
    assert (resumed["images"], resumed["kept"]) == (2, 5)
    assert {n: c for n, c in contents(tmp_path / "whole").items() if n.endswith(".tar")} == tars
    other = (whole[0], "shapes:7,size=64,seed=1", *whole[2:])
    assert json.loads(m2l(*other, "--resume", "--json").out)["images"] == 7


def test_masks__every_kind_can_be_drawn_for_synth(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    m2l("masks", "pca", masks, "--model", tmp_path / "m.npz")
    for text in (
        f"deform:3,masks={masks},alpha=0.5",
        f"pca:3,model={tmp_path / 'm.npz'},seed=1",
        f"pca:3,model={tmp_path / 'm.npz'},component=1,sigmas=1",
    ):
        out = tmp_path / text.partition(":")[0] / str(len(text))
        done = m2l("synth", text, out, *TINY, "--output-size", "original")
        assert done.code == 0, done.err
        assert len(list((out / "images").iterdir())) == len(list((out / "masks").iterdir())) == 3


def test_masks__iterate_over_drawn_masks(tiny_synth: Synthesizer, tmp_path: Path) -> None:
    drawn = spec.open_source("shapes:3", 256)
    results = list(iterate_folder(drawn, tiny_synth))
    assert [result.name for result in results] == drawn.names
    for result in results:
        assert result.mask is not None
        np.testing.assert_array_equal(result.mask, drawn.mask(result.name))
        save(tmp_path / "m.png", result.mask)
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", (256, 256)).mask, result.mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shapes:0", "number of masks must be between 1"),
        ("shapes:3,color=red", "shapes has no setting 'color=red'; expected some of kinds, size"),
        ("shapes:3,seed=x", "shapes: seed must be a number, got 'x'"),
        ("shapes:3,kinds=cube", "no kind of shape 'cube'"),
        ("deform:3", "deform needs masks to deform"),
        ("deform:3,masks=/nowhere", "/nowhere does not exist"),
        ("pca:3", "pca needs a model"),
        ("pca:3,model=/nowhere", "cannot read /nowhere"),
        ("pca:3,model=/nowhere,component=1,seed=2", "leave out seed"),
        ("shapes:three", "does not say what to draw"),
        ("Shapes:3", "does not say what to draw; expected KIND:COUNT"),
        ("deform:3,masks=", "deform: masks has no value"),
        ("shapes:3,seed=1,seed=2", "shapes: seed is given twice"),
    ],
)
def test_masks__texts_that_ask_for_nothing_that_can_be_drawn(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec.open_source(text)


def test_masks__a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec.is_spec("shapes:20")
    os.mkdir("shapes:20")  # noqa: PTH102
    assert not spec.is_spec("shapes:20")
    assert not spec.is_spec("masks")


@pytest.mark.parametrize("package", [slow("scipy"), slow("matplotlib")])
def test_masks__a_missing_package_is_named(package: str, tmp_path: Path, masks: Path) -> None:
    program = f"import sys\nsys.modules['{package}'] = None\nfrom m2l_runtime.cli.main import main; main()"
    command = [sys.executable, "-c", program, "masks", "describe", str(masks), "--plot", str(tmp_path / "p.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f'm2l: error: m2l masks describe needs {package}, which is not installed: pip install "m2l[masks]"'
    )
    shapes = [sys.executable, "-c", program, "masks", "shapes", str(tmp_path / "out"), "--count", "2"]
    assert subprocess.run(shapes, capture_output=True, check=False).returncode == 0


def test_masks__nothing_but_a_model_is_replaced_by_a_model(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    picture = save(tmp_path / "m.png", disc())
    before = picture.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for target in (picture, tmp_path / "pipe"):
        refused = m2l("masks", "pca", masks, "--model", target, "--overwrite")
        assert (refused.code, "m2l masks pca" in refused.err) == (1, True)
    assert picture.read_bytes() == before
    model = tmp_path / "m.npz"
    assert m2l("masks", "pca", masks, "--model", model).code == 0
    assert m2l("masks", "pca", masks, "--model", model, "--overwrite").code == 0
    assert m2l("synth", f"pca:2,model={tmp_path / 'pipe'}", tmp_path / "out", *TINY).code == 1


def test_masks__pictures_are_not_replaced_unasked(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    kept = save(tmp_path / "kept.png", disc())
    before = kept.read_bytes()
    for arguments in (
        ("masks", "describe", kept, "--plot", kept),
        ("masks", "shapes", tmp_path / "out", "--count", 2, "--sheet", kept),
    ):
        refused = m2l(*arguments)
        assert (refused.code, "kept.png exists already" in refused.err) == (1, True)
    nowhere = m2l("masks", "shapes", tmp_path / "out", "--count", 2, "--sheet", tmp_path / "no" / "s.png")
    assert (nowhere.code, "does not exist; make it first" in nowhere.err) == (1, True)
    assert kept.read_bytes() == before
    assert not (tmp_path / "out").exists()
    assert m2l("masks", "describe", masks, "--plot", kept, "--overwrite").code == 0


def test_masks__what_else_lies_in_a_folder_of_masks_is_kept(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    out = tmp_path / "out"
    m2l("masks", "shapes", out, "--count", 2)
    (out / "notes.txt").write_text("mine")
    refused = m2l("masks", "shapes", out, "--count", 2, "--overwrite")
    assert (refused.code, "also holds notes.txt, so it is not overwritten" in refused.err) == (1, True)
    assert (out / "notes.txt").read_text() == "mine"
    for place in (masks, masks / "sub", tmp_path):
        refused = m2l("masks", "deform", masks, place, "--overwrite")
        assert (refused.code, "lie in one another" in refused.err) == (1, True)


def test_masks__options_without_effect_are_refused(m2l: CommandLine, tmp_path: Path, masks: Path) -> None:
    model = ("--model", tmp_path / "m.npz")
    for arguments, name in (
        ((masks, *model, "--sheet", "s.png"), "--sheet has no effect on learning"),
        ((masks, *model, "--count", 3), "--count has no effect on learning"),
        ((tmp_path / "o", *model, "--component", 1, "--count", 3), "--count has no effect on --component"),
        ((tmp_path / "o", *model, "--random", "--steps", 3), "--steps has no effect on --random"),
    ):
        refused = m2l("masks", "pca", *arguments)
        assert (refused.code, name in " ".join(refused.err.split())) == (2, True), refused.err


def test_masks__small_masks_have_shapes_that_fit(m2l: CommandLine, tmp_path: Path) -> None:
    assert m2l("masks", "shapes", tmp_path / "small", "--count", 20, "--size", 16).code == 0
    assert m2l("masks", "shapes", tmp_path / "large", "--count", 20, "--largest", 0.5).code == 0
