"""Run programs in processes of their own that need not import PyTorch anew, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

M2L = "from m2l_runtime.cli.main import main; main()"
"""The program `m2l`, which takes arguments."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["m2l_runtime.cli.main", "m2l_train.cli", "m2l_train.training.trainer", "torch._dynamo"]  # optimizers import that
)


class PreloadedProcess:
    """Stand for ``subprocess.Popen([sys.executable, "-c", code, *arguments])``, by a fork of one that has imported all.

    The process forked from has no threads and never computed. Signals, exit status, output and environment are as of a
    program that was started.
    """

    def __init__(self, code: str, *arguments: object, environment: Mapping[str, object] | None = None) -> None:
        self.stdout = self.stderr = ""
        self._folder = tempfile.TemporaryDirectory(prefix="m2l-process-")
        words = [str(argument) for argument in arguments]
        changes = {name: str(value) for name, value in (environment or {}).items()}
        self._process = _context.Process(target=_run, args=(code, words, changes, self._folder.name), daemon=True)
        self._process.start()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout_s: float = 300) -> int:
        """Wait for its end, and return its exit status, negative for a signal."""
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"it runs longer than {timeout_s} s"
        if Path(self._folder.name).exists():
            self.stdout, self.stderr = (Path(self._folder.name, name).read_text() for name in ("stdout", "stderr"))
            self._folder.cleanup()
        return self._process.exitcode


def _run(code: str, arguments: list[str], changes: Mapping[str, str], folder: str) -> None:
    os.environ.update(changes)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(f"{folder}/{name}", "w") as file:  # noqa: PTH123 - nothing else is imported for it
            os.dup2(file.fileno(), number)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})  # noqa: S102
