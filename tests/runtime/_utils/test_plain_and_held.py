"""Files that must be plain ones, and folders that are held while they are written to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from m2l_runtime._utils import atomic, held_folder
from m2l_runtime._utils.plain_file import open_append, open_plain, read_plain
from m2l_runtime.errors import OutputError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and descriptors of POSIX")


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """What waits for the other end of a pipe waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def link(path: Path) -> None:
    (path.parent / "victim").write_bytes(b"victim\n")
    path.symlink_to("victim")


def dangling_link(path: Path) -> None:
    path.symlink_to("nothing yet")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


NOT_PLAIN: Final[dict[str, Callable[[Path], object]]] = {
    "link": link,
    "dangling link": dangling_link,
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": bound_socket,
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_plain_file__nothing_else_is_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("log")
    NOT_PLAIN[kind](path)
    for call in (open_plain, read_plain, open_append):
        with pytest.raises(OSError, match="not a plain file"):
            call(path)
    assert not Path("nothing yet").exists()
    if kind == "link":
        assert Path("victim").read_bytes() == b"victim\n"
    with pytest.raises(FileNotFoundError):
        open_plain("absent")


def append(path: Path, content: bytes) -> None:
    with os.fdopen(open_append(path), "r+b", buffering=0) as file:
        file.write(content)


def test_open_append__writes_at_the_end_and_makes_what_is_not_there(tmp_path: Path) -> None:
    for content in (b"one\n", b"two\n"):
        append(tmp_path / "log", content)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    inode = (tmp_path / "log").stat().st_ino
    append(tmp_path / "log", b"three\n")
    assert (tmp_path / "log").stat().st_ino == inode, "in place"


def test_open_append__what_has_another_name_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"one\n")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "victim", tmp_path / "out" / "log")
    append(tmp_path / "out" / "log", b"two\n")
    assert (tmp_path / "victim").read_bytes() == b"one\n"
    assert (tmp_path / "out" / "log").read_bytes() == b"one\ntwo\n"
    assert os.listdir(tmp_path / "out") == ["log"]


def test_open_append__a_file_of_another_device_is_copied_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file that is mounted over a name, which no test can do without rights; so devices are told otherwise."""
    (tmp_path / "log").write_bytes(b"one\n")
    inode, fstat, is_mount = (tmp_path / "log").stat().st_ino, os.fstat, False

    def told(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if found.st_ino != inode and not is_mount:
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:10]])

    monkeypatch.setattr(os, "fstat", told)
    append(tmp_path / "log", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    is_mount = True
    with pytest.raises(OSError, match="lies on another device; move it away"):
        open_append(tmp_path / "log")


# Folders that are held.


def replace_by_folder(out: Path, victim: Path) -> None:
    out.rename(out.with_name("moved away"))
    victim.rename(out)
    victim.symlink_to(out)  # so that it can be looked into by its name


def replace_by_link(out: Path, victim: Path) -> None:
    out.rename(out.with_name("moved away"))
    out.symlink_to(victim)


def remove(out: Path, victim: Path) -> None:
    shutil.rmtree(out)


REPLACEMENTS: Final = {"folder": replace_by_folder, "link": replace_by_link, "nothing": remove}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("out", "victim"):
        (tmp_path / name).mkdir()
    (tmp_path / "victim" / "mine.png").write_bytes(b"mine")
    return tmp_path / "out"


@pytest.mark.parametrize("how", REPLACEMENTS)
def test_held_folder__nothing_is_written_where_another_took_its_name(out: Path, tmp_path: Path, how: str) -> None:
    victim = tmp_path / "victim"
    with pytest.raises(OutputError, match="out was moved, removed or replaced meanwhile"), held_folder.held_folder(out):
        atomic.write_file(out / "first", b"1")
        file = atomic.HashedFile(out / "tar")
        file.write(b"1")
        held_folder.make_folder(out / "sub" / "deep")
        atomic.write_file(out / "sub" / "deep" / "a.png", b"1")
        REPLACEMENTS[how](out, victim)
        for call in (
            lambda: atomic.write_file(out / "mine.png", b"2"),
            lambda: atomic.write_file(out / "sub" / "deep" / "a.png", b"2"),
            lambda: atomic.HashedFile(out / "other tar"),
            file.commit,
            lambda: atomic.remove_inside(out, "mine.png"),
            lambda: atomic.make_folder(out / "new"),
        ):
            with pytest.raises(OutputError, match=r"cannot write .*out was moved, removed or replaced meanwhile"):
                call()
        with pytest.raises(OSError, match="replaced"):
            open_append(out / "log")
        with pytest.raises(OSError, match="replaced"):
            held_folder.check_held(out / "log")
    assert os.listdir(victim) == ["mine.png"]
    assert (victim / "mine.png").read_bytes() == b"mine"


def test_held_folder__a_folder_within_that_becomes_a_link_is_not_followed(out: Path, tmp_path: Path) -> None:
    with held_folder.held_folder(out):
        held_folder.make_folder(out / "images")
        atomic.write_file(out / "images" / "a.png", b"1")
        (out / "images").rename(out / "before")
        (out / "images").symlink_to(tmp_path / "victim")
        with pytest.raises(OutputError, match="images has become a link meanwhile"):
            atomic.write_file(out / "images" / "b.png", b"1")
    assert os.listdir(tmp_path / "victim") == ["mine.png"]


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_held_folder__a_folder_within_that_is_replaced_is_noticed(out: Path, is_made_anew: bool) -> None:
    with held_folder.held_folder(out):
        held_folder.make_folder(out / "images" / "sub")
        atomic.write_file(out / "images" / "sub" / "a.png", b"1")
        (out / "images").rename(out / "before")
        if is_made_anew:
            (out / "images" / "sub").mkdir(parents=True)
            with pytest.raises(OSError, match="images was moved"):
                held_folder.check_held(out / "images" / "sub" / "log")  # as for a file that is open already
        with pytest.raises((OutputError, OSError), match="images was moved, removed or replaced meanwhile"):
            held_folder.make_folder(out / "images" / "sub")
            atomic.write_file(out / "images" / "sub" / "b.png", b"1")
    assert not (out / "images" / "sub" / "b.png").exists()


def test_held_folder__a_folder_that_we_removed_may_be_made_again(out: Path) -> None:
    with held_folder.held_folder(out):
        for content in (b"1", b"2"):
            held_folder.make_folder(out / "images")
            atomic.write_file(out / "images" / "a.png", content)
            atomic.remove_inside(out, "images/a.png")
            (out / "images").rename(out / f"kept-{content.decode()}")  # its inode is not used again
            (out / "images").mkdir()
            held_folder.remove_folder(out / "images")


def test_held_folder__links_that_were_there_are_followed_as_long_as_they_lead_to_the_same(
    out: Path, tmp_path: Path
) -> None:
    """As where the images lie on another disk."""
    (tmp_path / "disk").mkdir()
    (out / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(out)
    with held_folder.held_folder(tmp_path / "link"):
        held_folder.make_folder(tmp_path / "link" / "images" / "sub")
        atomic.write_file(tmp_path / "link" / "images" / "sub" / "a.png", b"1")
        (out / "images").unlink()
        (out / "images").symlink_to(tmp_path / "victim")
        with pytest.raises(OutputError, match="images has become a link meanwhile"):
            atomic.write_file(tmp_path / "link" / "images" / "b.png", b"1")
    assert (tmp_path / "disk" / "sub" / "a.png").read_bytes() == b"1"
    assert os.listdir(tmp_path / "victim") == ["mine.png"]


def test_held_folder__files_are_made_as_the_umask_says(out: Path) -> None:
    before = os.umask(0o027)
    try:
        with held_folder.held_folder(out):
            atomic.write_file(out / "held", b"1")
        atomic.write_file(out / "free", b"1")
    finally:
        os.umask(before)
    assert [(out / name).stat().st_mode & 0o777 for name in ("held", "free")] == [0o640, 0o640]
    assert sorted(os.listdir(out)) == ["free", "held"]
    with pytest.raises(OutputError, match="cannot write"), held_folder.held_folder(out / "absent"):
        pass


def test_held_folder__no_descriptor_is_left_open(out: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    before = os.listdir("/proc/self/fd")
    with held_folder.held_folder(out):
        for number in range(20):
            held_folder.make_folder(out / "a" / str(number))
            atomic.write_file(out / "a" / str(number) / "x", b"1")
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("how", ["folder", "link"])
def test_staged_folder__what_took_the_place_of_the_folder_that_is_built_is_not_moved_in(out: Path, how: str) -> None:
    victim = out.parent / "victim"
    with (
        pytest.raises(OutputError, match="moved, removed or replaced meanwhile"),
        atomic.staged_folder(out.parent / "bundle") as staging,
    ):
        atomic.create_file(staging / "sub" / "first", b"1")
        assert (staging / "sub" / "first").read_bytes() == b"1"
        REPLACEMENTS[how](staging, victim)
        with pytest.raises(OutputError, match="moved, removed or replaced meanwhile"):
            atomic.create_file(staging / "mine.png", b"2")
    assert not (out.parent / "bundle").exists()
    assert (victim / "mine.png").read_bytes() == b"mine"
