"""Count what a service does, for Prometheus. Labels have few values, whatever clients send."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from m2l_runtime.serve.batcher import BatchReport
from m2l_runtime.serve.model import ServedModel

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS")
"""Methods that are counted by name; the others are 'other'."""


class Metrics:
    """Hold the counters of one service."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter("m2l_requests", "Requests answered.", ("route", "method", "status"), registry=registry)
        self._seconds = Histogram(
            "m2l_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter("m2l_images", "Images synthesized.", registry=registry)
        self._refused = Counter(
            "m2l_refused", "Requests refused because too much was under way.", ("reason",), registry=registry
        )
        self._batch_size = Histogram("m2l_batch_size", "Images of a batch.", buckets=_SIZES, registry=registry)
        self._engine_seconds = Histogram(
            "m2l_engine_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=registry
        )
        self._queue_seconds = Histogram(
            "m2l_queue_seconds", "Seconds that an image waited for the engine.", buckets=_SECONDS, registry=registry
        )
        self._engine_errors = Counter("m2l_engine_errors", "Batches that failed.", registry=registry)
        self._queue = Gauge("m2l_queue_length", "Images that wait for the engine.", registry=registry)
        self._admitted = Gauge("m2l_requests_under_way", "Requests that are read or worked on.", registry=registry)
        self._reloads = Counter("m2l_reloads", "Reloads of the bundle.", ("result",), registry=registry)
        self._bundle = Gauge(
            "m2l_bundle_info",
            "The bundle that is served.",
            ("name", "sha256", "backend", "precision"),
            registry=registry,
        )
        self.image_count = 0
        """Images synthesized."""
        self.batch_count = 0
        """Batches run."""
        self.engine_ns = 0
        """Nanoseconds of those."""
        self.queue_ns = 0
        """Nanoseconds that images waited."""

    def watch(self, queue_length: Callable[[], int], admitted: Callable[[], int]) -> None:
        """Ask for the queue and the requests under way whenever metrics are read."""
        self._queue.set_function(queue_length)
        self._admitted.set_function(admitted)

    def describe_bundle(self, model: ServedModel) -> None:
        """Tell which bundle is served."""
        bundle, settings = model.synthesizer.bundle, model.synthesizer.settings
        self._bundle.clear()
        self._bundle.labels(bundle.manifest.name, bundle.sha256, settings.backend, settings.precision).set(1)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request, of a route of the service's own."""
        self._requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self._batch_size.observe(report.size)
        self._engine_seconds.observe(report.run_s)
        for waited_s in report.waited_s:
            self._queue_seconds.observe(waited_s)
        self.batch_count += 1
        self.engine_ns += int(report.run_s * 1e9)
        self.queue_ns += int(sum(report.waited_s) * 1e9)
        if report.is_failed:
            self._engine_errors.inc()
        else:
            self._images.inc(report.size)
            self.image_count += report.size

    def count_refused(self, reason: str) -> None:
        """Count a request that was refused because too much was under way."""
        self._refused.labels(reason).inc()

    def count_reload(self, *, is_done: bool) -> None:
        """Count a reload, or one that was refused."""
        self._reloads.labels("done" if is_done else "refused").inc()

    def value(self, name: str, **labels: str) -> float:
        """Return the value of a metric, 0 where it has none."""
        found = None
        with contextlib.suppress(KeyError):
            found = self._registry.get_sample_value(name, labels)
        return found or 0.0

    def text(self) -> tuple[bytes, str]:
        """Return all metrics as Prometheus reads them, and the media type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
