"""Data that changes between the sessions of a run: what is noticed, what is said, and what is gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from support import disc
from synthetic_data import data_folder, photograph

from m2l_runtime._utils import atomic
from m2l_runtime.errors import InputError
from m2l_train import TrainConfig, TrainReport, train
from m2l_train.data import data_record
from m2l_train.data.data_folder import open_data
from m2l_train.data.data_record import DataRecord, data_changes, record_data

SMALL = ("--no-tensorboard", "--threads", 1, "--device", "cpu")
CONFIG = TrainConfig(image_size=128, ngf=1, ndf=1, n_epochs=3, n_epochs_decay=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 4, 2)


def go(data: Path, run: Path, config: TrainConfig | None = CONFIG, **options: Any) -> TrainReport:
    settings: dict[str, Any] = {"threads": 1, "workers": 1, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def record(data: Path, before: DataRecord | None = None) -> DataRecord:
    with ThreadPoolExecutor(2) as pool:
        return record_data(open_data(data), pool, before)


def swap(one: Path, other: Path) -> None:
    """Exchange the names of two files; their contents, sizes and times stay with them."""
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


def same_size_and_times(path: Path, change: Callable[[bytearray], None]) -> None:
    """Alter a file in its place, so that neither its size nor its time tells."""
    before, content = path.stat(), bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def other_mask(data: Path) -> None:
    Image.fromarray(disc(143, 33, 70, 70)).save(data / "train" / "masks" / "p001.png")


def remove_pair(data: Path) -> None:
    for kind in ("images", "masks"):
        (data / "train" / kind / "p002.png").unlink()


def byte(content: bytearray) -> None:
    content[-20] ^= 1


CHANGES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "permuted": (
        lambda data: swap(data / "train" / "images" / "p000.png", data / "train" / "images" / "p002.png"),
        r"the photographs of 2 pairs to train on have changed places \(p000\.png, p002\.png\)",
    ),
    "masks permuted": (
        lambda data: swap(data / "val" / "masks" / "p100.png", data / "val" / "masks" / "p101.png"),
        "the masks of 2 pairs to validate on have changed places",
    ),
    "another mask": (other_mask, r"the masks of 1 pair to train on are others \(p001\.png\)"),
    "a byte of a photograph": (
        lambda data: same_size_and_times(data / "train" / "images" / "p003.png", byte),
        r"the photographs of 1 pair to train on are others \(p003\.png\)",
    ),
    "val removed": (
        lambda data: shutil.rmtree(data / "val"),
        r"all 2 pairs to validate on are gone \(p100\.png, p101\.png\)",
    ),
    "a pair gone": (
        remove_pair,
        r"1 pair to train on is gone \(p002\.png\)",
    ),
    "a pair more": (lambda data: data_folder(data, 4, 3), r"1 pair to validate on is new \(p102\.png\)"),
    "renamed": (
        lambda data: [
            (data / "train" / kind / "p002.png").rename(data / "train" / kind / "p009.png")
            for kind in ("images", "masks")
        ],
        r"1 pair to train on is gone \(p002\.png\); 1 pair to train on is new \(p009\.png\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_changes__each_is_noticed_and_named(data: Path, change: str) -> None:
    before = record(data)
    assert data_changes(before, record(data, before)) == []
    alter, message = CHANGES[change]
    alter(data)
    for known in (before, None):
        assert re.match(message, "; ".join(data_changes(before, record(data, known))))


def test_train__other_data_is_refused_or_gone_on_with_by_a_switch(data: Path, tmp_path: Path, m2l: CommandLine) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=6)
    before = {name: (run / name).read_bytes() for name in ("state.pt", "data.json", "metrics.jsonl")}
    swap(data / "train" / "images" / "p000.png", data / "train" / "images" / "p002.png")
    outcome = m2l("train", data, run, "--resume", *SMALL)
    assert outcome.code == 1
    assert "was trained on other pairs than the data folder has now: the photographs of 2 pairs" in outcome.err
    assert "--accept-changes" in outcome.err
    assert {name: (run / name).read_bytes() for name in before} == before
    outcome = m2l("train", data, run, "--resume", "--accept-changes", "--max-steps", 7, *SMALL)
    assert outcome.code == 0, outcome.err
    assert "warning: the run goes on with other data than it was trained on: the photographs" in outcome.err
    assert go(data, run, None, resume=True).warnings == (), "and from here on it is what the run is trained on"


@pytest.mark.parametrize("change", ["a pair gone", "renamed", "val removed"])
def test_train__goes_on_with_other_pairs_from_the_start_of_an_epoch(data: Path, tmp_path: Path, change: str) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=4 + 3)  # three steps into the second epoch
    CHANGES[change][0](data)
    with pytest.raises(InputError, match=f"other pairs than the data folder has now: {CHANGES[change][1]}"):
        go(data, run, None, resume=True)
    report = go(data, run, None, resume=True, accept_changes=True)
    assert report.is_complete
    steps = {"a pair gone": 7 + 2 * 3, "renamed": 7 + 2 * 4, "val removed": 3 * 4}
    assert report.step == steps[change]


def test_train__files_that_are_the_same_elsewhere_are_no_change(data: Path, tmp_path: Path) -> None:
    """Copied to another machine: other inodes and times, the same contents."""
    run = tmp_path / "run"
    go(data, run, max_steps=2)
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert not go(tmp_path / "copy", run, None, resume=True, max_steps=3).warnings
    for path in data.rglob("*.png"):
        os.utime(path, (1, 1))
    assert not go(data, run, None, resume=True, max_steps=4).warnings


def test_record_data__hashes_a_file_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def count(path: Path) -> str | None:
        hashed.append(path.name)
        return atomic.file_sha256(path)

    monkeypatch.setattr(data_record, "file_sha256", count)
    first = record(data)
    assert len(hashed) == 12
    assert {one.image.sha256 for one in first.train} == {
        hashlib.sha256((data / "train" / "images" / one.image.name).read_bytes()).hexdigest() for one in first.train
    }
    again = DataRecord.from_json(first.to_json())
    assert again == first
    hashed.clear()
    assert record(data, again) == first
    assert hashed == []
    swap(data / "train" / "images" / "p000.png", data / "train" / "images" / "p002.png")
    record(data, again)
    assert sorted(hashed) == ["p000.png", "p002.png"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"format":2,"train":[],"val":[]}', b"\xff"])
def test_train__a_record_that_is_gone_or_damaged_is_told(data: Path, tmp_path: Path, content: bytes) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    (run / "data.json").write_bytes(content)
    (warning,) = go(data, run, None, resume=True, max_steps=2).warnings
    assert "has no record of the pictures that it was trained on (data.json)" in warning
    assert go(data, run, None, resume=True, max_steps=3).warnings == ()
    (run / "data.json").unlink()
    (data / "train" / "images" / "p002.png").rename(data / "train" / "images" / "p009.png")
    (data / "train" / "masks" / "p002.png").rename(data / "train" / "masks" / "p009.png")
    with pytest.raises(InputError, match="was trained on other pairs .*: their names are others"):
        go(data, run, None, resume=True)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_train__a_picture_that_could_not_be_read_may_be_mended(data: Path, tmp_path: Path, skip_bad: bool) -> None:
    run, path = tmp_path / "run", data / "train" / "images" / "p002.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    if skip_bad:
        assert go(data, run, skip_bad=True, max_steps=6).skipped
    else:
        with pytest.raises(InputError, match=r"p002\.png"):
            go(data, run)
    path.write_bytes(whole)
    assert go(data, run, None, resume=True).is_complete


def test_train__combined_pictures_are_recorded_too(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for number in range(3):
        mask = disc(143, 40, 70, 70)
        both = np.concatenate([np.repeat(mask[:, :, None], 3, 2), photograph(mask, number)], 1)
        Image.fromarray(both).save(data / f"p{number}.png")
    go(data, run, max_steps=1)
    swap(data / "p0.png", data / "p1.png")
    with pytest.raises(InputError, match=r"pictures of 2 pairs to train on have changed places \(p0\.png, p1\.png\)"):
        go(data, run, None, resume=True)


def test_train__a_state_of_other_versions_is_told(data: Path, tmp_path: Path, m2l: CommandLine) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    state = torch.load(run / "state.pt", weights_only=True)
    versions: dict[str, str] = state["versions"]
    assert json.loads((run / "progress.json").read_text())["versions"] == versions
    for saved, expected in (
        (versions | {"torch": "1.9.0\x1b[31m"}, rf"torch 1\.9\.0\\x1b\[31m \(now {re.escape(versions['torch'])}\)"),
        (versions | {"m2l": "0.1.0"}, rf"m2l 0\.1\.0 \(now {re.escape(versions['m2l'])}\)"),
        ("no versions", r"m2l of an unknown version .* and torch of an unknown version"),
    ):
        torch.save(state | {"versions": saved}, run / "state.pt")
        outcome = m2l("train", data, run, "--resume", "--max-steps", 1, *SMALL)
        assert outcome.code == 0, outcome.err
        assert re.search(f"warning: the state was saved by {expected}.*may differ", outcome.err)
