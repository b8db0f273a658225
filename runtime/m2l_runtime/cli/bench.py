"""Run `m2l bench`.

A new option is one field of `BenchFlags`, and its use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.cli._options import (
    ALL_CPUS,
    RENAMED_OPTIONS,
    BundleArgument,
    accept_old_options,
    echo_json,
    expand_options,
    option_field,
)

if TYPE_CHECKING:
    from m2l_runtime.bench.messages import BenchConfig
    from m2l_runtime.bench.report import BenchReport, Row
    from m2l_runtime.bench.rows import BenchOptions


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """Hold the options of `m2l bench`."""

    backend: str | None = option_field(
        None,
        f"Backends with commas between: {', '.join(BACKENDS)}.",
        default="all that are installed and that the bundle has a file for, but no fake",
    )
    device: str | None = option_field(
        None, "Devices with commas between: cpu, cuda, cuda:N.", default="cpu, and cuda where there is a driver"
    )
    precision: str | None = option_field(
        None,
        "Precisions with commas between: fp32, fp16, bf16, int8.",
        default="all that the bundle has for a backend",
    )
    batch_size: str = option_field("1,8", "Masks per engine call: 1,8,16.")
    threads: int | None = option_field(None, "CPU threads of the engine in all.", default=ALL_CPUS)
    streams: str | None = option_field(
        None, "Engine calls at once where images/s are measured: 1,2.", default="as m2l synth chooses"
    )
    repeats: int = option_field(3, "Rounds. In each, every row is measured in a new process.")
    seconds: float = option_field(2.0, "Seconds of each of a row's three measurements in a round, about.")
    timeout: float = option_field(900.0, "Seconds after which a row's process is ended.")
    trust_plans: bool = option_field(
        False, "Load the bundle's TensorRT plans. Plans are code: load only those of a maker you trust."
    )
    plot: Path | None = option_field(None, "Also draw images/s and latencies into this PNG file.")
    overwrite: bool = option_field(False, "Replace a plot that is there already.")
    json: bool = option_field(False, "Print JSON, with the measurements of each round.")

    def to_options(self) -> BenchOptions:
        """Make options of the library.

        Raises:
            typer.BadParameter: a list is none.
        """
        from m2l_runtime.bench.rows import BenchOptions

        return BenchOptions(
            backends=_names("--backend", self.backend),
            devices=_names("--device", self.device),
            precisions=_names("--precision", self.precision),
            batch_sizes=_numbers("--batch-size", self.batch_size) or (),
            threads=self.threads,
            streams=_numbers("--streams", self.streams) or (None,),
            repeats=self.repeats,
            seconds=self.seconds,
            timeout_s=self.timeout,
            trust_plans=self.trust_plans,
        )


def register(app: typer.Typer) -> None:
    """Add `bench` to `app`."""
    app.command(cls=accept_old_options(RENAMED_OPTIONS))(bench)


@expand_options
def bench(bundle: BundleArgument = None, *, flags: BenchFlags) -> None:
    """Measure how fast a bundle runs here: latency, images/s alone and from files to files, memory, start.

    Every row runs in processes of its own, in several rounds of another order each. Values are medians with their
    spread. Exit status: 0 measured, with the reason where a row could not be, 1 no row could be or the run failed,
    2 the command line was wrong, 130 or 143 stopped by a signal.
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime._utils.text import plural, print_stderr
    from m2l_runtime.bench.benchmark import bench as measure
    from m2l_runtime.bench.report import as_json
    from m2l_runtime.bench.table import as_table
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.errors import EngineError

    draw = None if flags.plot is None else _drawing(flags.plot, flags.overwrite)
    with Reporter() as reporter, StopSignals("ending the process that measures") as stop:

        def on_start(configs: Sequence[BenchConfig]) -> None:
            rows, least_s = plural(len(configs), "row"), len(configs) * flags.repeats * (3 * 1.2 * flags.seconds + 1)
            reporter.message(f"measuring {rows} in {plural(flags.repeats, 'round')}: at least {_duration(least_s)}")

        def on_round(number: int, row: Row) -> None:
            reporter.message(f"round {number + 1} of {flags.repeats}: {row.label}: {_format_row(row)}")

        report = measure(bundle, flags.to_options(), on_start=on_start, on_round=on_round, should_stop=stop.is_set)
    if flags.json:
        echo_json(as_json(report))
    elif report.measured or not report.was_stopped:
        typer.echo(as_table(report))
    if flags.plot is not None and draw is not None and report.measured:
        from m2l_runtime._utils import atomic

        atomic.write_file(flags.plot, draw(report))
    if report.was_stopped:
        print_stderr(f"stopped; {plural(report.round_count, 'round')} of {flags.repeats} finished")
        raise typer.Exit(stop.exit_status)
    if not report.measured:
        raise EngineError(f"no row could be measured; the first one: {report.rows[0].reason}")


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Split a list at its commas; None if the option is not given."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise typer.BadParameter(f"{option} is a list with commas between, got {text[:40]!r}")
    return names


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    names = _names(option, text)
    if names is None:
        return None
    if not all(name.isascii() and name.isdecimal() and len(name) <= 9 for name in names):
        raise typer.BadParameter(f"{option} is whole numbers with commas between, got {(text or '')[:40]!r}")
    return tuple(map(int, names))


def _drawing(path: Path, overwrite: bool) -> Callable[[BenchReport], bytes]:
    """Return what draws a report, once it is sure that it can be drawn and written there."""
    from m2l_runtime._utils import atomic
    from m2l_runtime._utils.text import printable
    from m2l_runtime.errors import ArgumentError
    from m2l_runtime.masks.sources.mask_source import not_installed

    if path.suffix.lower() != ".png":
        raise ArgumentError(f"the plot is a PNG; {printable(path)} should end in .png")
    atomic.check_new_file(path, overwrite=overwrite)
    try:
        from m2l_runtime.bench.plot import plot
    except ModuleNotFoundError as error:
        raise not_installed(error, "m2l bench --plot") from error
    return plot


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _format_row(row: Row) -> str:
    """Describe one round of a row in half a line."""
    from m2l_runtime._utils.text import rate

    if row.reason is not None:
        return row.reason
    (measured,) = row.rounds
    return (
        f"{rate(measured.images_per_s)} images/s, {rate(measured.end_to_end_images_per_s)} from files to files, "
        f"{measured.latency_p50_ms:.1f} ms a call"
    )


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
