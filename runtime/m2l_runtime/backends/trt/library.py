"""Load the library of a TensorRT variant, and collect what it says while it works."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, get_args

from m2l_runtime._utils.signals import raise_interrupt
from m2l_runtime.bundle.schema import TensorRtVariant
from m2l_runtime.errors import EngineNotInstalled

TENSORRT_VARIANTS: Final[tuple[TensorRtVariant, ...]] = get_args(TensorRtVariant)
TITLES: Final[dict[TensorRtVariant, str]] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
INSTALL: Final[dict[TensorRtVariant, str]] = {
    "tensorrt": "pip install tensorrt-cu13",
    "tensorrt_rtx": 'pip install "m2l[tensorrt-rtx]"',
}
_MAX_LINES: Final = 2000


def installed() -> tuple[TensorRtVariant, ...]:
    """List the variants that are installed, as far as can be told without importing them."""
    return tuple(flavour for flavour in TENSORRT_VARIANTS if importlib.util.find_spec(flavour) is not None)


def load(flavour: TensorRtVariant) -> Any:
    """Import the library. Loading it needs no GPU; making an engine of a plan does, and ends the process without.

    Raises:
        EngineNotInstalled: with the command that installs it.
    """
    try:
        return importlib.import_module(flavour)
    except Exception as error:  # such as OSError where a shared library is missing
        raise_interrupt(error)
        raise EngineNotInstalled(
            f"{TITLES[flavour]} ({flavour}) does not load ({error}): {INSTALL[flavour]}"
        ) from error


@functools.cache
def logger(library: Any) -> Any:
    """Make the one logger of the process: the library keeps the first that it is given."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.lines: list[str] | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity != library.ILogger.VERBOSE and self.lines is not None and len(self.lines) < _MAX_LINES:
                self.lines.append(f"{severity.name.lower()}: {first_line(message)}")

    return Logger()


@contextmanager
def log(library: Any) -> Iterator[list[str]]:
    """Collect what the library says while the block runs, a line each, with its severity ahead of it."""
    one = logger(library)
    before, one.lines = one.lines, list[str]()
    try:
        yield one.lines
    finally:
        one.lines = before


def reason(lines: list[str]) -> str:
    """Return the last error that the library told of."""
    errors = [line.partition(": ")[2] for line in lines if line.startswith(("error", "internal_error"))]
    return errors[-1] if errors else "no reason given"


def first_line(text: str) -> str:
    """Cut a message to one line that is not too long."""
    return " ".join(text.split())[:300]
