"""Fixtures: the command line in this process, a bundle that may be damaged, an opened synthesizer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine, Outcome
from support import TINY_BUNDLE

from m2l_runtime import Synthesizer


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
