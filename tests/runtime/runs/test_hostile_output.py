"""An output folder that others can reach: links in place of what is appended to, and a folder replaced in mid-run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from support import TINY_BUNDLE, disc, save, slow

from m2l_runtime import Synthesizer, synthesize_folder
from m2l_runtime.errors import M2LError, OutputError
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import RunCallbacks
from m2l_runtime.runs.pipeline import Result

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(os.name != "posix", reason="links and descriptors of POSIX"),
]
COUNT: Final = 40  # more than are on their way at once
FORMATS: Final = {
    "png": OutputOptions(),
    "pairs": OutputOptions(pairs=True),
    "webdataset": OutputOptions(format="webdataset", masks_per_file=10),
    "parquet": OutputOptions(format="parquet", masks_per_file=10),
}


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    for index in range(COUNT):
        save(folder / "sub" / f"m{index:02}.png", disc(120, 8 + index, 60, 40 + index))
    return folder


@pytest.fixture
def fake() -> Iterator[Synthesizer]:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth:
        yield synth


def contents(out: Path) -> dict[str, bytes]:
    files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "m2l-" not in name}


def by_folder(out: Path, victim: Path) -> None:
    out.rename(out.with_name("moved away"))
    victim.rename(out)
    victim.symlink_to(out)


def by_link(out: Path, victim: Path) -> None:
    out.rename(out.with_name("moved away"))
    out.symlink_to(victim)


def inner_by_link(out: Path, victim: Path) -> None:
    for inner in ("sub", "images"):
        if (out / inner).is_dir():
            (out / inner).rename(out.parent / "moved away")
            (out / inner).symlink_to(victim)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("replace", [slow(by_folder), by_link, inner_by_link])
def test_synthesize_folder__nothing_is_written_into_what_took_the_place_of_the_output(
    masks: Path, tmp_path: Path, fake: Synthesizer, form: str, replace: Callable[[Path, Path], None]
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    if replace is inner_by_link and form in ("webdataset", "parquet"):
        pytest.skip("no folders within")
    out, victim, done = tmp_path / "out", tmp_path / "victim", 0
    (victim / "sub").mkdir(parents=True)
    (victim / "sub" / "m09.png").write_bytes(b"mine")
    before = contents(victim)

    def on_result(_: Result) -> None:
        nonlocal done
        done += 1
        if done == 2:
            replace(out, victim)

    with pytest.raises(OutputError, match="meanwhile"):
        synthesize_folder(masks, out, fake, FORMATS[form], workers=1, callbacks=RunCallbacks(on_result=on_result))
    assert contents(victim) == before
    assert not [path.name for path in victim.rglob(".m2l*")]
    if replace is not inner_by_link:
        summary = synthesize_folder(masks, tmp_path / "moved away", fake, FORMATS[form], resume=True)
        assert (summary.image_count + summary.kept_count, summary.bad_count) == (COUNT, 0)
        synthesize_folder(masks, tmp_path / "whole", fake, FORMATS[form])
        assert contents(tmp_path / "moved away") == contents(tmp_path / "whole")


@pytest.mark.parametrize("again", ["resume", "overwrite", "begin"])
@pytest.mark.parametrize("shard", [(1, 1), (2, 2)])
def test_synthesize_folder__a_log_that_is_a_link_is_not_followed(
    masks: Path, tmp_path: Path, fake: Synthesizer, again: str, shard: tuple[int, int]
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim.jsonl"
    synthesize_folder(masks, out, fake, shard=shard)
    (log,) = (out / ".m2l").glob("m2l-log*")
    victim.write_bytes(log.read_bytes() + b"a line without an end")
    before = victim.read_bytes()
    log.unlink()
    log.symlink_to(victim)
    if again == "overwrite":  # the link goes, and a log of its own is begun
        assert synthesize_folder(masks, out, fake, shard=shard, overwrite=True).image_count > 0
        assert not log.is_symlink()
    else:
        with pytest.raises(M2LError, match="symbolic link, not a plain file; move it away|holds an earlier run"):
            synthesize_folder(masks, out, fake, shard=shard, resume=again == "resume")
    assert victim.read_bytes() == before


def test_synthesize_folder__a_log_with_another_name_is_copied_before_it_is_written(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    """As a snapshot made by `cp -al` has it."""
    out, snapshot = tmp_path / "out", tmp_path / "snapshot.jsonl"
    synthesize_folder(masks, out, fake)
    os.link(out / ".m2l" / "m2l-log.jsonl", snapshot)
    before = snapshot.read_bytes()
    (out / "sub" / "m03.png").unlink()
    assert synthesize_folder(masks, out, fake, resume=True).image_count == 1
    assert snapshot.read_bytes() == before
    assert len((out / ".m2l" / "m2l-log.jsonl").read_bytes()) > len(before)
