"""The CPU benchmarks: their statistics, the page that is written from their lines, and the coders and layers they time.

No speed is asserted.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import ROOT

pytestmark = pytest.mark.slow

Line = dict[str, Any]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def synthetic_results(part: str, **facts: Any) -> Line:
    conditions = {
        "cpu": "A Processor",
        "cpus": 2,
        "instructions": ["avx512_vnni"],
        "python": "3.11.7",
        "m2l": "0.1.0",
        "torch": "2.13.0",
        "openvino": None,
    }
    facts = {"repeats": 3, "ngf": 8, "load_average_before": 0.5, "reasons": {}} | facts
    return {"benchmark": f"cpu {part}", **facts, "conditions": conditions}


def all_parts() -> list[Line]:
    """A line of each part, ahead of them one of `engines` that is out of date, and one of another benchmark."""
    rates = {"PyTorch": [10.0, 20.0, 40.0], "m2l": [40.0, 30.0, 60.0]}
    ratios = {"PyTorch": [1.0, 1.0, 1.0], "m2l": [1.5, 1.5, 4.0]}
    sides = {name: {"images_per_s": values, "streams": 1, "threads": 2} for name, values in rates.items()}
    stale = {name: side | {"images_per_s": [777.0] * 3} for name, side in sides.items()}
    engines = {"seconds": 1.0, "psnr_db": {"OpenVINO int8": 44.0}, "over_the_first": ratios}
    two = {"1": [1.0, 2.0, 3.0], "8": [2.0, 3.0, 4.0]}
    candidates = ("onnxruntime fp32", "OpenVINO bf16")
    both = {"deconvolution": [4.0, 6.0, 9.0], "sub-pixel": [2.0, 2.0, 2.0]}
    return [
        {"benchmark": "bulk ratio"},
        synthetic_results("engines", sides=stale, **engines),
        synthetic_results("engines", sides=sides, **engines, reasons={"PyTorch compiled": "no compiler"}),
        synthetic_results(
            "end-to-end",
            sides={"PyTorch": sides["PyTorch"], "m2l": sides["m2l"] | {"engine_images_per_s": [50.0, 40.0, 60.0]}},
            over_the_first=ratios,
            masks=12,
            masks_of_todays_loop=3,
            mask_side=512,
            encoding="png runs",
        ),
        synthetic_results(
            "first-image",
            sides={name: {"seconds": values, "engine": "one"} for name, values in rates.items()},
            over_the_first=ratios,
        ),
        synthetic_results(
            "growth",
            ngf_of_counts=16,
            **{
                name: dict.fromkeys(candidates, two)
                for name in ("images_per_s_by_batch_size", "images_per_s_by_ngf", "seconds_by_image_count")
            },
        ),
        synthetic_results(
            "forms",
            layers=[{"side": side, "layer": f"side {side}", "ms": dict.fromkeys(candidates, both)} for side in (1, 2)],
            networks={
                candidate: {"sub-pixel everywhere": [2.0, 2.0, 2.0], "other": [1.0, 2.0, 3.0]}
                for candidate in candidates
            },
        ),
        synthetic_results(
            "encoders",
            images=2,
            image_side=256,
            versions={"Pillow's zlib": "1.2.13"},
            ways={
                "PNG": {"cpu_ms": [20.0], "bytes": 80_000, "is_lossless": True, "over_the_first": [1.0, 1.0, 1.0]},
                "JPEG": {"cpu_ms": [0.5], "bytes": 20_000, "is_lossless": False, "over_the_first": [40.0, 40.0, 40.0]},
            },
        ),
        synthetic_results(
            "profile",
            giga_multiplications=6.0,
            ways={
                "OpenVINO int8": {
                    "latency_p50_ms": [20.0, 20.0, 20.0],
                    "ms_by_kind": {"Convolution, amx_I8": [12.0, 12.0, 12.0], "MVN, jit": [8.0, 8.0, 8.0]},
                    "peak_giga_multiplications_per_s": [1000.0, 1000.0, 1000.0],
                    "threads": 2,
                }
            },
        ),
    ]


def test_benchmarks__a_page_is_written_from_the_latest_line_of_each_part(
    benchmark: Callable[[str], Any], tmp_path: Path
) -> None:
    results = tmp_path / "cpu.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in all_parts()))

    page, *pictures = benchmark("page").write_page(results, tmp_path)

    text = page.read_text()
    assert text.count("\n## ") == 7
    assert "777" not in text
    assert "| m2l | 40.0 (30.0..60.0) | 1.50 (1.50..4.00) |" in text
    assert "not measured: PyTorch compiled: no compiler" in text
    assert "0.800 (0.750..1.00)" in text, "the engine's share of the time, round by round"
    assert "3.00 (2.00..4.50)" in text, "deconvolution over sub-pixel, round by round"
    assert "| 500 | 1,000 (1,000..1,000) | 50% | 30% |" in text, "6 GMAC in 12 of 20 ms, of 1,000 a second"
    assert text.count("Conditions: A Processor (AVX512 VNNI), 2 usable CPUs") == 7
    assert "openvino" not in text.split("Conditions:")[1].split("\n")[0], "a package that was not there"
    assert len(pictures) == 7
    for picture in pictures:
        assert f"]({picture.name})" in text
        with Image.open(picture) as opened:
            assert opened.width > 800
            assert np.ptp(np.asarray(opened.convert("RGB"))) > 0


def test_benchmarks__a_rehearsal_says_so_and_parts_that_were_not_measured_are_left_out(
    benchmark: Callable[[str], Any], tmp_path: Path
) -> None:
    results = tmp_path / "cpu.jsonl"
    line = next(line for line in all_parts() if line["benchmark"] == "cpu encoders")
    results.write_text(json.dumps(line | {"is_rehearsal": True}) + "\n")

    page, *pictures = benchmark("page").write_page(results, tmp_path)

    assert "A rehearsal (`--quick`), not a measurement." in page.read_text()
    assert [picture.name for picture in pictures] == ["benchmarks-encoders.png"]


def test_benchmarks__ratios_are_taken_within_rounds(benchmark: Callable[[str], Any]) -> None:
    cpu = benchmark("cpu")
    rounds = {
        "first": [{"images_per_s": value} for value in (10.0, 20.0, 40.0)],
        "other": [{"images_per_s": value} for value in (40.0, 30.0, 60.0)],
    }

    found = cpu._over_the_first(rounds, "images_per_s")

    assert found == {"first": [1.0, 1.0, 1.0], "other": [1.5, 1.5, 4.0]}, "not 40 / 20, the ratio of medians"
    seconds = {name: [{"seconds": 1 / one["images_per_s"]} for one in runs] for name, runs in rounds.items()}
    assert cpu._over_the_first(seconds, "seconds") == found, "less time is more times as soon"


@pytest.mark.parametrize("kind", [2, 3])
def test_benchmarks__png_of_one_filter_is_what_other_readers_read(benchmark: Callable[[str], Any], kind: int) -> None:
    coders = benchmark("coders")
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)

    with Image.open(io.BytesIO(coders.png_of_one_filter(kind, 3)(picture))) as again:
        read = np.array(again)

    np.testing.assert_array_equal(read, picture)
    assert coders.is_lossless(coders.pillow(format="PNG"), picture) is True
    assert coders.is_lossless(coders.pillow(format="JPEG"), picture) is False


def test_benchmarks__both_forms_of_a_layer_give_the_same_and_count_their_multiplications(
    benchmark: Callable[[str], Any], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    layers, torch_backend = benchmark("layers"), benchmark("torch_backend")
    found = layers.upsampling_layers(torch_backend.unet_256(2))
    assert [layer.side for layer in found] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [(layer.inputs, layer.outputs) for layer in found] == [
        *((16, 16), (32, 16), (32, 16), (32, 16)),
        *((32, 8), (16, 4), (8, 2), (4, 3)),
    ]
    layer = found[3]
    x = np.random.default_rng(0).normal(size=(1, layer.inputs, layer.side, layer.side)).astype(np.float32)

    results, counts = [], []
    for form in ("deconvolution", "sub-pixel"):
        path = layers.upsampling_file(layer, form, tmp_path / f"{form}.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"x": x})[0])
        counts += layers.multiplications(path.read_bytes()).values()

    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    assert counts == [8 * 8 * 32 * 16 * 16, 9 * 9 * 32 * 64 * 4]
