"""Files of others: plain ones alone, and one kind of error for whatever a reader raises."""

from __future__ import annotations

import io
import lzma
import os
import re
import tokenize
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import msgspec
import numpy as np
import pytest
from support import ROOT, npz

from m2l_runtime._utils.npz import read_npz
from m2l_runtime._utils.reading import (
    MAX_LINE_BYTES,
    decode_line,
    lines_of,
    open_input,
    read_at_most,
    read_input,
    reader_errors,
)
from m2l_runtime.errors import BundleDamaged, InputError

RAISED = [
    zlib.error("Error -3"),
    lzma.LZMAError("corrupt"),
    zipfile.BadZipFile("no zip"),
    NotImplementedError("compression type 98"),
    OverflowError("too large"),
    tokenize.TokenError("EOF"),
    SyntaxError("bad header"),
    RecursionError("deep"),
    EOFError(),
    KeyError("mean"),
    AttributeError("x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    type("NobodyKnows", (Exception,), {})("new"),
]


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_reader_errors__whatever_is_raised_names_the_file(raised: Exception) -> None:
    with pytest.raises(InputError, match=r"^a\\nb\.npz is damaged: .+; make it anew$"):  # noqa: SIM117
        with reader_errors(InputError, "a\nb.npz", "is damaged", "; make it anew"):
            raise raised


def test_reader_errors__memory_disks_and_own_errors_are_told_apart() -> None:
    for raised, message in (
        (MemoryError(), "does not fit in memory"),
        (RuntimeError("std::bad_alloc"), "does not fit in memory"),
        (PermissionError(13, "Permission denied"), "cannot read a: Permission denied"),
    ):
        with pytest.raises(InputError, match=message), reader_errors(InputError, "a", "is damaged"):
            raise raised
    with pytest.raises(BundleDamaged, match="^as it was$"), reader_errors(InputError, "a", "is damaged"):
        raise BundleDamaged("as it was")
    with pytest.raises(KeyboardInterrupt), reader_errors(InputError, "a", "is damaged"):
        raise KeyboardInterrupt


def test_reading__no_place_lists_the_classes_that_readers_raise() -> None:
    listed = re.compile(r"except .*\b(DecodeError|BadZipFile|RecursionError|TokenError|LZMAError|zlib\.error)\b")
    sources = [path for folder in ("runtime", "train", "m2l_export") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [str(path) for path in sources if listed.search(path.read_text())] == []


def test_open_input__pipes_devices_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "not a plain file"), (Path("/dev/zero"), "not a plain file")):
        with pytest.raises(OSError, match=message):
            open_input(path)
    with pytest.raises(IsADirectoryError):
        open_input(tmp_path)


def test_read_input__takes_memory_for_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    tracemalloc.start()
    try:
        assert len(read_input(tmp_path / "file", 1 << 32)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_read_at_most__a_file_that_grows_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file, path.open("rb") as other, (tmp_path / "empty").open("w+b") as empty:
        sent = SimpleNamespace(fileno=empty.fileno, read=file.read)
        assert read_at_most(cast("IO[bytes]", sent), 1 << 32) == content
        sent.read = other.read
        assert read_at_most(cast("IO[bytes]", sent), 2_000_000) == content[:2_000_000]
        assert read_at_most(empty, 10) == b""


def test_read_input__more_than_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert read_input(tmp_path / "a", 11) == b"x" * 11
    with pytest.raises(OSError, match="has 11 bytes; at most 10 are read"):
        read_input(tmp_path / "a", 10)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes"):
        read_input(tmp_path / "sparse", 1 << 20)


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"a": 1', b"\xff", b'"' + b"x" * 10, b"1" * 5000])
def test_decode_line__what_is_no_record_is_none(line: bytes) -> None:
    assert decode_line(line, dict[str, int]) is None


def test_lines_of__a_line_without_end_comes_in_pieces() -> None:
    lines = list(lines_of(io.BytesIO(b"a\n" + b"x" * (2 * MAX_LINE_BYTES + 5) + b"\nb\n")))
    assert [len(line) for line in lines] == [2, MAX_LINE_BYTES, MAX_LINE_BYTES, 6, 2]


def _zip(packing: int, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _npy(header: str) -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)


def test_read_npz__reads_what_numpy_writes() -> None:
    content = npz(a=np.arange(6).reshape(2, 3), b=np.array("text"), c=np.float32(1))
    with np.load(io.BytesIO(content)) as expected:
        found = read_npz(content, 1000)
        assert found.keys() == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip(zipfile.ZIP_DEFLATED, a=bytes(1 << 22)), "unpacks to 4,194,304 bytes; at most 1,000,000"),
        (_zip(zipfile.ZIP_LZMA, a=_npy("{}")), "packed in a way that NumPy does not write"),
        (_zip(zipfile.ZIP_BZIP2, a=_npy("{}")), "packed in a way that NumPy does not write"),
        (_zip(0, a=_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}")), "another size"),
        (_zip(0, a=_npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}")), "another size or type"),
        (_zip(0, a=_npy("{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999,)}")), "another size or type"),
        (_zip(0, a=_npy("{'descr': '<f4', 'shape': (" + "9" * 5000 + ",)}")), "is no npz"),
        (_zip(0, a=_npy("{" + "(" * 3000)), "is no npz"),
        (_zip(0, a=b"\x93NUMPY\x09\x00"), "is no npz"),
        (npz(a=np.arange(1000))[:-40], "is no npz"),
        (b"", "is no npz"),
    ],
)
def test_read_npz__what_is_damaged_or_hostile_is_one_error(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"^a\.npz is no npz: .*{'' if message == 'is no npz' else message}"):  # noqa: SIM117
        with reader_errors(InputError, "a.npz", "is no npz"):
            read_npz(content, 1_000_000)


def test_msgspec__deep_json_still_raises_what_the_boundary_is_for() -> None:
    with pytest.raises(RecursionError):
        msgspec.json.decode(b"[" * 200_000)
