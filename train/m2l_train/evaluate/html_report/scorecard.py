"""Sum a result up: a row for each question that people ask of synthesized images.

A new row is an entry of `SCORECARD`: its question, the metrics that answer it, the most telling first, and a function
that says it in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from m2l_runtime._utils.text import plural
from m2l_train.evaluate.html_report.results import Column, Reading, short
from m2l_train.evaluate.html_report.strips import Strip, draw_strip
from m2l_train.evaluate.registry import metric_spec


@dataclass(frozen=True)
class ScorecardRow:
    """Ask one question of synthesized images."""

    key: str
    title: str
    question: str
    metrics: tuple[str, ...]
    """That answer it; the first that was measured counts."""
    sentence: Callable[[Column, Reading], str]
    advice: str
    """How to have it measured."""


@dataclass(frozen=True)
class ScorecardEntry:
    """Answer a question for one column."""

    label: str
    metric: str
    value: str
    """Empty: it was not measured."""
    interval: str
    real: str
    standing: str
    """Beside real images, in two or three words."""
    sentence: str
    strip: Strip | None
    beside: str = "Real images"
    """What `real` is of."""


def _standing(reading: Reading) -> str:
    """Tell where a metric stands beside real images: by intervals, where both have one."""
    low, high = _ends(reading.value, reading.low, reading.high)
    if reading.better == "near 1":
        real_low = real_high = 1.0
    elif reading.real is not None and reading.real.value is not None:
        real_low, real_high = _ends(reading.real.value, reading.real.low, reading.real.high)
    else:
        return ""
    return "above real" if low > real_high else "below real" if high < real_low else "like real"


def _ends(value: float | None, low: float | None, high: float | None) -> tuple[float, float]:
    middle = math.nan if value is None else value
    return (middle, middle) if low is None or high is None else (low, high)


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    digits = 1 if 0.99 < value < 0.9995 else 0
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def _real(reading: Reading) -> float | None:
    return None if reading.real is None else reading.real.value


def _fidelity(column: Column, reading: Reading) -> str:
    ends = {
        "above real": "lesions follow their masks more plainly than real lesions do",
        "below real": "lesions follow their masks less well than real lesions do",
        "like real": "lesions follow their masks as well as real lesions do",
    }
    if reading.name == "dice":
        text = f"The segmenter finds the mask's lesion with a Dice coefficient of {short(reading.value)}"
    else:
        text = f"The lesion found lies {short(reading.value)} pixels from the mask's boundary"
    beside = _real(reading)
    if beside is None:
        return f"{text}."
    end = ends[_standing(reading)] if reading.name == "dice" else "the nearer, the better the mask is followed"
    return f"{text}, {short(beside)} in real images: {end}."


def _realism(column: Column, reading: Reading) -> str:
    beside = _real(reading)
    if reading.name == "two_sample_auc":
        text = (
            f"Of a synthesized and a real image, a classifier picks the synthesized one {_percent(reading.value)} of "
        )
        text += "the time"
        if beside is None:
            return f"{text}; 50\N{NO-BREAK SPACE}% would be guessing."
        end = {
            "above real": "synthesized images do not pass for real ones",
            "like real": "synthesized images cannot be told more surely than real ones of another split",
            "below real": "synthesized images are harder to tell than real ones of another split",
        }[_standing(reading)]
        return f"{text}, and unseen real images from training images {_percent(beside)}: {end}."
    title = metric_spec(reading.name).title.strip()
    if reading.better == "near 1":
        return (
            f"By {title}, synthesized images are {short(reading.value)} times as far from the training images "
            "as unseen real ones are."
        )
    text = f"By {title}, synthesized images are {short(reading.value)} from {column.compared_with}"
    return f"{text}." if beside is None else f"{text}, unseen real ones {short(beside)}."


def _diversity(column: Column, reading: Reading) -> str:
    ratio = column.measured("variety_ratio")
    variety = ""
    if ratio is not None:
        variety = f"two synthesized images differ {short(ratio.value)} times as much as two real ones"
    if reading.name != "recall_efflite2":
        return f"{variety[:1].upper()}{variety[1:]}."
    beside = _real(reading)
    text = f"Synthesized images cover {_percent(reading.value)} of {column.compared_with}"
    text += "" if beside is None else f", unseen real images {_percent(beside)}"
    return f"{text}; {variety}." if variety else f"{text}."


def _memorization(column: Column, reading: Reading) -> str:
    text = (
        f"Synthesized images are {short(reading.value)} times as far from their nearest training image as "
        "unseen real ones are"
    )
    copies = column.measured("near_duplicates")
    if copies is not None and copies.value is not None:
        text += f"; {plural(int(copies.value), 'near duplicate')} of training images"
        beside = _real(copies)
        text += "" if beside is None else f", {int(beside)} among real images"
        if beside is not None and copies.value > beside:
            return f"{text}: look at the nearest neighbors below."
    if _standing(reading) == "below real":
        return f"{text}: nearer than real ones, so look at the nearest neighbors below."
    return f"{text}: no sign of copying."


_TITLES: Final = {"neighbour_ratio": "nearest training image, over real", "variety_ratio": "variety, over real"}
"""Of metrics whose rows of a table are read under others."""

SCORECARD: Final = (
    ScorecardRow(
        key="fidelity",
        title="Fidelity to the mask",
        question="Is the lesion where the mask says?",
        metrics=("dice", "boundary"),
        sentence=_fidelity,
        advice="It needs a segmenter: m2l evaluate bundle --segmenter FILE.",
    ),
    ScorecardRow(
        key="realism",
        title="Realism",
        question="Could they be taken for photographs?",
        metrics=("two_sample_auc", "kid_efflite2", "kid", "swd_ratio", "swd"),
        sentence=_realism,
        advice="It needs real images of a training split.",
    ),
    ScorecardRow(
        key="diversity",
        title="Diversity",
        question="Do they vary as real images do?",
        metrics=("recall_efflite2", "variety_ratio"),
        sentence=_diversity,
        advice="It needs at least two images of each side.",
    ),
    ScorecardRow(
        key="memorization",
        title="Memorization",
        question="Are training images copied?",
        metrics=("neighbour_ratio",),
        sentence=_memorization,
        advice="It needs real images of a training split.",
    ),
    ScorecardRow(
        key="usefulness",
        title="Usefulness",
        question="Do they help to train a segmenter?",
        metrics=(),  # results of segmenters trained answer it, not metrics of images
        sentence=lambda column, reading: "",
        advice="No result given measures what training on synthesized images brings: m2l evaluate usefulness does.",
    ),
)
"""In the order in which the page shows them."""


def score(row: ScorecardRow, columns: Sequence[Column]) -> list[ScorecardEntry]:
    """Answer a question for each column.

    Example:
        >>> [entry.sentence for entry in score(SCORECARD[-1], [])]
        []
    """
    entries = []
    for column in columns:
        reading = next((found for name in row.metrics if (found := column.measured(name)) is not None), None)
        if reading is None:
            entries.append(ScorecardEntry(column.label, "", "", "", "", "", row.advice, None))
            continue
        entries.append(
            ScorecardEntry(
                column.label,
                _TITLES.get(reading.name) or metric_spec(reading.name).title.strip(),
                short(reading.value),
                interval_text(reading.low, reading.high),
                real_text(reading),
                _standing(reading),
                row.sentence(column, reading),
                draw_strip(reading),
            )
        )
    return entries


def interval_text(low: float | None, high: float | None) -> str:
    """Write an interval; nothing where there is none."""
    return "" if low is None or high is None else f"{short(low)} to {short(high)}"


def real_text(reading: Reading) -> str:
    """Write what real images have, with its interval."""
    if reading.better == "near 1":
        return "1 by definition"
    if reading.real is None or reading.real.value is None:
        return ""
    if reading.unit == "images":
        return f"{reading.real.value:.0f}"
    interval = interval_text(reading.real.low, reading.real.high)
    return short(reading.real.value) + (f" ({interval})" if interval else "")
