"""The command line: what it prints, its exit status, and no traceback whatever comes in."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from command_line import CommandLine
from support import ROOT, TINY_BUNDLE, add_model_entry, disc, npz, replace_file, save

from m2l_runtime import Synthesizer, __version__, open_bundle
from m2l_runtime._utils.signals import StopSignals
from m2l_runtime.cli.main import build_app

NASTY = [
    "with space.png",
    "uml\u00e4ut \u6f22.png",
    "new\nline.png",
    "esc\x1b[31m.png",
    "[red]markup[dim].png",
    "100%s{x}.png",
]


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    save(folder / "good.png", disc())
    return folder


def test_main__all_done(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE, "--contact-sheet", tmp_path / "s.png")
    assert outcome.code == 0
    assert re.search(
        r"^1 image in .*out \([\d.]+ images/s, [\d.]+ while the engine ran; onnxruntime \S+, cpu, fp32, batch 1, ",
        outcome.out,
    )
    assert f"contact sheet: {tmp_path / 's.png'}" in outcome.out
    assert (tmp_path / "out" / "good.png").exists()


def test_main__some_masks_bad(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    (masks / "words.png").write_text("no")
    save(masks / "black.png", np.zeros((8, 8), np.uint8))
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE)
    assert outcome.code == 3
    assert "words.png: is not a PNG" in outcome.err
    assert "skipped 1 bad mask" in outcome.err
    assert "2 images in" in outcome.out
    assert "note: 1 mask was empty (all black)" in outcome.out


def test_main__only_bad_masks(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    (masks / "good.png").write_text("no")
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE, "--contact-sheet", tmp_path / "s.png")
    assert outcome.code == 1
    assert not (tmp_path / "s.png").exists()


def test_main__many_bad_masks_are_summed_up(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    for index in range(50):
        (masks / f"bad{index:02}.png").write_text("no")
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE)
    assert outcome.err.count("is not a PNG") == 20
    assert "... and 30 more such lines" in outcome.err
    assert "skipped 50 bad masks" in outcome.err


def test_main__names_with_anything_in_them(m2l: CommandLine, tmp_path: Path) -> None:
    masks = tmp_path / "in \n put"
    masks.mkdir()
    for name in NASTY:
        save(masks / name, disc())
        (masks / f"bad {name}").write_text("no")
    (masks / os.fsdecode(b"latin\xe9.png")).write_bytes((masks / NASTY[0]).read_bytes())
    out = tmp_path / "out"
    outcome = m2l("synth", masks, out, "--bundle", TINY_BUNDLE, "--contact-sheet", tmp_path / "s.png")
    assert outcome.code == 3
    images = [name for name in os.listdir(out) if not name.startswith(".m2l")]
    assert sorted(images) == sorted([*NASTY, os.fsdecode(b"latin\xe9.png")])
    lines = outcome.err.splitlines()
    assert len([line for line in lines if line.startswith("skipped")]) == len(NASTY) + 1
    assert "\x1b" not in outcome.err + outcome.out
    assert r"in \n put/bad new\nline.png: is not a PNG" in outcome.err
    assert "bad [red]markup[dim].png: is not a PNG" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("synth", "{tmp}/absent", "{tmp}/out"), "absent does not exist"),
        (("synth", "{tmp}/nothing", "{tmp}/out"), "holds no masks"),
        (("synth", "{tmp}/masks", "{tmp}/file"), "file is a file; expected a folder"),
        (("synth", "{tmp}/masks", "{tmp}/file/out"), "cannot write"),
        (("synth", "{tmp}/masks", "{tmp}/masks/out"), "is inside"),
        (("synth", "{tmp}/masks", "{tmp}/out", "--bundle", "{tmp}/absent"), "does not exist; a bundle is the folder"),
        (("synth", "{tmp}/masks", "{tmp}/out", "--bundle", "{tmp}/masks"), "has no manifest.json"),
        (("inspect", "{tmp}/absent"), "does not exist"),
        (("verify", "{tmp}/absent"), "does not exist"),
    ],
)
def test_main__errors_are_one_line(
    m2l: CommandLine, masks: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").write_text("x")
    outcome = m2l(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert outcome.code == 1
    assert outcome.err.startswith("m2l: error: ")
    assert len(outcome.err.splitlines()) == 1
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write anything")
def test_main__unreadable_and_unwritable(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    (masks / "good.png").chmod(0)
    assert "Permission denied" in m2l("synth", masks, tmp_path / "out").err
    (tmp_path / "locked").mkdir(mode=0o500)
    (masks / "good.png").chmod(0o600)
    assert "Permission denied" in m2l("synth", masks, tmp_path / "locked" / "out").err


def test_main__debug_shows_the_traceback(m2l: CommandLine, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        m2l("inspect", tmp_path / "absent", "--debug")


def test_main__what_we_did_not_expect_is_still_no_traceback(
    m2l: CommandLine, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("m2l_runtime.runs.folder.synthesize_folder", broken)
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE)
    assert outcome.code == 1
    assert "unexpected KeyError: 'a bug'" in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" not in outcome.err


USAGE = [
    (("synth",), "Missing argument"),
    (("dance",), "No such command"),
    (("synth", "masks", "out", "--nonsense"), "No such option"),
    (("synth", "masks", "out", "--batch-size", "many"), "Invalid value for '--batch-size'"),
    (("synth", "masks", "out", "--precision", "fp7"), "fp7"),
    (("synth", "masks", "out", "--backend", "caffe"), "choose one of auto"),
    (("synth", "masks", "out", "--device", "tpu"), "choose auto, cpu, cuda"),
    (("synth", "masks", "out", "--batch-size", "0"), "between 1 and 4096, got 0"),
    (("synth", "masks", "out", "--threads", "0"), "between 1 and 4096, got 0"),
    (("synth", "masks", "out", "--shard", "3/2"), "I from 1 to N"),
    (("synth", "masks", "out", "--quality", "0", "--format", "jpeg"), "quality must be between 1 and 100"),
    (("synth", "masks", "out", "--quality", "9"), "--quality has no effect on png"),
    (("synth", "masks", "out", "--seed", "-1"), "seed must be at least 0"),
    (("synth", "masks", "out", "--samples", "0"), "samples of each mask must be between 1"),
    (("synth", "masks", "out", "--workers", "0"), "workers must be between 1"),
    (("synth", "masks", "out", "--resume", "--overwrite"), "choose one"),
    (("synth", "masks", "out", "--appearance", "lesion_X=3"), "no 'lesion_X'"),
    (("synth", "masks", "out", "--appearance", "lesion_L=300"), "lesion_L must be between 0 and 100"),
    (("synth", "masks", "out", "--contact-sheet", "sheet.jpg"), "should end in .png"),
    (("synth", "shapes:0", "out"), "number of masks must be between 1"),
    (("synth", "shapes:3,kinds=cube", "out"), "no kind of shape 'cube'"),
    (("synth", "shapes:many", "out"), "does not say what to draw"),
    (("masks", "shapes", "out", "--count", "0"), "number of masks must be between 1"),
    (("masks", "shapes", "out", "--kinds", "cube"), "no kind of shape 'cube'"),
    (("bench", "--batch-size", "0"), "batch size must be between 1"),
    (("bench", "--plot", "speed.jpg"), "should end in .png"),
]
"""Lines that are wrong whatever files there are, and what is said of them."""


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=[" ".join(line) for line, _ in USAGE])
def test_main__a_line_that_is_wrong_is_status_two(
    m2l: CommandLine,
    masks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = m2l(*arguments)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_main__version(m2l: CommandLine) -> None:
    assert m2l("--version").out == f"m2l {__version__}\n"


def test_main__inspect(m2l: CommandLine) -> None:
    text = m2l("inspect", TINY_BUNDLE).out
    for word in ("tiny", "8 levels, ngf 2", "generator.fp32.onnx", "at most 1 level from PyTorch", "all 3 are as"):
        assert word in text
    facts = json.loads(m2l("inspect", TINY_BUNDLE, "--json").out)
    assert facts["sha256"] == open_bundle(TINY_BUNDLE).sha256
    assert facts["manifest"] == json.loads((TINY_BUNDLE / "manifest.json").read_text())
    loads = {(e["backend"], e["device"]): e["loads"] for e in facts["engines"]}
    assert loads["onnxruntime", "cpu"]


def test_main__inspect_checks_the_content(m2l: CommandLine, bundle_copy: Path) -> None:
    (bundle_copy / "MODEL_CARD.md").write_bytes(
        (bundle_copy / "MODEL_CARD.md").read_bytes().replace(b"never", b"often")
    )
    outcome = m2l("inspect", bundle_copy)
    assert outcome.code == 1
    assert "MODEL_CARD.md is not the file the bundle was made with" in outcome.err


def test_main__verify_agrees(m2l: CommandLine) -> None:
    for bundle in ((), (TINY_BUNDLE,)):
        outcome = m2l("verify", *bundle)
        assert outcome.code == 0
        assert "agrees" in outcome.out
    facts = json.loads(m2l("verify", TINY_BUNDLE, "--json").out)
    assert facts["agrees"] is True
    assert all(replay["backend"] != "fake" for replay in facts["replays"])


def test_main__verify_sees_a_difference(m2l: CommandLine, bundle_copy: Path) -> None:
    inputs, images = open_bundle(bundle_copy).read_golden()
    images[1, 7, 7, 1] ^= 64
    replace_file(bundle_copy, "golden.npz", npz(mask=inputs["mask"], image=images))
    outcome = m2l("verify", bundle_copy)
    assert outcome.code == 1
    assert "DIFFERS" in outcome.out
    assert "64 levels at most" in outcome.out


@pytest.mark.parametrize(
    ("recorded", "agrees"),
    [
        ({"worst_psnr_db": 41.5}, True),
        ({"worst_psnr_db": 41.7}, False),
        ({"psnr_db": 41.5}, True),
        ({"psnr_db": 41.7}, False),
        ({"psnr_db": 60.0, "worst_psnr_db": 41.5}, True),
        ({"psnr_db": None}, False),
    ],
)
def test_main__verify_by_psnr(
    m2l: CommandLine, bundle_copy: Path, recorded: dict[str, float | None], agrees: bool
) -> None:
    """One golden image is three levels off in every byte: 20 log10(255 / 3) = 38.59 dB, 3 dB below 41.59."""
    inputs, images = open_bundle(bundle_copy).read_golden()
    images[1] = np.where(images[1] < 128, images[1] + 3, images[1] - 3)
    replace_file(bundle_copy, "golden.npz", npz(mask=inputs["mask"], image=images))
    add_model_entry(bundle_copy, "onnxruntime", "int8", **recorded)
    outcome = m2l("verify", bundle_copy)
    line = re.search(r"^onnxruntime +cpu +int8 +(agrees|DIFFERS) .*", outcome.out, re.M)
    assert line is not None
    assert line[1] == ("agrees" if agrees else "DIFFERS")
    if recorded != {"psnr_db": None}:
        assert "worst PSNR 38.6 dB, at least 38." in line[0]
    assert re.search(r"^onnxruntime +cpu +fp32 +DIFFERS .*: 3 levels at most", outcome.out, re.M)
    assert outcome.code == 1


def test_main__verify_of_equal_bytes_needs_no_psnr(m2l: CommandLine, bundle_copy: Path) -> None:
    with Synthesizer.open(bundle_copy, backend="onnxruntime", device="cpu") as synth:
        inputs, _ = synth.bundle.read_golden()
        images = synth.run_inputs(inputs)  # as this processor rounds
    replace_file(bundle_copy, "golden.npz", npz(**inputs, image=images))
    add_model_entry(bundle_copy, "onnxruntime", "bf16", worst_psnr_db=70.0)
    outcome = m2l("verify", bundle_copy)
    assert outcome.code == 0
    assert re.search(
        r"^onnxruntime +cpu +bf16 +agrees .*: worst PSNR every byte equal, at least 67.0", outcome.out, re.M
    )
    assert json.loads(m2l("verify", bundle_copy, "--json").out)["agrees"] is True


def test_main__every_way_is_listed_and_tried(m2l: CommandLine, bundle_copy: Path) -> None:
    shift = [0.25, -0.5, 0.0]
    add_model_entry(
        bundle_copy, "onnxruntime", "int8", mean_psnr_db=44.0, worst_psnr_db=41.2, colour_shift_levels=shift
    )
    text = m2l("inspect", bundle_copy).out
    assert len(re.findall(r"^model +generator.fp32.onnx: onnx, (?:fp32|int8), ", text, re.M)) == 2
    assert "PSNR 44.0 dB on average, 41.2 in the worst image, mean shift +0.25, -0.50, +0.00" in text
    assert "all 3 are as they were written" in text
    for precision in ("fp32", "int8"):
        assert re.search(rf"^onnxruntime +cpu +{precision} +loads", text, re.M)
    assert {
        (e["backend"], e["precision"]) for e in json.loads(m2l("inspect", bundle_copy, "--json").out)["engines"]
    } == {
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("tensorrt", "fp32"),
        ("fake", "fp32"),
    }


def test_main__precision(m2l: CommandLine, masks: Path, bundle_copy: Path, tmp_path: Path) -> None:
    add_model_entry(bundle_copy, "onnxruntime", "int8")
    outcome = m2l("synth", masks, tmp_path / "a", "--bundle", bundle_copy, "--precision", "int8", "--json")
    assert json.loads(outcome.out)["settings"]["precision"] == "int8"
    assert json.loads((tmp_path / "a" / ".m2l/m2l-log.jsonl").read_text().splitlines()[-1])["precision"] == "int8"
    for words, code, error in (
        (
            ("--precision", "bf16"),
            1,
            "not made for any backend known here in bf16, only for onnxruntime in fp32, onnxrun",
        ),
        (("--precision", "fp64"), 2, "'fp64' is not one of 'fp32', 'fp16', 'bf16', 'int8'"),
    ):
        outcome = m2l("synth", masks, tmp_path / "b", "--bundle", bundle_copy, *words)
        assert outcome.code == code
        assert error in outcome.err


def test_main__what_is_chosen_and_what_does_not_pay_is_told(
    m2l: CommandLine, masks: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    add_model_entry(bundle_copy, "openvino")
    synth = ("synth", masks, tmp_path / "out", "--bundle", bundle_copy, "--device", "cpu", "--overwrite")
    note = "note: runs on openvino, the fastest installed on a CPU; others: --backend onnxruntime\n"
    assert m2l(*synth).err == note
    assert m2l(*synth, "--backend", "onnxruntime").err == ""
    assert m2l(*synth, "--threads", 4000).err.startswith(f"{note}note: asked for 4,000 threads; this process may use ")


def test_main__doctor(m2l: CommandLine) -> None:
    outcome = m2l("doctor")
    assert outcome.code == 0
    assert re.search(r"^onnxruntime +cpu +fp32 +loads", outcome.out, re.M)
    assert "a fake: no model is run" in outcome.out
    facts = json.loads(m2l("doctor", "--json").out)
    assert facts["machine"]["m2l"] == __version__
    for engine in facts["engines"]:
        assert engine["loads"] or re.search("pip install|CUDA|NVIDIA|not made for", engine["detail"])


def test_main__a_broken_plug_in_does_not_take_the_others_away(
    monkeypatch: pytest.MonkeyPatch, m2l: CommandLine
) -> None:
    from importlib.metadata import EntryPoint, EntryPoints, entry_points

    from m2l_runtime.cli import main

    real = list(entry_points(group=main.GROUP))
    broken = EntryPoint("theirs", "no.such.module:register", main.GROUP)
    monkeypatch.setattr(main, "entry_points", lambda **_: EntryPoints([*real, broken]))
    outcome = m2l("--version")
    assert outcome.code == 0
    assert "the commands of 'theirs' do not load" in outcome.err


def test_main__every_verb_and_option_is_documented() -> None:
    """In the README, or in one of docs/ if they are verbs of a verb."""
    readme = (ROOT / "README.md").read_text()
    docs = readme + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))

    def check(group: Any, path: str, text: str) -> None:
        for name, command in group.commands.items():
            assert command.help, name
            assert f"{path} {name}" in text, f"nothing says what `{path} {name}` is for"
            if hasattr(command, "commands"):
                check(command, f"{path} {name}", docs)
            for parameter in command.params:
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"

    check(typer.main.get_command(build_app()), "m2l", readme)


def test_main__the_installed_script(masks: Path, tmp_path: Path) -> None:
    backend = "openvino" if importlib.util.find_spec("onnxruntime") is None else "onnxruntime"
    script = Path(sys.executable).with_name("m2l")
    command = [str(part) for part in (script, "synth", masks, tmp_path / "out", "--backend", backend)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 image in ")


def test_main__names_that_no_file_system_has(m2l: CommandLine, masks: Path, tmp_path: Path) -> None:
    name = tmp_path / ("x" * 300)
    for arguments in (("synth", masks, name), ("inspect", name), ("masks", "shapes", name)):
        outcome = m2l(*arguments)
        assert outcome.code == 1
        assert "File name too long" in outcome.err
        assert "unexpected" not in outcome.err


@pytest.mark.parametrize(
    ("error", "status", "said"), [(KeyboardInterrupt, 130, ""), (MemoryError, 1, "too little memory")]
)
def test_main__what_ends_a_command_from_outside(
    error: type[BaseException], status: int, said: str, m2l: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2l_runtime import doctor

    def fail() -> dict[str, str]:
        raise error

    monkeypatch.setattr(doctor, "machine_facts", fail)
    outcome = m2l("doctor")
    assert (outcome.code, said in outcome.err, len(outcome.err.splitlines()) <= 1) == (status, True, True)


def test_main__an_interrupt_ahead_of_a_commands_own_handling(
    m2l: CommandLine, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Synthesizer, "open", interrupted)
    outcome = m2l("synth", masks, tmp_path / "out")
    assert (outcome.code, outcome.err) == (130, "m2l: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_main__a_run_that_stops_when_it_is_asked_to_says_so_itself(
    m2l: CommandLine, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopSignals, "is_set", lambda _: True)
    monkeypatch.setattr(StopSignals, "exit_status", 130)
    outcome = m2l("synth", masks, tmp_path / "out", "--backend", "fake")
    assert outcome.code == 130
    assert "--resume goes on" in outcome.err
    assert "interrupted" not in outcome.err


@pytest.mark.parametrize(
    "module",
    ["m2l_runtime", *(f"m2l_runtime.cli{name}" for name in ("", ".main", ".synth", ".inspect", ".masks", ".bench"))],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_main__modules_run_the_command_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code, out in ((["--version"], 0, f"m2l {__version__}\n"), (["no-such-verb"], 2, "")):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert (stop.value.code, capsys.readouterr().out) == (code, out)


def no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)


@pytest.mark.parametrize("wrapped", [False, True])
def test_main__no_writable_temporary_folder(
    m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    no_temporary_folder(monkeypatch)
    if wrapped:  # as a library may raise it

        def library(*_: object, **__: object) -> None:
            try:
                tempfile.gettempdir()
            except OSError as error:
                raise RuntimeError("cannot start") from error

        monkeypatch.setattr("m2l_runtime.bench.benchmark.bench", library)
    outcome = m2l("bench", TINY_BUNDLE, "--backend", "fake", "--repeats", 1, "--seconds", 1)
    assert (outcome.code, outcome.out) == (1, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("m2l: error: no folder takes temporary files")
    assert "set TMPDIR" in last
    assert "unexpected" not in outcome.err
