"""What m2l 0.1.0 wrote loads, resumes and exports; what it was told on the command line is still understood.

The data is in tests/data/before-0.2, which says how it was made. Pixels of an engine depend on the processor and are
compared within a level; everything else is compared exactly.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from command_line import CommandLine, Outcome
from PIL import Image
from synthetic_data import data_folder

from m2l_runtime import Synthesizer, open_bundle, read_mask
from m2l_train import TrainConfig

BEFORE = Path(__file__).resolve().parent / "data" / "before-0.2"
BUNDLE = BEFORE / "bundle"
MASKS = BEFORE / "masks"
EXPECTED: dict[str, Any] = json.loads((BEFORE / "expected.json").read_text())
NAMES = tuple(f"{mask}_sample{number}.png" for mask in ("a_small", "c_large", "d") for number in (1, 2))
KEPT, MISSING = NAMES[:3], NAMES[3:]
"""Of synth-png: what its log names; what it has no whole line for (the first of them has a file)."""

SYNTH = ("--seed", "7", "--samples", "2", "--batch-size", "1", "--threads", "1", "--streams", "1")
TARS = ("--format", "webdataset", "--masks-per-file", "4")
DEPENDS_ON_MACHINE = {"engine", "encoder", "output_sha256", "mask_output_sha256"}
SOME_MASKS_BAD = 3


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """Of 0.1, among the images, and then those added since."""
    logs = [path for path in (folder / "m2l-log.jsonl", folder / ".m2l" / "m2l-log.jsonl") if path.exists()]
    lines = (line for path in logs for line in path.read_text().splitlines(keepends=True))
    return [json.loads(line) for line in lines if line.endswith("\n")]


def same_everywhere(record: dict[str, Any]) -> dict[str, Any]:
    """A line of a log without what depends on the machine; of a problem, the file alone: words may change."""
    kept = {key: value for key, value in record.items() if key not in DEPENDS_ON_MACHINE}
    if "problem" in kept:
        kept["problem"] = Path(kept["problem"].partition(":")[0]).name
    return kept


def by_name(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record["name"]: same_everywhere(record) for record in records}


def within_a_level(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> bool:
    return ours.shape == theirs.shape and int(np.abs(ours.astype(np.int16) - theirs).max()) <= 1


def untouched(path: Path, before: os.stat_result) -> bool:
    now = path.stat()
    return (now.st_mtime_ns, now.st_ino) == (before.st_mtime_ns, before.st_ino)


def chunks(png: bytes) -> list[tuple[str, bytes]]:
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8].decode(), png[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


@pytest.fixture
def half_a_run(m2l: CommandLine, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an unfinished run, as if it had been begun with the engine and the zlib that are here.

    A run is not resumed across versions of these, on purpose: the bytes could differ.
    """

    def copy(name: str) -> Path:
        options = ("--bundle", BUNDLE, "--backend", "onnxruntime", *SYNTH)
        assert m2l("synth", MASKS / "a_small.png", tmp_path / "one", *options).code == 0
        here = log_lines(tmp_path / "one")[0]
        folder = Path(shutil.copytree(BEFORE / name, tmp_path / name))
        text = (folder / "m2l-log.jsonl").read_text()
        for key in ("engine", "encoder"):
            text = text.replace(json.dumps(EXPECTED["png"]["log"][0][key]), json.dumps(here[key]))
        (folder / "m2l-log.jsonl").write_text(text)
        return folder

    return copy


def test_open_bundle__reads_a_bundle_of_0_1() -> None:
    bundle = open_bundle(BUNDLE)
    assert bundle.sha256 == EXPECTED["png"]["log"][0]["bundle_sha256"]
    assert bundle.manifest.image_size == (128, 128)
    assert [spec.role for spec in bundle.manifest.inputs] == ["mask", "appearance", "dropout_bits"]


def test_verify__passes_on_a_bundle_of_0_1(m2l: CommandLine) -> None:
    outcome = m2l("verify", BUNDLE)
    assert outcome.code == 0, outcome.err


def test_inspect__finds_a_bundle_of_0_1_whole(m2l: CommandLine) -> None:
    outcome = m2l("inspect", BUNDLE)
    assert outcome.code == 0, outcome.err
    assert "before 0.2" in outcome.out


def test_synthesizer__gives_the_images_of_0_1() -> None:
    seeds = {Path(record["name"]).name: record for record in EXPECTED["png"]["log"] if "output" in record}
    with Synthesizer.open(BUNDLE, backend="onnxruntime", device="cpu") as synth:
        for name in KEPT:
            path = BEFORE / "synth-png" / "images" / name
            with Image.open(path) as image:
                seed = int(image.info["m2l-seed"])
            mask = read_mask(MASKS / f"{name.partition('_sample')[0]}.png", synth.image_size).mask
            ours = synth(mask[None], [seed])[0]
            assert within_a_level(ours, pixels(path))
            given = np.array(seeds[name]["appearance"], np.float32)
            assert within_a_level(synth(mask[None], [seed], given)[0], ours), "the log's appearance is the drawn one"


@pytest.mark.parametrize(("name", "options"), [("drawn", ()), ("asked", ("--appearance", "lesion_L=35,skin_a=12"))])
def test_synth__seeds_appearances_and_dropout_bits_are_those_of_0_1(
    m2l: CommandLine, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    """The fake backend paints a checksum of all that comes in beside the mask: exact on every machine."""
    outcome = m2l("synth", MASKS, tmp_path / "out", "--bundle", BUNDLE, "--backend", "fake", *SYNTH, *options)
    assert outcome.code == SOME_MASKS_BAD
    ours = {path.name: sha256(pixels(path).tobytes()) for path in (tmp_path / "out").glob("*.png")}
    assert ours == EXPECTED["fake"][name]


def test_synth__png_files_are_encoded_as_in_0_1(m2l: CommandLine, tmp_path: Path) -> None:
    assert m2l("synth", MASKS, tmp_path, "--bundle", BUNDLE, "--backend", "fake", *SYNTH).code == SOME_MASKS_BAD
    expected = EXPECTED["fake"]["png"]
    found = chunks((tmp_path / "a_small_sample1.png").read_bytes())
    assert [kind for kind, _ in found] == expected["chunks"]
    assert found[0][1].hex() == expected["header"]
    assert [content.split(b"\0")[0].decode() for kind, content in found if kind == "tEXt"] == expected["keywords"]
    compressed = b"".join(content for kind, content in found if kind == "IDAT")
    assert sha256(zlib.decompress(compressed)) == expected["filtered_sha256"]
    if EXPECTED["fake"]["zlib"] == zlib.ZLIB_RUNTIME_VERSION:
        assert sha256(compressed) == expected["compressed_sha256"]


def test_synth__resumes_png_files_of_0_1(m2l: CommandLine, half_a_run: Callable[[str], Path]) -> None:
    folder = half_a_run("synth-png")
    before = {name: (folder / "images" / name).stat() for name in KEPT}
    options = ("--bundle", BUNDLE, "--backend", "onnxruntime", "--pairs", *SYNTH)
    outcome = m2l("synth", MASKS, folder, *options, "--resume", "--json")
    assert outcome.code == SOME_MASKS_BAD, outcome.err

    for name in KEPT:
        assert untouched(folder / "images" / name, before[name]), f"{name} was made again"
    expected = EXPECTED["png"]
    assert sorted(path.name for path in (folder / "images").iterdir()) == sorted(NAMES)
    assert sorted(path.name for path in (folder / "masks").iterdir()) == sorted(NAMES)
    with np.load(BEFORE / "missing-images.npz") as missing:
        for output in missing.files:
            assert within_a_level(pixels(folder / output), missing[output])
    rows, rows_of_0_1 = (
        list(csv.DictReader(lines)) for lines in ((folder / "pairs.csv").read_text().splitlines(), expected["pairs"])
    )
    for column in ("image", "mask", "source"):
        assert [row[column] for row in rows] == [row[column] for row in rows_of_0_1]
    for row in rows:  # what 0.1 called the seed is that of drawn masks
        with Image.open(folder / row["image"]) as picture:
            assert row["seed"] == picture.info["m2l-seed"]
    assert [row["mask_seed"] for row in rows] == [row["seed"] for row in rows_of_0_1]
    assert by_name(log_lines(folder)) == by_name(expected["log"])


def test_synth__resumes_tars_of_0_1(m2l: CommandLine, half_a_run: Callable[[str], Path]) -> None:
    folder = half_a_run("synth-webdataset")
    first = folder / "lesions-000000.tar"
    before = first.stat()
    options = (*TARS, "--bundle", BUNDLE, "--backend", "onnxruntime", *SYNTH)
    outcome = m2l("synth", MASKS, folder, *options, "--resume")
    assert outcome.code == SOME_MASKS_BAD, outcome.err
    assert untouched(first, before)
    expected = EXPECTED["webdataset"]
    for name, members in expected["members"].items():
        with tarfile.open(folder / name) as tar:
            ours = [[m.name, m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname] for m in tar.getmembers()]
        assert ours == members
    assert by_name(log_lines(folder)) == by_name(expected["log"])


def test_synth__tars_hold_what_0_1_put_into_them(m2l: CommandLine, tmp_path: Path) -> None:
    """A tar made anew, beside the one that 0.1.0 made: descriptions and masks to the byte, images within a level."""
    options = (*TARS, "--bundle", BUNDLE, "--backend", "onnxruntime", *SYNTH)
    assert m2l("synth", MASKS, tmp_path, *options).code == SOME_MASKS_BAD
    contents = []
    for folder in (BEFORE / "synth-webdataset", tmp_path):
        with tarfile.open(folder / "lesions-000000.tar") as tar:
            contents.append({member.name: tar.extractfile(member).read() for member in tar})  # type: ignore[union-attr]
    theirs, ours = contents
    assert list(ours) == list(theirs)
    for name, content in theirs.items():
        path = tmp_path / name
        path.write_bytes(ours[name])
        other = path.with_suffix(".other")
        other.write_bytes(content)
        if name.endswith(".json"):
            our_text, their_text = json.loads(ours[name]), json.loads(content)
            assert list(our_text) == list(their_text)
            for key in our_text.keys() - {"Software", "m2l-backend"}:
                assert our_text[key] == their_text[key], key
        elif name.endswith(".mask.png"):
            assert np.array_equal(pixels(path), pixels(other))
        else:
            assert within_a_level(pixels(path), pixels(other))


def resumed_run(m2l: CommandLine, tmp_path: Path) -> Path:
    data = data_folder(tmp_path / "data", 5, 2)
    run = Path(shutil.copytree(BEFORE / "run", tmp_path / "run"))
    options = ("--resume", "--max-steps", 9, "--threads", 1, "--device", "cpu", "--no-tensorboard")
    outcome = m2l("train", data, run, *options)
    assert outcome.code == 0, outcome.err
    return run


def test_train__resumes_and_exports_a_run_of_0_1(m2l: CommandLine, tmp_path: Path) -> None:
    run = resumed_run(m2l, tmp_path)
    assert json.loads((run / "progress.json").read_text())["step"] == 9
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = EXPECTED["train"]
    assert len(metrics) == len(expected["metrics"])
    for ours, theirs in zip(metrics, expected["metrics"], strict=True):
        assert list(ours) == list(theirs)
        for key in ours.keys() - {"images_per_s", "hours"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-2), key
    weights = torch.load(run / "latest_net_G.pth", weights_only=True)
    assert list(weights) == list(expected["weights"])
    before = torch.load(BEFORE / "run" / "latest_net_G.pth", weights_only=True)
    moved = 0.0
    for name, first in expected["weights"].items():
        # Adam moves a weight by about the learning rate, 2e-4, whatever its gradient, of which averaging takes a tenth.
        # Norms cancel biases: their gradients are rounding alone, whose signs differ from CPU to CPU.
        atol = 4e-4 if name.endswith("bias") else 1e-4
        np.testing.assert_allclose(weights[name].flatten()[:8].numpy(), first, atol=atol, err_msg=name)
        moved = max(moved, float((weights[name] - before[name]).abs().max()))
    assert moved > 0
    outcome = m2l("export", run, tmp_path / "bundle")
    assert outcome.code == 0, outcome.err


def test_export__takes_a_run_of_0_1(m2l: CommandLine, tmp_path: Path) -> None:
    options = ("--stochastic", "--name", "before 0.2")
    outcome = m2l("export", BEFORE / "run", tmp_path / "bundle", *options)
    assert outcome.code == 0, outcome.err
    ours, theirs = open_bundle(tmp_path / "bundle"), open_bundle(BUNDLE)
    for part in ("name", "schema_version", "image_size", "inputs", "outputs", "resampling"):
        assert getattr(ours.manifest, part) == getattr(theirs.manifest, part), part
    masks = np.stack([read_mask(MASKS / f"{name}.png", (128, 128)).mask for name in ("a_small", "c_large", "d")])
    images = []
    for bundle in (ours, theirs):
        with Synthesizer.open(bundle, backend="onnxruntime", device="cpu") as synth:
            images.append(synth(masks, [1, 2, 3]))
    assert within_a_level(*images)


PUBLIC = {
    "m2l_runtime": (
        "AppearanceChoice Bundle Encoding Images M2LError MaskFile Masks OutputOptions Result Summary Synthesizer "
        "__version__ iterate_folder open_bundle read_mask synthesize_folder"
    ),
    "m2l_export": "ExportReport Limits export_checkpoint",
    "m2l_train": "PRESETS PrepareOptions Report StepResult TrainConfig TrainReport prepare train",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_api__has_the_names_of_0_1_or_says_the_new_one(package: str) -> None:
    module = importlib.import_module(package)
    for name in PUBLIC[package].split():
        try:
            getattr(module, name)
        except ImportError as error:
            new = re.search(r"is now \w+\.(\w+)", str(error))
            assert new is not None, f"{package}.{name}: {error}"
            assert hasattr(module, new[1])


def parameters(name: str, value: Any) -> list[str]:
    """The name of a function or class, and NAME(PARAMETER) for each of its parameters."""
    try:
        found = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return [name]
    words = [f"{name}({parameter})" for parameter in found if parameter not in ("self", "cls")]
    return [name, *words, *(f"{name}(**)" for one in found.values() if one.kind is one.VAR_KEYWORD)]


def public_api() -> set[str]:
    """PACKAGE.NAME, PACKAGE.NAME.MEMBER and their parameters, of all that the packages export."""
    names: set[str] = set()
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            full = f"{package}.{name}"
            names.update(parameters(full, value) if isinstance(value, (type, FunctionType)) else [full])
            if isinstance(value, type) and value.__module__.startswith("m2l_"):
                for member in (member for member in dir(value) if not member.startswith("_")):
                    names.update(parameters(f"{full}.{member}", getattr(value, member, None)))
    return names


def test_public_api__what_is_gone_since_0_1_is_in_the_changelog() -> None:
    """Members, arguments and fields that programs use: those that are gone are named in CHANGELOG.md, in backticks."""
    here = public_api()
    changelog = (Path(__file__).resolve().parent.parent / "CHANGELOG.md").read_text()
    for gone in sorted(set((BEFORE / "public-api.txt").read_text().splitlines()) - here):
        owner, _, parameter = gone.rstrip(")").partition("(")
        if f"{owner}(**)" in here:
            continue  # takes former arguments by name
        word = parameter if owner in here else owner.split(".", 1)[1]
        if word.split(".")[0] not in {name.split(".")[1].partition("(")[0] for name in here}:
            word = word.split(".")[0]
        assert f"`{word}`" in changelog, f"{gone} is gone: give its new name in CHANGELOG.md, as `{word}`"


def test_train_config__takes_the_fields_of_0_1() -> None:
    """What `run/config.json` holds, as keywords: they keep their names, as those in the file do."""
    stored = json.loads((BEFORE / "run" / "config.json").read_text())
    del stored["format"]
    config = TrainConfig(**stored)
    assert (config.ngf, config.ema, config.seed) == (1, 0.9, 3)


TRAIN = ["--image-size", "128", "--ngf", "1", "--ndf", "1", "--max-steps", "1", "--threads", "1", "--no-tensorboard"]
FLAGS = [
    # verb, the old flags, the new flag that the note names
    ("export", ("--form", "sub-pixel"), "--upsampling"),
    ("export", ("--form", "deconvolution"), "--upsampling"),
    ("export", ("--max-colour-shift", "1"), "--max-color-shift"),
    ("export", ("--flavour", "tensorrt_rtx"), "--tensorrt-variant"),
    ("export", ("--optimisation-level", "3"), "--optimization-level"),
    ("train", ("--turn",), "--rotate90"),
    ("train", ("--no-turn",), "--no-rotate90"),
    ("train", ("--mirror", "8"), "--reflect-pad"),
    ("train", ("--l1-cell", "2"), "--l1-pool"),
    ("train", ("--discriminators", "1"), "--num-discriminators"),
    ("synth", ("--trust-engines",), "--trust-plans"),
    ("verify", ("--trust-engines",), "--trust-plans"),
    ("bench", ("--trust-engines",), "--trust-plans"),
]

TOLD = {"--flavour": "--tensorrt", "--optimisation-level": "--tensorrt", "--max-colour-shift": "--precision"}
"""Options that are understood, and then refused for the lack of another one, which the message names."""


def run_with(m2l: CommandLine, tmp_path: Path, verb: str, flags: tuple[str, ...]) -> Outcome:
    """A command that is as short as can be, with some flags."""
    if verb == "export":
        return m2l("export", BEFORE / "run", tmp_path / "bundle", *flags)
    if verb == "train":
        return m2l("train", data_folder(tmp_path / "data", 2, 1), tmp_path / "run", *TRAIN, *flags)
    if verb == "synth":
        return m2l("synth", MASKS / "d.png", tmp_path / "d.png", "--bundle", BUNDLE, "--backend", "onnxruntime", *flags)
    if verb == "verify":
        return m2l("verify", BUNDLE, *flags)
    return m2l("bench", BUNDLE, "--help", *flags)


@pytest.mark.parametrize(("verb", "flags", "new"), FLAGS, ids=[f"{verb} {' '.join(flags)}" for verb, flags, _ in FLAGS])
def test_old_flag__works_is_hidden_and_names_the_new_one(
    m2l: CommandLine, tmp_path: Path, verb: str, flags: tuple[str, ...], new: str
) -> None:
    shown = m2l(verb, "--help").out
    assert re.search(rf"(?<![\w-]){flags[0]}(?![\w-])", shown) is None
    assert re.search(rf"(?<![\w-]){new}(?![\w-])", shown) is not None
    outcome = run_with(m2l, tmp_path, verb, flags)
    if flags[0] in TOLD:
        assert "No such option" not in outcome.err
        assert TOLD[flags[0]] in outcome.err
    else:
        assert outcome.code == 0, outcome.err
    if verb != "bench":  # where it is only asked for its help
        assert new in outcome.err
