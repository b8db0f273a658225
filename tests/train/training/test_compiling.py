"""Networks are compiled where that pays, and a stop, a limit or a compiler that fails ends it."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preloaded import M2L
from support import slow
from synthetic_data import data_folder

from m2l_runtime import __version__
from m2l_train import TrainReport, train
from m2l_train.config import PRESETS, TrainConfig
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.report import describe_training
from m2l_train.training import compiling

SMALL = replace(
    PRESETS["fast"], image_size=128, ngf=2, ndf=2, n_epochs=2, n_epochs_decay=0, batch_size=2, bf16=False, norm="batch"
)


@pytest.fixture(autouse=True)
def any_run_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiling, "MIN_MINUTES", 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))  # nothing is compiled but by a fake


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 5)


def fake_compiler(monkeypatch: pytest.MonkeyPatch, on_call: Callable[[int], None] = lambda _: None) -> list[int]:
    """Let networks "compiled" run as they are; return a list that gets the batch size of each call."""
    calls: list[int] = []

    def compile_(network: torch.nn.Module, **_: object) -> Callable[..., Any]:
        def run(*inputs: torch.Tensor) -> Any:
            calls.append(len(inputs[0]))
            on_call(len(calls))
            return network(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def go(data: Path, run: Path, config: TrainConfig | None = SMALL, **options: Any) -> TrainReport:
    settings: dict[str, Any] = {"threads": 1, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def weights(run: Path, name: str = "G") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "state.pt", weights_only=True)[name]
    return found


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in ("G", "D", "G_averaged"):
        expected = weights(other, name)
        for key, value in weights(one, name).items():
            assert torch.equal(value, expected[key]), key


def test_rehearse__changes_nothing() -> None:
    torch.manual_seed(0)
    networks = Pix2Pix(replace(SMALL, appearance=False, dropout=True))
    before = [tensor.clone() for tensor in networks.tensors()]
    random = torch.get_rng_state()
    networks.rehearse(2)
    for tensor, value in zip(networks.tensors(), before, strict=True):
        assert torch.equal(tensor, value)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in networks.generator.parameters())


def test_compiling__comes_ahead_of_the_first_step_and_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(data, tmp_path / "plain", replace(SMALL, compile=False))
    calls, events = fake_compiler(monkeypatch), list[str]()
    go(data, tmp_path / "run", on_note=events.append, on_start=lambda *_: events.append(f"start {len(calls)}"))
    told = [event for event in events if "compil" in event or event.startswith("start")]
    assert [event.split()[0] for event in told] == ["compiling", "compiled", "start"]
    assert told[-1] == "start 4"  # a rehearsal calls the generator once and the discriminator thrice
    assert calls.count(2) == len(calls) == 4 + 2 * 2 * 4  # two whole batches an epoch; the third has one pair
    assert_equal_runs(tmp_path / "run", tmp_path / "plain")


def test_compiling__is_left_out_of_runs_too_short_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "MIN_MINUTES", 10.0)
    calls = fake_compiler(monkeypatch)
    limits: list[dict[str, Any]] = [{"max_minutes": 9.0}, {"max_steps": 4}, {}]
    for number, options in enumerate(limits):
        notes: list[str] = []
        go(data, tmp_path / f"run{number}", on_note=notes.append, **options)
        assert any("too short to win back" in note for note in notes), options
    assert calls == []


def slow_compiler(_: int) -> None:
    try:
        time.sleep(600)
    finally:
        warnings.warn("Error detected in ConvolutionBackward0. Traceback of forward call that ...", stacklevel=1)


@pytest.mark.parametrize("limit", ["stop", slow("max_minutes"), slow("group")])
def test_compiling__a_stop_or_a_limit_ends_it_and_the_run_goes_on_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    go(data, tmp_path / "whole", replace(SMALL, compile=False))
    stop: list[bool] = []

    def compiler_that_is_killed(_: int) -> None:
        stop.append(True)
        raise RuntimeError("InductorError: C++ compile error\n" + "g++ was killed\n" * 2679)

    def told(note: str) -> None:
        if limit == "stop" and note.startswith("compiling"):
            stop.append(True)

    fake_compiler(monkeypatch, compiler_that_is_killed if limit == "group" else slow_compiler)
    options: dict[str, Any] = {"max_minutes": 0.05} if limit == "max_minutes" else {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = go(data, tmp_path / "run", on_note=told, should_stop=lambda: bool(stop), **options)
    assert (report.step, report.was_stopped) == (0, limit != "max_minutes")
    assert [str(one.message) for one in warned if "Error detected" in str(one.message)] == []
    fake_compiler(monkeypatch)
    go(data, tmp_path / "run", None, resume=True)
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.mark.parametrize("call", [slow(1), 3, slow(4)])
def test_compiling__where_the_compiler_fails_training_goes_on_without(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    go(data, tmp_path / "plain", replace(SMALL, compile=False))

    def fail(number: int) -> None:
        if number >= call:
            raise RuntimeError("\nNo working C++ compiler found\n" + "at line 1\n" * 3000)

    fake_compiler(monkeypatch, fail)
    notes: list[str] = []
    go(data, tmp_path / "run", on_note=notes.append)
    warnings = [note for note in notes if note.startswith("warning: PyTorch cannot compile here")]
    assert len(warnings) == 1
    assert "(No working C++ compiler found)" in warnings[0]
    assert "\n" not in warnings[0]
    assert_equal_runs(tmp_path / "run", tmp_path / "plain")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_compiling__a_stop_ends_what_the_compiler_has_started(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch ends the compiler that it waits for, which leaves what that one has started to nobody."""
    driver, compiler, started = tmp_path / "g++", tmp_path / "cc1plus", tmp_path / "started"
    shutil.copy(shutil.which("sleep") or "", compiler)
    driver.write_text(
        f"#!/bin/sh\n'{compiler}' 300 &\necho $! > '{started}.new'\nmv '{started}.new' '{started}'\nwait\n"
    )
    for path in (driver, compiler):
        path.chmod(0o755)

    def compile_(_: int) -> None:
        subprocess.run([driver], check=False)

    fake_compiler(monkeypatch, compile_)
    assert go(data, tmp_path / "run", should_stop=started.exists).was_stopped
    status = Path("/proc", started.read_text().strip(), "stat")
    deadline = time.monotonic() + 5
    while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not status.exists() or status.read_text().split()[2] == "Z"


def processes_of(mark: str) -> list[int]:
    """Return the processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("wait_s", [0, 4, 15])
def test_compiling__a_signal_to_the_real_compiler_ends_in_one_line(
    data: Path, tmp_path: Path, wait_s: int, to_group: bool
) -> None:
    cache = tmp_path / "cache"
    small = ("--image-size", 128, "--ngf", 2, "--ndf", 2, "--batch-size", 2, "--n-epochs", 1_000_000, "--threads", 1)
    options = ("--preset", "fast", *small, "--no-tensorboard")
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", M2L, "train", data, tmp_path / "run", *map(str, options)],
            stderr=err,
            start_new_session=True,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        )
        try:
            while "compiling the" not in (tmp_path / "err").read_text():
                assert process.poll() is None, (tmp_path / "err").read_text()
                time.sleep(0.1)
            time.sleep(wait_s)
            (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
            assert process.wait(60) == 143
        finally:
            process.kill()
    lines = (tmp_path / "err").read_text().splitlines()
    after = lines[[line.startswith("stopping: ") for line in lines].index(True) + 1 :]
    assert after in ([], ["stopped; the same command with --resume goes on"])
    assert (tmp_path / "run" / "state.pt").exists()
    deadline = time.monotonic() + 30
    while processes_of(str(cache)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(str(cache)) == []


def test_compiling__a_blank_rehearsal_is_finite() -> None:
    networks = Pix2Pix(replace(SMALL, compile=False), appearance_rows=2)
    networks.set_appearance_table(torch.zeros(2, 12))
    masks = np.zeros((2, 128, 128), np.uint8)
    networks.rehearse(2)
    assert np.isfinite(networks.step(masks, np.full((2, 128, 128, 3), 99, np.uint8)).G_L1)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("module", ["m2l_train", "m2l_train.cli", "m2l_train.evaluate", "m2l_train.evaluate.cli"])
def test_modules__of_training_run_the_command_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert (stop.value.code, capsys.readouterr().out) == (0, f"m2l {__version__}\n")


@pytest.mark.parametrize("name", ["run", "my run's", "-run"])
def test_describe_training__suggests_a_command_that_can_be_pasted(name: str) -> None:
    report = TrainReport(
        run=Path(name),
        config=SMALL,
        step=4,
        epoch=1,
        is_complete=False,
        was_complete=False,
        was_stopped=False,
        images_per_s=1.0,
        val_l1_levels=None,
    )
    command = describe_training(report).splitlines()[-1].removesuffix(" makes a bundle of it")
    assert shlex.split(command) == ["m2l", "export", f"./{name}" if name.startswith("-") else name, "BUNDLE"]
