"""A run folder that others can reach: links and pipes in place of its files, and a folder replaced in mid-run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_data import data_folder, write_pair

from m2l_runtime.errors import M2LError, OutputError
from m2l_train import PrepareOptions, TrainConfig, TrainReport, prepare, train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and descriptors of POSIX")
CONFIG = TrainConfig(image_size=128, ngf=1, ndf=1, n_epochs=2, n_epochs_decay=0)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 3, 1)


def go(data: Path, run: Path, config: TrainConfig | None = CONFIG, **options: Any) -> TrainReport:
    settings: dict[str, Any] = {"threads": 1, "workers": 1, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_train__files_of_a_run_that_are_links_are_not_followed(data: Path, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    go(data, run, max_steps=2)
    for name in ("metrics.jsonl", "state.pt", "config.json"):
        before = (run / name).read_bytes()
        victim.write_bytes(before + b"a line without an end")
        (run / name).unlink()
        (run / name).symlink_to(victim)
        with pytest.raises(M2LError, match=f"{name}.*symbolic link, not a plain file"):
            go(data, run, None, resume=True)
        assert victim.read_bytes() == before + b"a line without an end"
        (run / name).unlink()
        (run / name).write_bytes(before)
    (run / "progress.json").unlink()
    (run / "progress.json").symlink_to(victim)
    before = victim.read_bytes()
    assert go(data, run, None, resume=True, max_steps=3).step == 3  # it is for people: made anew
    assert not (run / "progress.json").is_symlink()
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "state.pt", "config.json", "progress.json"])
def test_train__files_of_a_run_that_are_pipes_do_not_hang(data: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(M2LError, match=rf"{name}.* not a plain file"):
        go(data, run, None, resume=True)


def test_train__begun_anew_it_removes_nothing_through_a_link(data: Path, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    go(data, run, max_steps=1)
    victim.mkdir()
    for name in ("epoch_0001.png", "events.out.tfevents.1"):
        (victim / name).write_bytes(b"mine")
    for name in ("grids", "events"):
        (run / name).symlink_to(victim)
    (run / "metrics.jsonl").unlink()
    (tmp_path / "lines").write_bytes(b"mine\n")
    (run / "metrics.jsonl").symlink_to(tmp_path / "lines")
    go(data, run, overwrite=True, max_steps=1)
    assert content(victim) == {"epoch_0001.png": b"mine", "events.out.tfevents.1": b"mine"}
    assert (tmp_path / "lines").read_bytes() == b"mine\n"


@pytest.mark.parametrize("how", ["folder", "link", "grids"])
def test_train__nothing_is_written_into_what_took_the_place_of_the_run(data: Path, tmp_path: Path, how: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    victim.mkdir()
    (victim / "state.pt").write_bytes(b"mine")

    def on_step(result: Any) -> None:
        if how == "grids" and result.step == 4:
            (run / "grids").rename(tmp_path / "moved away")
            (run / "grids").symlink_to(victim)
        elif how != "grids" and result.step == 2:
            run.rename(tmp_path / "moved away")
            run.symlink_to(victim) if how == "link" else victim.rename(run)

    with pytest.raises(OutputError, match="meanwhile"):
        go(data, run, on_step=on_step, save_minutes=0, tensorboard=True)
    assert content(victim if how != "folder" else run) == {"state.pt": b"mine"}
    if how != "grids":
        assert go(data, tmp_path / "moved away", None, resume=True).is_complete


def test_prepare__links_and_replaced_folders_are_not_followed(tmp_path: Path) -> None:
    source, out, victim = tmp_path / "source", tmp_path / "out", tmp_path / "victim"
    for number in range(6):
        write_pair(source, f"p{number}", number, side=64)
    options = PrepareOptions(size=32, splits={"train": 0.5, "val": 0.5})
    prepare(source, source, out, options, workers=1)
    log = out / "prepare-log.jsonl"
    victim.write_bytes(log.read_bytes())
    before = victim.read_bytes()
    log.unlink()
    log.symlink_to(victim)
    for again in ("resume", "overwrite"):
        with pytest.raises(M2LError, match="symbolic link, not a plain file"):
            prepare(source, source, out, options, workers=1, **{again: True})  # type: ignore[arg-type]
    assert victim.read_bytes() == before

    other = tmp_path / "other"
    (tmp_path / "empty").mkdir()

    def on_pair(_: object) -> None:
        if other.is_dir() and not other.is_symlink():
            other.rename(tmp_path / "moved away")
            other.symlink_to(tmp_path / "empty")

    with pytest.raises(OutputError, match="other was moved, removed or replaced meanwhile"):
        prepare(source, source, other, options, workers=1, on_pair=on_pair)
    assert content(tmp_path / "empty") == {}
    assert prepare(source, source, tmp_path / "moved away", options, resume=True).prepared == 6
