"""Write what sides gave, round by round, as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from m2l_runtime.bench.report import Statistic, summarize, summarize_ratio
from m2l_runtime.bench.table import number

Metrics = Mapping[str, Any]


@dataclass
class Side:
    """Hold what is known of a side."""

    rounds: dict[int, Metrics] = field(default_factory=dict)
    """Its metrics by round, from 0."""
    reason: str | None = None
    """Why it has none, or no more."""

    def add(self, number: int, metrics: Metrics | None, reason: str | None) -> None:
        """Add what a round gave: metrics, or the reason why there are none."""
        if metrics is None:
            self.reason = f"in round {number + 1}: {reason}" if self.rounds else reason
        else:
            self.rounds[number] = metrics

    def values(self, name: str) -> dict[int, float]:
        """Return a metric by round, where it was measured."""
        return {n: one[name] for n, one in sorted(self.rounds.items()) if one.get(name) is not None}

    def statistic(self, name: str) -> Statistic | None:
        """Summarize a metric; None where it was not measured."""
        values = list(self.values(name).values())
        return summarize(values) if values else None


Column = Callable[[Side], str]


def metric(name: str, *, is_short: bool = False) -> Column:
    """Make a column of medians; see :func:`format_statistic`."""
    return lambda side: format_statistic(side.statistic(name), is_short=is_short)


def ratio(
    name: str, over: str, baseline: Side | None = None, *, is_inverse: bool = False, is_short: bool = False
) -> Column:
    """Make a column of one metric over another of the same round.

    Args:
        name: metric of the side.
        over: metric of the baseline.
        baseline: another side; None: the side itself.
        is_inverse: show the ratio's inverse, for metrics of which less is better.
        is_short: see :func:`format_statistic`.
    """

    def column(side: Side) -> str:
        theirs = (side if baseline is None else baseline).values(over)
        return format_statistic(compare(side.values(name), theirs, is_inverse=is_inverse), is_short=is_short)

    return column


def compare(ours: Mapping[int, float], theirs: Mapping[int, float], *, is_inverse: bool = False) -> Statistic | None:
    """Summarize ratios of values of the same round; None where no round has both."""
    both = [n for n in ours if n in theirs]
    values, reference = [ours[n] for n in both], [theirs[n] for n in both]
    if not both:
        return None
    return summarize_ratio(reference, values) if is_inverse else summarize_ratio(values, reference)


def format_statistic(statistic: Statistic | None, *, is_short: bool = False) -> str:
    """Write a median (lowest..highest), a dash for None; the median alone where `is_short` and all are the same."""
    if statistic is None:
        return "-"
    if is_short and statistic.lowest == statistic.highest:
        return number(statistic.median)
    return f"{number(statistic.median)} ({number(statistic.lowest)}..{number(statistic.highest)})"


def table(columns: Mapping[str, Column], sides: Mapping[str, Side], first: str = "configuration") -> str:
    """Write a table with a row for each side and a column for each heading; columns of dashes alone are left out."""
    rows = {name: [column(side) for column in columns.values()] for name, side in sides.items()}
    shown = [place for place in range(len(columns)) if any(cells[place] != "-" for cells in rows.values())]
    headings = [first, *(list(columns)[place] for place in shown)]
    return markdown_table(headings, [[name, *(cells[place] for place in shown)] for name, cells in rows.items()])


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
