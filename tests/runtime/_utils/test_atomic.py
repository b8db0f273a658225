"""Files and folders are there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from m2l_runtime._utils import atomic
from m2l_runtime._utils.atomic import make_folder, staged_folder, write_file
from m2l_runtime.errors import OutputError


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


def no_temporary_files(**_: object) -> None:
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
    monkeypatch.setattr(tempfile, "TemporaryFile", no_temporary_files)
    for check in (lambda p: atomic.check_new_file(p, overwrite=True), atomic.check_new_folder):
        with pytest.raises(OutputError, match=r"cannot write .*new: Permission denied"):
            check(tmp_path / "new")
