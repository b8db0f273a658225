"""Compiled models on disk: what comes back, what does not, and whose folder it may be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.errors import OutputError

KEY = {"model": "a", "engine": "1"}


def read(cache: CompiledCache, key: Mapping[str, str] = KEY) -> bytes | None:
    memory = bytearray()

    def allocate(size: int) -> bytearray:
        memory.extend(bytes(size))
        return memory

    return bytes(memory) if cache.read(key, allocate) else None


def kept(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_compiled_cache__what_was_kept_comes_back(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "new" / "cache")
    assert read(cache) is None
    for content in (b"content", b"x", b"x" * 1_000_000):
        cache.write(KEY, content)
        assert read(CompiledCache(tmp_path / "new" / "cache"), dict(reversed(KEY.items()))) == content
    assert read(cache, KEY | {"engine": "2"}) is None
    assert read(cache, {"model": "a"}) is None
    assert kept(tmp_path / "new" / "cache").suffix == ".compiled"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40], lambda b: b[:-1] + b"\0"])
def test_compiled_cache__what_is_damaged_does_not(tmp_path: Path, damage: object) -> None:
    cache = CompiledCache(tmp_path)
    cache.write(KEY, b"content" * 100)
    path = kept(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert read(cache) is None
    cache.write(KEY, b"again")
    assert read(cache) == b"again"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_compiled_cache__it_is_the_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    CompiledCache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o777, 0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(OutputError, match="others may write to the folder .*chmod go-w"):
            CompiledCache(folder)
    folder.chmod(0o755)
    CompiledCache(folder)


@pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="takes root")
def test_compiled_cache__it_is_not_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(OutputError, match="belongs to another user"):
        CompiledCache(tmp_path / "cache")


def test_compiled_cache__a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError, match="cannot write .*file"):
        CompiledCache(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
