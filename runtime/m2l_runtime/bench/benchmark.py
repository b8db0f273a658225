"""A bundle to a report of how fast it runs here: plans rows, asks their processes round by round, sums up."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_runtime._utils.cpu import cpu_model, usable_cpus
from m2l_runtime._utils.text import plural
from m2l_runtime.bench import worker
from m2l_runtime.bench.messages import BenchConfig, WorkerRequest, WorkerResponse, decode, encode
from m2l_runtime.bench.process import TIMEOUT_S, run_for_json
from m2l_runtime.bench.report import BenchReport, Row
from m2l_runtime.bench.rows import BATCH_SIZES, check_effort, plan
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.doctor import machine_facts

UNSTEADY_SPREAD: Final = 0.2
"""Spread of a row's images/s, as a fraction of the median, from which on a note says so."""


def bench(
    bundle: str | os.PathLike[str] | Bundle | None = None,
    *,
    backends: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: int | None = None,
    streams: Sequence[int | None] = (None,),
    repeats: int = 3,
    seconds: float = 2.0,
    timeout_s: float = TIMEOUT_S,
    trust_plans: bool = False,
    on_start: Callable[[Sequence[BenchConfig]], None] = lambda _: None,
    on_round: Callable[[int, Row], None] = lambda _, __: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> BenchReport:
    """Measure how fast a bundle runs on this machine, in every way it can.

    A row is a backend, a device, a precision, a batch size and a number of streams. In each of `repeats` rounds every
    row is measured once, in a new process, in another order each round.

    Args:
        bundle: folder of a bundle, or one already opened; None is the model inside the package.
        backends: names; None: all that are installed and that the bundle has a file for, but no fake.
        devices: cpu, cuda, cuda:N; None: the CPU, and CUDA where there is a driver for it.
        precisions: None: all that the bundle has for each backend.
        batch_sizes: masks per call of the engine.
        threads: CPU threads of the engine in all; None: the CPUs that this process may use.
        streams: engine calls at once where images/s are measured; None among them: as many as `m2l synth` takes.
            Latency is always measured with one stream.
        repeats: rounds.
        seconds: how long each of a row's three measurements goes on, about; it takes some calls at least.
        timeout_s: seconds after which the process of a row is ended, which fails the row.
        trust_plans: whether TensorRT plans of the bundle may be loaded, which are code.
        on_start: called once with what is to be measured.
        on_round: called whenever a process has ended, with the round, from 0, and what that process alone said.
        should_stop: asked ten times a second; once it is true, the process is ended and the report has the rounds that
            were finished before.

    Returns:
        The report. A row that cannot be loaded, crashes or hangs is in it with the reason.

    Raises:
        BundleNotFound, BundleTooNew, BundleDamaged: the bundle cannot be used.
        InputError: an unknown name, or a number out of range.
        EngineNotInstalled: no backend was asked for, and none is here that the bundle has a file for.
    """
    check_effort(repeats, seconds, timeout_s)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(embedded.BUNDLE if bundle is None else bundle)
    opened.check()
    configs, notes = plan(
        opened,
        backends=backends,
        devices=devices,
        precisions=precisions,
        batch_sizes=batch_sizes,
        threads=threads,
        streams=streams,
        trust_plans=trust_plans,
    )
    machine = _machine()
    on_start(configs)
    rows, round_count, was_stopped = [Row(config) for config in configs], 0, False
    backend_notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="m2l-bench-") as folder:
        for number, index in shuffled_rounds(len(configs), repeats):
            round_count = number
            if rows[index].reason is not None:
                continue
            answer = _measure_in_process(opened, configs[index], Path(folder), seconds, timeout_s, should_stop)
            if answer is None:
                was_stopped = True
                break
            rows[index] = _with(rows[index], answer, number)
            backend_notes += [note for note in answer.notes if note not in backend_notes]
            on_round(number, _with(Row(configs[index]), answer, number))
        else:
            round_count = repeats
    rows = [_first(row, round_count) for row in rows]
    return BenchReport(
        bundle=_bundle_facts(opened),
        machine=machine,
        rows=tuple(rows),
        repeats=repeats,
        round_count=round_count,
        seconds=seconds,
        notes=(*notes, *backend_notes, *_unsteady(rows)),
        was_stopped=was_stopped,
    )


def _measure_in_process(
    bundle: Bundle, config: BenchConfig, folder: Path, seconds: float, timeout_s: float, should_stop: Callable[[], bool]
) -> WorkerResponse | None:
    """What a new process says of a way to run the bundle; None if it was stopped."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        request = WorkerRequest(config, os.fspath(bundle.path.absolute()), own, seconds, time.monotonic())
        ending = run_for_json(worker.COMMAND, request=encode(request), timeout_s=timeout_s, should_stop=should_stop)
    if ending.was_stopped:
        return None
    if ending.reason is not None:
        return WorkerResponse(reason=ending.reason)
    try:
        return decode(ending.document, WorkerResponse)
    except msgspec.ValidationError as error:
        return WorkerResponse(reason=f"its process gave another answer than was expected: {error}")


def _with(row: Row, answer: WorkerResponse, number: int) -> Row:
    """A row and what it was told in one more round."""
    if answer.round is None:
        place = f"in round {number + 1}: " if row.rounds else ""
        return Row(row.config, row.rounds, row.latency_settings, row.throughput_settings, f"{place}{answer.reason}")
    return Row(row.config, (*row.rounds, answer.round), answer.latency_settings, answer.throughput_settings)


def _first(row: Row, round_count: int) -> Row:
    """The row without a round that not all rows have had."""
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
    """A note if what is measured differs much from round to round."""
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
        f"the machine was not steady: {plural(len(unsteady), 'figure')} of images/s differed by more than "
        f"{UNSTEADY_SPREAD:.0%} between rounds; trust ratios more than figures, or measure again with more --repeats",
    )


def shuffled_rounds(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, thing), both from 0: in each round all things, rotated.

    >>> list(turns(2, 2))
    [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    step = max(1, count // max(1, rounds))
    for number in range(rounds):
        for place in range(count):
            yield number, (place + number * step) % count
