"""Describe the experiment's result in text: a table, and what it shows in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from m2l_runtime._utils.text import plural, printable, table
from m2l_train.evaluate.usefulness.arms import BASELINES
from m2l_train.evaluate.usefulness.result import LEVEL, METRICS, ArmScore, Comparison, Generator, Interval, Usefulness

_FEW_SEEDS: Final = 5
_SHOWN: Final = 3


def describe_usefulness(result: Usefulness) -> str:
    """Describe a result as tables, and sentences below."""
    settings = result.settings
    lines = [
        f"{plural(result.test_pairs, 'test pair')} of {printable(result.data)}, {plural(result.seeds, 'seed')}; "
        f"segmenters of {plural(settings.width, 'channel')} at {settings.side}x{settings.side}, "
        f"{plural(settings.steps, 'step')} each",
    ]
    if (synthesized := synthesized_by(result)) is not None:
        lines.append(
            f"synthesized by {synthesized}, masks {settings.masks}, {settings.ratio:g} for each "
            f"real pair, {settings.share:.0%} of the images seen, {settings.use}"
            + (f", appearances of {printable(settings.appearance)}" if settings.appearance else "")
        )
    lines += ["", table(score_rows(result.scores, result.pairs))]
    if result.comparisons:
        lines += ["", table(_comparison_rows(result.comparisons))]
    lines += ["", *result.conclusions]
    lines += [f"warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def synthesized_by(result: Usefulness) -> str | None:
    """Name what synthesized; None where nothing was."""
    if result.generators:
        return "a generator for each fraction and seed"
    return None if result.generator is None else printable(result.generator.name)


def score_rows(scores: Sequence[ArmScore], pairs: dict[str, int]) -> list[tuple[str, ...]]:
    """Write the scores of each arm at each fraction as rows of a table, its header first."""
    by_place = {(one.fraction, one.arm, one.metric): one for one in scores}
    rows: list[tuple[str, ...]] = [("real pairs", "arm", "Dice [95 %]", "± seeds", *(METRICS[m][0] for m in _OTHERS))]
    for fraction, arm in dict.fromkeys((one.fraction, one.arm) for one in scores):
        dice = by_place[fraction, arm, "dice"]
        deviation = "" if dice.seed_deviation is None else f"{dice.seed_deviation:.4f}"
        others = (by_place[fraction, arm, metric].mean.value for metric in _OTHERS)
        counted = f"{fraction:g} %, {pairs[f'{fraction:g}']:,}"
        rows.append((counted, arm, interval_text(dice.mean), deviation, *(_number(value) for value in others)))
    return rows


_OTHERS: Final = tuple(METRICS)[1:]


def _comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("real pairs", "arm", "vs", "Dice points [95 %]", "p", "p, Holm", "")]
    rows += [
        (
            f"{one.fraction:g} %",
            one.arm,
            one.baseline,
            points(one.difference),
            f"{one.p:.3g}",
            f"{one.p_holm:.3g}",
            one.verdict,
        )
        for one in comparisons
        if one.metric == "dice"
    ]
    return rows


def points(difference: Interval) -> str:
    """Write a difference of Dice coefficients in points, hundredths."""
    value = f"{100 * difference.value:+.2f}"
    if difference.low is None or difference.high is None:
        return value
    return f"{value} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


def interval_text(mean: Interval) -> str:
    """Write a mean with its 95 % interval."""
    if mean.low is None or mean.high is None:
        return f"{mean.value:.4f}"
    return f"{mean.value:.4f} [{mean.low:.4f}, {mean.high:.4f}]"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.2f}"


def conclude(
    comparisons: Sequence[Comparison],
    generator: Generator | None,
    pairs: dict[str, int],
    seeds: int,
    synthesizing_arms: Sequence[str],
    own_generators: Sequence[Generator] = (),
) -> list[str]:
    """Say in plain words what was shown and what was not, and what to bear in mind.

    Args:
        comparisons: of all metrics; those of Dice are looked at.
        generator: what synthesized for all fractions and seeds; None where no arm needs it, or each has its own.
        pairs: real pairs by fraction.
        seeds: how many.
        synthesizing_arms: arms that see synthesized pairs.
        own_generators: of each fraction and seed, where these have their own.
    """
    of_dice = [one for one in comparisons if one.metric == "dice"]
    lines = [comparison_sentence(one) for one in of_dice]
    against = [one for one in of_dice if one.arm in synthesizing_arms and one.baseline == BASELINES[0]]
    if against and not any(one.verdict == "better" for one in against):
        lines.append(f"No gain of synthesized pairs over {BASELINES[0]} was shown.")
    if not of_dice:
        lines.append(f"Nothing is compared: neither {' nor '.join(BASELINES)} is among the arms, or no other arm is.")
    if seeds < _FEW_SEEDS and of_dice:
        lines.append(f"With {plural(seeds, 'seed')} little is known of how seeds differ; give {_FEW_SEEDS} or more.")
    if generator is not None:
        lines += _about_generator(generator, pairs)
    if own_generators:
        lines += _about_own(own_generators)
    return lines


def comparison_sentence(one: Comparison) -> str:
    """Say of an arm whether it was shown to differ from its baseline, with the evidence."""
    where = f"At {one.fraction:g} % of the real pairs {one.arm}"
    evidence = f"{points(one.difference)} Dice points, p = {one.p_holm:.2g} corrected for all comparisons"
    if one.verdict == "no difference shown":
        if one.p_holm < LEVEL:
            evidence += " (the ranks of images differ, their mean does not: a few outweigh many)"
        return f"{where} was not shown to differ from {one.baseline}: {evidence}."
    return f"{where} was {one.verdict} than {one.baseline}: {evidence}."


def _about_generator(generator: Generator, pairs: dict[str, int]) -> list[str]:
    seen = generator.training_pairs
    if seen is None and generator.at_least is None:
        return ["The bundle does not say how many real pairs its generator was trained on."]
    known = generator.at_least if seen is None else seen
    count = f"at least {known:,} (the bundle does not say how many)" if seen is None else f"{known:,}"
    fewer = [f"{fraction} % ({number:,})" for fraction, number in pairs.items() if number < (known or 0)]
    text = f"The generator was trained on {count} real pairs"
    if not fewer:
        return [f"{text}, no more than any arm has, if they are the same ones."]
    return [
        f"{text}, more than the arms have at {', '.join(fewer)}: what it learned of the others is in the images that "
        "these arms see, and no gain there is one of the arm's own pairs."
    ]


def _about_own(generators: Sequence[Generator]) -> list[str]:
    silent = [one.draw for one in generators if one.training_pairs is None and not one.is_record_compared]
    if silent:
        shown = f"{', '.join(silent[:_SHOWN])}{', ...' if len(silent) > _SHOWN else ''}"
        return [f"The bundles of {printable(shown)} do not say how many real pairs their generators were trained on."]
    text = "Each fraction and seed has a generator of its own, trained on the training pairs of its arms and no others"
    if all(one.is_record_compared for one in generators):
        return [f"{text}, file by file, as its training run has recorded: no generator saw more than its arms."]
    return [f"{text}, by their number, which its bundle says: no generator saw more pairs than its arms."]
