"""The page of a report: what it shows, what it leaves out, and that nothing in it can run or reach the network."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import Browser, axe_core, browser, chromium
from command_line import CommandLine
from evaluation_data import masks, photographs, write
from html_page import EVIL, Page
from PIL import Image
from steered_bundle import steered_bundle
from synthetic_data import photograph

from m2l_runtime.errors import ArgumentError, InputError
from m2l_runtime.types import KNOWN_NAMES
from m2l_train.evaluate import (
    EvaluationOptions,
    ReportOptions,
    compare_bundles,
    evaluate_bundle,
    evaluate_images,
    inputs,
    to_json,
    write_report,
)
from m2l_train.evaluate.html_report import galleries, pictures
from m2l_train.evaluate.html_report.plots import comparison_plot, shortened, texture_plot
from m2l_train.evaluate.html_report.results import Reading, read_results
from m2l_train.evaluate.html_report.scorecard import SCORECARD, score
from m2l_train.evaluate.html_report.strips import draw_strip
from m2l_train.evaluate.result import Interval

FAKE: dict[str, Any] = {"backend": "fake", "device": "cpu", "threads": 1}


def decoded(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def leave_plots_out(patch: pytest.MonkeyPatch) -> None:
    """Each takes half a second."""
    for name in ("texture_plot", "beside_real_plot", "comparison_plot"):
        patch.setattr(f"m2l_train.evaluate.html_report.page.{name}", lambda *_: None)


def report(results: list[Path], *, is_plotted: bool = False, **options: Any) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        if not is_plotted:
            leave_plots_out(patch)
        page = write_report(results, ReportOptions(workers=1, **{**FAKE, "segmenter": None, **options}))
    assert page is not None
    return Page(page.decode())


@dataclass(frozen=True)
class Inputs:
    data: Path
    bundle: Path
    other: Path
    synthetic: Path
    segmenter: Path
    evaluation: Path
    files: Path
    comparison: Path

    @property
    def everything(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "bundles": (self.bundle, self.other),
            "synthesized": (self.synthetic,),
            "segmenter": self.segmenter,
        }


@pytest.fixture(scope="module")
def given(data: Path, synthetic: Path, segmenter: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("report")
    names = (*KNOWN_NAMES[:12], "hair", "ink")
    bundle = steered_bundle(root / "steered", ("appearance", "noise"), 64, names).path
    other = steered_bundle(root / "plain", ("dropout_bits",), 64).path
    options = EvaluationOptions(segmenter=segmenter, workers=1, imagenet=False)
    found = {
        "evaluation": evaluate_bundle(data, bundle, options, **FAKE),
        "files": evaluate_images(synthetic, data, options),
        "comparison": compare_bundles(data, other, bundle, options, **FAKE),
    }
    for name, result in found.items():
        assert result is not None
        (root / f"{name}.json").write_bytes(to_json(result))
    paths = {name: root / f"{name}.json" for name in found}
    return Inputs(data, bundle, other, synthetic, segmenter, **paths)


@pytest.fixture(scope="module")
def page(given: Inputs) -> Page:
    return report([given.evaluation, given.files, given.comparison], is_plotted=True, **given.everything)


def test_page__nothing_in_it_runs_or_asks_the_network(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "#").startswith(("data:image/", "#")), (tag, attributes[name][:80])
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_page__headings_landmarks_and_alternatives(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    assert all(image["alt"] for image in page.all("img"))
    assert all({"width", "height"} <= image.keys() for image in page.all("img"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {link["href"].removeprefix("#") for link in page.all("a")}
    assert targets <= set(identifiers)
    assert page.all("html")[0]["lang"] == "en"


def test_page__the_scorecard_answers_five_questions(given: Inputs, page: Page) -> None:
    assert [row.title for row in SCORECARD] == [
        "Fidelity to the mask",
        "Realism",
        "Diversity",
        "Memorization",
        "Usefulness",
    ]
    assert all(row.title in page.text and row.question in page.text for row in SCORECARD)
    dice = json.loads(given.evaluation.read_text())["figures"]["dice"]
    alone = report([given.evaluation])
    text = alone.text
    assert f"{dice['value']:#.3g}" in text
    assert f"{dice['low']:#.3g} to {dice['high']:#.3g}" in text
    assert f"{dice['real']['value']:#.3g}" in text
    assert "No result given measures what training on synthesized images brings: m2l evaluate usefulness does." in text
    assert text.count("Not measured") >= 1


def test_page__what_was_not_given_is_left_out_with_a_note(given: Inputs) -> None:
    bare = report([given.evaluation])
    assert "the data that steered was measured on was not given; add --data FOLDER" in bare.text
    assert bare.alt("Image synthesized") == []
    without = report([given.evaluation, given.files], data=given.data)
    sha = json.loads(given.evaluation.read_text())["counts"]["bundles"]
    assert f"add --bundle FOLDER (its SHA-256 begins with {next(iter(sha))[:12]})" in without.text
    assert "add --synthesized FOLDER, of the folder named synthetic" in without.text
    some = report([given.files], data=given.data, synthesized=(given.synthetic,), segmenter=None)
    assert "No segmenter was given; add --segmenter FILE." in some.text
    assert "These images come from files, no bundle." in some.text
    assert "Told apart most surely" in some.text
    assert "Not measured: no ImageNet features" in some.text
    plain = report([given.comparison], **{**given.everything, "synthesized": ()})
    assert "Side by side" in plain.text
    assert "fake backend: no model was run" in plain.text


def test_page__pictures_are_those_of_the_masks(given: Inputs, page: Page) -> None:
    for name in ("p100", "p107"):
        mask = np.asarray(Image.open(given.data / "val" / "masks" / f"{name}.png"))
        shown = page.alt(f"Mask {name}")
        assert shown
        assert all((decoded(image["src"]) == mask).all() for image in shown)
        real = np.asarray(Image.open(given.data / "val" / "images" / f"{name}.png")).astype(int)
        synthetic = np.asarray(Image.open(given.synthetic / f"{name}.png")).astype(int)
        for image, expected in ((f"Real image {name}", real), (f"synthesized from the mask {name}", synthetic)):
            errors = [np.abs(decoded(found["src"]).astype(int) - expected).mean() for found in page.alt(image)]
            assert min(errors) < 5, image
    text = page.text
    for title in (
        "From mask to image",
        "Mask followed worst",
        "Mask followed best",
        "Nearest training images",
        "Appearances",
        "Artefact switches",
        "Seeds",
        "Side by side",
    ):
        assert title in text
    assert "hair: dark hair" in text
    assert "differ in some pixels" not in text
    assert "not, pixel for pixel" not in text


def test_page__sheets_vary_one_thing_at_a_time(given: Inputs) -> None:
    """The fake backend gives each set of inputs a color of its own, a channel for each input."""
    page = report([given.evaluation], data=given.data, bundles=(given.bundle,))
    seeds = [decoded(image["src"]).mean((0, 1)) for image in page.alt("seed ")]
    switches = [decoded(image["src"]).mean((0, 1)) for image in page.alt(", hair ")]
    assert len(seeds) == 12
    assert len(switches) == 4
    assert np.ptp(np.array(switches), axis=0).max() > 1
    assert np.ptp(np.array(seeds[:6]), axis=0).max() > 1


@pytest.mark.parametrize("count", [1, 3])
def test_page__as_many_pictures_as_asked_for(given: Inputs, count: int) -> None:
    page = report([given.files], data=given.data, synthesized=(given.synthetic,), pictures=count)
    assert len(page.alt("Mask p")) == count


def test_page__names_are_escaped(given: Inputs, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind, arrays in (("images", photographs(2, 64)), ("masks", masks(2, 64))):
        write(root / kind, arrays)
        (root / kind / "p000.png").rename(root / kind / f"{EVIL}.png")
    made = write(tmp_path / "made", np.stack([photograph(mask, n) for n, mask in enumerate(masks(2, 64))]))
    (made / "p000.png").rename(made / f"{EVIL}.png")
    found = evaluate_images(made, root, EvaluationOptions(workers=1, imagenet=False))
    assert found is not None
    document = json.loads(to_json(found))
    document["provenance"]["synthesized"] = f"bundle {EVIL}"
    document["provenance"]["data"] = document["provenance"]["engine"] = EVIL
    document["warnings"].append(EVIL)
    document["figures"][EVIL] = document["figures"]["l1"]
    result = tmp_path / f"{EVIL}.json"
    result.write_text(json.dumps(document))
    document["provenance"] |= {"synthesized": "made", "engine": None}
    (tmp_path / "files.json").write_text(json.dumps(document))
    page = report([result, tmp_path / "files.json"], data=root, synthesized=(made,))
    assert not {tag for tag, _ in page.elements} & {"script"}
    assert all(image["src"].startswith("data:") and "onerror" not in image for image in page.all("img"))
    assert page.alt(f"Mask {EVIL}")
    assert page.text.count(EVIL) >= 5
    assert "49" not in page.text.replace("{{7*7}}", "").split("m2l evaluation")[0]


@pytest.fixture
def damaged(given: Inputs, tmp_path: Path) -> Path:
    root = Path(shutil.copytree(given.data, tmp_path / "data"))
    near = json.loads(given.files.read_text())["closest"][0]
    (root / "train" / "images" / f"{near['training']}.png").write_bytes(b"\x89PNG no picture")
    return root


def test_page__a_broken_picture_is_said_in_its_place(given: Inputs, damaged: Path) -> None:
    closest = json.loads(given.files.read_text())["closest"]
    near = closest[0]
    page = report([given.files], data=damaged, synthesized=(given.synthetic,))
    assert f"{near['training']}.png" in page.text
    shown = report([given.files], data=given.data, synthesized=(given.synthetic,)).alt("Training image")
    assert len(page.alt("Training image")) == len(shown) - sum(one["training"] == near["training"] for one in closest)
    (damaged / "train" / "images" / f"{near['training']}.png").unlink()
    page = report([given.files], data=damaged, synthesized=(given.synthetic,))
    assert f"{near['training']} is not in the training split of the data given" in page.text
    assert page.alt("Mask p")


def test_page__other_data_and_other_bundles_are_refused(given: Inputs, tmp_path: Path) -> None:
    fewer = Path(shutil.copytree(given.data, tmp_path / "data"))
    for kind in ("images", "masks"):
        (fewer / "val" / kind / "p100.png").unlink()
    with pytest.raises(InputError, match="7 pairs where synthetic was measured on 8"):
        report([given.files], data=fewer, synthesized=(given.synthetic,))
    with pytest.raises(InputError, match="is not the bundle of any result given"):
        report([given.files], bundles=(given.bundle,))
    with pytest.raises(InputError, match="is not the folder of any result given"):
        report([given.evaluation], synthesized=(given.synthetic,))
    with pytest.raises(InputError, match="is no folder"):
        report([given.evaluation], data=tmp_path / "none")
    with pytest.raises(ArgumentError, match="pictures must be between"):
        ReportOptions(pictures=0)
    lighter = Path(shutil.copytree(given.data, tmp_path / "lighter"))
    write(lighter / "val" / "images", photographs(8, 64, 100) + 5, 100)
    page = report([given.evaluation], data=lighter, bundles=(given.bundle,))
    assert "not, pixel for pixel and name for name, those that were measured" in page.text


def test_read_results__refuses_what_is_no_result(given: Inputs, tmp_path: Path) -> None:
    whole = given.evaluation.read_text()
    later, odd = json.loads(whole) | {"schema_version": 2}, json.loads(whole) | {"counts": {}}
    cases = {
        "cut.json": (whole[: len(whole) // 2], "is no JSON, or was cut off"),
        "empty.json": ("", "is no JSON, or was cut off"),
        "list.json": ("[]", "is no result of m2l evaluate"),
        "other.json": ('{"schema": "else", "schema_version": 1}', "of the schema 'else'"),
        "later.json": (json.dumps(later), "of version 2 of m2l-evaluation, this m2l reads 1; install a newer m2l"),
        "odd.json": (json.dumps(odd), r"damaged result: .*counts"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=words):
            read_results([tmp_path / name])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "again.json").write_text(whole)
    (tmp_path / "text.json").write_bytes(whole.encode().replace(b"steered", b"ste\xc0red", 1))
    for paths, words in (
        ([tmp_path / "bytes.json"], "is no JSON"),
        ([tmp_path / "text.json"], "damaged result: .*utf-8"),
        ([tmp_path / "none.json"], "cannot read"),
        ([tmp_path], "is a folder"),
        ([given.evaluation, tmp_path / "again.json"], "again; expected each result once"),
        ([], "no result is given"),
    ):
        with pytest.raises(InputError, match=words):
            read_results(paths)


def test_read_results__columns_of_one_name_are_told_apart(given: Inputs, tmp_path: Path) -> None:
    document = json.loads(given.evaluation.read_text())
    (tmp_path / "second.json").write_text(json.dumps(document | {"seconds": 0.0}))
    loaded = read_results([given.evaluation, tmp_path / "second.json", given.comparison])
    assert [one.labels for one in loaded] == [
        ("steered (evaluation)",),
        ("steered (second)",),
        ("A: steered", "B: steered"),
    ]


def test_report__at_the_command_line(
    m2l: CommandLine, given: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_plots_out(monkeypatch)
    out = tmp_path / "page.html"
    line = ("evaluate", "report", given.evaluation, given.comparison, out)
    done = m2l(*line, "--data", given.data, "--bundle", given.bundle, "--bundle", given.other, "--backend", "fake")
    assert (done.code, "2 results" in done.out) == (0, True), done
    assert "synthesizing from 8 masks with steered" in done.err
    page = Page(out.read_text())
    assert "m2l evaluate bundle data steered --split val --segmenter segmenter.pt --no-imagenet" in page.text
    assert "m2l evaluate report evaluation.json comparison.json report.html --data data" in page.text
    for arguments, status, words in (
        (line, 1, "exists already"),
        (("evaluate", "report", given.evaluation, given.files), 2, "the page must end in .html, got 'files.json'"),
        (("evaluate", "report", tmp_path / "none.json", tmp_path / "x.html"), 1, "cannot read"),
        (("evaluate", "report", out), 2, ""),
        ((*line[:-1], tmp_path / "no" / "x.html"), 1, "does not exist; make it first"),
    ):
        refused = m2l(*arguments)
        assert (refused.code, words in refused.err, "Traceback" in refused.err) == (status, True, False), refused
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_report__a_signal_leaves_nothing_behind(
    m2l: CommandLine, given: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = inputs.read_folders

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments)

    monkeypatch.setattr(galleries, "read_folders", interrupted)
    line = ("evaluate", "report", given.files, given.comparison, tmp_path / "page.html")
    stopped = m2l(*line, "--data", given.data, "--synthesized", given.synthetic, "--backend", "fake")
    assert (stopped.code, "nothing was written" in stopped.err) == (143, True), stopped
    assert list(tmp_path.iterdir()) == []


def svg(uri: str) -> ElementTree.Element:
    return ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))  # noqa: S314 -- made just now


def test_plots__are_svg_without_scripts_in_two_colors_and_sizes(given: Inputs) -> None:
    loaded = read_results([given.evaluation, given.comparison])
    document = json.loads(given.evaluation.read_text())
    plot = texture_plot(loaded[0].columns)
    assert plot is not None
    for side in (64, 32, 16):
        value = document["figures"][f"swd_ratio_{side}"]["value"]
        assert f"{value:#.3g} at {side} pixels" in plot.alt
    pictures_of = (plot.wide, plot.wide_dark, plot.narrow, plot.narrow_dark)
    assert len(set(pictures_of)) == 4
    for uri in pictures_of:
        root = svg(uri)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert "script" not in tags
        links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links)
    assert float(svg(plot.narrow).get("width", "").removesuffix("pt")) == pytest.approx(plot.narrow_width, abs=1)
    comparison = loaded[1].document
    assert comparison_plot(comparison) is not None  # type: ignore[arg-type]
    assert texture_plot([]) is None


def test_shortened__keeps_both_ends() -> None:
    assert shortened("short") == "short"
    assert shortened("a" * 30 + "b" * 30) == "a" * 16 + "…" + "b" * 16


def reading(name: str, value: float, low: float, high: float, real: tuple[float, float, float] | None) -> Reading:
    beside = None if real is None else Interval(value=real[0], low=real[1], high=real[2])
    return Reading(name, value, low, high, beside, None, "", "near real", None, None)


def test_strips__are_to_scale() -> None:
    strip = draw_strip(reading("kid", 4.0, 3.0, 6.0, (1.0, 0.5, 1.5)))
    assert strip is not None
    assert strip.low is not None and strip.high is not None and strip.real is not None  # noqa: PT018
    unit = (strip.value - strip.real) / 3
    assert (strip.low, strip.high) == pytest.approx((strip.value - unit, strip.value + 2 * unit), abs=0.2)
    assert strip.start == "0.00"
    assert draw_strip(reading("kid", 4.0, 3.0, 6.0, None)) is None


@pytest.mark.parametrize(
    ("value", "standing", "words"),
    [
        (0.95, "above real", "more plainly than real lesions do"),
        (0.84, "like real", "as well as real lesions do"),
        (0.70, "below real", "less well than real lesions do"),
    ],
)
def test_scorecard__says_where_a_figure_stands(given: Inputs, value: float, standing: str, words: str) -> None:
    (column,) = read_results([given.evaluation])[0].columns
    dice = reading("dice", value, value - 0.01, value + 0.01, (0.84, 0.81, 0.87))
    changed = type(column)(column.label, {"dice": dice}, column.counts, column.provenance, column.compared_with)
    (entry,) = score(SCORECARD[0], [changed])
    assert (entry.standing, entry.value, entry.real) == (standing, f"{value:.3f}", "0.840 (0.810 to 0.870)")
    assert words in entry.sentence
    (nothing,) = score(SCORECARD[1], [changed])
    assert nothing.value == ""


def test_pictures__two_hundred_stay_under_15_megabytes() -> None:
    image = np.asarray(Image.fromarray(photograph(masks(1, 512)[0], 3)))
    one = pictures.photograph(image, "", "")
    assert one.width == one.height == pictures.MAX_SIDE
    assert 200 * len(one.src) < 15e6


needs_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def looking(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("browser")
    (root / "page.html").write_text(page.source)
    with browser(root / "profile") as opened:
        yield opened, root / "page.html"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_page__in_a_browser(looking: tuple[Browser, Path], width: int, is_dark: bool) -> None:
    opened, path = looking
    opened.open(path, width=width, is_dark=is_dark)
    assert opened.problems() == []
    assert [url for url in opened.requests() if not url.startswith(("data:", path.as_uri()))] == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (light < 100) == is_dark
    assert opened.evaluate("[...document.images].every(i => i.complete || i.loading === 'lazy')")
    shown = opened.evaluate("document.querySelector('.plot img').currentSrc")
    assert shown == opened.evaluate(
        "(p => {const all = [...p.querySelectorAll('source')].map(s => s.srcset);"
        f"return {{'1280,true': all[2], '360,false': all[1], '360,true': all[0]}}['{width},{str(is_dark).lower()}']"
        " || p.querySelector('img').src})(document.querySelector('.plot picture'))"
    )
    for kind in ("keyDown", "keyUp"):
        opened.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert opened.evaluate("document.activeElement.className") == "skip"
    assert opened.evaluate("document.activeElement.getBoundingClientRect().width > 50")


@pytest.mark.slow
@needs_browser
@pytest.mark.skipif(axe_core() is None, reason="axe-core is not there: npm install --no-save axe-core")
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_page__axe_finds_nothing(looking: tuple[Browser, Path], width: int, is_dark: bool) -> None:
    opened, path = looking
    axe = axe_core()
    assert axe is not None
    opened.open(path, width=width, is_dark=is_dark)
    opened.evaluate(f"{axe.read_text()}; 0")
    found = opened.evaluate(
        "axe.run().then(r => r.violations.map(v => `${v.impact} ${v.id}: ${v.nodes[0].html.slice(0, 200)}`))"
    )
    assert found == []
