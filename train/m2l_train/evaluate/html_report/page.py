"""Put a report together: read results, make pictures, and render them as one HTML file.

The page brings everything with it. A policy in its head (CSP) forbids all else: no script, no network, no style but the
one whose hash it names, no picture but data: URIs.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from m2l_runtime import __version__
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_train.evaluate.html_report.experiments import (
    experiment_facts,
    experiment_section,
    experiment_words,
    usefulness_entry,
)
from m2l_train.evaluate.html_report.galleries import ResultGalleries, make_galleries
from m2l_train.evaluate.html_report.options import ReportOptions
from m2l_train.evaluate.html_report.plots import Plot, beside_real_plot, comparison_plot, texture_plot
from m2l_train.evaluate.html_report.results import USEFULNESS_OF, Column, LoadedResult, bundle_of, read_results, short
from m2l_train.evaluate.html_report.scorecard import (
    SCORECARD,
    ScorecardEntry,
    ScorecardRow,
    interval_text,
    real_text,
    score,
)
from m2l_train.evaluate.html_report.sources import open_sources, precision_of
from m2l_train.evaluate.html_report.strips import WIDTH, Strip, draw_strip
from m2l_train.evaluate.options import EvaluationStopped
from m2l_train.evaluate.registry import metric_spec
from m2l_train.evaluate.result import SEGMENTER_INSIDE, ComparedMetric, Comparison, Interval, Provenance
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER
from m2l_train.evaluate.usefulness.result import Usefulness

_PACKAGE: Final = "m2l_train.evaluate.html_report"


@dataclass(frozen=True)
class FigureRow:
    """Hold a row of the table of all figures."""

    title: str
    definition: str
    value: str
    interval: str
    real: str
    as_made: str
    better: str
    unit: str
    strip: Strip | None


@dataclass(frozen=True)
class FigureTable:
    """Hold all figures of one column, and why others have none."""

    label: str
    rows: tuple[FigureRow, ...]
    skipped: tuple[tuple[str, str], ...]
    """(reason, titles)."""


@dataclass(frozen=True)
class ComparisonRow:
    """Hold a row of the table of a comparison."""

    title: str
    a: str
    b: str
    real: str
    difference: str
    verdict: str
    """Empty: there is none."""
    better: str
    unit: str


@dataclass(frozen=True)
class ComparisonSection:
    """Hold what the page shows of a comparison."""

    labels: tuple[str, str]
    summary: str
    rows: tuple[ComparisonRow, ...]
    undecided: tuple[tuple[str, str], ...]
    """(reason, titles) of figures without a verdict."""
    plot: Plot | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Say what a result was measured on, as (name, value) pairs, and how to measure it again."""

    label: str
    facts: tuple[tuple[str, str], ...]
    command: str
    warnings: tuple[str, ...]


@check_types()
def write_report(results: Sequence[str | os.PathLike[str]], options: ReportOptions | None = None) -> bytes | None:
    """Make a report of result files as one self-contained HTML page.

    Nothing is written; the page is returned. What cannot be shown for want of a folder is left out with a note in the
    page.

    Example:
        >>> page = write_report(["result.json"], ReportOptions(data="data"))  # doctest: +SKIP
        >>> Path("report.html").write_bytes(page)  # doctest: +SKIP
        2104883

    Args:
        results: files that `m2l evaluate bundle`, `images` or `compare` have written with ``--out``, and files
            ``usefulness.json`` of `m2l evaluate usefulness`.
        options: where images are, and how many to show; None: no galleries.

    Returns:
        UTF-8; None if it was stopped.

    Raises:
        InputError: a result is none, is cut off, is of another version or given twice; or a folder is not what a result
            was measured on.
        BundleError: a bundle cannot be used.
        EngineError: no engine runs it here.
    """
    chosen = options if options is not None else ReportOptions()
    loaded = read_results(results)
    sources = open_sources(loaded, chosen)
    galleries = []
    try:
        for one in loaded:
            if chosen.should_stop():
                return None
            if one.columns:  # experiments have no pictures
                galleries.append(make_galleries(one, sources))
    except EvaluationStopped:
        return None
    return render_page(loaded, galleries, chosen).encode(errors="xmlcharrefreplace")


def render_page(loaded: Sequence[LoadedResult], galleries: Sequence[ResultGalleries], options: ReportOptions) -> str:
    """Render the page."""
    evaluations = [column for one in loaded if not isinstance(one.document, Comparison) for column in one.columns]
    columns = evaluations or [column for one in loaded for column in one.columns]
    trials = [(one.labels[0], one.document) for one in loaded if isinstance(one.document, Usefulness)]
    labels = heading_labels([column.label for column in columns], [label for label, _ in trials])
    style = (files(_PACKAGE) / "templates" / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=_title(labels),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 -- a file of this package
        strip_width=WIDTH,
        labels=labels,
        scorecard=_scorecard(columns, [usefulness_entry(*trial) for trial in trials]),
        experiments=[experiment_section(*trial) for trial in trials],
        plots=[plot for plot in (texture_plot(columns), beside_real_plot(columns)) if plot is not None],
        tables=[_table(column) for column in columns],
        comparisons=[_comparison(one, one.document) for one in loaded if isinstance(one.document, Comparison)],
        galleries=galleries,
        origins=[_origin(one) for one in loaded],
        command=_report_command(loaded, options),
        version=__version__,
    )


def heading_labels(measured: Sequence[str], tried: Sequence[str]) -> list[str]:
    """Return what the page's heading names: what was measured, and experiments with anything else.

    Example:
        >>> heading_labels(["my-bundle"], ["Usefulness of my-bundle", "Usefulness of another"])
        ['my-bundle', 'Usefulness of another']
    """
    return [*measured, *(label for label in tried if label.removeprefix(USEFULNESS_OF) not in measured)]


def _title(labels: Sequence[str]) -> str:
    if len(labels) < 3:
        return " and ".join(labels)
    return f"{labels[0]} and {len(labels) - 1} more"


def _scorecard(
    columns: Sequence[Column], usefulness: list[ScorecardEntry]
) -> list[tuple[ScorecardRow, list[ScorecardEntry]]]:
    """Answer each question; a row that nothing answers has no entry, and says what it needs."""
    cards = []
    for row in SCORECARD:
        if row.metrics:
            entries = score(row, columns)
            cards.append((row, entries if any(entry.value for entry in entries) else []))
        else:
            cards.append((row, usefulness))
    return cards


def _value_text(value: float | None, unit: str) -> str:
    return f"{value:.0f}" if unit == "images" and value is not None else short(value)


def _spec_title(name: str) -> tuple[str, str]:
    try:
        spec = metric_spec(name)
    except (KeyError, ValueError):  # of a result of other metrics
        return printable(name), ""
    return spec.title, spec.definition


def _table(column: Column) -> FigureTable:
    rows, skipped = [], dict[str, list[str]]()
    for name, reading in column.readings.items():
        title, definition = _spec_title(name)
        if reading.value is None:
            skipped.setdefault(printable(reading.reason or ""), []).append(title.strip())
            continue
        rows.append(
            FigureRow(
                title.strip(),
                definition,
                _value_text(reading.value, reading.unit),
                interval_text(reading.low, reading.high),
                real_text(reading) if reading.better != "near 1" else "",
                "" if reading.as_made is None else _value_text(reading.as_made.value, reading.unit),
                reading.better,
                reading.unit,
                draw_strip(reading),
            )
        )
    return FigureTable(column.label, tuple(rows), tuple((why, ", ".join(names)) for why, names in skipped.items()))


def _comparison(loaded: LoadedResult, comparison: Comparison) -> ComparisonSection:
    rows = [_comparison_row(name, metric) for name, metric in comparison.figures.items() if metric.a is not None]
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("better", "worse", "not told apart")}
    summary = (
        f"B is better in {count['better']}, worse in {count['worse']} and not told apart in {count['not told apart']} "
        f"of {sum(count.values())} figures with a verdict. Of 40 figures without any difference, some two come out "
        "better or worse by chance."
    )
    undecided: dict[str, list[str]] = {}
    for name, metric in comparison.figures.items():
        if metric.verdict is None:
            undecided.setdefault(printable(metric.reason or ""), []).append(_spec_title(name)[0].strip())
    return ComparisonSection(
        (loaded.labels[0], loaded.labels[1]),
        summary,
        tuple(rows),
        tuple((why, ", ".join(titles)) for why, titles in undecided.items()),
        comparison_plot(comparison),
        tuple(map(printable, comparison.warnings)),
    )


def _comparison_row(name: str, metric: ComparedMetric) -> ComparisonRow:
    def number(interval: Interval | None) -> str:
        return "" if interval is None else _value_text(interval.value, metric.unit)

    difference = number(metric.difference)
    if metric.difference is not None and (ends := interval_text(metric.difference.low, metric.difference.high)):
        difference += f" ({ends})"
    return ComparisonRow(
        _spec_title(name)[0].strip(),
        number(metric.a),
        number(metric.b),
        number(metric.real),
        difference,
        metric.verdict or "",
        metric.better,
        metric.unit,
    )


def _origin(loaded: LoadedResult) -> Origin:
    document = loaded.document
    if isinstance(document, Usefulness):
        facts = experiment_facts(document)
    elif isinstance(document, Comparison):
        sides = [(f"{label}", column) for label, column in zip(loaded.labels, loaded.columns, strict=True)]
        facts = [fact for label, column in sides for fact in _bundle_facts(column, f"{label[:1]}, ")]
        facts += _shared_facts(loaded.columns[0], document.image_size)
        facts.append(("appearances", document.appearances or "the generator of A takes none"))
    else:
        column = loaded.columns[0]
        facts = [*_bundle_facts(column, ""), *_shared_facts(column, document.image_size)]
    return Origin(
        " and ".join(loaded.labels),
        tuple((name, value) for name, value in facts if value),
        _command(loaded),
        tuple(map(printable, document.warnings)),
    )


def _bundle_facts(column: Column, prefix: str) -> list[tuple[str, str]]:
    provenance = column.provenance
    hashes = ", ".join(sha or "named by none" for sha in column.counts.bundles)
    return [
        (f"{prefix}images of", printable(provenance.synthesized)),
        (f"{prefix}bundle SHA-256", printable(hashes)),
        (f"{prefix}engine", printable(provenance.engine or "")),
        (f"{prefix}appearances and seed", "" if provenance.image_seed is None else
         f"{printable(provenance.appearance or 'none')}, seed {provenance.image_seed}"),
    ]  # fmt: skip


def _shared_facts(column: Column, size: int | str) -> list[tuple[str, str]]:
    provenance, counts = column.provenance, column.counts
    side = f"{size}x{size}" if isinstance(size, int) else printable(size)
    split = f", split {printable(provenance.split)}" if provenance.split is not None else ""
    training = f"; {counts.training_sample:,} training images, neighbors among {counts.training:,}"
    return [
        ("data", f"{printable(provenance.data)}{split}"),
        ("images", f"{counts.synthesized:,} synthesized, {counts.real:,} real, at {side}"
         + (training if counts.training else "")),
        ("encoded as", printable(provenance.encoding or "they were made")),
        ("seed", str(provenance.seed)),
        ("segmenter", "" if provenance.segmenter_sha256 is None else
         f"SHA-256 {printable(provenance.segmenter_sha256)}, val Dice {short(provenance.segmenter_val_dice)}"),
        ("versions", ", ".join(f"{printable(name)} {printable(v)}" for name, v in provenance.versions.items())),
    ]  # fmt: skip


def _command(loaded: LoadedResult) -> str:
    """Write the command that measures a result again, with the names of folders that it has."""
    document, columns = loaded.document, loaded.columns
    if isinstance(document, Usefulness):
        return _line(["m2l", "evaluate", *experiment_words(loaded, document)])
    provenance = columns[0].provenance
    names = [_bundle_word(column) for column in columns]
    if isinstance(document, Comparison):
        words = ["compare", *names, "--data", provenance.data]
        words += ["--appearances", "own"] if document.appearances == "own" else []
    elif provenance.engine is not None:
        words = ["bundle", provenance.data, *(name for name in names if name != "embedded")]
        words += _synthesis_words(provenance)
    else:
        words = ["images", provenance.synthesized, provenance.data]
        words += [word for name in provenance.samples for word in ("--samples", name)]
    if provenance.split is not None:
        words += ["--split", provenance.split]
    if provenance.segmenter != SEGMENTER_INSIDE:
        words += ["--segmenter", _segmenter_word(provenance)]
    words += ["--inception", "inception.pth"] if provenance.inception_sha256 is not None else []
    words += ["--no-imagenet"] if provenance.imagenet_sha256 is None else []
    words += ["--encoding", "none"] if provenance.encoding is None else []
    return _line(["m2l", "evaluate", *words, "--seed", str(provenance.seed), "--out", loaded.path.name])


def _synthesis_words(provenance: Provenance) -> list[str]:
    """Write the options that a bundle's images depend on."""
    words = ["--samples", str(len(provenance.samples) + 1)] if provenance.samples else []
    if provenance.appearance not in (None, "drawn"):
        words += ["--appearance", provenance.appearance or ""]
    precision = precision_of(provenance)
    return words if precision == "fp32" else [*words, "--precision", precision]


def _segmenter_word(provenance: Provenance) -> str:
    return "none" if provenance.segmenter_sha256 is None else provenance.segmenter or "segmenter.pt"


def _bundle_word(column: Column) -> str:
    from m2l_runtime.bundle import embedded
    from m2l_runtime.bundle.io import open_bundle

    if bundle_of(column.counts, column.provenance) == open_bundle(embedded.BUNDLE).sha256:
        return "embedded"
    return column.provenance.synthesized.removeprefix("bundle ")


def _report_command(loaded: Sequence[LoadedResult], options: ReportOptions) -> str:
    words = ["m2l", "evaluate", "report", *(one.path.name for one in loaded), "report.html"]
    words += [] if options.data is None else ["--data", Path(options.data).resolve().name]
    words += [word for path in options.bundles for word in ("--bundle", Path(path).resolve().name)]
    words += [word for path in options.synthesized for word in ("--synthesized", Path(path).resolve().name)]
    if options.segmenter is None or Path(options.segmenter) != SHIPPED_SEGMENTER:
        words += ["--segmenter", "none" if options.segmenter is None else Path(options.segmenter).name]
    words += [] if options.pictures == ReportOptions().pictures else ["--pictures", str(options.pictures)]
    return _line(words)


def _line(words: Sequence[str]) -> str:
    return shlex.join(map(printable, words))
