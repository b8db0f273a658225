"""Describe evaluations and segmenters in text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.sides import read_sides, shown_sides
from m2l_runtime._utils.text import plural, printable, table

if TYPE_CHECKING:
    from m2l_train.evaluate.result import Comparison, Evaluation, Interval, Metric
    from m2l_train.evaluate.training import SegmenterReport


def describe_evaluation(evaluation: Evaluation) -> str:
    """Describe an evaluation as a table, a row for each metric. Those not measured stand below, by reason."""
    from m2l_train.evaluate.registry import metric_spec

    is_encoded = any(figure.as_made is not None for figure in evaluation.figures.values())
    as_made = ("as made",) if is_encoded else ()
    rows = [("metric", "synthesized [95 %]", *as_made, "real [95 %]", "better is", "unit")]
    reasons: dict[str, list[str]] = {}
    for name, figure in evaluation.figures.items():
        if figure.value is None:
            reasons.setdefault(figure.reason or "", []).append(name)
            continue
        real = "" if figure.real is None else _cell(figure.real)
        made = (("" if figure.as_made is None else format_number(figure.as_made.value)),) if is_encoded else ()
        rows.append((metric_spec(name).title, _cell(figure), *made, real, figure.better, figure.unit))
    counts = evaluation.counts
    size = shown_sides(read_sides(evaluation.image_size, "the size"))
    head = [
        f"{plural(counts.synthesized, 'image')} of {evaluation.provenance.synthesized} at {size}, "
        f"{counts.real:,} real; sets compared with "
        + (
            f"{plural(counts.training_sample, 'training image')}, neighbours looked for in {counts.training:,}"
            if counts.training
            else "the real ones"
        )
    ]
    if evaluation.provenance.encoding is not None:
        head.append(f"synthesized images encoded as the real files are ({evaluation.provenance.encoding})")
    if evaluation.provenance.segmenter is not None:
        dice = evaluation.provenance.segmenter_val_dice
        head.append(f"lesions found by {evaluation.provenance.segmenter}, Dice {dice:.3f} on its validation pairs")
    lines = [*head, "", table(rows)]
    if evaluation.closest:
        lines += ["", "nearest to training images:"]
        lines += [
            f"  {printable(near.synthesized)} to {printable(near.training)}: {near.levels:.1f} levels"
            for near in evaluation.closest
        ]
    for is_synthesized, what in ((True, "synthesized"), (False, "real")):
        told = [image.name for image in evaluation.told_apart if image.is_synthesized is is_synthesized]
        if told:
            lines += ["", f"told most surely as {what}: {printable(', '.join(told))}"]
    if reasons:
        lines.append("")
    lines += [f"not measured ({reason}): {', '.join(names)}" for reason, names in reasons.items()]
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    return "\n".join(lines)


def describe_comparison(comparison: Comparison) -> str:
    """Describe a comparison as a table, a row for each metric, and what its verdicts are. Others stand below."""
    from m2l_train.evaluate.registry import metric_spec

    rows = [("metric", "A", "B", "real", "B - A [95 %]", "B is", "better is", "unit")]
    reasons: dict[str, list[str]] = {}
    verdicts: dict[str, int] = {}
    for name, figure in comparison.figures.items():
        if figure.a is None or figure.b is None:
            reasons.setdefault(figure.reason or "", []).append(name)
            continue
        verdict = figure.verdict or "-"
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        rows.append(
            (
                metric_spec(name).title,
                format_number(figure.a.value),
                format_number(figure.b.value),
                "" if figure.real is None else format_number(figure.real.value),
                "" if figure.difference is None else _cell(figure.difference),
                verdict,
                figure.better,
                figure.unit,
            )
        )
    a, b = comparison.a, comparison.b
    size = shown_sides(read_sides(comparison.image_size, "the size"))
    shared = {"shared": ", the same appearances", "own": ", appearances of its own each", None: ""}
    lines = [
        f"A: {a.provenance.synthesized}",
        f"B: {b.provenance.synthesized}",
        f"{plural(a.counts.synthesized, 'mask')} at {size}, seed {a.provenance.seed}"
        f"{shared[comparison.appearances]}; compared with {comparison.compared_with}",
        "",
        table(rows),
        "",
        f"B is better in {verdicts.get('better', 0)}, worse in {verdicts.get('worse', 0)}, not told apart in "
        f"{verdicts.get('not told apart', 0)} of {sum(verdicts.values())} metrics; {verdicts.get('-', 0)} have no "
        "interval and no verdict",
    ]
    lines += [f"not measured ({reason}): {', '.join(names)}" for reason, names in reasons.items()]
    lines += [f"warning: {warning}" for warning in comparison.warnings]
    return "\n".join(lines)


def _cell(figure: Metric | Interval) -> str:
    value = format_number(figure.value)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{format_number(figure.low)}, {format_number(figure.high)}]"


def format_number(value: float | None) -> str:
    """Write a number with three digits or more that mean something, never an exponent; None as nothing."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    size = abs(value)
    digits = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 5
    return f"{value:.{digits}f}"


def describe_segmenter(report: SegmenterReport) -> str:
    """Describe a trained segmenter in one line."""
    facts = report.facts
    if facts is None:
        return "stopped; nothing was written"
    return (
        f"{printable(report.path)}: Dice {facts.val_dice:.4f} on {plural(facts.val_count, 'validation pair')}, trained "
        f"on {facts.train_count:,} in {plural(facts.steps, 'step')} ({report.seconds / 60:.1f} minutes)"
    )
