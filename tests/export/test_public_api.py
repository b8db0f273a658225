"""The names that m2l_export exports, their examples, and options by former names."""

from __future__ import annotations

import doctest
import inspect

import pytest
from command_line import CommandLine
from support import TINY

import m2l_export

CHECKPOINT = TINY / "tiny_net_G.pth"


def test_all__names_what_users_import() -> None:
    assert m2l_export.__all__ == ["ExportOptions", "ExportReport", "ParityLimits", "PlanOptions", "export_checkpoint"]


@pytest.mark.parametrize("name", m2l_export.__all__)
def test_example__runs(name: str) -> None:
    value = getattr(m2l_export, name)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(value, name, module=inspect.getmodule(value))
    assert example.examples, f"{name} has no example"
    runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize(
    ("words", "note", "error"),
    [
        (("--form", "deconvolution", "--max-colour-shift", "1"), "--form is now --upsampling", "has no effect on fp32"),
        (("--max-colour-shift=1",), "--max-colour-shift is now --max-color-shift", "--max-color-shift has no effect"),
        (("--flavour", "tensorrt"), "--flavour is now --tensorrt-variant", "--tensorrt-variant is of TensorRT plans"),
        (
            ("--optimisation-level", "3"),
            "--optimisation-level is now --optimization-level",
            "--optimization-level is of TensorRT plans",
        ),
    ],
)
def test_export__takes_former_options(m2l: CommandLine, words: tuple[str, ...], note: str, error: str) -> None:
    outcome = m2l("export", CHECKPOINT, "absent", *words)
    assert outcome.code == 2
    assert f"note: {note}" in outcome.err
    assert error in outcome.err
