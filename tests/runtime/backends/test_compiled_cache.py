"""Compiled models on disk: what comes back, what does not, and whose folder it may be."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from m2l_runtime.backends import cache_key
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.errors import OutputError

KEY = {"model": "a", "engine": "1"}
POSIX = pytest.mark.skipif(os.name != "posix", reason="owners and permissions of POSIX")
ROOT = pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="takes root")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the user, where the key is."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "m2l"


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


@POSIX
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


@ROOT
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


def another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledCache:
    """A cache as somebody else's m2l opens it, with a key of their own."""
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder.parent / "their home"))
        return CompiledCache(folder)


def no_more(_: int) -> bytearray:
    raise AssertionError("memory was asked for")


def as_before(content: bytes) -> bytes:
    """An entry as m2l 0.1 wrote it: a hash that anybody can make."""
    return hashlib.sha256(content).digest() + content


def test_compiled_cache__what_others_left_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder was open to all for a time; whatever is in it now belongs to the user, as after `chown -R`."""
    folder = tmp_path / "cache"
    cache = CompiledCache(folder)
    cache.write(KEY, b"ours")
    path = kept(folder)
    ours = path.read_bytes()
    another_user(folder, monkeypatch).write(KEY, b"evil")
    theirs = path.read_bytes()
    assert read(another_user(folder, monkeypatch)) == b"evil", "it is whole, by their key"
    evil = hashlib.sha256(b"evil").digest()
    for forged in (theirs, as_before(b"evil"), ours[:32] + evil + b"evil", theirs[:32] + ours[32:]):
        path.write_bytes(forged)
        assert not CompiledCache(folder).read(KEY, no_more)
    cache.write(KEY, b"ours")
    assert read(CompiledCache(folder)) == b"ours"


def test_compiled_cache__an_entry_is_of_its_own_words_alone(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    cache.write(KEY, b"of model a")
    path = kept(tmp_path)
    content = path.read_bytes()
    cache.write(KEY | {"model": "b"}, b"of model b")
    (other,) = set(tmp_path.iterdir()) - {path}
    other.write_bytes(content)
    assert not cache.read(KEY | {"model": "b"}, no_more)
    assert read(cache) == b"of model a"


@ROOT
def test_compiled_cache__an_entry_of_another_user_is_passed_over(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    cache.write(KEY, b"content")
    os.chown(kept(tmp_path), 12345, -1)
    assert not cache.read(KEY, no_more)


@POSIX
def test_compiled_cache__an_entry_that_others_may_write_is_passed_over(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path)
    mask = os.umask(0)
    try:
        cache.write(KEY, b"content")
    finally:
        os.umask(mask)
    assert kept(tmp_path).stat().st_mode & 0o777 == 0o600
    assert read(cache) == b"content"
    for mode in (0o620, 0o602):
        kept(tmp_path).chmod(mode)
        assert not cache.read(KEY, no_more)


@POSIX
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "8 GiB"])
def test_compiled_cache__what_is_no_entry_is_a_miss_at_once(tmp_path: Path, kind: str) -> None:
    cache = CompiledCache(tmp_path)
    cache.write(KEY, b"content")
    path = kept(tmp_path)
    if kind == "8 GiB":
        os.truncate(path, 8 << 30)  # takes no room on the disk
    else:
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            (tmp_path / "elsewhere").write_bytes(b"")
            path.symlink_to(tmp_path / "elsewhere")
    signal.alarm(20)
    assert not cache.read(KEY, no_more)
    if kind == "folder":
        with pytest.raises(OutputError, match="a folder has the name of the compiled model, .*; remove it"):
            cache.write(KEY, b"again")
    else:
        cache.write(KEY, b"again")
        assert read(cache) == b"again"
    signal.alarm(0)
    assert kind != "link" or (tmp_path / "elsewhere").read_bytes() == b""


@POSIX
def test_compiled_cache__the_key_is_the_users_alone(tmp_path: Path, home: Path) -> None:
    key = home / "cache-key"
    CompiledCache(tmp_path / "cache").write(KEY, b"content")
    first = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert read(CompiledCache(tmp_path / "cache")) == b"content", "it is the same the next time"

    def spoil(how: str) -> None:
        content = key.read_bytes()
        if how == "readable":
            key.chmod(0o640)
            return
        if how == "another name":
            os.link(key, home / "another name")
            return
        key.unlink()
        if how == "link":
            (home / "elsewhere").write_bytes(content)
            (home / "elsewhere").chmod(0o600)
            key.symlink_to(home / "elsewhere")
        elif how == "pipe":
            os.mkfifo(key, 0o600)
        elif how == "short":
            key.write_bytes(content[:-1])
            key.chmod(0o600)

    signal.alarm(20)
    seen = {first}
    for how in ("readable", "another name", "link", "pipe", "short", "gone"):
        spoil(how)
        cache = CompiledCache(tmp_path / "cache")
        assert read(cache) is None, how
        assert key.read_bytes() not in seen, how
        seen.add(key.read_bytes())
        cache.write(KEY, b"content")
        assert read(CompiledCache(tmp_path / "cache")) == b"content", how
    signal.alarm(0)


@ROOT
def test_compiled_cache__a_key_of_another_user_is_not_taken(tmp_path: Path, home: Path) -> None:
    CompiledCache(tmp_path / "cache").write(KEY, b"content")
    os.chown(home / "cache-key", 12345, -1)
    assert read(CompiledCache(tmp_path / "cache")) is None
    assert (home / "cache-key").stat().st_uid == os.geteuid()
    os.chown(home, 12345, -1)  # as `sudo -E` sees the home of who called it
    before = (home / "cache-key").read_bytes()
    CompiledCache(tmp_path / "cache").write(KEY, b"content")
    assert (home / "cache-key").read_bytes() == before
    assert (tmp_path / "cache" / "cache-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["/proc/self/nope", "a file"])
def test_compiled_cache__without_a_home_the_key_lies_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    cache = CompiledCache(tmp_path / "cache")
    cache.write(KEY, b"content")
    assert cache.notes == ()
    assert read(CompiledCache(tmp_path / "cache")) == b"content"
    (tmp_path / "cache" / "cache-key").unlink()
    assert read(CompiledCache(tmp_path / "cache")) is None


def test_compiled_cache__where_no_key_can_be_kept_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without permissions shows every file as readable by all."""
    monkeypatch.setattr(cache_key, "_read_key", lambda path: (_ for _ in ()).throw(OSError("not its owner's alone")))
    cache = CompiledCache(tmp_path)
    cache.write(KEY, b"content")
    assert read(cache) == b"content"
    assert read(CompiledCache(tmp_path)) is None
    (note,) = cache.notes
    assert "kept for this process alone" in note
