"""The GPU benchmark, shrunk and on the CPU, so that it does not rot: its lines, its parity, its reasons, its table.

No speed is asserted, and nothing here needs a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, TINY_BUNDLE, Array

from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.errors import EngineError

pytest.importorskip("onnxruntime")

BENCHMARKS = ROOT / "benchmarks"
BASELINE = "PyTorch eager fp32, batch 1"
Line = dict[str, Any]
Import = Callable[[str], Any]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Import:
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def gpu(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of a run with a few sides that run and a few that cannot."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.jsonl"
    effort = ("--ngf", 4, "--size", 32, "--batch", 2, "--seconds", 0.02, "--repeats", 1)
    only = ("--only", "autocast bf16, onnxruntime fp32, tensorrt int8")
    ending = gpu("all", "--device", "cpu", *effort, *only, "--out", out)
    assert ending.returncode == 0, ending.stderr
    assert ending.stdout == gpu("table", out).stdout
    return out


def shuffled_rounds(file: Path) -> dict[str, Line]:
    return {line["side"]: line for line in map(json.loads, file.read_text().splitlines())}


@pytest.mark.slow
def test_gpu_benchmark__every_side_that_was_named_has_metrics_or_a_reason(shrunk: Path) -> None:
    found = shuffled_rounds(shrunk)
    assert list(found) == next(iter(found.values()))["sides"]
    assert {name for name, line in found.items() if line["reason"] is None} == {
        BASELINE,
        "PyTorch autocast bf16, channels last, batch 2",
        "onnxruntime fp32, batch 2",
        "mask files to JPEG in tars, onnxruntime fp32, batch 2",
    }
    built = importlib.util.find_spec("tensorrt_rtx") is not None
    told = found["TensorRT int8, batch 2"]["reason"]
    assert ("for compute capability 8.9 in" in told and "not run: there is no GPU" in told) if built else told
    assert all((line["metrics"] is None) == (line["reason"] is not None) for line in found.values())
    conditions = found[BASELINE]["conditions"]
    assert {"torch", "onnxruntime", "tensorrt-rtx-cu13", "gpu"} <= conditions.keys()
    assert "--only" in found[BASELINE]["command"]


@pytest.mark.slow
def test_gpu_benchmark__images_are_those_of_pytorch_in_single_precision(shrunk: Path) -> None:
    found = {name: line["metrics"] for name, line in shuffled_rounds(shrunk).items() if line["reason"] is None}
    for name in (BASELINE, "onnxruntime fp32, batch 2"):
        assert found[name]["parity"]["max_levels"] <= 1
        assert found[name]["parity"]["psnr_db"] > 70
    half = found["PyTorch autocast bf16, channels last, batch 2"]["parity"]
    assert 0 < half["max_levels"] < 20, "it does compute in less"
    assert half["is_finite"] is True
    assert found[BASELINE]["options"] == {"allow_tf32": "False"}
    assert "images_per_s_two_at_once" in found["onnxruntime fp32, batch 2"]
    assert found["onnxruntime fp32, batch 2"]["gpu_memory_megabytes"] is None


@pytest.mark.slow
def test_gpu_benchmark__the_table_has_ratios_to_the_baseline_of_the_same_run(shrunk: Path, benchmark: Import) -> None:
    found = {name: line["metrics"] for name, line in shuffled_rounds(shrunk).items() if line["reason"] is None}
    text = benchmark("gpu_table").as_markdown(shrunk.read_text().splitlines())
    number = importlib.import_module("m2l_runtime.bench.table").number
    rate = found["onnxruntime fp32, batch 2"]["images_per_s"]
    row = next(line for line in text.splitlines() if line.startswith("| onnxruntime fp32, batch 2 |"))
    assert f"| {number(rate)} | {number(rate / found[BASELINE]['images_per_s'])} |" in row
    files = found["mask files to JPEG in tars, onnxruntime fp32, batch 2"]
    assert f"| {number(files['images_per_s'] / files['engine_images_per_s'])} |" in text
    assert files["images"] > 0
    assert files["tar_kilobytes_an_image"] > 0.5, "a JPEG of 32x32 pixels, and what a tar adds"
    assert "- not measured: TensorRT int8, batch 2: " in text
    assert "a rehearsal of the command, no measurement of a GPU" in text


@pytest.mark.slow
def test_gpu_benchmark__parity_sees_a_network_of_other_weights(benchmark: Import, tmp_path: Path) -> None:
    import torch

    files, harness = benchmark("models"), benchmark("harness")
    network = files.make_network(tmp_path, 2, 32)
    weights = network.state_dict()
    weights["model.model.3.bias"] += 0.25
    torch.save(weights, tmp_path / files.CHECKPOINT)

    side = ("pytorch", tmp_path, BASELINE.removesuffix(", batch 1"), "cpu", "--seconds", 0.01)
    found = harness.run_side(*side).document["parity"]

    assert found["max_levels"] > 5
    assert found["psnr_db"] < 30


@pytest.mark.slow
def test_gpu_benchmark__parity_sees_one_wrong_image_and_whose_it_is(benchmark: Import, tmp_path: Path) -> None:
    """At a batch size that their number is no multiple of, and with two calls at once."""
    files, harness = benchmark("models"), benchmark("harness")
    opened = open_bundle(TINY_BUNDLE)
    inputs, golden = opened.read_golden()
    files.onnx_file(tmp_path, "fp32").write_bytes(opened.read_model(opened.manifest.models[0]))
    side = ("engine", tmp_path, "onnxruntime", "fp32", "cpu", "--batch-size", 2, "--seconds", 0.01)

    def parity(images: Array) -> Line:
        names = np.array([f"mask {number}" for number in range(len(images))])
        np.savez(tmp_path / files.EXPECTED, masks=inputs["mask"], images=images, names=names)
        found: Line = harness.run_side(*side).document["parity"]
        return found

    assert parity(golden)["max_levels"] <= 1
    wrong = golden.copy()
    wrong[2, :, :, 1] ^= 128
    found = parity(wrong)
    assert (found["max_levels"], found["worst_mask"]) == (128, "mask 2")


def test_gpu_benchmark__half_precision_on_a_cpu_is_not_measured(benchmark: Import, tmp_path: Path) -> None:
    files, sides = benchmark("models"), benchmark("sides")
    assert files.depth_for(256) == 8
    with pytest.raises(EngineError, match="on GPUs alone"):
        sides._module("onnxruntime", "fp16", "cpu")
    with pytest.raises(EngineError, match="no backend 'magic'"):
        sides._module("magic", "fp16", "cpu")


def test_gpu_benchmark__pixels_that_are_not_finite_are_told(benchmark: Import, tmp_path: Path) -> None:
    import torch

    from m2l_train.models.networks import UnetGenerator, UnetSpec

    torch_backend = benchmark("torch_backend")
    network: Any = UnetGenerator(UnetSpec(levels=5, ngf=2, input_nc=3, output_nc=3, norm="instance"))
    backend = torch_backend.TorchBackend(network, torch_backend.GPU_MODES["PyTorch eager fp32"], "cpu", 1)
    mask = {"mask": np.zeros((1, 32, 32), np.uint8)}
    backend.run_checked(mask)
    assert backend.is_finite
    with torch.no_grad():
        network.model.model[3].bias[0] = torch.nan
    backend.run_checked(mask)
    assert not backend.is_finite
    rounds = [synthetic_results(BASELINE, 0, {"is_finite": False})]
    assert "**pixels that are not finite**" in benchmark("gpu_table").as_markdown(map(json.dumps, rounds))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "backend", "told"),
    [("onnxruntime", "onnxruntime", "onnxruntime"), ("tensorrt_rtx", "tensorrt", "tensorrt-rtx")],
)
def test_gpu_benchmark__a_library_that_is_missing_is_a_reason(
    package: str, backend: str, told: str, benchmark: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, harness = benchmark("models"), benchmark("harness")
    files.onnx_file(tmp_path, "fp32").write_bytes(b"onnx")
    empty = np.zeros((1, 32, 32), np.uint8)
    np.savez(tmp_path / files.EXPECTED, masks=empty, images=empty, names=np.array(["black"]))
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('libsomething.so.9 is not there')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    ending = harness.run_side("engine", tmp_path, backend, "fp32", "cpu")

    assert ending.document is None
    assert "libsomething.so.9 is not there" in ending.reason
    assert "pip install" in ending.reason
    assert told in ending.reason


@pytest.mark.slow
def test_gpu_benchmark__without_a_gpu_it_ends_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    ending = gpu("all", "--out", out, CUDA_VISIBLE_DEVICES="")
    assert ending.returncode == 1
    assert len(ending.stderr.splitlines()) == 1
    assert "--device cpu" in ending.stderr
    assert not out.exists()
    assert gpu("table", out).returncode == 1
    assert gpu("all", "--device", "cpu", "--size", 48).returncode == 2


def synthetic_results(
    side: str, number: int, parity: Line | None = None, reason: str | None = None, **metrics: Any
) -> Line:
    """A turn of a run on a GPU that there never was."""
    agreed = {"max_levels": 2, "mean_levels": 0.25, "psnr_db": 50.0, "worst_psnr_db": 44.0, "worst_mask": "black"}
    found = {"latency_p50_ms": 1.0, "latency_p95_ms": 2.0, "images_per_s": 100.0, "load_s": 9.0 / (1 + number)}
    versions = {"cpu": "A Processor", "cpus": 16, "python": "3.12.3", "m2l": "0.1.0", "torch": "2.13.0+cu130"}
    return {
        "benchmark": "gpu",
        "run": "2020-01-02",
        "command": "python benchmarks/gpu.py all",
        **{"device": "cuda", "ngf": 8, "size": 64, "seconds": 1.0, "repeats": 3, "expected": "PyTorch"},
        "cuda": {
            **{"name": "A GPU", "compute_capability": "9.9", "cuda": "13.0", "reason": None, "system": "Linux x86_64"},
            **{"torch_cuda": "13.0", "torch_cudnn": 91000},
        },
        "sides": [BASELINE, "TensorRT fp16, batch 64", "TensorRT int8, batch 64"],
        **{"side": side, "round": number, "reason": reason},
        "metrics": None if reason else found | metrics | {"parity": agreed | (parity or {})},
        "conditions": {**versions, "gpu": {"name": "A GPU", "driver": "999.1"}},
    }


def test_gpu_benchmark__ratios_are_taken_within_rounds_and_what_is_missing_is_told(benchmark: Import) -> None:
    fast = "TensorRT fp16, batch 64"
    lines = [
        synthetic_results(BASELINE, 0, images_per_s=777.0) | {"run": "2020-01-01"},
        *(synthetic_results(BASELINE, number, images_per_s=rate) for number, rate in enumerate((10.0, 20.0, 40.0))),
        *(
            synthetic_results(fast, number, {"max_levels": 3 - number}, images_per_s=rate, build_s=built)
            for number, rate, built in ((0, 40.0, 8.5), (1, 30.0, None))
        ),
        synthetic_results(fast, 2, reason="CUDA out of memory"),
    ]

    for line in lines[4:6]:
        line["metrics"]["images_per_s_two_at_once"] = 2 * line["metrics"]["images_per_s"]
    text = benchmark("gpu_table").as_markdown(map(json.dumps, lines))

    assert "777" not in text, "of an earlier run"
    row = next(line for line in text.splitlines() if line.startswith(f"| {fast}"))
    assert "| 35.0 (30.0..40.0) | 2.75 (1.50..4.00) |" in row, "40 / 10 and 30 / 20, not 35 / 20"
    assert "| 70.0 (60.0..80.0) | 5.50 (3.00..8.00) |" in row
    assert "| 9.00 (8.50 of them to build the plan) | 4.50 |" in row, "the first load, and later ones"
    assert "| 3, 0.25 | 50.0, 44.0 (black) |" in row, "the round that is farthest off"
    assert f"- not measured: {fast}: in round 3: CUDA out of memory" in text
    assert "- not reached: TensorRT int8, batch 64" in text
    assert "A GPU (compute capability 9.9), driver 999.1, CUDA 13.0" in text
    with pytest.raises(ValueError, match="no line of gpu.py"):
        benchmark("gpu_table").as_markdown(['{"benchmark": "cpu engines"}'])
