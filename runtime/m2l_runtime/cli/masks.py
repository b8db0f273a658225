"""Run `m2l masks`: shapes, deform, pca, describe.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from m2l_runtime.masks.sources.mask_source import DrawnMasks
    from m2l_runtime.masks.sources.pca import ShapeModel
    from m2l_runtime.masks.sources.statistics import SetStatistics

SOME_MASKS_BAD: Final = 3
"""Exit status when some masks were passed over and the others used."""
_SHEET_MASKS: Final = 42
_COLUMNS: Final = 7

Masks = Annotated[Path, typer.Argument(help="A folder of masks, or a mask file.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)]
Count = Annotated[int, typer.Option(help="Number of masks.")]
Size = Annotated[int, typer.Option(help="Side of the masks in pixels.")]
Seed = Annotated[int, typer.Option(help="Seed; the same one gives the same masks.")]
Sheet = Annotated[
    Path | None, typer.Option(help=f"Also draw the first {_SHEET_MASKS} masks into this PNG file.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(help="Threads that draw masks.  [default: the CPUs this process may use]", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder of masks that is there already.")]


def register(app: typer.Typer) -> None:
    """Add `masks` and its verbs to `app`."""
    group = typer.Typer(
        name="masks",
        help="Make masks from nothing or from a few masks, and describe masks.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in (shapes, deform, pca, describe):
        group.command()(_needs_packages(command))
    app.add_typer(group)


def _needs_packages(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that a missing package of the extra `masks` is one error."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ModuleNotFoundError as error:
            from m2l_runtime.masks.sources.mask_source import not_installed

            raise not_installed(error, f"m2l masks {command.__name__}") from error

    return run


def shapes(
    out: Out,
    count: Count = 100,
    kinds: Annotated[
        str,
        typer.Option(
            help="Kinds with commas between: circle, ellipse, triangle, square, pentagon, hexagon, octagon, star, blob."
        ),
    ] = "circle,ellipse,triangle,square,pentagon,hexagon,octagon,star,blob",
    size: Size = 256,
    seed: Seed = 0,
    smallest: Annotated[
        float, typer.Option(help="Smallest radius of the circle around a shape, as a fraction of the side.")
    ] = 0.12,
    largest: Annotated[
        float, typer.Option(help="Largest radius. At 0.5 a circle fills the frame, but for two pixels.")
    ] = 0.42,
    sheet: Sheet = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw geometric shapes, the kinds in turn; place, size and rotation are random."""
    from m2l_runtime.masks.sources.mask_source import DrawnMasks
    from m2l_runtime.masks.sources.shapes import Shapes

    chosen = tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    source = Shapes(chosen, size, smallest, largest, seed)
    about = {"source": "shapes", "kinds": chosen, "smallest": smallest, "largest": largest, "size": size, "seed": seed}
    _write(DrawnMasks(source, count), out, about, sheet, workers, overwrite)


def deform(
    masks: Masks,
    out: Out,
    count: Count = 100,
    control_points: Annotated[int, typer.Option(help="Control points along each side of the frame.")] = 6,
    range: Annotated[  # noqa: A002 - the option's name
        float,
        typer.Option(help="Largest displacement of a control point, in spacings. Up to 0.48 nothing can fold."),
    ] = 0.45,
    modes: Annotated[int, typer.Option(help="Modes of each part. More are finer.")] = 20,
    alpha: Annotated[
        float,
        typer.Option(help="1: smooth vibrations alone; 0: the variation among the masks alone."),
    ] = 1.0,
    size: Size = 256,
    seed: Seed = 0,
    sheet: Sheet = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Deform masks elastically, as DeformIt does, each of MASKS in turn.

    Exit status: 0 all masks were used, 3 some are empty, full or unreadable and were passed over, 1 nothing was made.
    """
    from m2l_runtime.masks.sources.deform import DeformOptions, open_deformations
    from m2l_runtime.masks.sources.mask_source import DrawnMasks

    options = DeformOptions(control_points, range, modes, alpha, size, seed)
    _check_apart(masks, out)
    with _reading(masks) as on_mask:
        source = open_deformations(masks, options, on_mask=on_mask)
    about = {
        "source": "deform",
        "control_points": control_points,
        "range": range,
        "modes": modes,
        "alpha": alpha,
        "size": size,
        "seed": seed,
        "masks_used": source.mask_count,
    }
    _write(DrawnMasks(source, count), out, about, sheet, workers, overwrite)
    _report_skipped(source.left_out)


def pca(
    place: Annotated[
        Path,
        typer.Argument(
            help="Masks to learn from; with --component or --random the folder to make.", show_default=False
        ),
    ],
    model: Annotated[Path, typer.Option(help="File of the shape model, written or read.", show_default=False)],
    component: Annotated[
        int | None,
        typer.Option(help="Draw shapes along this component, from 1, instead of learning.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Masks along the component, from + over the mean to -.  [default: 7]", show_default=False),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Draw random shapes instead of learning.")] = False,
    count: Annotated[
        int | None, typer.Option(help="Number of random masks.  [default: 100]", show_default=False)
    ] = None,
    sigmas: Annotated[
        float | None,
        typer.Option(
            help="Standard deviations at both ends.  [default: 3 along a component, 2.5 at random]", show_default=False
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the masks in pixels.  [default: 256]", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; the same one gives the same masks.  [default: 0]", show_default=False)
    ] = None,
    sheet: Sheet = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Learn the principal components of masks' shapes, or draw masks along them.

    m2l masks pca MASKS --model FILE learns; m2l masks pca --model FILE OUT --component 1, or --random, draws.
    Exit status: 0 done, 3 done, but some of MASKS were passed over, 1 nothing was made.
    """
    from m2l_runtime.masks.sources.pca import load

    if component is not None and random:
        raise typer.BadParameter("shapes are drawn along one component (--component) or at random (--random); choose")
    is_learning = component is None and not random
    draws = {"--sigmas": sigmas, "--size": size, "--sheet": sheet, "--workers": workers}
    if is_learning:
        _refuse("learning", {"--steps": steps, "--count": count, "--seed": seed} | draws)
    elif random:
        _refuse("--random", {"--steps": steps})
    else:
        _refuse("--component", {"--count": count, "--seed": seed})
    if is_learning:
        _learn(place, model, overwrite)
        return
    from m2l_runtime.masks.sources.mask_source import DrawnMasks
    from m2l_runtime.masks.sources.pca import AlongComponent, RandomShapes

    shape_model, size = load(model), 256 if size is None else size
    about: dict[str, Any] = {"source": "pca", "model": _sha256(model), "size": size}
    if component is not None:
        steps, sigmas = 7 if steps is None else steps, 3.0 if sigmas is None else sigmas
        along = AlongComponent(shape_model, component, steps, sigmas, size)
        about |= {"component": component, "steps": along.steps, "sigmas": along.sigmas}
        title = f"PC{component}, {shape_model.explained[component - 1] * 100:.1f} % of the variance"
        _write(DrawnMasks(along, along.steps), place, about, sheet, workers, overwrite, title)
        return
    source = RandomShapes(shape_model, 2.5 if sigmas is None else sigmas, size, 0 if seed is None else seed)
    about |= {"sigmas": source.sigmas, "seed": source.seed}
    _write(DrawnMasks(source, 100 if count is None else count), place, about, sheet, workers, overwrite)


def _refuse(doing: str, options: dict[str, Any]) -> None:
    """Refuse options that have no effect on what is done."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} has no effect on {doing}; leave it out")


def _learn(masks: Path, model: Path, overwrite: bool) -> None:
    import os

    from m2l_runtime._utils import atomic
    from m2l_runtime.masks.mask_folder import find_masks
    from m2l_runtime.masks.sources.lesions import read_lesions
    from m2l_runtime.masks.sources.pca import MAX_MASKS, READ_SIDE, fit_shape_model, load, save

    atomic.check_new_file(model, overwrite=overwrite)
    if os.path.lexists(model):
        load(model)  # nothing but a model is ever replaced by one
    with _reading(masks) as on_mask:
        lesions = read_lesions(find_masks(masks), READ_SIDE, max_count=MAX_MASKS, on_mask=on_mask)
    shape_model = fit_shape_model(lesions)
    save(shape_model, model)
    typer.echo(_describe_model(shape_model, model))
    _report_skipped(lesions.left_out)


def _describe_model(model: ShapeModel, path: Path) -> str:
    from m2l_runtime._utils.text import plural, printable

    shares = ", ".join(f"{share * 100:.1f} %" for share in model.explained[:5])
    return (
        f"{printable(path)}: {plural(len(model.components), 'component')} of the shapes of "
        f"{plural(model.mask_count, 'mask')}; the first explain {shares} of the variance, all of them "
        f"{model.explained.sum() * 100:.1f} %"
    )


def describe(
    masks: Masks,
    reference: Annotated[Path | None, typer.Argument(help="Masks to compare with.", show_default=False)] = None,
    size: Size = 256,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw the distributions into this PNG file.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a plot that is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe masks: area, parts, holes, roundness; and how they differ from others.

    Masks are squashed to --size first. Exit status: 0 all were measured, 3 some files are no masks, 1 none is one.
    """
    from m2l_runtime.masks.mask_folder import find_masks
    from m2l_runtime.masks.sources import statistics

    if plot is not None:
        _check_png(plot, overwrite)
    sets: list[SetStatistics] = []
    for folder in (masks, reference):
        if folder is not None:
            with _reading(folder) as on_mask:
                sets.append(statistics.describe(find_masks(folder), size, on_mask=on_mask))
    one, other = sets[0], sets[1] if len(sets) > 1 else None
    if plot is not None:
        from m2l_runtime._utils import atomic
        from m2l_runtime.masks.sources.plot import plot as draw_plot

        name, other_name = masks.resolve().name, "" if reference is None else reference.resolve().name
        picture = draw_plot(
            one, f"{name} ({one.count})", other, "" if other is None else f"{other_name} ({other.count})"
        )
        atomic.write_file(plot, picture)
    if json:
        from m2l_runtime.cli._options import echo_json
        from m2l_runtime.masks.sources.table import as_json

        echo_json(as_json(one, other))
    else:
        from m2l_runtime.masks.sources.table import as_table

        typer.echo(as_table(one, other))
    _report_skipped([message for found in sets for message in found.left_out])


def _write(
    masks: DrawnMasks,
    out: Path,
    about: dict[str, Any],
    sheet: Path | None,
    workers: int | None,
    overwrite: bool,
    title: str | None = None,
) -> None:
    from m2l_runtime._utils.signals import StopSignals
    from m2l_runtime._utils.text import plural, print_stderr, printable
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.masks.sources.writing import write_masks

    if sheet is not None:
        _check_png(sheet, overwrite)
    with Reporter("drawing", "masks") as reporter, StopSignals() as stop:
        reporter.start(len(masks.names))
        is_written = write_masks(
            masks, out, about, overwrite=overwrite, workers=workers, on_mask=reporter.advance, should_stop=stop.is_set
        )
    if not is_written:
        print_stderr("stopped; nothing was written")
        raise typer.Exit(stop.exit_status)
    if sheet is not None:
        _draw_sheet(masks, sheet, title or f"{about['source']}, {plural(len(masks.names), 'mask')}")
    typer.echo(f"{plural(len(masks.names), 'mask')} in {printable(out)}")


def _draw_sheet(masks: DrawnMasks, path: Path, title: str) -> None:
    import io

    from m2l_runtime._utils import atomic
    from m2l_runtime._utils.text import stem
    from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows

    names = masks.names[:_SHEET_MASKS]
    cells = [
        Cell([masks.mask(name)], stem(name).partition("-")[2].replace("_plus_", " +").replace("_minus_", " -"))
        for name in names
    ]
    rows = [Row(title if i == 0 else "", cells[i : i + _COLUMNS]) for i in range(0, len(cells), _COLUMNS)]
    buffer = io.BytesIO()
    draw_rows(rows).save(buffer, "PNG")
    atomic.write_file(path, buffer.getvalue())


def _check_png(path: Path, overwrite: bool) -> None:
    from m2l_runtime._utils import atomic
    from m2l_runtime.runs.checks import check_sheet_name

    check_sheet_name(path)
    atomic.check_new_file(path, overwrite=overwrite)


def _check_apart(masks: Path, out: Path) -> None:
    """Check that the folder to make is not the given one, nor inside it."""
    from m2l_runtime._utils.text import printable
    from m2l_runtime.errors import OutputError

    if out.resolve().is_relative_to(masks.resolve()) or masks.resolve().is_relative_to(out.resolve()):
        raise OutputError(f"{printable(out)} and {printable(masks)} lie in one another; choose a folder elsewhere")


def _sha256(path: Path) -> str | None:
    from m2l_runtime._utils.atomic import file_sha256

    return file_sha256(path)


@contextlib.contextmanager
def _reading(masks: Path) -> Iterator[Callable[[], None]]:
    """Show progress over the masks that are read."""
    from m2l_runtime.cli.progress import Reporter
    from m2l_runtime.masks.mask_folder import find_masks, passed_over_note

    with Reporter("reading", "masks") as reporter:
        given = find_masks(masks)
        note = passed_over_note(given)
        if note is not None:
            reporter.message(f"note: {note}")
        reporter.start(len(given.names))
        yield reporter.advance


def _report_skipped(messages: tuple[str, ...] | list[str]) -> None:
    if not messages:
        return
    from m2l_runtime._utils.text import plural, print_stderr
    from m2l_runtime.cli.progress import Reporter

    with Reporter() as reporter:
        for message in messages:
            reporter.note(f"passed over {message}")
    print_stderr(f"passed over {plural(len(messages), 'mask')}, named above")
    raise typer.Exit(SOME_MASKS_BAD)


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
