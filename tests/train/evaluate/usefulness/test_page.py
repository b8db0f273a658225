"""The page of a report, of results of the usefulness experiment."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from browser import axe_core, browser, chromium
from html_page import EVIL, Page
from usefulness_data import QUICK

from m2l_runtime.errors import InputError
from m2l_train.evaluate import ReportOptions, Usefulness, UsefulnessOptions, evaluate_usefulness, write_report
from m2l_train.evaluate.html_report.experiments import usefulness_entry
from m2l_train.evaluate.html_report.plots import usefulness_plot
from m2l_train.evaluate.html_report.results import read_results
from m2l_train.evaluate.usefulness.result import Interval

OPTIONS: dict[str, Any] = QUICK | {
    "arms": ("NoAug", "ClassicAug", "AllAug"), "fractions": (100.0, 25.0), "seeds": 2, "ratio": 0.5,
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(pairs: Path, fakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run with the fake backend."""
    out = tmp_path_factory.mktemp("usefulness") / "ran"
    evaluate_usefulness(pairs, out, UsefulnessOptions(**OPTIONS), bundle=fakes, backend="fake")
    return out / "usefulness.json"


@pytest.fixture(scope="module")
def whole(ran: Path) -> Usefulness:
    return msgspec.json.decode(ran.read_bytes(), type=Usefulness)


def page_of(*results: Path) -> Page:
    content = write_report(results, ReportOptions(segmenter=None))
    assert content is not None
    return Page(content.decode())


@pytest.fixture(scope="module")
def page(ran: Path) -> Page:
    return page_of(ran)


def write(path: Path, result: Usefulness, **changes: Any) -> Path:
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(result, **changes)))
    return path


def test_page__the_scorecard_has_the_difference_at_the_smallest_fraction(ran: Path, page: Page) -> None:
    def dice(arm: str) -> float:
        files = [ran.parent / "cells" / f"{arm}-25pct-seed{seed}.json" for seed in range(2)]
        return float(np.mean([json.loads(file.read_text())["scores"]["dice"] for file in files]))

    text = page.text
    assert f"{100 * (dice('AllAug') - dice('ClassicAug')):+.2f} points" in text
    assert "Dice of AllAug less ClassicAug, at 25 %" in text
    assert f"{dice('ClassicAug'):.4f} [" in text
    assert "fake backend Figure" in text  # where the verdict of others stands
    assert "Images are of the fake backend, which runs no model: this says nothing about a generator." in text
    assert "No result given measures" not in text


def test_page__the_section_has_what_was_printed(whole: Usefulness, page: Page) -> None:
    text = page.text
    assert all(line in text for line in (*whole.conclusions, *whole.warnings))
    for one in whole.scores:
        if one.metric == "dice":
            assert f"{one.arm} {one.mean.value:.4f} [{one.mean.low:.4f}, {one.mean.high:.4f}]" in text
    assert page.all("details") == [{}]  # six comparisons in words are folded; what they come to is not
    heading, folded = text.index(whole.conclusions[-1]), text.index("The comparisons in words")
    assert heading < folded < text.index(whole.conclusions[0])
    (plot,) = page.alt("Differences of mean Dice")
    assert plot["alt"].count(" vs ") == 2 * 3
    identifiers = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    targets = {link["href"].removeprefix("#") for link in page.all("a")}
    assert targets == {"main", "scorecard", "usefulness", "origin"}
    assert targets <= identifiers


def test_page__says_what_was_run_and_how_to_run_it_again(whole: Usefulness, page: Page) -> None:
    assert whole.generator is not None
    assert whole.generator.sha256 in page.text
    assert "8 to train on and 2 to validate on at 25 %, 32 to train on and 8 to validate on at 100 %" in page.text
    assert (
        "m2l evaluate usefulness data --out ran --bundle steered --arms NoAug,ClassicAug,AllAug --fractions 25,100 "
        "--seeds 2 --steps 3 --width 1 --side 32 --ratio 0.5 --precision fp32 --backend fake"
    ) in page.text


def test_page__names_are_escaped(whole: Usefulness, tmp_path: Path) -> None:
    assert whole.generator is not None
    generator = msgspec.structs.replace(whole.generator, name=EVIL, engine=EVIL)
    path = write(
        tmp_path / "usefulness.json", whole, data=EVIL, generator=generator, warnings=[EVIL], conclusions=[EVIL],
        versions={EVIL: EVIL},
    )  # fmt: skip
    page = page_of(path)
    assert not {tag for tag, _ in page.elements} & {"script"}
    assert page.all("img")
    assert all(image["src"].startswith("data:") and "onerror" not in image for image in page.all("img"))
    assert page.text.count(EVIL) >= 8


def test_page__results_of_one_bundle_are_told_apart_by_their_folders(whole: Usefulness, tmp_path: Path) -> None:
    for name, seconds in (("first", 1.0), ("second", 2.0)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "usefulness.json", whole, seconds=seconds)
    paths = [tmp_path / name / "usefulness.json" for name in ("first", "second")]
    assert [one.labels for one in read_results(paths)] == [
        ("Usefulness of steered (first)",),
        ("Usefulness of steered (second)",),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": 1}, "scores are missing"),
        ({"comparisons": "NoAug,ClassicAug"}, "comparisons are of other arms"),
        ({"pairs": {}}, "numbers of pairs are missing"),
        ({"arms": []}, "no arms"),
    ],
)
def test_read_results__refuses_a_damaged_experiment(
    whole: Usefulness, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if changes.get("scores") == 1:
        changes = {"scores": whole.scores[1:]}
    if "comparisons" in changes:
        changes = {"comparisons": [msgspec.structs.replace(whole.comparisons[0], baseline="Other")]}
    path = write(tmp_path / "usefulness.json", whole, **changes)
    with pytest.raises(InputError, match=f"is a damaged result: .*{words}.*run m2l evaluate usefulness again"):
        read_results([path])
    with pytest.raises(InputError, match="damaged result: Object missing required field"):
        read_results([path.parent / write_settings(path)])


def write_settings(beside: Path) -> str:
    """A file of the same schema that is no result."""
    (beside.parent / "settings.json").write_text('{"schema": "m2l-usefulness", "schema_version": 1}')
    return "settings.json"


def differing(whole: Usefulness, verdict: Any, value: float) -> Usefulness:
    """The result of an engine that is no fake, with another difference at the smallest fraction."""
    interval = Interval(value=value, low=value - 0.01, high=value + 0.01)
    comparisons = [
        msgspec.structs.replace(one, difference=interval, verdict=verdict, p_holm=0.01)
        if (one.arm, one.baseline, one.fraction, one.metric) == ("AllAug", "ClassicAug", 25.0, "dice") else one
        for one in whole.comparisons
    ]  # fmt: skip
    settings = msgspec.structs.replace(whole.settings, fake=False)
    return msgspec.structs.replace(whole, comparisons=comparisons, settings=settings)


def test_scorecard__says_whether_a_gain_was_shown(whole: Usefulness) -> None:
    better = usefulness_entry("x", differing(whole, "better", 0.025))
    assert (better.value, better.interval, better.standing) == ("+2.50 points", "+1.50 to +3.50", "better")
    assert better.sentence.startswith("At 25 % of the real pairs AllAug was better than ClassicAug: +2.50")
    for verdict, value in (("worse", -0.025), ("no difference shown", 0.002)):
        entry = usefulness_entry("x", differing(whole, verdict, value))
        assert entry.standing == verdict
        assert entry.sentence.startswith("No gain of synthesized pairs over ClassicAug was shown. At 25 %")
        assert "The generator has seen at least 60 real pairs, the arms 8." in entry.sentence
    without = usefulness_entry("x", msgspec.structs.replace(whole, comparisons=[]))
    assert (without.value, "It needs the arms AllAug and ClassicAug" in without.sentence) == ("", True)


def test_usefulness_plot__narrow_ones_have_no_numbers_beside_the_intervals(whole: Usefulness) -> None:
    plot = usefulness_plot(whole)
    assert plot is not None
    wide, narrow = (base64.b64decode(uri.partition(",")[2]).decode() for uri in (plot.wide_dark, plot.narrow_dark))
    assert wide.count("no difference shown") == sum(one.metric == "dice" for one in whole.comparisons)
    assert "no difference shown" not in narrow
    assert usefulness_plot(msgspec.structs.replace(whole, comparisons=[])) is None


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_page__in_a_browser(page: Page, tmp_path: Path, width: int, is_dark: bool) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.source)
    with browser(tmp_path / "profile") as opened:
        opened.open(path, width=width, is_dark=is_dark)
        assert opened.problems() == []
        assert [url for url in opened.requests() if not url.startswith(("data:", path.as_uri()))] == []
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        axe = axe_core()
        if axe is not None:
            opened.evaluate(f"{axe.read_text()}; 0")
            assert opened.evaluate("axe.run().then(r => r.violations.map(v => v.id))") == []
