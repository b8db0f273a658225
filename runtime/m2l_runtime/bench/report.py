"""Hold what was measured, row by row, and write it as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from m2l_runtime.backends.base import BackendSettings
from m2l_runtime.bench.messages import BenchConfig, Round

METRICS: Final = (
    "images_per_s",
    "end_to_end_images_per_s",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "load_s",
    "first_image_s",
    "peak_memory_megabytes",
    "device_memory_megabytes",
    "build_s",
)
"""Fields of a round that a row has a metric of, as :class:`m2l_runtime.bench.messages.Round` describes them."""
OPTIONAL_METRICS: Final = frozenset({"build_s"})
"""Of these, what happens in some rounds only."""

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True)
class Row:
    """Hold a way to run the bundle, and what became of measuring it.

    Example:
        >>> Row(BenchConfig("onnxruntime", "cpu", "fp32", batch_size=8)).label
        'onnxruntime cpu fp32 batch 8'
    """

    config: BenchConfig
    rounds: tuple[Round, ...] = ()
    """What each round's process measured; of a row with a reason, those before it went wrong."""
    latency_settings: BackendSettings | None = None
    """How the backend computed where calls came one at a time; None if it never answered."""
    throughput_settings: BackendSettings | None = None
    """And where images/s were measured."""
    reason: str | None = None
    """Why the row counts as not measured; None if it was."""

    @property
    def label(self) -> str:
        """What tells the row from the others: 'onnxruntime cpu fp32 batch 8'."""
        config, settings = self.config, self.throughput_settings
        device = config.device if settings is None else settings.device
        words = [config.backend, device, config.precision, f"batch {config.batch_size}"]
        if config.streams is not None:
            words.append(f"streams {config.streams}")
        return " ".join(words)

    @property
    def is_measured(self) -> bool:
        """Whether there are metrics."""
        return self.reason is None and bool(self.rounds)

    @cached_property
    def metrics(self) -> Mapping[str, Statistic]:
        """By the names in `METRICS`: the median over rounds, lowest and highest; empty if it was not measured.

        A percentile of latency is one over the calls of each round, then the median of these.
        """
        return {name: summarize(values) for name in METRICS if (values := self.values(name))}

    def values(self, name: str) -> list[float]:
        """Return what each round gave; empty if it was not measured, or the system did not tell."""
        values = [getattr(one, name) for one in self.rounds] if self.is_measured else []
        if name in OPTIONAL_METRICS:
            return [value for value in values if value is not None]
        return [] if None in values else values


@dataclass(frozen=True)
class BenchReport:
    """Hold a benchmark: what was measured, where, how often.

    Example:
        >>> BenchReport({}, {}, rows=(), repeats=1, round_count=0, seconds=2.0).measured
        ()
    """

    bundle: Mapping[str, Any]
    """Name, SHA-256, size of images, width of the network, bytes of its files."""
    machine: Mapping[str, Any]
    """Processor, usable CPUs, load average at the start, versions."""
    rows: tuple[Row, ...]
    repeats: int
    """Rounds that were asked for."""
    round_count: int
    """Rounds that were finished; fewer if it was stopped. Metrics are of these alone."""
    seconds: float
    """How long each measurement went on, about."""
    notes: tuple[str, ...] = ()
    """What a person should know when reading it."""
    was_stopped: bool = False

    @property
    def measured(self) -> tuple[Row, ...]:
        """Rows with metrics."""
        return tuple(row for row in self.rows if row.is_measured)

    @property
    def reference(self) -> Row | None:
        """The first row that was measured, which ratios are over; None if none was."""
        return next(iter(self.measured), None)

    def ratios(self, row: Row) -> dict[str, Statistic]:
        """Compute how many times the reference a row is, by the names in `METRICS`; empty if it was not measured."""
        if self.reference is None:
            return {}
        pairs = {
            name: (row.values(name), self.reference.values(name)) for name in METRICS if name not in OPTIONAL_METRICS
        }
        return {name: summarize_ratio(ours, theirs) for name, (ours, theirs) in pairs.items() if ours and theirs}


def as_json(report: BenchReport) -> dict[str, Any]:
    """Return everything of the report, each round's measurements too, as plain values."""
    reference = report.reference
    return {
        "benchmark": "m2l bench",
        "schema_version": SCHEMA_VERSION,
        "bundle": dict(report.bundle),
        "machine": dict(report.machine),
        "repeats": report.repeats,
        "round_count": report.round_count,
        "seconds": report.seconds,
        "was_stopped": report.was_stopped,
        "notes": list(report.notes),
        "reference": None if reference is None else reference.label,
        "rows": [
            {
                "label": row.label,
                **_config_fields(row.config),
                "latency_settings": _fields(row.latency_settings),
                "throughput_settings": _fields(row.throughput_settings),
                "reason": row.reason,
                "figures": {name: dataclasses.asdict(figure) for name, figure in row.metrics.items()},
                "ratios_to_reference": {name: dataclasses.asdict(one) for name, one in report.ratios(row).items()},
                "rounds": [dataclasses.asdict(one) for one in row.rounds],
            }
            for row in report.rows
        ],
    }


def _config_fields(config: BenchConfig) -> dict[str, Any]:
    """Return the fields of a row as the report has always named them."""
    fields = dataclasses.asdict(config)
    return {"trust_engines" if name == "trust_plans" else name: value for name, value in fields.items()}


def _fields(settings: BackendSettings | None) -> dict[str, Any] | None:
    return None if settings is None else dataclasses.asdict(settings)


@dataclass(frozen=True)
class Statistic:
    """Hold the median and the range of something measured once a round.

    Example:
        >>> Statistic(median=2.0, lowest=1.0, highest=3.0).spread
        1.0
    """

    median: float
    lowest: float
    highest: float

    @property
    def spread(self) -> float:
        """Range from the lowest to the highest, as a fraction of the median."""
        return (self.highest - self.lowest) / self.median if self.median else 0.0


def summarize(values: Sequence[float]) -> Statistic:
    """Summarize one value a round, at least one.

    Example:
        >>> summarize([3.0, 1.0, 2.0])
        Statistic(median=2.0, lowest=1.0, highest=3.0)
    """
    return Statistic(statistics.median(values), min(values), max(values))


def summarize_ratio(values: Sequence[float], reference: Sequence[float]) -> Statistic:
    """Summarize ratios to the reference, each value over that of the same round.

    Not the ratio of two medians: what slows a round down slows both sides of it.
    """
    return summarize([value / other for value, other in zip(values, reference, strict=True)])
