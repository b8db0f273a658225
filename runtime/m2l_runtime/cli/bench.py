"""The command line of `m2l bench` to a call of its function.

Nothing heavy is imported before the command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from m2l_runtime.bench.messages import BenchConfig
    from m2l_runtime.bench.report import BenchReport, Row


def register(app: typer.Typer) -> None:
    """Add `bench` to `app`."""
    app.command()(bench)


def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Folder of a bundle; left out: the model inside the package.", show_default=False),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Some of onnxruntime, openvino, tensorrt, fake, with commas between.  "
            "[default: all that are installed and that the bundle has a file for, but fake]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Some of cpu, cuda, cuda:N.  [default: cpu, and cuda where there is a driver]", show_default=False
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Some of fp32, fp16, bf16, int8.  [default: all that the bundle has for a backend]", show_default=False
        ),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Masks per engine call: 1,8,16.")] = "1,8",
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads of the engine in all.  [default: the CPUs this process may use]", show_default=False
        ),
    ] = None,
    streams: Annotated[
        str | None,
        typer.Option(
            help="Engine calls at once where images/s are measured: 1,2.  [default: as m2l synth chooses]",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds; in each, every row is measured in a new process.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each of a row's three measurements in a round, about.")] = 2.0,
    timeout: Annotated[float, typer.Option(help="Seconds after which a row's process is ended.")] = 900.0,
    trust_plans: Annotated[
        bool,
        typer.Option(
            "--trust-engines", help="Load the bundle's TensorRT plans. They are code: only from who you trust."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw images/s and latencies into this PNG file.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a plot that is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the figures of each round.")] = False,
) -> None:
    """Measure how fast a bundle runs here: latency, images/s alone and from files to files, memory, start.

    Every row runs in processes of its own, in several rounds of another order each; figures are medians with their
    spread. Exit status: 0 measured, with the reason where a row could not be, 1 no row could be or the run failed,
    2 wrong usage, 130 or 143 stopped by a signal.
    """
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime._utils.text import plural, print_stderr
    from m2l_runtime.bench.benchmark import bench as measure
    from m2l_runtime.bench.report import as_json
    from m2l_runtime.bench.table import as_table
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.errors import EngineError, InputError

    draw = None if plot is None else _drawing(plot, overwrite)
    with Reporter() as reporter, StopSignals("ending the process that measures") as stop:

        def on_start(configs: Sequence[BenchConfig]) -> None:
            rows, least_s = plural(len(configs), "row"), len(configs) * repeats * (3 * 1.2 * seconds + 1)
            reporter.message(f"measuring {rows} in {plural(repeats, 'round')}: at least {_duration(least_s)}")

        def on_round(number: int, row: Row) -> None:
            reporter.message(f"round {number + 1} of {repeats}: {row.label}: {_format_row(row)}")

        try:
            report = measure(
                bundle,
                backends=_names("--backend", backend),
                devices=_names("--device", device),
                precisions=_names("--precision", precision),
                batch_sizes=_numbers("--batch-size", batch_size) or (),
                threads=threads,
                streams=_numbers("--streams", streams) or (None,),
                repeats=repeats,
                seconds=seconds,
                timeout_s=timeout,
                trust_plans=trust_plans,
                on_start=on_start,
                on_round=on_round,
                should_stop=stop.is_set,
            )
        except InputError as error:
            raise typer.BadParameter(str(error)) from error
    if json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(as_json(report)), indent=2).decode())
    elif report.measured or not report.was_stopped:
        typer.echo(as_table(report))
    if plot is not None and draw is not None and report.measured:
        from m2l_runtime._utils import atomic

        atomic.write_file(plot, draw(report))
    if report.was_stopped:
        print_stderr(f"stopped; {plural(report.round_count, 'round')} of {repeats} finished")
        raise typer.Exit(stop.exit_status)
    if not report.measured:
        raise EngineError(f"no row could be measured; the first one: {report.rows[0].reason}")


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    """What stands between commas; None if the option is not given."""
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
    """What draws a report, once it is sure that it can be drawn and written there."""
    from m2l_runtime._utils import atomic
    from m2l_runtime._utils.text import printable
    from m2l_runtime.errors import OutputError
    from m2l_runtime.masks.sources.mask_source import not_installed

    if path.suffix.lower() != ".png":
        raise OutputError(f"the plot is a PNG; {printable(path)} should end in .png")
    atomic.check_new_file(path, overwrite=overwrite)
    try:
        from m2l_runtime.bench.plot import plot
    except ModuleNotFoundError as error:
        raise not_installed(error, "m2l bench --plot") from error
    return plot


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _format_row(row: Row) -> str:
    """One round of a row, in half a line."""
    if row.reason is not None:
        return row.reason
    (measured,) = row.rounds
    return (
        f"{measured.images_per_s:.1f} images/s, {measured.end_to_end_images_per_s:.1f} from files to files, "
        f"{measured.latency_p50_ms:.1f} ms a call"
    )
