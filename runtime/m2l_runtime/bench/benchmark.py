"""Measure a bundle: choose rows, measure each in processes of its own round by round, and summarize."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import cpu_model, usable_cpus
from m2l_runtime._utils.temporary import temporary_errors
from m2l_runtime._utils.text import plural
from m2l_runtime.bench import worker
from m2l_runtime.bench.messages import BenchConfig, WorkerRequest, WorkerResponse, decode, encode
from m2l_runtime.bench.process import run_for_json
from m2l_runtime.bench.report import BenchReport, Row
from m2l_runtime.bench.rows import BenchOptions, check_effort, plan_rows
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.doctor import machine_facts

UNSTEADY_SPREAD: Final = 0.2
"""Spread of a row's images/s, as a fraction of the median, from which on a note says so."""


@check_types()
def bench(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    options: BenchOptions | None = None,
    *,
    on_start: Callable[[Sequence[BenchConfig]], None] = lambda _: None,
    on_round: Callable[[int, Row], None] = lambda _, __: None,
    should_stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> BenchReport:
    """Measure how fast a bundle runs on this machine, in every way it can.

    A row is a backend, a device, a precision, a batch size and a number of streams. In each round every row is measured
    once, in a new process, in another order each round.

    Example:
        >>> report = bench(backends=["fake"], batch_sizes=[1], repeats=1, seconds=0.01)
        >>> [row.label for row in report.rows]
        ['fake cpu fp32 batch 1']

    Args:
        bundle: folder of a bundle, or one already opened; None is the model inside the package.
        options: what is measured, and how long.
        on_start: called once with what is to be measured.
        on_round: called whenever a process has ended, with the round, from 0, and what that process alone measured.
        should_stop: asked ten times a second; once it is true, the process is ended and the report has the rounds that
            were finished before.
        fields: fields of `options` that are others than in it.

    Returns:
        The report. A row that cannot be loaded, crashes or hangs is in it with the reason.

    Raises:
        BundleNotFound, BundleTooNew, BundleDamaged: the bundle cannot be used.
        InputError: an unknown name, or a number out of range.
        EngineNotInstalled: no backend was asked for, and none is here that the bundle has a file for.
    """
    options = replace(BenchOptions() if options is None else options, **fields)
    check_effort(options)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(embedded.BUNDLE if bundle is None else bundle)
    opened.check()
    configs, notes = plan_rows(opened, options)
    machine = _machine()
    on_start(configs)
    rows, round_count, was_stopped = [Row(config) for config in configs], 0, False
    backend_notes: list[str] = []
    with temporary_errors(), tempfile.TemporaryDirectory(prefix="m2l-bench-") as folder:
        for number, index in shuffled_rounds(len(configs), options.repeats):
            round_count = number
            if rows[index].reason is not None:
                continue
            answer = _measure_in_process(opened, configs[index], Path(folder), options, should_stop)
            if answer is None:
                was_stopped = True
                break
            rows[index] = _with(rows[index], answer, number)
            backend_notes += [note for note in answer.notes if note not in backend_notes]
            on_round(number, _with(Row(configs[index]), answer, number))
        else:
            round_count = options.repeats
    rows = [_first(row, round_count) for row in rows]
    return BenchReport(
        bundle=_bundle_facts(opened),
        machine=machine,
        rows=tuple(rows),
        repeats=options.repeats,
        round_count=round_count,
        seconds=options.seconds,
        notes=(*notes, *backend_notes, *_unsteady(rows)),
        was_stopped=was_stopped,
    )


def _measure_in_process(
    bundle: Bundle, config: BenchConfig, folder: Path, options: BenchOptions, should_stop: Callable[[], bool]
) -> WorkerResponse | None:
    """Measure a configuration in a new process; None if it was stopped."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        request = WorkerRequest(config, os.fspath(bundle.path.absolute()), own, options.seconds, time.monotonic())
        ending = run_for_json(
            worker.COMMAND, request=encode(request), timeout_s=options.timeout_s, should_stop=should_stop
        )
    if ending.was_stopped:
        return None
    if ending.reason is not None:
        return WorkerResponse(reason=ending.reason)
    try:
        return decode(ending.document, WorkerResponse)
    except msgspec.ValidationError as error:
        return WorkerResponse(reason=f"its process gave another answer than was expected: {error}")


def _with(row: Row, answer: WorkerResponse, number: int) -> Row:
    """Add what one more round measured to a row."""
    if answer.round is None:
        place = f"in round {number + 1}: " if row.rounds else ""
        return Row(row.config, row.rounds, row.latency_settings, row.throughput_settings, f"{place}{answer.reason}")
    return Row(row.config, (*row.rounds, answer.round), answer.latency_settings, answer.throughput_settings)


def _first(row: Row, round_count: int) -> Row:
    """Return the row without a round that not all rows have had."""
    rounds = row.rounds[:round_count]
    return Row(row.config, rounds, row.latency_settings, row.throughput_settings, row.reason)


def _machine() -> dict[str, Any]:
    facts = machine_facts()
    try:
        load = round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        load = None
    return {
        "cpu": cpu_model(),
        "usable_cpus": usable_cpus(),
        "load_average": load,
        "system": f"{platform.system()} {platform.machine()}",
        **{name: facts[name] for name in ("python", "m2l", "numpy", "pillow")},
    }


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "sha256": bundle.sha256,
        "image_size": list(manifest.image_size),
        "ngf": manifest.network.ngf,
        "parameter_count": manifest.network.parameter_count,
        "model_bytes": {model.file.path: model.file.size_bytes for model in manifest.models},
    }


def _unsteady(rows: Sequence[Row]) -> tuple[str, ...]:
    """Make a note if measurements differ much from round to round."""
    spreads = [
        row.metrics[name].spread
        for row in rows
        if row.is_measured
        for name in ("images_per_s", "end_to_end_images_per_s")
    ]
    unsteady = [spread for spread in spreads if spread > UNSTEADY_SPREAD]
    if not unsteady:
        return ()
    return (
        f"the machine was not steady: {plural(len(unsteady), 'value')} of images/s differed by more than "
        f"{UNSTEADY_SPREAD:.0%} between rounds; trust ratios more than values, or measure again with more --repeats",
    )


def shuffled_rounds(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Order `count` things for each of some rounds, rotated from round to round.

    Yields:
        (round, thing), both from 0.

    Example:
        >>> list(shuffled_rounds(2, 2))
        [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    step = max(1, count // max(1, rounds))
    for number in range(rounds):
        for place in range(count):
            yield number, (place + number * step) % count
