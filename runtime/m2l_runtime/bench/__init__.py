"""A bundle to how fast it runs here: rows measured by turns, each in processes of its own, with their spread.

>>> from m2l_runtime.bench import bench
>>> report = bench("my-bundle", batch_sizes=(1, 8, 16), repeats=5)
>>> for row in report.rows:
...     print(row.label, row.reason or row.figures["images_per_s"].median)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2l_runtime.bench.benchmark import bench
    from m2l_runtime.bench.figures import Figure
    from m2l_runtime.bench.messages import Round, Way
    from m2l_runtime.bench.report import BenchReport, Row

_HOME = {
    "BenchReport": "report",
    "Figure": "figures",
    "Round": "messages",
    "Row": "report",
    "Way": "messages",
    "bench": "benchmark",
}

__all__ = ["BenchReport", "Figure", "Round", "Row", "Way", "bench"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a row's process must not wait for what it does not need."""
    if name not in _HOME:
        raise AttributeError(f"module 'm2l_runtime.bench' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"m2l_runtime.bench.{_HOME[name]}"), name)
    globals()[name] = value
    return value
