"""Write a report as text for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from m2l_runtime._utils.sides import shown_sides
from m2l_runtime._utils.text import plural, printable, table
from m2l_runtime.bench.report import BenchReport, Row, Statistic

# (title, columns); a column is (heading, name of the metric, whether it is the ratio to the reference).
_TABLES: Final = (
    (
        "throughput, images/s",
        (
            ("engine alone", "images_per_s", False),
            ("ratio", "images_per_s", True),
            ("files to files", "end_to_end_images_per_s", False),
            ("ratio", "end_to_end_images_per_s", True),
        ),
    ),
    (
        "latency of a call, ms",
        (
            ("p50", "latency_p50_ms", False),
            ("ratio", "latency_p50_ms", True),
            ("p95", "latency_p95_ms", False),
            ("p99", "latency_p99_ms", False),
        ),
    ),
    (
        "start and memory",
        (
            ("load, s", "load_s", False),
            ("first image, s", "first_image_s", False),
            ("peak memory, MB", "peak_memory_megabytes", False),
        ),
    ),
)
_GPU_TABLE: Final = (
    "on the GPU",
    (
        ("memory, MB", "device_memory_megabytes", False),
        ("ratio", "device_memory_megabytes", True),
        ("build, s", "build_s", False),
    ),
)
"""Shown where a row has a metric of it."""


def as_table(report: BenchReport) -> str:
    """Write what ran where, tables of throughput, latency and cost, what could not be measured and why, and notes."""
    parts = [_head(report)]
    if report.measured:
        on_gpu = any(name in row.metrics for row in report.measured for _, name, _ in _GPU_TABLE[1])
        tables = (*_TABLES, _GPU_TABLE) if on_gpu else _TABLES
        parts += [_table(report, title, columns) for title, columns in tables]
    missing = [row for row in report.rows if row.reason is not None]
    if missing:
        parts.append("not measured\n" + table((f"  {row.label}", printable(row.reason or "")) for row in missing))
    if report.notes:
        parts.append("\n".join(f"note: {printable(note)}" for note in report.notes))
    return "\n\n".join(parts)


def _head(report: BenchReport) -> str:
    bundle, machine = report.bundle, report.machine
    size = shown_sides(tuple(bundle["image_size"]))
    files = ", ".join(f"{printable(path)} {size / 1e6:,.1f} MB" for path, size in bundle["model_bytes"].items())
    load = "" if machine["load_average"] is None else f", load average {machine['load_average']:g} at the start"
    engines = dict.fromkeys(row.throughput_settings.engine for row in report.rows if row.throughput_settings)
    versions = [f"m2l {machine['m2l']}", *engines, *(f"{name} {machine[name]}" for name in ("numpy", "pillow"))]
    versions += [f"Python {machine['python']}", machine["system"]]
    rows = [
        ("bundle", f"{printable(bundle['name'])} (sha256 {bundle['sha256'][:12]}...), {size}"),
        ("network", f"ngf {bundle['ngf']}, {plural(bundle['parameter_count'], 'parameter')}; {files}"),
        ("machine", f"{printable(machine['cpu'])}, {plural(machine['usable_cpus'], 'usable CPU')}{load}"),
        ("versions", ", ".join(versions)),
        (
            "metrics",
            f"median of {plural(report.round_count, 'round')} (lowest..highest); "
            f"about {report.seconds:g} s a measurement, each row in a new process each round",
        ),
    ]
    if report.reference is not None:
        rows.append(("ratios", f"to {report.reference.label}, within each round"))
    return table(rows)


def _table(report: BenchReport, title: str, columns: Sequence[tuple[str, str, bool]]) -> str:
    show = _ranged if report.round_count > 1 else _plain
    rows: list[tuple[str, ...]] = [(title, *(heading for heading, _, _ in columns), _LAST[title][0])]
    for row in report.measured:
        ratios = report.ratios(row)
        cells = [show((ratios if is_ratio else row.metrics).get(name)) for _, name, is_ratio in columns]
        rows.append((f"  {row.label}", *cells, _LAST[title][1](row)))
    return table(rows)


def _streams(row: Row) -> str:
    settings = row.throughput_settings
    return "" if settings is None else f"{settings.streams} x {plural(settings.threads, 'thread')}"


def _calls(row: Row) -> str:
    return f"{sum(one.latency_call_count for one in row.rounds):,}"


_LAST: Final[dict[str, tuple[str, Callable[[Row], str]]]] = {
    "throughput, images/s": ("streams", _streams),
    "latency of a call, ms": ("calls", _calls),
    "start and memory": ("", lambda _: ""),
    "on the GPU": ("", lambda _: ""),
}


def _ranged(figure: Statistic | None) -> str:
    if figure is None:
        return "-"
    return f"{number(figure.median)} ({number(figure.lowest)}..{number(figure.highest)})"


def _plain(figure: Statistic | None) -> str:
    return "-" if figure is None else number(figure.median)


def number(value: float) -> str:
    """Three digits that count, all of a larger number's.

    >>> number(0.01234), number(7.104), number(12345.6)
    ('0.0123', '7.10', '12,346')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}"
