"""Rounds, rows and reports of benchmarks that never ran: their figures are made up."""

from __future__ import annotations

from m2l_runtime.backends.base import BackendSettings
from m2l_runtime.bench import BenchConfig, BenchReport, Round, Row

SETTINGS = BackendSettings("fake", "fake 1", "cpu", "fake", 1, 1)


def make_round(images_per_s: float, latency_ms: float = 1.0, memory: float | None = 50.0) -> Round:
    return Round(
        load_s=0.5,
        first_image_s=1.0,
        latency_p50_ms=latency_ms,
        latency_p95_ms=2 * latency_ms,
        latency_p99_ms=3 * latency_ms,
        latency_call_count=10,
        images_per_s=images_per_s,
        end_to_end_images_per_s=images_per_s / 2,
        end_to_end_image_count=12,
        peak_memory_megabytes=memory,
    )


def make_row(batch_size: int, *rates: float, reason: str | None = None, memory: float | None = 50.0) -> Row:
    rounds = tuple(make_round(rate, 1000 / rate, memory) for rate in rates)
    return Row(BenchConfig("fake", "cpu", "fp32", batch_size), rounds, SETTINGS, SETTINGS, reason)


def make_report(*found: Row, rounds: int = 3) -> BenchReport:
    bundle = {
        "name": "tiny",
        "sha256": "0" * 64,
        "image_size": [256, 256],
        "ngf": 2,
        "parameter_count": 5,
        "model_bytes": {"g.onnx": 1_500_000},
    }
    machine = {
        "cpu": "Some \x1b[31mCPU",
        "usable_cpus": 2,
        "load_average": 0.5,
        "system": "Linux",
        "python": "3",
        "m2l": "1",
        "numpy": "2",
        "pillow": "3",
    }
    return BenchReport(bundle, machine, found, rounds, rounds, 2.0)
