"""Measure how fast a bundle runs on this machine.

Each row is measured in processes of its own, by turns with the others, and comes with its spread.

    report = bench("my-bundle", BenchOptions(batch_sizes=(1, 8, 16), repeats=5))
    for row in report.rows:
        print(row.label, row.reason or row.metrics["images_per_s"].median)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.bench.benchmark import bench
    from m2l_runtime.bench.messages import BenchConfig, Round
    from m2l_runtime.bench.report import BenchReport, Row, Statistic
    from m2l_runtime.bench.rows import BenchOptions

_HOMES = {
    "BenchOptions": "rows",
    "BenchReport": "report",
    "Statistic": "report",
    "Round": "messages",
    "Row": "report",
    "BenchConfig": "messages",
    "bench": "benchmark",
}

__all__ = ["BenchConfig", "BenchOptions", "BenchReport", "Round", "Row", "Statistic", "bench"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(__name__, _HOMES, renamed={"Way": "BenchConfig", "Figure": "Statistic"})
