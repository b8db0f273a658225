"""The modules of the export, run by name."""

from __future__ import annotations

import runpy
import sys

import pytest

from m2l_runtime import __version__


@pytest.mark.parametrize("module", ["m2l_export", "m2l_export.cli"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_modules__of_the_export_run_the_command_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert (stop.value.code, capsys.readouterr().out) == (0, f"m2l {__version__}\n")
