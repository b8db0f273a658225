"""`m2l export` takes options by their former names."""

from __future__ import annotations

import pytest
from command_line import CommandLine
from support import TINY

CHECKPOINT = TINY / "tiny_net_G.pth"


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
