"""Runs that survive: formats, shards, resuming, locks, signals, kills."""

from __future__ import annotations

import csv
import gc
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from command_line import CommandLine
from filelock import FileLock
from PIL import Image
from support import TINY_BUNDLE, disc, edit, save, slow

from m2l_runtime import Synthesizer, open_bundle, read_mask
from m2l_runtime.errors import EngineError, EngineNotInstalled, InputError, OutputError
from m2l_runtime.output.encoding import Encoding
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import RunCallbacks, Summary, synthesize_folder
from m2l_runtime.runs.log import LogIndex

pytestmark = pytest.mark.once

COUNT = 23
TARS = OutputOptions(format="webdataset", masks_per_file=5)
PROGRAM = "from m2l_runtime.cli.main import main; main()"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    for index in range(COUNT):
        name = f"{'sub/' * (index % 3 == 0)}m{index:02}.png"
        save(folder / name, disc(120, 8 + 2 * index, 60, 40 + index))
    (folder / "m07bad.png").write_text("no")
    return folder


@pytest.fixture
def fake() -> Synthesizer:
    return Synthesizer.open(TINY_BUNDLE, backend="fake")


def contents(out: Path) -> dict[str, bytes]:
    """Every output by name, without logs and locks."""
    files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if "m2l-" not in name}


def log(out: Path, name: str = ".m2l/m2l-log.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "npz"])
def test_writers_and_resume__each_format_holds_the_image_and_says_what_it_is(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer, image_format: str
) -> None:
    options = OutputOptions(format=image_format, image_encoding=Encoding(image_format))  # type: ignore[arg-type]
    summary = synthesize_folder(masks, tmp_path / "out", tiny_synth, options)
    assert (summary.image_count, summary.bad_count) == (COUNT, 1)
    (path,) = (tmp_path / "out").glob("m05.*")
    expected = tiny_synth(read_mask(masks / "m05.png", (256, 256)).mask[None])[0]
    sha256 = open_bundle(TINY_BUNDLE).sha256
    if image_format == "npz":
        with np.load(path) as found:
            np.testing.assert_array_equal(found["image"], expected)
            gray = read_mask(masks / "m05.png", (256, 256)).mask
            np.testing.assert_array_equal(found["mask"], np.where(gray >= 128, 255, 0))
            assert "Synthetic image" in str(found["Description"])
            assert str(found["m2l-bundle-sha256"]) == sha256
        return
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
        about = picture.info if image_format == "png" else picture.getexif()
    words = " ".join(map(str, about.values()))
    assert "Synthetic image" in words
    assert sha256 in words
    difference = pixels.astype(int) - expected
    if image_format == "webp":  # it halves the color's resolution, and these images are all color: look at the light
        difference = difference @ np.array([0.299, 0.587, 0.114])
    assert np.abs(difference).mean() <= {"png": 0, "jpeg": 3, "webp": 4}[image_format]


def test_writers_and_resume__the_log_tells_all(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    synthesize_folder(masks, tmp_path / "out", fake)
    lines = log(tmp_path / "out")
    assert [line["name"] for line in lines] == sorted(p.relative_to(masks).as_posix() for p in masks.rglob("*.png"))
    for line in lines:
        assert line["mask_sha256"] == hashlib.sha256((masks / str(line["name"])).read_bytes()).hexdigest()
        assert line["bundle_sha256"] == fake.bundle.sha256
        assert {"backend", "engine", "precision", "batch_size", "threads", "seed", "encoder"} <= set(line)
        if line["name"] == "m07bad.png":
            assert "is not a PNG" in str(line["problem"])
        else:
            made = (tmp_path / "out" / str(line["output"])).read_bytes()
            assert line["output_sha256"] == hashlib.sha256(made).hexdigest()


def test_writers_and_resume__tars_hold_their_share_in_order(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    synthesize_folder(masks, tmp_path / "out", fake, TARS)
    names = sorted(p.relative_to(masks).as_posix() for p in masks.rglob("*.png"))
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [t.name for t in tars] == [f"lesions-{t:06}.tar" for t in range(5)]
    found = []
    for number, path in enumerate(tars):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for member in members:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            for about in (m for m in members if m.name.endswith(".json")):
                key = int(about.name.split(".")[0])
                assert number * 5 <= key < number * 5 + 5
                file = tar.extractfile(about)
                assert file is not None
                assert json.load(file)["name"] == names[key]
                found.append(names[key])
                mask, image = (tar.extractfile(f"{key:09}{end}") for end in (".mask.png", ".png"))
                assert mask is not None
                assert image is not None
                inside = np.array(Image.open(io.BytesIO(mask.read()))) == 255
                pixels = np.array(Image.open(io.BytesIO(image.read()))).astype(int)
                assert pixels[inside].mean() < pixels[~inside].mean() - 50
    assert found == [name for name in names if name != "m07bad.png"]


def test_writers_and_resume__parquet_reads_back_as_images(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(format="parquet", masks_per_file=10))
    rows = []
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        table = pq.read_table(path)
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == features["mask"] == {"_type": "Image"}
        rows += table.to_pylist()
    assert len(rows) == COUNT
    for row in rows:
        mask = np.array(Image.open(io.BytesIO(row["mask"]["bytes"])))
        image = np.array(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)
        assert image[mask == 255].mean() < image[mask == 0].mean() - 50
        assert row["mask_sha256"] == hashlib.sha256((masks / row["name"]).read_bytes()).hexdigest()


def test_writers_and_resume__parquet_without_pyarrow_names_the_command(
    masks: Path, tmp_path: Path, fake: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "m2l_runtime.output.writers.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EngineNotInstalled, match=r'pip install "m2l\[parquet\]"'):
        synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(format="parquet"))
    assert not (tmp_path / "out").exists()


def test_writers_and_resume__pairs_and_the_original_size(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    options = OutputOptions(pairs=True, original_size=True)
    synthesize_folder(masks, tmp_path / "out", fake, options)
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT
    for row in rows:
        image, mask = (np.array(Image.open(tmp_path / "out" / row[kind])) for kind in ("image", "mask"))
        source = np.array(Image.open(masks / row["source"]))
        np.testing.assert_array_equal(mask, source)
        assert image.shape == (120, 120, 3)
        assert image[mask == 255].mean() < image[mask == 0].mean() - 50


@pytest.mark.parametrize("options", [OutputOptions(pairs=True), TARS], ids=["pairs", "tars"])
@pytest.mark.parametrize("count", [slow(2), 3, slow(7)])
def test_writers_and_resume__any_split_gives_the_same_files(
    masks: Path, tmp_path: Path, fake: Synthesizer, options: OutputOptions, count: int
) -> None:
    synthesize_folder(masks, tmp_path / "whole", fake, options)
    for number in range(count, 0, -1):
        synthesize_folder(masks, tmp_path / "split", fake, options, shard=(number, count))
    assert contents(tmp_path / "split") == contents(tmp_path / "whole")


@pytest.mark.parametrize("options", [OutputOptions(pairs=True), TARS], ids=["pairs", "tars"])
def test_writers_and_resume__resuming_redoes_what_is_missing_altered_or_outdated(
    masks: Path, tmp_path: Path, fake: Synthesizer, options: OutputOptions
) -> None:
    out = tmp_path / "out"

    def resume() -> Summary:
        return synthesize_folder(masks, out, fake, options, resume=True)

    synthesize_folder(masks, out, fake, options)
    expected = contents(out)
    again = resume()
    assert (again.image_count, again.kept_count, again.bad_count) == (0, COUNT, 1)
    victims = sorted(p for p in out.rglob("*") if p.suffix in (".png", ".tar"))
    victims[1].unlink()
    victims[-1].write_bytes(victims[-1].read_bytes()[:-1] + b"x")
    some = resume()
    assert 0 < some.image_count < COUNT
    assert contents(out) == expected
    with (out / ".m2l/m2l-log.jsonl").open("a") as file:
        file.write('{"name": "torn')
    assert resume().image_count == 0
    assert (out / ".m2l/m2l-log.jsonl").read_bytes().endswith(b"}\n")
    save(masks / "m05.png", disc(120, 50))
    changed = resume()
    assert 1 <= changed.image_count <= 5
    assert contents(out) != expected
    (masks / "m07bad.png").unlink()
    save(masks / "m07bad.png", disc(120, 20))
    assert resume().bad_count == 0
    notes: list[str] = []
    assert (
        synthesize_folder(
            masks, out, fake, options, resume=True, callbacks=RunCallbacks(on_note=notes.append)
        ).image_count
        == 0
    )
    assert notes == []
    with Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=3) as other:
        assert (
            synthesize_folder(
                masks, out, other, options, resume=True, callbacks=RunCallbacks(on_note=notes.append)
            ).kept_count
            == 0
        )
    before = fake.settings.batch_size
    assert notes == [f"images made earlier are made again, as they were made with batch size {before}, now 3"]


def test_writers_and_resume__without_resume_or_overwrite_an_earlier_run_is_left_alone(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    synthesize_folder(masks, tmp_path / "out", fake)
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError, match="holds an earlier run .* --resume goes on with it"):
        synthesize_folder(masks, tmp_path / "out", fake)
    assert contents(tmp_path / "out") == before
    assert synthesize_folder(masks, tmp_path / "out", fake, overwrite=True).image_count == COUNT


@pytest.mark.parametrize("left", ["bad masks only", "failed engine", "other shard"])
def test_synthesize_folder__a_run_that_made_nothing_blocks_none(
    tmp_path: Path, fake: Synthesizer, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    masks, out, shard = tmp_path / "masks", tmp_path / "out", (2, 2) if left == "other shard" else (1, 1)
    masks.mkdir()
    for name in ("a.png", "b.png"):
        (masks / name).write_text("no")
    if left == "failed engine":
        save(masks / "a.png", disc())
        with monkeypatch.context() as patch, pytest.raises(EngineError, match="broke"):
            patch.setattr(Synthesizer, "synthesize_checked", lambda *_: (_ for _ in ()).throw(EngineError("broke")))
            synthesize_folder(masks, out, fake)
    else:
        assert synthesize_folder(masks, out, fake, OutputOptions(pairs=True), shard=shard).image_count == 0
    assert list(out.glob(".m2l/m2l-log*.jsonl"))
    for name in ("a.png", "b.png"):
        save(masks / name, disc())
    shard = (1, 2) if left == "other shard" else (1, 1)
    name, count = (".m2l/m2l-log-1-of-2.jsonl", 1) if left == "other shard" else (".m2l/m2l-log.jsonl", 2)
    assert synthesize_folder(masks, out, fake, shard=shard).image_count == count
    assert [line.get("output") for line in log(out, name)] == ["a.png", "b.png"][:count]
    with pytest.raises(OutputError, match="holds an earlier run"):
        synthesize_folder(masks, out, fake, shard=shard)


def test_synthesize_folder__another_bundle_may_resume_what_made_nothing(
    tmp_path: Path, fake: Synthesizer, bundle_copy: Path
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    (masks / "a.png").write_text("no")
    synthesize_folder(masks, out, fake)
    save(masks / "a.png", disc())
    edit(bundle_copy, lambda manifest: manifest.update(name="another"))
    with Synthesizer.open(bundle_copy, backend="fake") as other:
        assert synthesize_folder(masks, out, other, resume=True).image_count == 1
    with pytest.raises(OutputError, match="holds a run of another bundle"):
        synthesize_folder(masks, out, fake, resume=True)


@pytest.mark.parametrize("name", [".m2l/m2l-log.jsonl", "m2l-log.jsonl"], ids=["now", "0.1"])
def test_synthesize_folder__a_log_that_is_not_understood_is_not_replaced(
    tmp_path: Path, fake: Synthesizer, name: str
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    (out / name).parent.mkdir(parents=True)
    save(masks / "a.png", disc())
    (out / name).write_text('{"of": "another version"}\n')
    with pytest.raises(OutputError, match="holds an earlier run"):
        synthesize_folder(masks, out, fake)
    (out / name).write_text('{"cut of')
    assert synthesize_folder(masks, out, fake).image_count == 1


@pytest.mark.parametrize("options", [OutputOptions(), OutputOptions(pairs=True), TARS], ids=["files", "pairs", "tars"])
def test_log__lies_beside_no_image_and_where_0_1_put_it_it_is_read(
    masks: Path, tmp_path: Path, fake: Synthesizer, options: OutputOptions
) -> None:
    out = tmp_path / "out"
    assert synthesize_folder(masks, out, fake, options).image_count == COUNT
    assert sorted(path.name for path in out.iterdir() if "log" in path.name) == []
    before = contents(out)
    (out / ".m2l" / "m2l-log.jsonl").rename(out / "m2l-log.jsonl")
    (out / ".m2l").rmdir()
    with pytest.raises(OutputError, match=r"holds an earlier run \(m2l-log.jsonl\)"):
        synthesize_folder(masks, out, fake, options)
    with pytest.raises(OutputError, match="holds what was made with other options|exists already"):
        synthesize_folder(masks, out, fake, OutputOptions(format="npz"), shard=(2, 2))
        synthesize_folder(masks, out, fake, options, shard=(2, 2))
    (out / ".m2l" / "m2l-log-2-of-2.jsonl").unlink(missing_ok=True)
    summary = synthesize_folder(masks, out, fake, options, resume=True)
    assert (summary.image_count, summary.kept_count) == (0, COUNT)
    assert contents(out) == before
    assert synthesize_folder(masks, out, fake, options, overwrite=True).image_count == COUNT
    assert contents(out) == before
    assert not (out / "m2l-log.jsonl").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_log__its_folder_is_a_folder_of_the_output(masks: Path, tmp_path: Path, fake: Synthesizer, kind: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").mkdir()
    log_folder = tmp_path / "out" / ".m2l"
    log_folder.write_text("") if kind == "file" else log_folder.symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="m2l is not a plain folder"):
        synthesize_folder(masks, tmp_path / "out", fake)
    assert not list((tmp_path / "victim").iterdir())


def test_writers_and_resume__one_run_at_a_time(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".m2l-lock"):
        for shard in ((1, 1), (1, 2)):
            with pytest.raises(OutputError, match="another m2l run is writing to"):
                synthesize_folder(masks, out, fake, shard=shard)
    with FileLock(out / ".m2l-lock-2-of-3"):
        for shard in ((1, 1), (2, 3)):
            with pytest.raises(OutputError, match="another m2l run is writing to"):
                synthesize_folder(masks, out, fake, shard=shard, resume=True)
        synthesize_folder(masks, out, fake, shard=(1, 3), resume=True)


def test_writers_and_resume__stopping_finishes_what_is_in_flight(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    seen: list[str] = []
    summary = synthesize_folder(
        masks,
        tmp_path / "out",
        fake,
        callbacks=RunCallbacks(on_result=lambda r: seen.append(r.name), should_stop=lambda: len(seen) >= 3),
    )
    assert summary.was_stopped
    assert 3 <= summary.image_count < COUNT
    assert len(contents(tmp_path / "out")) == summary.image_count
    rest = synthesize_folder(masks, tmp_path / "out", fake, resume=True)
    assert rest.kept_count == summary.image_count
    assert rest.image_count == COUNT - summary.image_count


def test_writers_and_resume__an_output_folder_that_is_removed_is_an_error(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    def remove(_: object) -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    with pytest.raises(OutputError, match="cannot write"):
        synthesize_folder(masks, tmp_path / "out", fake, workers=1, callbacks=RunCallbacks(on_result=remove))


def test_writers_and_resume__wrong_options(masks: Path, tmp_path: Path, fake: Synthesizer, m2l: CommandLine) -> None:
    for make in (
        lambda: OutputOptions(format="gif"),  # type: ignore[arg-type]
        lambda: OutputOptions(format="webdataset", pairs=True),
        lambda: OutputOptions(masks_per_file=0),
        lambda: Encoding("jpeg", quality=0),
        lambda: Encoding("png", png_level=10),
        lambda: synthesize_folder(masks, tmp_path / "out", fake, shard=(3, 2)),
        lambda: synthesize_folder(masks, tmp_path / "out", fake, workers=0),
    ):
        with pytest.raises(InputError):
            make()
    for shard in ("2", "0/3", "4/3", "a/b"):
        assert m2l("synth", masks, tmp_path / "out", "--shard", shard).code == 2
    assert not (tmp_path / "out").exists()


def test_writers_and_resume__the_summary_for_programs(masks: Path, tmp_path: Path, m2l: CommandLine) -> None:
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", TINY_BUNDLE, "--json")
    assert outcome.code == 3
    facts = json.loads(outcome.out)
    assert (facts["images"], facts["bad_masks"], facts["kept"]) == (COUNT, 1, 0)
    assert facts["engine_images_per_s"] >= facts["images_per_s"] > 0
    assert facts["peak_memory_megabytes"] > 10


def test_writers_and_resume__temporaries_of_killed_runs_are_swept_and_those_of_other_shards_left(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".m2l-1-of-9-abc.partial", ".m2l-2-of-9-abc.partial", ".m2l-abc.partial"):
        (out / name).write_text("")
    synthesize_folder(masks, out, fake, shard=(1, 9))
    assert sorted(p.name for p in out.glob("*.partial")) == [".m2l-2-of-9-abc.partial", ".m2l-abc.partial"]
    synthesize_folder(masks, out, fake, resume=True)  # alone in the folder
    assert not list(out.glob("*.partial"))


def names_below(out: Path) -> set[str]:
    return {name for name in contents(out) if name not in ("pairs.csv", "metadata.csv")}


@pytest.mark.parametrize("again", [{"resume": True}, slow({"overwrite": True})], ids=["resume", "overwrite"])
def test_writers_and_resume__what_no_mask_of_now_has_made_is_removed(
    masks: Path, tmp_path: Path, fake: Synthesizer, again: dict[str, bool]
) -> None:
    out = tmp_path / "out"
    layouts = [
        OutputOptions(pairs=True),
        TARS,
        OutputOptions(format="webdataset", masks_per_file=3),
        OutputOptions(format="jpeg", image_encoding=Encoding("jpeg")),
        OutputOptions(),
    ]
    synthesize_folder(masks, out, fake, layouts[0])
    (out / "mine.txt").write_text("mine")
    for number, options in enumerate(layouts):  # fewer masks each time, and another layout
        next(masks.rglob(f"m{13 + number}.png")).unlink()
        (masks / f"m{4 + 3 * number:02}.png").write_text("no mask any more")
        synthesize_folder(masks, out, fake, options, **cast(Any, again))
        undisturbed = tmp_path / f"undisturbed{number}"
        synthesize_folder(masks, undisturbed, fake, options)
        assert names_below(out) == names_below(undisturbed) | {"mine.txt"}


def test_writers_and_resume__a_tar_of_bad_masks_alone_goes(tmp_path: Path, fake: Synthesizer) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for index in range(6):
        save(masks / f"{index}.png", disc(64, 20, 30, 30))
    options = OutputOptions(format="webdataset", masks_per_file=2)
    synthesize_folder(masks, out, fake, options)
    for name in ("2.png", "3.png"):
        (masks / name).write_text("no")
    synthesize_folder(masks, out, fake, options, resume=True)
    assert sorted(contents(out)) == ["lesions-000000.tar", "lesions-000002.tar"]


def test_writers_and_resume__names_that_are_escaped_in_the_log_are_kept(tmp_path: Path, fake: Synthesizer) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    names = ["caf\udce9.png", "ü\n1.png", "a\\udce9.png", "z.png"]
    for name in names:
        save(tmp_path / "mask.png", disc(64, 20, 30, 30)).rename(masks / name)
    synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(pairs=True))
    before = contents(tmp_path / "out")
    assert len(before) == 10
    summary = synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(pairs=True), resume=True)
    assert (summary.kept_count, contents(tmp_path / "out")) == (4, before)


def test_writers_and_resume__shards_of_another_layout_are_not_mixed(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    out = tmp_path / "out"
    synthesize_folder(masks, out, fake, TARS, shard=(1, 2))
    before = contents(out)
    other = OutputOptions(format="webdataset", masks_per_file=3)
    for again in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match="holds what was made with other options .* give all shards the same"):
            synthesize_folder(masks, out, fake, other, shard=(2, 2), **cast(Any, again))
    assert contents(out) == before


def test_writers_and_resume__pairs_csv_names_only_what_is_there(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    out = tmp_path / "out"
    synthesize_folder(masks, out, fake)
    synthesize_folder(masks, out, fake, OutputOptions(pairs=True), resume=True)
    with (out / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT
    assert all((out / row[kind]).exists() for row in rows for kind in ("image", "mask"))
    synthesize_folder(masks, out, fake, overwrite=True)
    assert not (out / "pairs.csv").exists()
    assert not (out / "metadata.csv").exists()


def test_pairs__a_table_of_somebody_else_is_not_replaced(masks: Path, tmp_path: Path, fake: Synthesizer) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metadata.csv").write_text("theirs")
    with pytest.raises(OutputError, match=r"metadata\.csv exists already"):
        synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(pairs=True))
    assert synthesize_folder(masks, tmp_path / "out", fake).image_count == COUNT
    assert (tmp_path / "out" / "metadata.csv").read_text() == "theirs"


def test_writers_and_resume__a_log_without_hashes_proves_nothing(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    out = tmp_path / "out"
    synthesize_folder(masks, out, fake)
    lines = log(out)
    (out / ".m2l/m2l-log.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "output_sha256"}) + "\n" for line in lines)
    )
    (out / "m05.png").unlink()
    assert synthesize_folder(masks, out, fake, resume=True).kept_count == 0
    assert (out / "m05.png").exists()


def test_writers_and_resume__pipes_and_loops_do_not_hang_or_end_a_run(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    os.mkfifo(masks / "m08pipe.png")
    (masks / "m09loop.png").symlink_to("m09loop.png")
    for again in ({}, {"resume": True}):
        assert synthesize_folder(masks, tmp_path / "out", fake, TARS, **cast(Any, again)).bad_count == 3
    (tmp_path / "out" / ".m2l/m2l-log.jsonl").unlink()
    os.mkfifo(tmp_path / "out" / ".m2l/m2l-log.jsonl")
    with pytest.raises(InputError, match="is not a plain file; move it away"):
        synthesize_folder(masks, tmp_path / "out", fake, TARS, resume=True)


def test_writers_and_resume__shards_that_begin_together_do_not_refuse_one_another(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from m2l_runtime.runs.lock import locked\n"
        "for _ in range(200):\n    with locked(pathlib.Path(sys.argv[1]), (int(sys.argv[2]), 3)): pass"
    )
    (tmp_path / ".m2l-lock").write_text("")
    commands = [[sys.executable, "-c", program, str(tmp_path), str(number)] for number in (1, 2, 3)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [(b"", 0)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_writers_and_resume__without_standard_error_a_run_goes_on_and_signals_work(tmp_path: Path, stderr: str) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for index in range(120):
        save(masks / f"{index:03}.png", disc(64, 3 + index % 25, 30, 30))
    (masks / "000bad.png").write_text("no")
    command = f"exec {sys.executable} -c '{PROGRAM}' synth {masks} {out} --bundle {TINY_BUNDLE} --resume {stderr}"
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL)
    wait_for(out, 5)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=False).returncode == 3
    assert len(contents(out)) == 120


def test_writers_and_resume__a_signal_amid_a_tar_leaves_no_traceback(
    masks: Path, tmp_path: Path, fake: Synthesizer
) -> None:
    seen: list[str] = []
    summary = synthesize_folder(
        masks,
        tmp_path / "out",
        fake,
        TARS,
        callbacks=RunCallbacks(on_result=lambda r: seen.append(r.name), should_stop=lambda: len(seen) >= 3),
    )
    finished = 0
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            finished += sum(name.endswith(".json") for name in tar.getnames())
    assert summary.image_count - summary.unfinished_count == finished
    assert 3 <= summary.image_count < COUNT
    gc.collect()  # what a tar that was let go writes at its end would be an unraisable error, which fails this test


def test_writers_and_resume__names_of_files_and_options_without_effect(
    masks: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    mask = masks / "m01.png"
    for name, kind in (("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.png", "PNG")):
        assert m2l("synth", mask, tmp_path / name, "--backend", "fake").code == 0
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind
    for arguments, message in (
        ((mask, tmp_path / "b.jpg", "--format", "png"), "ends as jpeg does, but the format is png"),
        ((mask, tmp_path / "b.gif"), "ends as a picture of another format; choose .png, .jpg, .webp or .npz, or a f"),
        ((mask, tmp_path / "b.png", "--pairs"), "is the name of a file, but --pairs needs a folder"),
        ((masks, tmp_path / "b.png"), "is the name of a file, but many masks needs a folder"),
        ((mask, tmp_path / "b.tar", "--format", "webdataset"), "is the name of a file, but webdataset needs a folder"),
        ((masks, tmp_path / "o", "--resume", "--overwrite"), "choose one"),
        ((masks, tmp_path / "o", "--contact-sheet", masks / "s.png"), "would take it for a mask"),
    ):
        outcome = m2l("synth", *arguments, "--backend", "fake")
        assert outcome.code == (2 if message == "choose one" else 1)
        assert message in outcome.err
    for options in (
        ("--quality", 90),
        ("--format", "jpeg", "--png-level", 2),
        ("--masks-per-file", 9),
        ("--image-format", "jpeg"),
        ("--format", "webdataset", "--quality", 90),
        ("--shard", f"1/{'9' * 5000}"),
        ("--shard", "٣/٤"),
    ):
        assert m2l("synth", masks, tmp_path / "o", *options, "--backend", "fake").code == 2
    assert not (tmp_path / "o").exists()
    assert m2l("synth", masks, tmp_path / "j", "--format", "jpg", "--backend", "fake").code == 3
    assert (tmp_path / "j" / "m01.jpg").exists()


def test_writers_and_resume__jpeg_in_tars(masks: Path, tmp_path: Path, m2l: CommandLine) -> None:
    options = ("--format", "webdataset", "--image-format", "jpeg", "--quality", 90, "--backend", "fake")
    assert m2l("synth", masks, tmp_path / "out", *options).code == 3
    with tarfile.open(tmp_path / "out" / "lesions-000000.tar") as tar:
        file = tar.extractfile("000000001.jpg")
        assert file is not None
        assert Image.open(io.BytesIO(file.read())).format == "JPEG"


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, "synth", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(out: Path, count: int) -> None:
    """Until `out` holds some outputs, or a minute is over."""
    for _ in range(6000):
        if out.is_dir() and sum(1 for _ in out.rglob("*.png")) + sum(1 for _ in out.glob("*.tar")) >= count:
            return
        time.sleep(0.01)


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGTERM])
def test_writers_and_resume__signals_leave_a_run_that_can_be_resumed(
    tmp_path: Path, number: signal.Signals, m2l: CommandLine
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for index in range(150):
        save(masks / f"{index:03}.png", disc(64, 3 + index % 25, 30, 30))
    process = start(masks, out, "--bundle", TINY_BUNDLE)
    wait_for(out, 5)
    process.send_signal(number)
    assert process.wait() == 128 + number
    made = len(contents(out))
    assert 5 <= made < 150
    facts = json.loads(m2l("synth", masks, out, "--bundle", TINY_BUNDLE, "--resume", "--json").out)
    assert (facts["kept"], facts["images"]) == (made, 150 - made)


def test_writers_and_resume__a_run_of_another_bundle_is_not_gone_on_with(
    masks: Path, tmp_path: Path, fake: Synthesizer, bundle_copy: Path
) -> None:
    out = tmp_path / "out"
    synthesize_folder(masks, out, fake, shard=(1, 2))
    before = contents(out)
    edit(bundle_copy, lambda manifest: manifest.update(name="another"))
    with Synthesizer.open(bundle_copy, backend="fake") as other:
        for shard in ((1, 1), (1, 2)):
            with pytest.raises(OutputError, match=f"another bundle .sha256 {fake.bundle.sha256[:12]}"):
                synthesize_folder(masks, out, other, shard=shard, resume=True)
        assert contents(out) == before
        synthesize_folder(masks, out, other, shard=(2, 2), resume=True)  # no mask of the other share
        synthesize_folder(masks, out, other, shard=(1, 2), overwrite=True)
        assert synthesize_folder(masks, out, other, resume=True).kept_count == COUNT


@pytest.mark.slow
def test_writers_and_resume__thousands_of_bad_masks_are_summed_up(tmp_path: Path, m2l: CommandLine) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(2_000):
        (tmp_path / "masks" / f"{index}.png").write_bytes(b"no")
    outcome = m2l("synth", tmp_path / "masks", tmp_path / "out", "--backend", "fake", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["bad_masks"] == 2_000
    lines = outcome.err.splitlines()
    assert len(lines) < 40
    assert "... and 1,980 more such lines" in lines
    assert "skipped 2,000 bad masks" in lines[-1]
    assert len(log(tmp_path / "out")) == 2_000
    assert not contents(tmp_path / "out")


WEBDATASET = """
import json, sys, numpy, webdataset
tars, out = sys.argv[1:]
rows = webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8").to_tuple("json", "mask.png", "png")
found = {about["name"]: (mask, image) for about, mask, image in rows}
numpy.savez(out, names=list(found), masks=[m for m, _ in found.values()], images=[i for _, i in found.values()])
"""
DATASETS = """
import sys, numpy, datasets
out, cache, *files = sys.argv[1:]
rows = list(datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache))
images, masks = ([numpy.array(row[kind]) for row in rows] for kind in ("image", "mask"))
numpy.savez(out, names=[row["name"] for row in rows], masks=masks, images=images)
"""


IMAGE_FOLDER = """
import sys, numpy, datasets
out, cache, folder = sys.argv[1:]
rows = list(datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=cache))
images, masks = ([numpy.array(row[kind]) for row in rows] for kind in ("image", "mask"))
numpy.savez(out, names=[row["source"] for row in rows], masks=masks, images=images)
"""


def read_back(program: str, out: Path, *arguments: object) -> dict[str, tuple[npt.NDArray[np.uint8], ...]]:
    """(mask, image) by name, as a reader in a process of its own finds them."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    with np.load(out) as found:
        return {str(n): (m, i) for n, m, i in zip(found["names"], found["masks"], found["images"], strict=True)}


@pytest.mark.slow
def test_writers_and_resume__tars_read_back_by_webdataset(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    if importlib.util.find_spec("webdataset") is None:
        pytest.skip("webdataset is not installed")
    synthesize_folder(masks, tmp_path / "out", tiny_synth, TARS)
    out = tmp_path / "found.npz"
    found = read_back(WEBDATASET, out, tmp_path / "out" / "lesions-{000000..000004}.tar", out)
    assert len(found) == COUNT
    for name, (mask, image) in found.items():
        expected = read_mask(masks / name, (256, 256)).mask
        np.testing.assert_array_equal(mask[:, :, 0], np.where(expected >= 128, 255, 0))
        np.testing.assert_array_equal(image, tiny_synth(expected[None])[0])


@pytest.mark.slow
def test_writers_and_resume__parquet_reads_back_as_images_of_hugging_face_datasets(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer
) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    synthesize_folder(masks, tmp_path / "out", tiny_synth, OutputOptions(format="parquet", masks_per_file=10))
    out = tmp_path / "found.npz"
    found = read_back(DATASETS, out, out, tmp_path / "cache", *sorted((tmp_path / "out").glob("*.parquet")))
    assert len(found) == COUNT
    for name, (mask, image) in found.items():
        expected = read_mask(masks / name, (256, 256)).mask
        np.testing.assert_array_equal(mask, np.where(expected >= 128, 255, 0))
        np.testing.assert_array_equal(image, tiny_synth(expected[None])[0])


@pytest.mark.slow
def test_pairs__hugging_face_datasets_reads_the_folder_as_pairs(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer
) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    synthesize_folder(masks, tmp_path / "out", tiny_synth, OutputOptions(pairs=True))
    found = read_back(
        IMAGE_FOLDER, tmp_path / "found.npz", tmp_path / "found.npz", tmp_path / "cache", tmp_path / "out"
    )
    assert len(found) == COUNT
    for name, (mask, image) in found.items():
        expected = read_mask(masks / name, (256, 256)).mask
        np.testing.assert_array_equal(mask, np.where(expected >= 128, 255, 0))
        np.testing.assert_array_equal(image, tiny_synth(expected[None])[0])


def kill_after_outputs(masks: Path, out: Path, arguments: list[object], waits: list[int]) -> None:
    for more in waits:
        process = start(masks, out, *arguments, "--resume")
        wait_for(out, (len(contents(out)) if out.is_dir() else 0) + more)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(masks, out, *arguments, "--resume").wait() == 0


@pytest.mark.parametrize("waits", [[3], slow([3, 1, 2])])
@pytest.mark.parametrize("form", [[], slow(["--format", "webdataset", "--masks-per-file", 20])], ids=["png", "tars"])
def test_writers_and_resume__kills_change_nothing(tmp_path: Path, form: list[object], waits: list[int]) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(120):
        save(masks / f"{index:03}.png", disc(64, 3 + index % 25, 30, 30))
    arguments = ["--bundle", TINY_BUNDLE, *form]
    assert start(masks, tmp_path / "whole", *arguments).wait() == 0
    kill_after_outputs(masks, tmp_path / "out", arguments, waits)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("form", [[], ["--format", "webdataset", "--masks-per-file", 50]], ids=["png", "tars"])
def test_writers_and_resume__ten_kills_over_two_thousand_masks_with_the_embedded_model(
    tmp_path: Path, form: list[object]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(2000):
        save(masks / f"{index:04}.png", disc(256, 5 + index % 100, 60 + index % 130, 120))
    assert start(masks, tmp_path / "whole", *form).wait() == 0
    out, kills = tmp_path / "out", 0
    for wait in np.random.default_rng().uniform(0.3, 2.5, 10):
        process = start(masks, out, *form, "--resume")
        time.sleep(wait)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        partial, whole = (len(list(out.glob(f))) if out.is_dir() else 0 for f in (".*.partial", "*.png"))
        tars = len(list(out.glob("*.tar")))
        print(f"kill -9 after {wait:.3f} s: {whole} images, {tars} tars, {partial} unfinished files")
    assert kills == 10, "it was done before the last kill; wait less"
    assert start(masks, out, *form, "--resume").wait() == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with_log = LogIndex(tmp_path / "out", [f"{index:04}.png" for index in range(2000)])
    assert len(with_log) == 2000
    with_log.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting takes root")
def test_writers_and_resume__a_full_disk_leaves_a_run_that_can_be_resumed(
    masks: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        arguments = ("synth", masks, disk / "out", "--bundle", TINY_BUNDLE)
        outcome = m2l(*arguments)
        assert outcome.code == 1
        assert "No space left on device" in outcome.err
        assert "Traceback" not in outcome.err
        made = contents(disk / "out")
        assert 0 < len(made) < COUNT
        for content in made.values():
            Image.open(io.BytesIO(content)).load()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert m2l(*arguments, "--resume").code == 3
        assert len(contents(disk / "out")) == COUNT
    finally:
        subprocess.run(["umount", str(disk)], check=True)
