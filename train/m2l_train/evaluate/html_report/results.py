"""Read result files of `m2l evaluate`, and bring their metrics to one form."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from m2l_runtime._utils.reading import read_input, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError
from m2l_train.evaluate.result import (
    COMPARISON_SCHEMA,
    COMPARISON_VERSION,
    SCHEMA,
    SCHEMA_VERSION,
    Better,
    ComparedMetric,
    Comparison,
    Counts,
    Evaluation,
    Interval,
    Metric,
    Provenance,
)
from m2l_train.evaluate.usefulness import result as usefulness
from m2l_train.evaluate.usefulness.report import synthesized_by

Document = Evaluation | Comparison | usefulness.Usefulness

MAX_BYTES: Final = 64 << 20

USEFULNESS_OF: Final = "Usefulness of "
"""Ahead of a bundle's name, in what an experiment with it is called."""

_BUNDLE: Final = "bundle "


@dataclass(frozen=True)
class ResultKind:
    """Describe a kind of result file: its schema, the version that is read, and what it becomes."""

    version: int
    document: type[Document]
    command: str
    """That writes it."""


RESULT_KINDS: Final[Mapping[str, ResultKind]] = {
    SCHEMA: ResultKind(SCHEMA_VERSION, Evaluation, "m2l evaluate bundle"),
    COMPARISON_SCHEMA: ResultKind(COMPARISON_VERSION, Comparison, "m2l evaluate compare"),
    usefulness.SCHEMA: ResultKind(usefulness.SCHEMA_VERSION, usefulness.Usefulness, "m2l evaluate usefulness"),
}
"""By the word under `schema` in the file. A new kind of result is an entry here and a section of the page."""

EXPECTED: Final = (
    "the JSON file that m2l evaluate bundle, images or compare writes with --out, or the usefulness.json of m2l "
    "evaluate usefulness"
)


class _Head(msgspec.Struct):
    schema: str
    schema_version: int


@dataclass(frozen=True)
class Reading:
    """Hold a metric as the page shows it, of an evaluation or of one side of a comparison."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    real: Interval | None
    as_made: Interval | None
    unit: str
    better: Better
    reason: str | None
    """Why there is no value."""
    no_interval: str | None


@dataclass(frozen=True)
class Column:
    """Hold what the page shows of one set of synthesized images."""

    label: str
    readings: Mapping[str, Reading]
    counts: Counts
    provenance: Provenance
    compared_with: str

    def measured(self, name: str) -> Reading | None:
        """Return a metric if it was measured."""
        reading = self.readings.get(name)
        return None if reading is None or reading.value is None else reading


@dataclass(frozen=True)
class LoadedResult:
    """Hold a result file that was read."""

    path: Path
    document: Document
    labels: tuple[str, ...]
    """Of its columns: one, or those of A and B; of an experiment, which has no columns, its generator."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its metrics, a column for each set of synthesized images; an experiment with segmenters has none."""
        document = self.document
        if isinstance(document, usefulness.Usefulness):
            return ()
        if isinstance(document, Comparison):
            sides = ((document.a, "a"), (document.b, "b"))
            return tuple(
                Column(
                    label,
                    {name: _side_reading(name, metric, side) for name, metric in document.figures.items()},
                    bundle.counts,
                    bundle.provenance,
                    document.compared_with,
                )
                for label, (bundle, side) in zip(self.labels, sides, strict=True)
            )
        readings = {name: _reading(name, metric) for name, metric in document.figures.items()}
        return (Column(self.labels[0], readings, document.counts, document.provenance, document.compared_with),)


def _reading(name: str, metric: Metric) -> Reading:
    return Reading(
        name,
        metric.value,
        metric.low,
        metric.high,
        metric.real,
        metric.as_made,
        metric.unit,
        metric.better,
        metric.reason,
        metric.no_interval,
    )


def _side_reading(name: str, metric: ComparedMetric, side: str) -> Reading:
    found: Interval | None = getattr(metric, side)
    value = Interval(value=None, low=None, high=None) if found is None else found
    return Reading(
        name, value.value, value.low, value.high, metric.real, None, metric.unit, metric.better, metric.reason, None
    )


def short(value: float | None) -> str:
    """Write a number with three digits that mean something; counts as they are.

    Example:
        >>> short(0.08318), short(37.957), short(1234.5), short(2.0), short(0.9999)
        ('0.0832', '38.0', '1,234', '2.00', '1.00')
    """
    if value is None:
        return ""
    size = abs(value)
    if size >= 999.5:
        return f"{value:,.0f}"
    digits = 2 if size < 0.0005 else 2 - math.floor(math.log10(float(f"{size:.3g}")))
    return f"{value:.{min(max(digits, 0), 5)}f}"


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[LoadedResult]:
    """Read result files, and give each set of synthesized images a name of its own.

    Raises:
        InputError: a file cannot be read, is no result of `m2l evaluate`, is cut off, is of another version, or is
            given twice; or none is given.
    """
    if not paths:
        raise InputError(f"no result is given; expected {EXPECTED}")
    documents: list[tuple[Path, Document]] = []
    seen: dict[bytes, Path] = {}
    for path in map(Path, paths):
        content = _read(path)
        if content in seen:
            raise InputError(
                f"{printable(path)} is the result {printable(seen[content])} again; expected each result once"
            )
        seen[content] = path
        documents.append((path, _parse(path, content)))
    return _labeled(documents)


def _read(path: Path) -> bytes:
    name = printable(path)
    if path.is_dir():
        raise InputError(f"{name} is a folder; expected {EXPECTED}")
    with reader_errors(InputError, path, "cannot be read", f"; expected {EXPECTED}"):
        return read_input(path, MAX_BYTES)


def _parse(path: Path, content: bytes) -> Document:
    name = printable(path)
    with reader_errors(InputError, path, "is no JSON, or was cut off", f"; expected {EXPECTED}"):
        try:
            head = msgspec.json.decode(content, type=_Head)
        except msgspec.ValidationError:
            raise InputError(f"{name} is no result of m2l evaluate; expected {EXPECTED}") from None
    kind = RESULT_KINDS.get(head.schema)
    if kind is None:
        raise InputError(
            f"{name} is of the schema '{printable(head.schema[:60])}'; expected {' or '.join(RESULT_KINDS)}: {EXPECTED}"
        )
    if head.schema_version != kind.version:
        advice = "install a newer m2l" if head.schema_version > kind.version else f"run {kind.command} again"
        raise InputError(
            f"{name} is of version {head.schema_version} of {head.schema}, this m2l reads {kind.version}; {advice}"
        )
    with reader_errors(InputError, path, "is a damaged result", f"; run {kind.command} again"):
        document = msgspec.json.decode(content, type=kind.document)
        if isinstance(document, usefulness.Usefulness):
            usefulness.check_whole(document)
        return document


def _labeled(documents: Sequence[tuple[Path, Document]]) -> list[LoadedResult]:
    """Name columns by their bundle or folder, with the name of the file where several have one name."""
    counts = Counter(_names(document)[0] for _, document in documents if not isinstance(document, Comparison))
    loaded = []
    for path, document in documents:
        labels = _names(document)
        if isinstance(document, Comparison):
            labels = [f"{side}: {label}" for side, label in zip("AB", labels, strict=True)]
        elif counts[labels[0]] > 1:
            is_experiment = isinstance(document, usefulness.Usefulness)  # its file always has the same name
            labels = [f"{labels[0]} ({printable(path.resolve().parent.name if is_experiment else path.stem)})"]
        loaded.append(LoadedResult(path, document, tuple(labels)))
    return loaded


def _names(document: Document) -> list[str]:
    if isinstance(document, Comparison):
        return [printable(side.provenance.synthesized.removeprefix(_BUNDLE)) for side in (document.a, document.b)]
    if isinstance(document, usefulness.Usefulness):
        return [f"{USEFULNESS_OF}{synthesized_by(document) or 'real pairs alone'}"]
    return [printable(document.provenance.synthesized.removeprefix(_BUNDLE))]


def bundle_of(counts: Counts, provenance: Provenance) -> str | None:
    """Return the SHA-256 of the bundle whose images were measured as it made them; None for images from files."""
    hashes = list(counts.bundles)
    return hashes[0] if provenance.engine is not None and len(hashes) == 1 else None
