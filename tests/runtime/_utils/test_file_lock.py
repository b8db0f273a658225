"""Locks keep processes apart, also where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from m2l_runtime._utils import file_lock
from m2l_runtime._utils.file_lock import MARKER_SUFFIX, LockBusyError, hold, hold_if_possible, is_held
from m2l_runtime.errors import OutputError

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, 524, errno.EBADF, errno.EIO, errno.ENOSYS, errno.EINVAL, errno.EPERM]


def refuse(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def marker_of(process: int, path: Path, **changes: object) -> Path:
    """Write a marker as a process leaves it."""
    owner = {"host": socket.gethostname(), "machine": file_lock._machine(), "started": "1", "token": "x"}
    marker = path.with_name(path.name + MARKER_SUFFIX)
    marker.write_text(json.dumps({**owner, "pid": process, **changes}))
    return marker


def gone() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_hold__keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path):
        with pytest.raises(LockBusyError), hold(path, timeout_s=0):
            pass
        assert is_held(path) is not None
    assert is_held(path) is None
    with hold(path, timeout_s=0):
        pass
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_hold__a_marker_stands_in_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(number, monkeypatch)
    path, notes = tmp_path / "lock", list[str]()
    with hold(path, on_note=notes.append):
        assert sorted(os.listdir(tmp_path)) == ["lock", "lock.held"]
        with pytest.raises(LockBusyError) as busy, hold(path, timeout_s=0):
            pass
        assert f"process {os.getpid()} of" in busy.value.advice
        assert f"rm {tmp_path / 'lock.held'}" in busy.value.advice
        assert is_held(path) is not None
    assert len(notes) == 1
    assert notes[0].startswith("warning: ")
    assert os.listdir(tmp_path) == ["lock"]
    assert is_held(path) is None


def test_hold__a_marker_of_a_process_that_is_gone_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(errno.ENOLCK, monkeypatch)
    marker = marker_of(gone(), tmp_path / "lock")
    with hold(tmp_path / "lock", timeout_s=0):
        assert json.loads(marker.read_bytes())["pid"] == os.getpid()
    marker_of(os.getpid(), tmp_path / "lock", started="an earlier process of this number")
    with hold(tmp_path / "lock", timeout_s=0):
        pass
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("content", [None, b"", b"\xff{", b"[]"])
def test_hold__a_marker_of_another_machine_or_of_nobody_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    refuse(errno.EOPNOTSUPP, monkeypatch)
    marker = marker_of(gone(), tmp_path / "lock", machine="another", host="node\x1b7")
    if content is not None:
        marker.write_bytes(content)
    before = marker.read_bytes()
    with pytest.raises(LockBusyError) as busy, hold(tmp_path / "lock", timeout_s=0):
        pass
    assert "\x1b" not in busy.value.advice
    assert marker.read_bytes() == before


def test_hold__a_lock_heeds_the_marker_of_a_machine_without_locks(tmp_path: Path) -> None:
    marker_of(1, tmp_path / "lock", machine="another")
    with pytest.raises(LockBusyError), hold(tmp_path / "lock", timeout_s=0):
        pass


def test_hold__goes_through_no_link_and_names_what_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("v")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    for path in (tmp_path / "lock", tmp_path / "no" / "lock"):
        with pytest.raises(OutputError, match="lock"), hold(path):
            pass
    assert (tmp_path / "victim").read_text() == "v"


@pytest.mark.parametrize("number", [None, *NO_LOCKS])
def test_hold_if_possible__runs_the_block_with_or_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    if number is not None:
        refuse(number, monkeypatch)
    waited: list[bool] = []
    with hold_if_possible(tmp_path / "lock", on_wait=lambda: waited.append(True)):
        assert (is_held(tmp_path / "lock") is not None) == (number is None)
    assert (waited, os.listdir(tmp_path)) == ([], ["lock"])


def test_hold__two_processes_exclude_one_another_by_markers(tmp_path: Path) -> None:
    """Each adds 1 to a number 25 times, by reading and writing it, with a flock that never works."""
    (tmp_path / "count").write_text("0")
    code = """
import fcntl, sys, time
from pathlib import Path
from m2l_runtime._utils.file_lock import hold
def flock(*_): raise OSError(37, "No locks available")
fcntl.flock = flock
count = Path(sys.argv[1], "count")
for _ in range(25):
    with hold(Path(sys.argv[1], "lock"), timeout_s=60):
        number = int(count.read_text()); time.sleep(0.001); count.write_text(str(number + 1))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "count").read_text() == "50"
