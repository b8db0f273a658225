"""A folder that is no run of training is told what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CommandLine
from support import TINY_BUNDLE

from m2l_export import export_checkpoint
from m2l_runtime.errors import CheckpointError


@pytest.mark.parametrize(
    "names", [("dataset.json",), ("train/images/a.png", "train/masks/a.png"), ("images/a.png",), ("val/a.png",)]
)
def test_export__a_data_folder_is_called_one(names: tuple[str, ...], tmp_path: Path, m2l: CommandLine) -> None:
    data = tmp_path / "data"
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("{}")
    outcome = m2l("export", data, tmp_path / "x")
    assert outcome.code == 1
    assert f"is a folder of data: m2l train {data} RUN trains on it, and RUN is what is exported" in outcome.err
    assert not (tmp_path / "x").exists()


def test_export__a_bundle_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder that is a bundle already: m2l synth MASKS OUT --bundle"):
        export_checkpoint(TINY_BUNDLE, tmp_path / "x")


def test_export__another_folder_is_no_more_than_a_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="other: is a folder; expected"):
        export_checkpoint(tmp_path / "other", tmp_path / "x")
