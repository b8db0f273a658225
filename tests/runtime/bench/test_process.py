"""Processes that benchmarks start: what they say, how they fail, and that none outlives who asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import TINY_BUNDLE, slow

from m2l_runtime.bench.process import ProcessResult, run_for_json

pytestmark = pytest.mark.once

PROC = Path("/proc")
PROGRAM = "from m2l_runtime.cli.main import main; main()"
needs_proc = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="looks for processes in /proc")


def run(code: str, **options: object) -> ProcessResult:
    return run_for_json([sys.executable, "-c", f"import os, signal, sys, time\n{code}"], **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked about since it ended does not."""
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def children(parent: int) -> list[int]:
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[1]) == parent and words[0] not in "ZX":
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that in a minute"
        time.sleep(0.02)


def test_process__the_last_line_is_the_answer() -> None:
    assert run("print('loading ...'); print('[1, {\"a\": 2}]'); print()") == ProcessResult([1, {"a": 2}])
    assert (
        run("import json; print(json.dumps(sys.stdin.readline()))", request=b"a question\n").document == "a question\n"
    )
    assert run("print(0)", request=b"x" * 1_000_000) == ProcessResult(0), "a question that nobody reads"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "its process was ended by SIGKILL (too little memory?): it said nothing",
        ),
        ("sys.stderr.write('first\\nno\\x1b memory\\n\\n'); sys.stderr.flush(); os.abort()", "SIGABRT: no\\x1b memory"),
        ("sys.exit('left early')", "its process ended with status 1: left early"),
        ("print('{}'); sys.exit(3)", "its process ended with status 3: it said nothing"),
        ("raise OSError('x' * 5000)", "status 1: OSError: xxx"),
        ("pass", "its process printed nothing that can be read: it said nothing"),
        ("print('{\"a\": 1}'); print('{\"b\": ')", "nothing that can be read"),
    ],
)
def test_process__how_a_process_fails(code: str, reason: str) -> None:
    ending = run(code)
    assert ending.document is None
    assert reason in str(ending.reason)
    assert len(str(ending.reason)) < 400
    assert not ending.was_stopped


def test_process__what_is_no_program() -> None:
    assert run_for_json(["/no/such/program"]).reason == "its process does not start: No such file or directory"


@needs_proc
@pytest.mark.parametrize("how", [slow("timeout"), "stop", "interrupt"])
def test_process__a_process_ends_with_all_that_it_started(how: str, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"note = {str(note)!r}\n"
        "open(note + '-', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename(note + '-', note)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)\n"
    )

    def interrupt() -> bool:
        if note.exists():
            raise KeyboardInterrupt
        return False

    if how == "timeout":
        ending = run(code, timeout_s=5)
        assert ending == ProcessResult(reason="not done after 5 s, so its process was ended")
    elif how == "stop":
        assert run(code, should_stop=note.exists) == ProcessResult(reason="stopped", was_stopped=True)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(code, should_stop=interrupt)
    for pid in map(int, note.read_text().split()):
        until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def start_bench(tmp_path: Path) -> subprocess.Popen[str]:
    """`m2l bench` in a process of its own, once that measures in another."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "bench", str(TINY_BUNDLE), "--backend", "fake", "--seconds", "300"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    until(lambda: children(process.pid) or process.poll() is not None)
    return process


@needs_proc
@pytest.mark.parametrize(("number", "status"), [slow(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_process__a_signal_leaves_neither_processes_nor_files(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    process = start_bench(tmp_path)
    (child,) = children(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == ""
    assert "stopping: ending the process that measures" in err
    assert "stopped; 0 rounds of 3 finished" in err
    assert "Traceback" not in err
    until(lambda: not is_alive(child))
    assert not list((tmp_path / "temporary").iterdir())


@needs_proc
def test_process__a_row_process_ends_when_whoever_asked_is_killed(tmp_path: Path) -> None:
    process = start_bench(tmp_path)
    (child,) = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not is_alive(child))


def test_process__a_row_process_that_nobody_asks_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m2l_runtime.bench.worker"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "it is asked on standard input" in done.stderr
