"""Report the metrics of sets of masks, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from m2l_runtime._utils.text import plural, table
from m2l_runtime.masks.sources.statistics import METRICS, QUANTILES, Distribution, SetStatistics, compare


def as_table(one: SetStatistics, other: SetStatistics | None) -> str:
    """Write a table with a row for each metric; with another set, its row below and how far the two are apart."""
    heading = ("", "mean", *(f"{quantile * 100:g} %" for quantile in QUANTILES))
    rows: list[tuple[str, ...]] = [(*heading, "" if other is None else "difference")]
    for name in METRICS:
        found = one.metrics[name]
        difference = None if other is None else compare(found, other.metrics[name])
        told = (
            "" if difference is None else f"KS {difference.ks_statistic:.2f}, Wasserstein {difference.wasserstein:.3g}"
        )
        rows.append((name.replace("_", " "), *_cells(found), told))
        if other is not None:
            rows.append(("  reference", *_cells(other.metrics[name]), ""))
    counted = plural(one.count, "mask") + ("" if other is None else f", reference {plural(other.count, 'mask')}")
    return f"{counted}\n{table(rows)}"


def _cells(found: Distribution) -> tuple[str, ...]:
    return tuple("-" if math.isnan(value) else f"{value:.3g}" for value in (found.mean, *found.quantiles))


def as_json(one: SetStatistics, other: SetStatistics | None) -> dict[str, Any]:
    """Return the content of the table, for JSON."""
    comparisons = {} if other is None else {n: compare(one.metrics[n], other.metrics[n]) for n in METRICS}
    return {
        "masks": _set(one),
        "reference": None if other is None else _set(other),
        "differences": {name: dataclasses.asdict(found) for name, found in comparisons.items() if found is not None},
    }


def _set(statistics: SetStatistics) -> dict[str, Any]:
    return {
        "count": statistics.count,
        "left_out": list(statistics.left_out),
        "figures": {
            name: {
                "count": len(one.values),
                "mean": None if math.isnan(one.mean) else one.mean,
                "quantiles": {f"{q:g}": v for q, v in zip(QUANTILES, one.quantiles, strict=True) if not math.isnan(v)},
            }
            for name, one in statistics.metrics.items()
        },
    }
