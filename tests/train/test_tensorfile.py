"""Checkpoints that ask for more than a file of their size holds are refused before they are loaded."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TINY

from m2l_runtime.errors import InputError, M2LError
from m2l_train.pickle_scan import ForeignNames, PickleProblem, check_pickle
from m2l_train.tensorfile import load_tensors, read_tensors
from m2l_train.training.run_folder import RunFolder


def nested(depth: int, tail: bytes = b"K\x01u.") -> bytes:
    """A pickle of a dict whose key is a pair of pairs of pairs, each twice the same."""
    doubled = b"".join(b"q" + bytes([at]) + b"h" + bytes([at]) + b"\x86" for at in range(depth))
    return b"\x80\x02}()" + doubled + tail


def archive(pickled: bytes, packing: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/version", "3\n")
        for name, content in entries.items():
            target.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def old_format(pickled: bytes) -> bytes:
    front = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    return b"".join(pickle.dumps(each, 2) for each in front) + pickled + pickle.dumps([], 2)


def call(name: bytes, argument: bytes) -> bytes:
    return b"\x80\x02c" + name + b"\n(" + argument + b"tR."


HOSTILE = {
    "keys of nested tuples": nested(60),
    "a set of nested tuples": b"\x80\x04\x8f(" + nested(60)[4:-3].replace(b"(", b"", 1) + b"\x90.",
    "bytes without end": call(b"__builtin__\nbytearray", b"J\xff\xff\xff\x7f"),
    "a counter of nested tuples": call(b"collections\nCounter", b"(" + nested(60)[5:-3] + b"l"),
    "a dict of nested tuples": call(b"collections\nOrderedDict", b"((" + nested(60)[5:-3] + b"K\x01\x86l"),
    "a number of a megabyte": b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b".",
    "a function": call(b"posix\nsystem", b"X\x02\x00\x00\x00id"),
    "operations out of order": b"\x80\x02\x86.",
    "a mark that is not there": b"\x80\x02u.",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("wrap", [archive, old_format])
def test_load_tensors__what_never_ends_is_refused_unread(what: str, wrap: Any) -> None:
    began = time.process_time()
    with pytest.raises((ValueError, IndexError, KeyError)):
        load_tensors(wrap(HOSTILE[what]))
    assert time.process_time() - began < 5, "it was loaded"


def test_check_pickle__says_which() -> None:
    with pytest.raises(PickleProblem, match="tuples in tuples, of more than 1,000 entries"):
        check_pickle(HOSTILE["keys of nested tuples"])
    with pytest.raises(ForeignNames, match="it names __builtin__.bytearray, which weights do not need"):
        check_pickle(HOSTILE["bytes without end"])
    with pytest.raises(PickleProblem, match="a number of 1,048,575 bytes"):
        check_pickle(HOSTILE["a number of a megabyte"])


def test_load_tensors__what_frameworks_save_is_loaded(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 1, 5, 5)).sum().backward()
    optimizer.step()
    saved = {
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "names": ["a"] * 2000,
        "sizes": tuple(range(2000)),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(1)),
        "ordered": collections.OrderedDict(a=torch.Size([1, 2])),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }
    for is_new in (True, False):
        buffer = io.BytesIO()
        torch.save(saved, buffer, _use_new_zipfile_serialization=is_new)
        found = load_tensors(buffer.getvalue())
        assert found.keys() == saved.keys()
        assert torch.equal(found["state_dict"]["0.weight"], network.state_dict()["0.weight"])
        assert found["sizes"] == saved["sizes"]


def test_load_tensors__a_packed_file_unpacks_to_a_few_times_its_size() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1 << 27, dtype=torch.uint8)}, buffer)
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    content = packed.getvalue()
    assert len(content) < 1_000_000
    with pytest.raises(ValueError, match=r"bytes unpack to 134,21\d,\d+; at most 67,108,864 are read"):
        load_tensors(content)
    weights = (TINY / "tiny_net_G.pth").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(weights)) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert load_tensors(packed.getvalue()).keys() == load_tensors(weights).keys()


def test_read_tensors__lzma_is_refused_and_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "g.pth").write_bytes(archive(pickletools.optimize(pickle.dumps({}, 2)), zipfile.ZIP_LZMA))
    with pytest.raises(InputError, match=r"g\.pth is damaged.*in a way that PyTorch does not write; expected it"):
        read_tensors(tmp_path / "g.pth", "it")


@pytest.mark.parametrize("name", ["state.pt", "config.json", "progress.json"])
def test_run_folder__a_pipe_in_place_of_a_file_holds_nothing_up(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    run = RunFolder(tmp_path)
    assert not run.is_run()
    assert run.read_progress() is None
    with pytest.raises(M2LError, match=r"cannot read .*(it is not a plain file|No such file)"):
        run.read_config()
    if name == "state.pt":
        with pytest.raises(InputError, match=r"cannot read .*state\.pt: it is not a plain file"):
            run.load(torch.device("cpu"))
