"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from m2l_runtime._utils import atomic
from m2l_runtime._utils.atomic import make_folder, staged_folder, write_file
from m2l_runtime.errors import OutputError
from m2l_runtime.runs.jsonl import LineWriter


def yes(_: Path) -> None:
    return


def test_atomic__a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "f", b"one")
    write_file(tmp_path / "f", b"two", durable=True)
    assert (tmp_path / "f").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]


def test_atomic__files_and_folders_have_the_usual_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "f", b"")
        with staged_folder(tmp_path / "d"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


def test_atomic__a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left") as error:
        write_file(tmp_path / "f", b"new")
    assert isinstance(error.value, OSError)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def test_atomic__the_longest_name_a_file_system_takes(tmp_path: Path) -> None:
    write_file(tmp_path / ("n" * 251 + ".png"), b"x")
    with pytest.raises(OutputError, match="too long"):
        write_file(tmp_path / ("n" * 300), b"x")
    with staged_folder(tmp_path / ("b" * 255)) as staging:
        (staging / "x").write_text("x")
    assert (tmp_path / ("b" * 255) / "x").exists()


def test_atomic__make_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(OutputError, match="cannot write"):
            make_folder(path)
    assert os.listdir(tmp_path / "a" / "b") == []


def test_atomic__a_failed_build_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "b", may_replace=yes) as staging:
        (staging / "new").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["b"]
    assert os.listdir(tmp_path / "b") == ["old"]


def test_atomic__a_folder_that_appears_meanwhile_is_left(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="appeared meanwhile"), staged_folder(tmp_path / "b"):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "theirs").write_text("")
    assert os.listdir(tmp_path / "b") == ["theirs"]


def test_atomic__two_builds_at_once_do_not_sweep_each_other_away(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "b") as first:
        (first / "x").write_text("")
        with pytest.raises(RuntimeError), staged_folder(tmp_path / "b") as second:
            assert second != first
            raise RuntimeError
        assert (first / "x").exists()
    assert os.listdir(tmp_path / "b") == ["x"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from m2l_runtime._utils import atomic
    target, moment = Path(sys.argv[1]), sys.argv[2]
    rename = Path.rename
    def dying(self, to):
        if moment == "moving in" and self.name.endswith(".partial"):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, to)
    Path.rename = dying
    def removing(path):
        if moment == "cleaning" and path.name.endswith("-previous"):
            os.kill(os.getpid(), signal.SIGKILL)
    atomic._remove = removing
    with atomic.staged_folder(target, may_replace=lambda p: None) as staging:
        (staging / "new").write_text("whole")
        if moment == "building":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["building", "moving in", "cleaning"])
def test_atomic__a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "b*[x]"  # a name that means something to glob
    target.mkdir()
    (target / "old").write_text("whole")
    code = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), target, moment], check=False).returncode
    assert code == -signal.SIGKILL
    with pytest.raises(RuntimeError), staged_folder(target, may_replace=yes):
        raise RuntimeError  # the next build sweeps up even if it fails
    assert os.listdir(tmp_path) == [target.name]
    assert os.listdir(target) == (["new"] if moment == "cleaning" else ["old"])


def no_new_files(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_atomic__what_cannot_be_written_is_told_ahead_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.check_new_file(tmp_path / "plot.png", overwrite=False)
    atomic.check_new_folder(tmp_path / "not" / "there" / "yet")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write .*file.below"):
        atomic.check_new_folder(tmp_path / "file" / "below")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    monkeypatch.setattr(os, "open", no_new_files)
    for check in (lambda p: atomic.check_new_file(p, overwrite=True), atomic.check_new_folder):
        with pytest.raises(OutputError, match=r"cannot write .*new: Permission denied"):
            check(tmp_path / "new")


def refuse(number: int, *names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let functions of `os` answer as on a file system that does not have them."""

    def function(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(os, name, function)


def write_all(folder: Path) -> None:
    """Write in each way that there is."""
    write_file(folder / "file", b"file", durable=True)
    hashed = atomic.HashedFile(folder / "hashed")
    hashed.write(b"hashed")
    hashed.commit()
    with staged_folder(folder / "folder") as staging:
        (staging / "inside").write_bytes(b"inside")
    lines = LineWriter(folder / "lines")
    lines.write([])
    lines.close()
    make_folder(folder / "made")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS])
def test_atomic__permissions_need_not_be_changeable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(number, "chmod", "fchmod", "lchown", "chown", "utime", monkeypatch=monkeypatch)
    write_all(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "hashed", "lines", "made"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, 524, errno.ENOSYS, errno.EBADF])
def test_atomic__a_file_system_need_not_tell_when_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(number, "fsync", monkeypatch=monkeypatch)
    write_all(tmp_path)
    assert (tmp_path / "file").read_bytes() + (tmp_path / "hashed").read_bytes() == b"filehashed"
    assert (tmp_path / "folder" / "inside").read_bytes() == b"inside"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_atomic__bytes_that_are_not_on_the_disk_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    refuse(number, "fsync", monkeypatch=monkeypatch)
    with pytest.raises(OutputError, match="file: "):
        write_file(tmp_path / "file", b"new", durable=True)
    hashed = atomic.HashedFile(tmp_path / "hashed")
    with pytest.raises(OutputError, match="hashed: "):
        hashed.commit()
    with pytest.raises(OutputError, match="folder: "), staged_folder(tmp_path / "folder") as staging:
        (staging / "inside").write_bytes(b"inside")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, 524, errno.EBADF, errno.EIO])
def test_atomic__a_build_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".folder.m2l-live.partial").mkdir()  # may be another's that is being built
    write_all(tmp_path)
    assert (tmp_path / ".folder.m2l-live.partial").exists()


@pytest.mark.parametrize("name", ["n" * 256, "母" * 86, "a/" + "n" * 256])
def test_atomic__a_name_that_the_disk_does_not_take_is_told_ahead_of_the_work(tmp_path: Path, name: str) -> None:
    checks = (lambda p: atomic.check_new_file(p, overwrite=True), atomic.check_new_folder, atomic.check_name)
    (tmp_path / "a").mkdir()
    for check in checks:
        with pytest.raises(OutputError, match=r"too long.* choose a shorter name"):
            check(tmp_path / name)
    with pytest.raises(OutputError, match="too long"), staged_folder(tmp_path / name):
        pytest.fail("the work began")


@pytest.mark.parametrize("name", ["母" * 85, "n" * 254 + "1"])
def test_atomic__a_build_takes_the_longest_names_and_sweeps_up_its_own_alone(tmp_path: Path, name: str) -> None:
    other = name[:-1] + "2"
    mark = f".{atomic._short(other)}.m2l"
    (tmp_path / f"{mark}-previous").mkdir()
    for _ in range(2):
        with staged_folder(tmp_path / name, may_replace=yes) as staging:
            (staging / "x").write_text("x")
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{mark}-previous"])


def test_atomic__writing_never_changes_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's, so another thread's files would be open to all meanwhile."""
    refuse(errno.EPERM, "umask", monkeypatch=monkeypatch)
    write_all(tmp_path)
