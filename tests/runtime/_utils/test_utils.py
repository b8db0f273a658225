"""Terminal text, CPU counts, ONNX bytes, progress."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import ROOT

from m2l_runtime._utils import text
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.signals import WorkInterrupted, deferred_signals, interrupted_when, raise_interrupt
from m2l_runtime._utils.text import command_word
from m2l_runtime.bundle.onnx_file import external_tensors
from m2l_runtime.cli.progress import BuildProgress, Reporter


def test_utils__examples_in_docstrings() -> None:
    result = doctest.testmod(text)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name \u00e9\u6f22.png", "plain name \u00e9\u6f22.png"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x07\x7f", r"\x1b[2J\x07\x7f"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_utils__names_cannot_steer_a_terminal(name: str, shown: str) -> None:
    assert text.printable(name) == shown
    assert text.printable(Path(name)) == shown
    text.printable(name).encode()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 9),
        ({"cpu.max": "rubbish"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_utils__a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_cpus(tmp_path) == (16 if limit is None else limit)


@pytest.mark.parametrize(
    "model",
    [b"\x3a", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3a\x05\x0a", b"\x0b", b"\x38\x01", b"\xff" * 30],
)
def test_utils__bytes_that_are_no_model(model: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        external_tensors(model)
    assert str(error.value)


def test_utils__graphs_nested_without_end_are_refused() -> None:
    model = b""
    for _ in range(40):  # attribute.g . graph.node . node.attribute, each in its length and tag

        def wrap(tag: int, content: bytes) -> bytes:
            size, length = len(content), bytearray()
            while size > 0x7F:
                length.append(size & 0x7F | 0x80)
                size >>= 7
            return bytes([tag << 3 | 2, *length, size]) + content

        model = wrap(1, wrap(5, wrap(6, model)))
    with pytest.raises(ValueError, match="nested"):
        external_tensors(wrap(7, model))


def test_utils__a_model_without_outside_weights(tmp_path: Path) -> None:
    from support import TINY_BUNDLE

    assert external_tensors((TINY_BUNDLE / "generator.fp32.onnx").read_bytes()) == []


def test_utils__progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("m2l_runtime.cli.progress.time.monotonic", lambda: now)
    with Reporter() as reporter:
        reporter.start(1000, 200)
        for _ in range(100):  # 5 a second
            now += 0.2
            reporter.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["250 of 1,000, 5 images/s, 0:02:30 to go", "300 of 1,000, 5 images/s, 0:02:20 to go"]


def test_utils__phases_of_a_builder_are_bars_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    with contextlib.closing(BuildProgress()) as progress:
        assert progress.step("quiet", 1, 2), "no terminal, no bar"
        progress._console = Console(file=shown, force_terminal=True, width=80)
        assert all(progress.step("Building\x1b Engine", done, 3) for done in (1, 2))
        assert progress.step("Tactics", 1, 9)
        assert progress._bar is not None
        progress._bar.refresh()
        said = shown.getvalue()
        assert all(progress.step("Building\x1b Engine", done, 3) for done in (3,))
        assert [task.description for task in progress._bar.tasks] == ["Tactics"]
        progress.message("a line")
    assert "Building\\x1b Engine" in said
    assert "2/3" in said
    assert "Tactics" in said
    assert "a line" in shown.getvalue(), "above the bars, which it does not tear"
    progress.message("another")
    assert capsys.readouterr().err == "another\n"


def an_error_of(cause: BaseException | None, *, explicitly: bool) -> ImportError:
    try:
        try:
            if cause is not None:
                raise cause
        except BaseException as first:
            if explicitly:
                raise ValueError("of a library") from first
            raise ValueError("of a library")  # noqa: B904
    except ValueError as second:
        error = ImportError("of another")
        error.__context__ = second
        return error
    return ImportError("of nothing")


@pytest.mark.parametrize("explicitly", [True, False])
@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(143)])
def test_utils__an_interrupt_that_a_library_made_an_error_of_is_one_again(
    signal: BaseException, explicitly: bool
) -> None:
    with pytest.raises(type(signal)) as raised:
        raise_interrupt(an_error_of(signal, explicitly=explicitly))
    assert raised.value is signal


def test_utils__other_errors_are_left() -> None:
    raise_interrupt(an_error_of(OSError("a disk"), explicitly=True))
    raise_interrupt(an_error_of(None, explicitly=True))
    error = ImportError("of itself")
    error.__cause__ = error
    raise_interrupt(error)


def test_utils__signals_that_are_held_come_afterwards_and_ignored_ones_never(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("handled"))
    interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as has_signal:
            os.kill(os.getpid(), signal.SIGINT)
            assert not has_signal(), "it is ignored, as in a shell's background"
            os.kill(os.getpid(), signal.SIGTERM)
            assert has_signal()
            assert not seen
        assert seen == ["handled"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), deferred_signals():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("of what was stopped")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupts)
    threads: list[bool] = []
    thread = threading.Thread(target=lambda: threads.append(_held_here()))
    thread.start()
    thread.join()
    assert threads == [False], "where signals are not handled nothing is held"


def _held_here() -> bool:
    with deferred_signals() as has_signal:
        return has_signal()


@pytest.mark.parametrize(
    "name", ["a", "my runs", "it's", "-rf", "a;b", "$HOME", "tab\tnewline\n", "caf\udce9", "\\x'\x1b[31m"]
)
def test_command_word__is_one_word_of_a_shell_and_that_name(name: str) -> None:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("has no bash")
    word = command_word(name)
    assert word.isprintable()
    out = subprocess.run([shell, "-c", f"printf %s\\\\0 {word}"], capture_output=True, check=True).stdout
    assert out == os.fsencode(f"./{name}" if name.startswith("-") else name) + b"\0"


def test_command_word__stands_in_every_command_that_a_message_suggests() -> None:
    """A path within a suggested command is quoted for the shell, not only made printable."""
    verbs = "synth|inspect|verify|bench|masks|prepare|train|evaluate|export"
    name = r"\{(?:printable\(|(?:run|path|out|folder|data|name)\})"
    suggestion = re.compile(rf"(?:m2l (?:{verbs})|chmod|rm|mkdir|mv|cp)(?: [-+\w=]+)* {name}")
    assert suggestion.search('"m2l export {run} BUNDLE"')
    assert suggestion.search('f"or: chmod go-w {printable(folder)}"')
    for package in ("runtime/m2l_runtime", "train/m2l_train", "m2l_export"):
        for path in (ROOT / package).rglob("*.py"):
            assert not suggestion.findall(path.read_text()), path


def test_interrupted_when__ends_a_block_that_drops_what_is_raised_in_it() -> None:
    raised = 0
    began = time.monotonic()
    with pytest.raises(WorkInterrupted), interrupted_when(lambda: True):
        while True:
            try:
                time.sleep(60)
            except WorkInterrupted:
                raised += 1
                if raised == 2:
                    raise
    assert time.monotonic() - began < 60
    with interrupted_when(lambda: False):
        pass
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_interrupted_when__tells_nothing_of_what_python_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException] | None] = []

    class Dropping:
        def __init__(self, error: Exception | None = None) -> None:
            self.error = error

        def __del__(self) -> None:
            if self.error is not None:
                raise self.error
            time.sleep(60)

    def hook(dropped: Any) -> None:
        told.append(dropped.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    with pytest.raises(WorkInterrupted), interrupted_when(lambda: True):
        Dropping()
        Dropping(ValueError("another"))
        time.sleep(60)
    assert told == [ValueError]
    assert sys.unraisablehook is hook


def test_interrupted_when__lets_a_block_off_the_main_thread_end_by_itself() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupted_when(lambda: True):
            time.sleep(0.3)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
