"""Share fixtures, give each worker one core, and tell how many slow tests were left out."""

from __future__ import annotations

import contextlib
import os
import shutil

# One thread each for PyTorch and NumPy, also in programs that tests start: two workers share two cores, and threads
# that wait for a core cost more than they bring. The libraries read this when they load, so it precedes the imports.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Temporary folders lie in memory where there is room for them, as each file that is written safely waits for the disk.
# pytest reads this variable.
_MEMORY = "/dev/shm"  # noqa: S108 - pytest makes a folder in it that is the user's own
with contextlib.suppress(OSError):
    if shutil.disk_usage(_MEMORY).free > 2 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

# ruff: noqa: E402
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, Outcome
from support import TINY_BUNDLE

from m2l_runtime import Synthesizer

_left_out = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep each worker of pytest-xdist to a core of its own, where the system can."""
    config.stash[_left_out] = 0
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the slow tests that are left out."""
    for item in items:
        item.config.stash[_left_out] += item.get_closest_marker("slow") is not None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the number of a worker over to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[_left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the number over from a worker: each of them leaves out the same tests."""
    if (left_out := getattr(node, "workeroutput", {}).get("left_out")) is not None:
        node.config.stash[_left_out] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what was left out, and how to run it."""
    if left_out := config.stash[_left_out]:
        terminalreporter.write_line(f"{left_out} slow tests were left out: make test-slow runs them (docs/testing.md)")


@pytest.fixture
def m2l(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`m2l ...` as the console script runs it, error handling and all."""
    from m2l_runtime.cli.main import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["m2l", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_BUNDLE, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def tiny_synth() -> Iterator[Synthesizer]:
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cpu") as synth:
        yield synth
