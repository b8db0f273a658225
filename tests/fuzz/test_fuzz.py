"""Damaged files of every kind that m2l reads: each is refused with an error of m2l or read, in bounded time.

Seeds are fixed, so a run can be repeated. Counts are printed: inputs, refused, accepted, unexpected, hangs.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import Counts, documents, mutations, run
from PIL import Image
from support import ROOT, TINY, TINY_BUNDLE, disc, npz

from m2l_export.checkpoint import load_checkpoint
from m2l_runtime import Encoding, OutputOptions, Synthesizer, open_source, synthesize_folder
from m2l_runtime._utils import atomic
from m2l_runtime._utils.npz import read_npz
from m2l_runtime._utils.reading import reader_errors
from m2l_runtime.bundle.onnx_file import external_tensors
from m2l_runtime.bundle.validate import parse_manifest
from m2l_runtime.errors import BundleDamaged, MaskFileError, PictureFileError
from m2l_runtime.masks.mask_file import parse_mask
from m2l_runtime.runs.jsonl import read_lines
from m2l_runtime.runs.log import LogIndex, Record, names_output
from m2l_train.datasets.parts import find_parts
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training.checkpoint import appearance_rows_in, check_state, restore_state
from m2l_train.training.run_folder import STATE, RunFolder

pytestmark = pytest.mark.slow

OLD = ROOT / "tests" / "data" / "before-0.2"

Report = Callable[..., None]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    def show(counts: Counts, *, may_accept_all: bool = False) -> None:
        with capfd.disabled():
            print(f"\n{counts}")
        assert not counts.unexpected, counts.unexpected[:5]
        assert not counts.hangs, counts.hangs
        assert counts.refused or may_accept_all, "nothing was damaged"

    return show


def pictures() -> Iterator[bytes]:
    gray = Image.fromarray(disc(64, 20, 30, 30))
    for file_format in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"):
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
            buffer = io.BytesIO()
            picture = Image.fromarray(disc(64).astype(np.uint16)) if mode == "I;16" else gray.convert(mode)
            try:
                picture.save(buffer, file_format)
            except (OSError, KeyError, ValueError):
                continue
            yield buffer.getvalue()
    for compression in ("tiff_deflate", "tiff_lzw", "packbits", "jpeg"):
        buffer = io.BytesIO()
        gray.save(buffer, "TIFF", compression=compression)
        yield buffer.getvalue()
    exif = Image.Exif()
    exif[274] = 6
    for file_format in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        gray.save(buffer, file_format, exif=exif)
        yield buffer.getvalue()
    buffer = io.BytesIO()
    gray.save(buffer, "JPEG", progressive=True)
    yield buffer.getvalue()


def test_fuzz__pictures(report: Report, capfd: pytest.CaptureFixture[str]) -> None:
    def read(content: bytes) -> None:
        try:
            found = parse_mask(content, (32, 32))
        except PictureFileError as error:
            raise MaskFileError(str(error)) from None
        assert found.mask.shape == (32, 32)

    counts = run("pictures", mutations(list(pictures()), 6000, 1, head=400), read)
    assert capfd.readouterr().err == ""  # decoders print what they think of a file
    report(counts)


def test_fuzz__manifests(report: Report) -> None:
    whole = (TINY_BUNDLE / "manifest.json").read_bytes()

    def inputs() -> Iterator[bytes]:
        yield from documents(json.loads(whole), 6000, 2)
        yield from documents(json.loads((OLD / "bundle" / "manifest.json").read_bytes()), 3000, 3)
        yield from mutations([whole], 1000, 4)

    report(run("manifests", inputs(), lambda content: parse_manifest(content, "manifest.json")))


def damaged_archives(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield archives whose entries are damaged and whose checksums are right, packed or not."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    names = [name for name in entries if entries[name]]
    random = np.random.default_rng(seed)
    for number in range(count):
        name = names[int(random.integers(len(names)))]
        damaged = next(mutations([entries[name]], 1, seed + number, head=200))
        buffer = io.BytesIO()
        packing = zipfile.ZIP_DEFLATED if random.random() < 0.5 else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", packing) as target:
            for entry, content in entries.items():
                target.writestr(entry, damaged if entry == name else content)
        yield buffer.getvalue()


def test_fuzz__npz(report: Report) -> None:
    golden = (OLD / "bundle" / "appearances.npz").read_bytes()
    small = npz(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.zeros((), np.int64))

    def read(content: bytes) -> None:
        with reader_errors(BundleDamaged, "a.npz", "is not an .npz of arrays"):
            read_npz(content, 1 << 24)

    def inputs() -> Iterator[bytes]:
        yield from mutations([golden, small], 4000, 5)
        yield from damaged_archives(small, 4000, 6)

    report(run("npz", inputs(), read))


def test_fuzz__shape_models(report: Report, tmp_path: Path) -> None:
    from m2l_runtime.masks.sources import pca

    path = tmp_path / "model.npz"
    pca.save(_shape_model(), path)
    whole = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        pca.RandomShapes(pca.load(path), size=32).draw(0)

    read(whole)

    def inputs() -> Iterator[bytes]:
        yield from mutations([whole], 150, 7)
        yield from damaged_archives(whole, 150, 8)

    report(run("shape models", inputs(), read))


def _shape_model() -> Any:
    from m2l_runtime.masks.sources.pca import ShapeModel

    side = 16
    grid = np.hypot(*np.meshgrid(np.linspace(-3, 3, side), np.linspace(-3, 3, side)))
    component = np.full((1, side, side), 1 / side, np.float32)
    return ShapeModel(
        mean=(grid - 1).astype(np.float32),
        components=component,
        deviations=np.array([0.5]),
        explained=np.array([0.9]),
        poses=np.array([[0.5, 0.5, 0.2, 0.0]] * 4),
        box_radii=3.0,
        mask_count=4,
    )


def test_fuzz__onnx(report: Report) -> None:
    whole = (TINY_BUNDLE / "generator.fp32.onnx").read_bytes()

    def read(content: bytes) -> None:
        with reader_errors(BundleDamaged, "generator.onnx", "is not an ONNX model"):
            external_tensors(content)

    report(run("ONNX", mutations([whole], 1500, 9, head=4000), read))


def test_fuzz__checkpoints(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "g.pth"
    whole = (TINY / "tiny_net_G.pth").read_bytes()
    old = io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole), weights_only=True), old, _use_new_zipfile_serialization=False)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_checkpoint(path)

    read(whole)
    read(old.getvalue())

    def inputs() -> Iterator[bytes]:
        yield from mutations([whole], 100, 10, head=6000)
        yield from mutations([old.getvalue()], 200, 11, head=6000)
        yield from damaged_archives(whole, 100, 12)

    report(run("checkpoints", inputs(), read))


def test_fuzz__logs(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "m2l-log.jsonl"
    lines = (OLD / "synth-png" / "m2l-log.jsonl").read_bytes().splitlines()
    names = ["a_small_sample1.png", "c_large_sample1.png"]

    def read(content: bytes) -> None:
        path.write_bytes(content)
        names_output(path)
        index = LogIndex(tmp_path, names)
        try:
            for place in range(len(names)):
                index.get(place)
        finally:
            index.close()
        for record in read_lines(path, Record):
            for output in record.outputs:
                atomic.remove_inside(tmp_path / "images", output)

    def inputs() -> Iterator[bytes]:
        for seed, line in enumerate(line for line in lines if line.endswith(b"}")):  # the last one was cut off
            for changed in documents(json.loads(line), 500, 20 + seed):
                yield changed + b"\n" + line + b"\n"
        yield from mutations([b"\n".join(lines)], 1000, 13)

    report(run("logs", inputs(), read), may_accept_all=True)  # a damaged line is passed over, and no log is refused


def test_fuzz__states(report: Report, tmp_path: Path) -> None:
    whole = (OLD / "run" / STATE).read_bytes()
    config_text = (OLD / "run" / "config.json").read_bytes()
    run_folder = RunFolder(tmp_path)
    (tmp_path / "config.json").write_bytes(config_text)
    config = run_folder.read_config()
    device = torch.device("cpu")
    sound = torch.load(io.BytesIO(whole), weights_only=True)
    rows = appearance_rows_in(sound)

    def read(content: bytes) -> None:
        (tmp_path / STATE).write_bytes(content)
        state = run_folder.load(device)
        assert state is not None
        check_state(state, tmp_path, config, 1000)
        restore_state(state, Pix2Pix(config, device, appearance_rows=rows), str(tmp_path))

    def inputs() -> Iterator[bytes]:
        yield from mutations([whole], 60, 14, head=20_000)
        yield from damaged_archives(whole, 60, 15)

    read(whole)
    report(run("states", inputs(), read))


def test_fuzz__configs_and_progress(report: Report, tmp_path: Path) -> None:
    config_text = (OLD / "run" / "config.json").read_bytes()
    run_folder = RunFolder(tmp_path)

    def read_config(content: bytes) -> None:
        (tmp_path / "config.json").write_bytes(content)
        run_folder.is_run()
        run_folder.read_config()

    def read_progress(content: bytes) -> None:
        (tmp_path / "progress.json").write_bytes(content)
        run_folder.read_progress()

    report(run("configs", documents(json.loads(config_text), 2000, 16), read_config))
    progress = json.loads((OLD / "run" / "progress.json").read_bytes())
    report(
        run("progress", documents(progress, 1000, 17), read_progress), may_accept_all=True
    )  # a damaged one counts as none


@pytest.mark.parametrize("name", ["tar", "parquet", "npz", "csv"])
def test_fuzz__written_pairs(report: Report, tmp_path: Path, name: str) -> None:
    """Tars, Parquet files, arrays and tables of `m2l synth`, read as a dataset."""
    options = {
        "tar": OutputOptions(format="webdataset"),
        "parquet": OutputOptions(format="parquet"),
        "npz": OutputOptions(format="npz", image_encoding=Encoding("npz")),
        "csv": OutputOptions(pairs=True),
    }[name]
    with Synthesizer.open(TINY_BUNDLE, backend="fake", device="cpu") as synth:
        synthesize_folder(open_source("shapes:3,size=64", 1), tmp_path / "out", synth, options)
    target = tmp_path / "out" / "pairs.csv" if name == "csv" else sorted((tmp_path / "out").glob(f"*.{name}"))[0]
    whole = target.read_bytes()

    def read(content: bytes) -> None:
        target.write_bytes(content)
        for part in find_parts(tmp_path / "out"):
            for place in range(len(part)):
                part.read(place)
                part.name(place)

    read(whole)
    counts = run(f"written {name}", mutations([whole], 300, 18), read)
    report(counts)
