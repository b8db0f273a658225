"""The command line of m2l bench: tables, JSON, plots, exit statuses."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from bench_reports import make_report, make_row
from command_line import CommandLine
from PIL import Image
from support import TINY_BUNDLE

from m2l_runtime import open_bundle
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime.bench import BenchConfig, BenchReport, Row, benchmark
from m2l_runtime.bench.report import METRICS

QUICK = ("--backend", "fake", "--seconds", "0.001")


def never(*_: object, **__: object) -> BenchReport:
    raise AssertionError("it has begun to measure")


def stub_report(report: BenchReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "bench", lambda *_, **__: report)


def test_bench__a_table_and_how_far_it_is(m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = m2l("bench", TINY_BUNDLE, *QUICK, "--batch-size", "1, 2", "--repeats", "2")
    assert outcome.code == 0
    assert outcome.err.startswith("measuring 2 rows in 2 rounds: at least ")
    said = [line.partition("batch")[0] + line.partition("batch ")[2][0] for line in outcome.err.splitlines()[1:]]
    assert said == [f"round {n} of 2: fake cpu fp32 {size}" for n, size in ((1, 1), (1, 2), (2, 2), (2, 1))]
    for words in ("images/s", "engine alone", "files to files", "p99", "first image, s", "peak memory, MB", "sha256"):
        assert words in outcome.out
    assert outcome.out.count("\n  fake cpu fp32 batch 2  ") == 3
    assert "note: the fake backend runs no model" in outcome.out
    assert not list(tmp_path.iterdir())


def test_bench__json(m2l: CommandLine) -> None:
    outcome = m2l("bench", TINY_BUNDLE, *QUICK, "--batch-size", "2", "--repeats", "1", "--streams", "2,1", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert document["bundle"]["sha256"] == open_bundle(TINY_BUNDLE).sha256
    assert [row["throughput_settings"]["streams"] for row in document["rows"]] == [2, 1]
    assert [row["latency_settings"]["streams"] for row in document["rows"]] == [1, 1]
    assert all(set(row["figures"]) == set(METRICS) - {"device_memory_megabytes", "build_s"} for row in document["rows"])
    assert document["machine"]["usable_cpus"] >= 1


def test_bench__more_threads_than_cpus_are_noted(m2l: CommandLine) -> None:
    many = usable_cpus() + 1
    outcome = m2l(
        *("bench", TINY_BUNDLE, "--backend", "onnxruntime", "--device", "cpu", "--batch-size", "1"),
        *("--threads", many, "--streams", "1", "--repeats", "1", "--seconds", "0.001"),
    )
    assert outcome.code == 0
    assert f"note: asked for {many} threads" in outcome.out


def test_bench__no_row_at_all_is_status_one(m2l: CommandLine) -> None:
    outcome = m2l("bench", TINY_BUNDLE, "--backend", "onnxruntime", "--precision", "int8", "--device", "cpu")
    assert outcome.code == 1
    assert "not measured\n  onnxruntime cpu int8 batch 1  the bundle was not made for" in outcome.out
    assert outcome.err.splitlines()[-1].startswith(
        "m2l: error: no row could be measured; the first one: the bundle was"
    )
    assert "Traceback" not in outcome.err


def test_bench__a_row_that_fails_among_others_is_status_zero(m2l: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_report(
        make_report(Row(BenchConfig("openvino", "cpu", "int8", 1), reason="no such model"), make_row(1, 10.0)),
        monkeypatch,
    )
    outcome = m2l("bench")
    assert outcome.code == 0
    assert "not measured\n  openvino cpu int8 batch 1  no such model" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "caffe"), "there is no backend 'caffe'; choose among"),
        (("--precision", "fp7"), "there is no precision 'fp7'"),
        (("--batch-size", "0"), "between 1 and 4096, got 0"),
        (("--batch-size", "1,5000"), "between 1 and 4096, got 5000"),
        (("--batch-size", "1,,8"), "--batch-size is a list with commas between, got '1,,8'"),
        (("--batch-size", "eight"), "--batch-size is whole numbers with commas between, got 'eight'"),
        (("--batch-size", "-1"), "whole numbers"),
        (("--streams", ""), "--streams is a list"),
        (("--threads", "0"), "number of threads must be between 1 and 4096, got 0"),
        (("--repeats", "0"), "number of repeats must be between 1 and 1000, got 0"),
        (("--seconds", "0"), "seconds of a measurement must be more than 0"),
        (("--seconds", "nan"), "seconds of a measurement must be more than 0"),
        (("--timeout", "-3"), "seconds of a time-out must be more than 0"),
        (("--nonsense",), "No such option"),
    ],
)
def test_bench__wrong_usage_is_status_two(m2l: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    outcome = m2l("bench", TINY_BUNDLE, *arguments)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    assert not outcome.out


def test_bench__what_is_no_bundle(m2l: CommandLine, tmp_path: Path) -> None:
    assert "does not exist" in m2l("bench", tmp_path / "absent").err
    assert "has no manifest.json" in m2l("bench", tmp_path).err


def test_bench__a_damaged_bundle_is_not_measured(m2l: CommandLine, bundle_copy: Path) -> None:
    content = (bundle_copy / "generator.fp32.onnx").read_bytes()
    (bundle_copy / "generator.fp32.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    outcome = m2l("bench", bundle_copy, *QUICK)
    assert outcome.code == 1
    assert "is not the file the bundle was made with" in outcome.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/plot.png", "absent does not exist; make it first"),
        ("plot.jpg", "the plot is a PNG"),
        ("there.png", "exists already; choose another name or give --overwrite"),
    ],
)
def test_bench__a_plot_that_cannot_be_is_refused_before_anything_is_measured(
    name: str, message: str, m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "bench", never)
    (tmp_path / "there.png").write_text("mine")
    outcome = m2l("bench", TINY_BUNDLE, "--plot", tmp_path / name)
    assert outcome.code == (2 if name.endswith(".jpg") else 1)
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_bench__a_plot_without_matplotlib_names_the_extra(
    m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "bench", never)
    monkeypatch.delitem(sys.modules, "m2l_runtime.bench.plot", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = m2l("bench", TINY_BUNDLE, "--plot", tmp_path / "plot.png")
    assert outcome.code == 1
    assert 'm2l bench --plot needs matplotlib, which is not installed: pip install "m2l[masks]"' in outcome.err


@pytest.mark.slow
def test_bench__a_plot(m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    few = make_report(
        make_row(1, 10.0, 12.0, 11.0), Row(BenchConfig("openvino", "cpu", "int8", 1), reason="no such model")
    )
    many = make_report(*(make_row(size, 10.0 * size, 20.0 * size) for size in range(1, 30)))
    (tmp_path / "many.png").write_text("replaced")
    sizes = {}
    for name, report in (("few", few), ("many", many)):
        stub_report(report, monkeypatch)
        assert m2l("bench", "--plot", tmp_path / f"{name}.png", "--overwrite").code == 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"
            sizes[name] = picture.size
    assert sizes["many"][1] > sizes["few"][1], "a row takes some height"


def test_bench__nothing_is_drawn_where_nothing_was_measured(
    m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    stub_report(make_report(Row(BenchConfig("openvino", "cpu", "int8", 1), reason="no such model")), monkeypatch)
    assert m2l("bench", "--plot", tmp_path / "plot.png").code == 1
    assert not list(tmp_path.iterdir())
