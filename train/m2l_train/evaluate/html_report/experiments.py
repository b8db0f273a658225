"""Show results of `m2l evaluate usefulness`: their section of the page, their answer on the scorecard, their origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.backends.engines import BACKENDS, is_fake
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import open_bundle
from m2l_train.evaluate.html_report.plots import Plot, usefulness_plot
from m2l_train.evaluate.html_report.results import LoadedResult
from m2l_train.evaluate.html_report.scorecard import ScorecardEntry
from m2l_train.evaluate.usefulness.arms import ARMS
from m2l_train.evaluate.usefulness.plan import UsefulnessOptions
from m2l_train.evaluate.usefulness.report import comparison_sentence, interval_text, score_rows
from m2l_train.evaluate.usefulness.result import Comparison, Generator, Usefulness

ARM: Final = "AllAug"
BASELINE: Final = "ClassicAug"
"""The scorecard's answer is the difference of these arms, at the smallest fraction."""


@dataclass(frozen=True)
class ExperimentSection:
    """Hold what the page shows of an experiment with segmenters."""

    label: str
    summary: str
    warnings: tuple[str, ...]
    plot: Plot | None
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Of the table of arms; the first two cells are the real pairs and the arm."""
    arms: tuple[tuple[str, str], ...]
    """(name, what it is trained on)."""
    conclusions: tuple[str, ...]
    """What the comparisons come to, and what to bear in mind."""
    comparisons: tuple[str, ...]
    """A sentence for each of the plot."""


def experiment_section(label: str, result: Usefulness) -> ExperimentSection:
    """Arrange what the page shows of an experiment.

    Args:
        label: of the result.
        result: of a file, whose texts are shown as they are there.
    """
    settings = result.settings
    header, *rows = score_rows(result.scores, result.pairs)
    sentences = {comparison_sentence(one) for one in result.comparisons if one.metric == "dice"}
    summary = (
        f"Segmenters of one size, each trained for {plural(settings.steps, 'step')} on the pairs of its arm, and "
        f"tested on {plural(result.test_pairs, 'real pair')} that none was trained on; {plural(result.seeds, 'seed')}."
    )
    return ExperimentSection(
        label,
        summary,
        tuple(map(printable, result.warnings)),
        usefulness_plot(result),
        header,
        tuple(tuple(map(printable, row)) for row in rows),
        tuple((name, ARMS[name].description) for name in result.arms if name in ARMS),
        tuple(printable(one) for one in result.conclusions if one not in sentences),
        tuple(printable(one) for one in result.conclusions if one in sentences),
    )


def usefulness_entry(label: str, result: Usefulness) -> ScorecardEntry:
    """Answer whether synthesized pairs help: the difference of two arms at the smallest fraction where both are.

    Args:
        label: of the result.
        result: of an experiment.
    """
    found = [
        one for one in result.comparisons if (one.arm, one.baseline, one.metric) == (ARM, BASELINE, "dice")
    ]  # fmt: skip
    if not found:
        sentence = f"It needs the arms {ARM} and {BASELINE}; this result has {', '.join(map(printable, result.arms))}."
        return ScorecardEntry(label, "", "", "", "", "", sentence, None)
    one = min(found, key=lambda comparison: comparison.fraction)
    ends = (one.difference.low, one.difference.high)
    baseline = next(
        score
        for score in result.scores
        if (score.arm, score.fraction, score.metric) == (BASELINE, one.fraction, "dice")
    )
    return ScorecardEntry(
        label,
        f"Dice of {ARM} less {BASELINE}, at {one.fraction:g} %",
        f"{100 * one.difference.value:+.2f} points",
        "" if ends[0] is None or ends[1] is None else f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}",
        interval_text(baseline.mean),
        "fake backend" if result.settings.fake else one.verdict,
        _sentence(result, one),
        None,
        beside=f"Dice of {BASELINE}",
    )


def _sentence(result: Usefulness, one: Comparison) -> str:
    if result.settings.fake:
        return "Images are of the fake backend, which runs no model: this says nothing about a generator."
    gain = "" if one.verdict == "better" else f"No gain of synthesized pairs over {BASELINE} was shown. "
    return f"{gain}{comparison_sentence(one)}{_seen_more(result.generator, result.pairs[f'{one.fraction:g}'])}"


def _seen_more(generator: Generator | None, pairs: int) -> str:
    """Say that a generator saw more real pairs than the arms; nothing if it did not, or it is not known."""
    if generator is None:
        return ""
    known, words = generator.training_pairs, ""
    if known is None:
        known, words = generator.at_least, "at least "
    return "" if (known or 0) <= pairs else f" The generator has seen {words}{known:,} real pairs, the arms {pairs:,}."


def _generators(result: Usefulness) -> list[Generator]:
    return result.generators or [one for one in (result.generator,) if one is not None]


def experiment_facts(result: Usefulness) -> list[tuple[str, str]]:
    """Say what was trained, on what, with which bundle."""
    settings = result.settings
    generators = _generators(result)
    names = ", ".join(one.name if one.draw in ("", one.name) else f"{one.draw}: {one.name}" for one in generators)
    hashes = ", ".join(f"{one.draw}: {one.sha256}" if one.draw else one.sha256 for one in generators)
    seen = [
        "unknown" if one.training_pairs is None is one.at_least
        else f"at least {one.at_least:,}" if one.training_pairs is None
        else f"{one.training_pairs:,}"
        for one in generators
    ]  # fmt: skip
    return [
        ("images of", printable(f"{'bundles' if result.generators else 'bundle'} {names}" if names else "")),
        ("bundle SHA-256", printable(hashes)),
        ("pairs that the generator saw", ", ".join(seen)),
        ("engine", printable(", ".join(sorted({one.engine for one in generators})))),
        ("data", printable(result.data)),
        ("real pairs", ", ".join(
            f"{result.pairs[name]:,} to train on and {result.validation_pairs[name]:,} to validate on at {name} %"
            for name in (f"{fraction:g}" for fraction in result.fractions)
        ) + f"; {result.test_pairs:,} to test on"),
        ("masks", f"{settings.masks}, {settings.ratio:g} synthesized for each real training pair, {settings.share:.0%} "
         f"of the images seen, {settings.use}" if generators else ""),
        ("appearances", printable(settings.appearance)),
        ("segmenters", f"{plural(settings.width, 'channel')} at {settings.side}x{settings.side}, {settings.steps:,} "
         f"steps of {settings.batch_size}, learning rate {settings.learning_rate:g}, {settings.precision}"),
        ("seeds", f"{result.seeds}"),
        ("time", f"{result.seconds / 3600:.1f} hours, all segmenters together"),
        ("versions", ", ".join(f"{printable(name)} {printable(v)}" for name, v in result.versions.items())),
    ]  # fmt: skip


def experiment_words(loaded: LoadedResult, result: Usefulness) -> list[str]:
    """Write the words of the command that runs an experiment again, after `m2l evaluate`."""
    settings, usual = result.settings, UsefulnessOptions()
    words = ["usefulness", result.data, "--out", loaded.path.resolve().parent.name]
    if result.generators:
        words += ["--bundles", "bundles"]
        words += ["--training-runs", "runs"] if all(one.is_record_compared for one in result.generators) else []
    elif result.generator is not None and result.generator.sha256 != open_bundle(embedded.BUNDLE).sha256:
        words += ["--bundle", result.generator.name]
    if tuple(result.arms) != usual.arms:
        words += ["--arms", ",".join(result.arms)]
    options = {
        "fractions": (
            ",".join(f"{one:g}" for one in result.fractions),
            ",".join(f"{one:g}" for one in usual.fractions),
        ),
        "seeds": (result.seeds, usual.seeds),
        "steps": (settings.steps, usual.steps),
        "width": (settings.width, usual.width),
        "side": (settings.side, usual.side),
        "masks": (settings.masks, usual.masks),
        "ratio": (f"{settings.ratio:g}", f"{usual.ratio:g}"),
        "share": (f"{settings.share:g}", f"{settings.ratio / (1 + settings.ratio):g}"),
        "use": (settings.use, usual.use),
        "appearance": (settings.appearance, ""),
    }
    words += [
        word for name, (value, default) in options.items() if value != default for word in (f"--{name}", f"{value}")
    ]
    words += ["--precision", settings.precision]
    return words + (["--backend", next(filter(is_fake, BACKENDS))] if settings.fake else [])
