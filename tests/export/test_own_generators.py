"""The honest experiment from end to end: pairs of a fraction and seed, a run on them, its bundle, the comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine
from usefulness_data import write_pairs


@pytest.mark.slow
def test_usefulness_pairs__are_trained_on_exported_and_compared(m2l: CommandLine, tmp_path: Path) -> None:
    data, draw = write_pairs(tmp_path / "data"), "50pct-seed0"
    drawn = ("--fractions", 50, "--seeds", 1, "--side", 32, "--workers", 1)
    quick = ("--image-size", 64, "--ngf", 2, "--ndf", 2, "--max-steps", 1, "--no-tensorboard", "--threads", 1)
    for line in (
        ("evaluate", "usefulness-pairs", data, tmp_path / "pairs", *drawn),
        ("train", tmp_path / "pairs" / draw, tmp_path / "runs" / draw, *quick),
        ("export", tmp_path / "runs" / draw, tmp_path / "bundles" / draw),
        (
            *("evaluate", "usefulness", data, "--out", tmp_path / "out", *drawn, "--steps", 2, "--width", 1),
            *("--arms", "ClassicAug,AllAug", "--bundles", tmp_path / "bundles", "--training-runs", tmp_path / "runs"),
        ),
    ):
        done = m2l(*line)
        assert done.code == 0, done
    result = json.loads((tmp_path / "out" / "usefulness.json").read_text())
    (generator,) = result["generators"]
    assert (generator["draw"], generator["training_pairs"], generator["is_record_compared"]) == (draw, 16, True)
    assert "no generator saw more than its arms" in result["conclusions"][-1]
