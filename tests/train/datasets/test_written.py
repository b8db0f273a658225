"""Pairs that m2l synth wrote, read in each format: the same pixels, each pair once, in any number of workers."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import preloaded  # noqa: F401 - has the fork server import PyTorch once
import pytest
from pairs_content import contents
from support import npz, slow
from torch.utils.data import DataLoader

from m2l_runtime import Encoding, OutputOptions, Synthesizer, iterate_folder, open_source, synthesize_folder
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.errors import ArgumentError, InputError
from m2l_train.datasets import PairsDataset, PairsIterableDataset
from m2l_train.datasets.parts import find_parts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than CPUs
]

COUNT = 11
FORMATS: dict[str, OutputOptions] = {
    "pairs": OutputOptions(pairs=True),
    "npz": OutputOptions(format="npz", image_encoding=Encoding("npz")),
    "tars": OutputOptions(format="webdataset", masks_per_file=4),
    "one-tar": OutputOptions(format="webdataset"),
    "parquet": OutputOptions(format="parquet", masks_per_file=4),
}


@pytest.fixture(scope="module")
def written(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each format."""
    root = tmp_path_factory.mktemp("written")
    with Synthesizer.open(bundle, backend="onnxruntime", device="cpu") as synth:
        for name, options in FORMATS.items():
            synthesize_folder(open_source(f"shapes:{COUNT},size=64", 12), root / name, synth, options, seed=3)
    return {name: root / name for name in FORMATS}


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> list[tuple[bytes, bytes]]:
    with Synthesizer.open(bundle, backend="onnxruntime", device="cpu") as synth:
        results = list(iterate_folder(open_source(f"shapes:{COUNT},size=64", 12), synth, seed=3))
    return contents((result.image, result.mask) for result in results)


def loaded(dataset: Any, workers: int, method: str = "fork") -> list[tuple[bytes, bytes]]:
    context = None if workers == 0 else multiprocessing.get_context(method)
    return contents(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context))


@pytest.mark.parametrize("name", FORMATS)
def test_pairs_dataset__has_the_pixels_that_were_made(
    written: dict[str, Path], expected: list[tuple[bytes, bytes]], name: str
) -> None:
    pairs = PairsDataset(written[name])
    assert len(pairs) == COUNT
    assert contents(pairs[n] for n in range(COUNT)) == expected
    assert contents([pairs[-1], pairs[np.int64(2)]]) == [expected[-1], expected[2]]
    names = open_source(f"shapes:{COUNT},size=64", 12).names
    assert [pairs.name(n).removesuffix(".png") for n in range(COUNT)] == [one.removesuffix(".png") for one in names]
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="there are 11 pairs"):
            pairs[index]


@pytest.mark.parametrize("method", ["fork", "forkserver", slow("spawn")])
@pytest.mark.parametrize("name", ["pairs", "tars", "parquet"])
def test_pairs_dataset__workers_change_nothing(
    written: dict[str, Path], expected: list[tuple[bytes, bytes]], name: str, method: str
) -> None:
    pairs = PairsDataset(written[name])
    assert contents([pairs[0]]) == expected[:1]  # the parent has opened its files before workers start
    assert loaded(pairs, 2, method) == expected
    assert contents(pickle.loads(pickle.dumps(pairs))[n] for n in range(COUNT)) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_pairs_iterable_dataset__has_each_pair_once(
    written: dict[str, Path], expected: list[tuple[bytes, bytes]], name: str
) -> None:
    in_order = PairsIterableDataset(written[name])
    assert len(in_order) == COUNT
    assert contents(in_order) == expected
    for shuffle, workers in ((0, 3), (1, 0), (5, 0), (5, 2), (100, 3)):
        shuffled = PairsIterableDataset(written[name], shuffle=shuffle, seed=1)
        assert sorted(loaded(shuffled, workers)) == sorted(expected), (shuffle, workers)


@pytest.mark.parametrize("name", ["pairs", "tars"])
def test_pairs_iterable_dataset__seed_and_epoch_decide_the_order(written: dict[str, Path], name: str) -> None:
    pairs = PairsIterableDataset(written[name], shuffle=4, seed=1)
    first = contents(pairs)
    assert contents(pairs) == first == contents(PairsIterableDataset(written[name], shuffle=4, seed=1))
    assert contents(PairsIterableDataset(written[name], shuffle=4, seed=2)) != first
    pairs.set_epoch(1)
    assert contents(pairs) != first
    pairs.set_epoch(0)
    assert contents(pairs) == first


def test_pairs_iterable_dataset__a_buffer_mixes_pairs_of_different_files(written: dict[str, Path]) -> None:
    """Were only files shuffled, neighbours in a file would stay neighbours."""
    order = PairsIterableDataset(written["one-tar"], shuffle=6, seed=1)
    place = {pair: n for n, pair in enumerate(contents(PairsIterableDataset(written["one-tar"])))}
    found = [place[pair] for pair in contents(order)]
    assert found != sorted(found)
    assert sorted(found) == list(range(COUNT))


@pytest.mark.parametrize("name", ["pairs", "tars", "parquet"])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_pairs_iterable_dataset__shards_share_the_pairs(
    written: dict[str, Path], expected: list[tuple[bytes, bytes]], name: str, shuffle: int
) -> None:
    shards = [PairsIterableDataset(written[name], shuffle=shuffle, shard=(number, 2)) for number in (1, 2)]
    found = [contents(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(one) for one in found]
    assert sorted(itertools.chain(*found)) == sorted(expected)


def test_pairs_dataset__one_file_of_a_run(written: dict[str, Path], expected: list[tuple[bytes, bytes]]) -> None:
    for name, suffix in (("tars", "tar"), ("parquet", "parquet")):
        pairs = PairsDataset(written[name] / f"lesions-000001.{suffix}")
        assert contents(pairs[n] for n in range(len(pairs))) == expected[4:8]


def test_pairs_dataset__jpeg_is_near_what_was_made(bundle: Bundle, tmp_path: Path) -> None:
    masks = open_source("shapes:2,size=64", 12)
    with Synthesizer.open(bundle, backend="onnxruntime", device="cpu") as synth:
        options = OutputOptions(format="webdataset", image_encoding=Encoding("jpeg"))
        synthesize_folder(masks, tmp_path / "tars", synth, options)
        made = [result.image for result in iterate_folder(masks, synth)]
    for (image, _), exact in zip(map(PairsDataset(tmp_path / "tars").__getitem__, range(2)), made, strict=True):
        assert exact is not None
        assert np.abs(image.numpy().transpose(1, 2, 0) * 255 - exact).mean() < 20


def copied(written: dict[str, Path], name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[name], tmp_path / name))


@pytest.mark.parametrize("name", ["tars", "parquet"])
@pytest.mark.parametrize("keep", [0, 100, 700, -100])
def test_pairs_dataset__a_file_that_was_cut_off(written: dict[str, Path], name: str, keep: int, tmp_path: Path) -> None:
    folder = copied(written, name, tmp_path)
    victim = sorted(folder.glob("lesions-*"))[1]
    size = victim.stat().st_size
    with victim.open("r+b") as file:
        file.truncate(keep if keep >= 0 else size // 2)
    with pytest.raises(InputError, match=rf"{victim.name} is damaged"):
        PairsDataset(folder)


def test_pairs_dataset__pictures_that_are_broken(written: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(written, "pairs", tmp_path)
    images = sorted((folder / "images").iterdir())
    images[0].write_bytes(b"no picture")
    images[1].unlink()
    pairs = PairsDataset(folder)
    with pytest.raises(InputError, match=images[0].name):
        pairs[0]
    with pytest.raises(InputError, match=f"cannot read .*{images[1].name}"):
        pairs[1]
    arrays = copied(written, "npz", tmp_path)
    first, second = sorted(arrays.glob("*.npz"))[:2]
    first.write_bytes(first.read_bytes()[:50])
    np.savez(second, image=np.zeros((3, 3)), mask=np.zeros((3, 3)))
    with pytest.raises(InputError, match="is damaged, or no pair of m2l"):
        PairsDataset(arrays)[0]
    with pytest.raises(InputError, match="holds other arrays"):
        PairsDataset(arrays)[1]


def read_all(folder: Path) -> None:
    """Read whatever a folder holds; a refusal is an `InputError`."""
    for part in find_parts(folder):
        for place in range(len(part)):
            part.read(place)
            part.name(place)


def tar_of(**files: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def test_pairs_dataset__readers_raise_what_they_like(written: dict[str, Path], tmp_path: Path) -> None:
    """Errors of csv, json, tarfile, NumPy and pyarrow become one that names the file."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image, mask = (sorted((written["pairs"] / kind).iterdir())[0].read_bytes() for kind in ("images", "masks"))
    large = io.BytesIO()
    np.savez_compressed(large, image=np.zeros((1 << 14, 10_240), np.uint8), mask=np.zeros((3, 3), np.uint8))
    cases: dict[str, bytes] = {
        "deep.tar": tar_of(a__png=image, a__mask__png=mask, a__json=b"[" * 100_000),
        "list.tar": tar_of(a__png=image, a__mask__png=mask, a__json=b"[]"),
        "size.tar": tar_of(a__png=image)[:124] + b"\xff" * 12 + tar_of(a__png=image)[136:],
        "pairs.csv": b"image,mask,source\nimages/a.png\n",
        "nul/pairs.csv": b"image,mask,source\nimages/\0.png,masks/a.png,a\n",
        "field/pairs.csv": b"image,mask,source\n" + b"x" * 200_000 + b",b,c\n",
        "flat/a.npz": npz(image=np.zeros(3, np.uint8), mask=np.zeros((), np.uint8)),
        "large/a.npz": large.getvalue(),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(InputError, match=path.name if path.parent.name != "nul" else "embedded null"):
            read_all(path if path.suffix == ".tar" else path.parent)
        path.unlink()
    for number, column in enumerate(("text", None, {"path": "a"}, {"bytes": None}, {"bytes": "text"}, {"bytes": 7})):
        table = pyarrow.Table.from_pylist([{"image": column, "mask": column, "name": "a"}])
        parquet.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(InputError, match=f"{number}.parquet"):
            read_all(tmp_path / f"{number}.parquet")


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "pairs.csv", "a.npz"])
def test_pairs_dataset__pipes_are_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="not a plain file|holds no pairs"):
        read_all(tmp_path)


def test_pairs_dataset__a_tar_that_changes_while_it_is_read(written: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(written, "tars", tmp_path)
    pairs = PairsDataset(folder)
    with sorted(folder.glob("*.tar"))[0].open("r+b") as file:
        file.truncate(600)
    with pytest.raises(InputError, match="ends too early"):
        pairs[3]


def test_pairs_datasets__folders_that_are_none(written: dict[str, Path], tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path / "missing", "does not exist"),
        (written["pairs"] / "pairs.csv", "is no tar or Parquet file"),
        (tmp_path, "holds no pairs; expected an output folder of m2l synth with --pairs"),
    ):
        for kind in (PairsDataset, PairsIterableDataset):
            with pytest.raises(InputError, match=message):
                kind(folder)
    unfinished = copied(written, "pairs", tmp_path)
    (unfinished / "pairs.csv").unlink()
    with pytest.raises(InputError, match="its run has not ended; go on with m2l synth --resume"):
        PairsDataset(unfinished)
    (unfinished / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has no columns image, mask and source"):
        PairsDataset(unfinished)
    mixed = copied(written, "tars", tmp_path)
    shutil.copy(next(written["parquet"].glob("*.parquet")), mixed)
    with pytest.raises(InputError, match="holds tars and Parquet files; expected the output of one run"):
        PairsDataset(mixed)
    with pytest.raises(ArgumentError, match="shuffle"):
        PairsIterableDataset(written["tars"], shuffle=-1)
    with pytest.raises(ArgumentError, match=r"\(I, N\)"):
        PairsIterableDataset(written["tars"], shard=(2, 1))
