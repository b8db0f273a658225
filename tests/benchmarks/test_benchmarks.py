"""The CPU benchmarks: turns, ratios, the page written from recorded lines, encoders, and a rehearsal of each script.

No speed is asserted.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import ROOT

BENCHMARKS = ROOT / "benchmarks"
Line = dict[str, Any]
Import = Callable[[str], Any]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Import:
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def rehearse(script: str, *arguments: object) -> str:
    """Run a script of benchmarks/ for what it prints."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    ending = subprocess.run(command, capture_output=True, text=True)
    assert ending.returncode == 0, ending.stderr
    return ending.stdout


def synthetic_line(part: str, **facts: Any) -> Line:
    conditions = {
        "cpu": "A Processor",
        "cpus": 2,
        "instructions": ["avx512_vnni"],
        "python": "3.11.7",
        "m2l": "0.1.0",
        "torch": "2.13.0",
        "openvino": None,
    }
    rates = {"PyTorch": [10.0, 20.0, 40.0], "m2l": [40.0, 30.0, 60.0]}
    sides = {name: {"images_per_s": values, "streams": 1, "threads": 2} for name, values in rates.items()}
    common = {"repeats": 3, "ngf": 8, "load_average_before": 0.5, "reasons": {}, "method": "As is.", "sides": sides}
    return {"benchmark": f"cpu {part}", **common, **facts, "conditions": conditions}


def test_page__of_the_stored_results_is_the_one_in_docs(benchmark: Import) -> None:
    page = benchmark("page")
    lines = page.read_latest((BENCHMARKS / "results" / "cpu.jsonl").read_text().splitlines())
    docs = ROOT / "docs"

    assert list(lines) == list(page.PARTS)
    assert page.as_markdown(lines) == (docs / "benchmarks.md").read_text()
    assert all((docs / page.picture_name(part)).exists() for part in lines)


def test_page__takes_the_latest_line_of_each_part(benchmark: Import) -> None:
    stale = {"PyTorch": {"images_per_s": [777.0] * 3, "streams": 1, "threads": 2}}
    files = {"loop": {"images_per_s": [4.0, 3.0, 6.0]}, "m2l": {"images_per_s": [4.0, 3.0, 6.0]}}
    files["m2l"]["engine_images_per_s"] = [5.0, 4.0, 6.0]
    lines = [
        {"benchmark": "bulk memory"},
        synthetic_line("engines", sides=stale),
        synthetic_line("engines", psnr_db={"OpenVINO int8": 44.0}, reasons={"PyTorch compiled": "no compiler"}),
        synthetic_line("end-to-end", sides=files),
        synthetic_line("growth"),
    ]

    page = benchmark("page")
    text = page.as_markdown(page.read_latest(map(json.dumps, lines)))

    assert text.count("\n## ") == 2
    assert "777" not in text
    assert "| configuration | images/s | times PyTorch | calls x threads |" in text, "no columns of dashes"
    assert "| m2l | 40.0 (30.0..60.0) | 1.50 (1.50..4.00) | 1 x 2 |" in text, "not 40 / 20, the ratio of medians"
    assert "- not measured: PyTorch compiled: no compiler" in text
    assert "Fidelity to fp32 of these files: OpenVINO int8 44.0 dB." in text
    assert "| 0.800 (0.750..1.00) |" in text, "the engine's share of the time, round by round"
    assert text.count("Conditions: A Processor (AVX512 VNNI), 2 usable CPUs") == 2
    assert "openvino" not in text.split("Conditions:")[1].split("\n")[0], "a package that was not there"


def test_page__of_times_shows_how_many_times_as_soon(benchmark: Import) -> None:
    sides = {"PyTorch": {"seconds": [2.0, 4.0], "engine": "one"}, "m2l": {"seconds": [1.0, 1.0], "engine": "two"}}
    line = synthetic_line("first-image", sides=sides, repeats=2, is_rehearsal=True)

    text = benchmark("page").as_markdown({"first-image": line})

    assert "| m2l | 1.00 (1.00..1.00) | 3.00 (2.00..4.00) | two |" in text
    assert "A rehearsal (`--quick`), not a measurement." in text


@pytest.mark.slow
def test_plot__shows_bars(benchmark: Import) -> None:
    pytest.importorskip("matplotlib")
    page, plots, line = benchmark("page"), benchmark("plots"), synthetic_line("engines")
    png = plots.plot_sides(line, page.PARTS["engines"], page.read_sides(line))
    assert png.startswith(b"\x89PNG")
    assert png != plots.plot_sides(line | {"ngf": 16}, page.PARTS["engines"], page.read_sides(line))


def test_take_turns__a_side_that_fails_is_not_run_again(benchmark: Import) -> None:
    harness, calls = benchmark("harness"), list[str]()

    def measure(name: str, *answers: Any) -> Callable[[], Iterator[Any]]:
        left = iter(answers)

        def once() -> Iterator[Any]:
            calls.append(name)
            yield name, *next(left)

        return once

    def several() -> Iterator[Any]:
        calls.append("bench")
        yield "row 1", {"images_per_s": 1.0, "engine": "x"}, None
        yield "row 2", None, "broken"

    turns: list[Any] = []
    measures = {"a": measure("a", ({"n": 1.23456789}, None), (None, "crashed")), "bench": several}
    sides = harness.take_turns(measures, 3, lambda number, turn: turns.append((number, turn[0])))

    assert calls == ["a", "bench", "bench", "a", "bench"], "in another order each round"
    assert harness.reasons(sides) == {"a": "in round 2: crashed", "row 2": "broken"}
    assert harness.as_columns(sides) == {"row 1": {"images_per_s": [1.0] * 3, "engine": "x"}}
    assert turns.count((0, "row 2")) == 1
    assert (2, "row 2") not in turns
    assert sides["a"].rounds == {0: {"n": 1.23456789}}
    assert harness.as_columns({"a": harness.Side(sides["a"].rounds)}) == {"a": {"n": [1.2346]}}


def test_ratio__is_taken_within_rounds_that_both_sides_have(benchmark: Import) -> None:
    tables = benchmark("tables")
    first, other = ({0: 10.0, 1: 20.0, 2: 40.0}, {1: 30.0, 2: 20.0, 3: 1.0})

    found = tables.compare(other, first)

    assert (found.median, found.lowest, found.highest) == (1.0, 0.5, 1.5)
    times = [{number: 1 / value for number, value in one.items()} for one in (other, first)]
    inverse = tables.compare(*times, is_inverse=True)
    assert (inverse.lowest, inverse.highest) == (pytest.approx(0.5), pytest.approx(1.5)), "less time is sooner"
    assert tables.compare(other, {}) is None


def test_encoders__lossless_are_told_from_others(benchmark: Import) -> None:
    encoders = benchmark("encoders")
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)

    assert {name for name, encode in encoders.built_in().items() if not encoders.is_lossless(encode, image)} == {
        "Pillow JPEG 95 4:4:4",
        "Pillow WebP 95",
    }
    assert encoders.is_lossless(lambda _: b"no image", image) is None
    sides = encoders.measure({"one": lambda pixels: bytes(10 * len(pixels))}, image[None], 2)
    assert list(sides["one"].values("kilobytes").values()) == [0.07, 0.07]


@pytest.mark.slow
def test_cpu__a_rehearsal_records_each_part_and_the_page_tells_it(benchmark: Import, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    pytest.importorskip("matplotlib")
    results = tmp_path / "cpu.jsonl"

    rehearse("cpu.py", "all", "--quick", "--results", results)

    lines = benchmark("page").read_latest(results.read_text().splitlines())
    assert list(lines) == ["engines", "end-to-end", "first-image"]
    assert all(line["reasons"] == {} for line in lines.values())
    assert list(lines["engines"]["sides"]) == [
        "PyTorch eager, batch 1",
        "onnxruntime fp32, plain export, batch 1",
        "OpenVINO fp32, plain export, batch 1",
        "m2l, onnxruntime fp32, batch 1",
        "m2l, OpenVINO fp32, batch 1",
    ]
    assert {name.split(",")[0] for name in lines["end-to-end"]["sides"]} == {
        "original's loop: PyTorch eager",
        "m2l",
    }
    page, *pictures = rehearse("cpu.py", "page", "--results", results, "--docs", tmp_path).splitlines()
    assert Path(page).read_text().count("A rehearsal (`--quick`), not a measurement.") == 3
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.width > 800


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "names"),
    [
        ("bulk.py", "memory --fake 40 --model 0 --few 20", ["20 masks", "20 masks, resumed", "40 masks"]),
        (
            "training.py",
            "steps --ngf 4 --ndf 4 --batch-size 2 --images 2 --repeats 1 --sides plain",
            ["plain"],
        ),
        (
            "training.py",
            "data --pairs 4 --batch-size 2 --repeats 1 --seconds 0.05",
            ["read each epoch", "decoded once"],
        ),
    ],
)
def test_script__a_rehearsal_prints_images_per_s_of_each_side(script: str, arguments: str, names: list[str]) -> None:
    line = json.loads(rehearse(script, *arguments.split()))
    assert line["reasons"] == {}
    for name in names:
        assert line["sides"][name]["images_per_s"][0] > 0


@pytest.mark.slow
def test_footprint__counts_files_but_not_pip_or_the_bundle(benchmark: Import, tmp_path: Path) -> None:
    for name, size in (("lib/a.py", 10), ("pip/b.py", 100), ("m2l_runtime/data/bundle/c.onnx", 1000)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    footprint = benchmark("footprint")
    assert footprint.environment_bytes(tmp_path) == 10
    m2l = tmp_path / "m2l"
    m2l.write_text("#!/bin/sh\n")
    m2l.chmod(0o755)
    assert len(footprint.help_cpu_s(m2l)) == footprint.RUNS


def test_gpu__is_told_as_nvidia_smi_tells_it(
    benchmark: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\necho "NVIDIA H100 80GB HBM3, 9.0, 580.159.04"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tell = benchmark("harness").gpu.__wrapped__
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert tell() == {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "driver": "580.159.04"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert tell() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    command.write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
    assert tell() is None
