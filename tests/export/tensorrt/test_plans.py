"""`m2l export --tensorrt`: fp16 and plans in a bundle, built by TensorRT for RTX for cards that are not here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from support import TINY

from m2l_export import precisions, tensorrt
from m2l_export.graph.deploy import deploy
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.tensorrt import GateImages, PlanOptions, resolve
from m2l_runtime import __version__
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.backends.cuda.devices import Gpu
from m2l_runtime.backends.trt import library
from m2l_runtime.backends.trt.build import BuildOptions, Plan, PlanError
from m2l_runtime.backends.trt.inspect import ConvolutionType
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled, InputError, OutputError, ParityError
from m2l_train.models.networks import UnetGenerator, UnetSpec

pytest.importorskip("tensorrt_rtx")

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

CHECKPOINT = TINY / "tiny_net_G.pth"
GPU = Gpu(0, "Fake H100", "9.0", 1 << 36, "13.0")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: int) -> Gpu:
        raise DeviceUnavailable("there is no card")

    monkeypatch.setattr(tensorrt, "find_gpu", absent)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network of six levels, for 64x64 pixels."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "small_net_G.pth"
    torch.save(UnetGenerator(UnetSpec(6, 4, 3, 3, "instance")).state_dict(), path)
    return path


def test_plans__a_bundle_with_plans(m2l: CommandLine, small: Path, tmp_path: Path) -> None:
    words: tuple[str, ...] = (
        "--tensorrt",
        "--precision",
        "fp16,int8",
        "--compute-capability",
        "8.6,8.9",
        "--batch",
        "1,4,8",
    )
    words += ("--min-psnr", "20", "--min-worst-psnr", "15", "--max-mean-difference", "20", "--max-color-shift", "20")
    words += (
        "--upsampling",
        "transposed",
        "--engines",
        "tensorrt",
        "--memory-limit",
        "512",
        "--optimization-level",
        "3",
    )
    outcome = m2l("export", small, tmp_path / "b", *words)
    assert outcome.code == 0, outcome.err
    opened = open_bundle(tmp_path / "b")
    opened.check()
    manifest = opened.manifest
    variants = {(engine, model.precision): model for model in manifest.models for engine in model.engines}
    assert {
        ("tensorrt", "fp32"),
        ("tensorrt", "fp16"),
        ("tensorrt", "int8"),
        ("onnxruntime", "fp32"),
    } <= variants.keys()
    assert ("onnxruntime", "fp16") not in variants, "--engines names tensorrt alone"
    for precision in ("fp32", "fp16", "int8"):
        assert variants["tensorrt", precision].parity.kind == "emulated"
        assert variants["tensorrt", precision].form == "deconvolution"
    assert variants["onnxruntime", "fp32"].parity.kind == "measured"
    half = variants["tensorrt", "fp16"].parity
    assert half.max_level_difference <= (half.accepted_max_level_difference or 0) == 2
    assert half.engine.startswith(f"PyTorch {torch.__version__}, CPU, rounded to fp16 after every operator; and onnxru")
    assert [(plan.precision, plan.compute_capability) for plan in manifest.plans] == [
        ("fp16", "8.6"),
        ("fp16", "8.9"),
        ("int8", "8.6"),
        ("int8", "8.9"),
    ]
    for plan in manifest.plans:
        model = variants["tensorrt", plan.precision]
        assert (plan.flavour, plan.card, plan.parity, plan.batch_sizes) == (
            "tensorrt_rtx",
            None,
            "not measured",
            (1, 4, 8),
        )
        assert plan.onnx_sha256 == model.file.sha256
        assert plan.types_read_from == "network"
        assert plan.convolutions[plan.precision] == 12 - len(model.float_layers)
        log = opened.read(plan.log).decode()
        assert log.startswith(f"m2l {__version__}: {model.file.path} (sha256 {plan.onnx_sha256}) by tensorrt_rtx ")
        assert "convolution: " in log
        assert re.search(r"^info: ", log, re.M)
        assert str(tmp_path) not in log
        assert f"{plan.file.path}: " in outcome.out
    assert "  fp16  downs.3" in outcome.err
    assert (
        "note: m2l synth takes 16 masks a call on a GPU unless told otherwise, which these plans do not" in outcome.err
    )
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert "generator.fp16.onnx | fp16 | PyTorch" in card
    assert "emulated" in card
    assert "sm89.plan" in card
    assert not (tmp_path / "b.timings").exists(), "which TensorRT for RTX does not have"
    text = m2l("inspect", tmp_path / "b").out
    assert "12 in fp16, as read in the network that was built, as no GPU was there" in text
    assert "emulated: PyTorch" in text


def test_plans__fp16_alone_is_for_both_engines_and_needs_no_builder(
    m2l: CommandLine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(*_: Any) -> Any:
        raise AssertionError("no plan was asked for")

    monkeypatch.setattr(library, "load", untouched)
    outcome = m2l("export", small, tmp_path / "b", "--precision", "fp16", "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    (half,) = [model for model in document["models"] if model["precision"] == "fp16"]
    assert (half["engines"], half["weights"], half["parity"]["kind"]) == (
        ["onnxruntime", "tensorrt"],
        "fp16",
        "emulated",
    )
    assert document["plans"] == []
    size = {model["precision"]: model["file"]["size_bytes"] for model in document["models"]}
    assert size["fp16"] < 0.6 * size["fp32"]
    outcome = m2l("synth", "shapes:1", tmp_path / "out", "--bundle", tmp_path / "b", "--precision", "fp16")
    assert (outcome.code, "no NVIDIA GPU can be used" in outcome.err) == (1, True)
    words = ("--precision", "fp16", "--backend", "onnxruntime", "--device", "cpu")
    outcome = m2l("synth", "shapes:1", tmp_path / "out", "--bundle", tmp_path / "b", *words)
    assert (outcome.code, "fp16 is for CUDA: on CPUs" in outcome.err) == (1, True)


def test_plans__progress_and_stopping(small: Path, tmp_path: Path) -> None:
    from m2l_export import ExportOptions, export_checkpoint

    seen: list[tuple[str, int, int]] = []

    def stop(*step: Any) -> bool:
        seen.append(step)
        return False

    with pytest.raises(PlanError, match="the build was stopped"):
        export_checkpoint(small, tmp_path / "b", ExportOptions(plans=PlanOptions(("8.9",))), on_progress=stop)
    assert seen
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch", "1,2,3"), "--batch is of TensorRT plans; give --tensorrt, or leave it out"),
        (("--compute-capability", "8.9"), "--compute-capability is of TensorRT plans; give --tensorrt"),
        (("--tensorrt", "--batch", "1,2"), "--batch is three numbers with commas between, least, most likely and la"),
        (("--tensorrt", "--batch", "1,2,x"), "got '1,2,x'"),
        (("--tensorrt", "--batch", "1,,2"), "--batch takes names with commas between"),
        (("--tensorrt", "--memory-limit", "0"), "--memory-limit is 1 to 1,048,576 MiB, got 0"),
        (("--tensorrt", "--tensorrt-variant", "trt"), "'trt' is not one of 'tensorrt', 'tensorrt_rtx'"),
    ],
)
def test_plans__wrong_usage(m2l: CommandLine, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", *words)
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), r"there is no GPU here to build for; name a compute capability \(--compute-capability\): 7.5, "),
        (("--compute-capability", "9.0"), "builds for compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; got 9.0"),
        (("--compute-capability", "8.9", "--batch", "8,4,1"), "from 1 and in order; got 8, 4, 1"),
        (("--compute-capability", "8.9", "--optimization-level", "9"), "the optimization level is 0 to 5; got 9"),
        (("--tensorrt-variant", "tensorrt"), r"TensorRT \(tensorrt\) does not load .*: pip install tensorrt-cu13"),
    ],
)
def test_plans__what_cannot_be_built_is_told_ahead_of_the_work(
    m2l: CommandLine, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", "--tensorrt", *words)
    assert outcome.code == (2 if "--batch" in words or "--optimization-level" in words else 1)
    assert re.fullmatch(rf"m2l: error: .*{said}.*\n", outcome.err), outcome.err
    assert not list(tmp_path.iterdir())


def test_plans__the_flavour_follows_card_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for card, there, asked, flavour in (
        (None, ("tensorrt", "tensorrt_rtx"), ("8.9",), "tensorrt_rtx"),
        (GPU, ("tensorrt", "tensorrt_rtx"), (), "tensorrt"),
        (GPU, ("tensorrt", "tensorrt_rtx"), ("9.0",), "tensorrt"),
        (GPU, ("tensorrt", "tensorrt_rtx"), ("8.9",), "tensorrt_rtx"),
        (GPU, ("tensorrt_rtx",), ("8.9", "8.6"), "tensorrt_rtx"),
    ):
        monkeypatch.setattr(library, "installed", lambda there=there: there)
        assert tensorrt._default_variant(asked, card) == flavour
    monkeypatch.setattr(tensorrt, "find_gpu", lambda _: GPU)
    monkeypatch.setattr(library, "load", lambda _: None)
    (options,) = resolve(PlanOptions(tensorrt_variant="tensorrt"))
    assert (options.card, options.compute_capability) == (GPU, None)


def overflowing(tmp_path: Path) -> Path:
    """Weights that half precision holds, and results that it does not."""
    torch.manual_seed(0)
    made = UnetGenerator(UnetSpec(6, 4, 3, 3, "instance"))
    with torch.no_grad():
        made.model.down.weight.mul_(0).add_(20000.0)
    torch.save(made.state_dict(), tmp_path / "hot_net_G.pth")
    return tmp_path / "hot_net_G.pth"


def test_plans__a_network_beyond_half_precision_is_refused(m2l: CommandLine, tmp_path: Path) -> None:
    outcome = m2l("export", overflowing(tmp_path), tmp_path / "b", "--precision", "fp16")
    assert outcome.code == 1
    assert "nothing was written" in outcome.err
    assert "half precision" in outcome.err or "fp16" in outcome.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("by", ["torch", "file"])
def test_plans__half_precision_that_differs_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    from m2l_export import ExportOptions, export_checkpoint

    def mirrored(images: Any) -> Any:
        return images[:, :, ::-1]

    if by == "torch":
        real = precisions._run_in_torch
        monkeypatch.setattr(precisions, "_run_in_torch", lambda *given: mirrored(real(*given)))
    else:
        run = precisions.run_file

        def wrong(*given: Any) -> Any:
            found = run(*given)
            return precisions.FileRun(mirrored(found.images), found.engine, found.notes)

        monkeypatch.setattr(precisions, "run_file", wrong)
    with pytest.raises(
        ParityError, match=r"fp16, .*, differs from fp32 by up to \d+ levels .*; at most 2 accepted; noth"
    ):
        export_checkpoint(small, tmp_path / "b", ExportOptions(precisions=("fp16",)))
    assert not (tmp_path / "b").exists()


class FakeBackend:
    """A fake of a plan that runs on a card: gives what it is told to."""

    def __init__(self, images: Any) -> None:
        self._images, self.notes = images, ()
        self.settings = type(
            "Settings", (), {"engine": "tensorrt 11.4", "device": "cuda:0", "batch_size": len(images), "streams": 1}
        )

    def run(self, inputs: Any) -> Any:
        return self._images

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize("off", [2, 3])
def test_plans__a_plan_whose_card_is_here_is_measured(
    m2l: CommandLine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """With a fake of the builder and of the card; the images are the reference's, or somewhat off."""
    loaded: list[tuple[ModelSource, Any]] = []
    real_build = tensorrt.build_plans
    reference: list[GateImages] = []

    def build(*given: Any) -> Any:
        reference.append(given[5])
        return real_build(*given)

    def build_plan(content: bytes, inputs: Any, precision: Any, options: BuildOptions, *_: Any, **__: Any) -> Plan:
        types = (ConvolutionType("downs.0", precision),)
        timings = options.timing_cache + b"more"
        return Plan(b"plan", "tensorrt", "11.4", "9.0", GPU.name, options.batch_sizes, _sha(content), types, "engine",
                    timings, ("info: built",), 2.0)  # fmt: skip

    def module(_: str) -> Any:
        class Module:
            @staticmethod
            def load(source: ModelSource, options: Any) -> FakeBackend:
                loaded.append((source, options))
                images = reference[0].reference.astype(np.int16)
                return FakeBackend(np.where(images > 100, images - off, images + off).astype(np.uint8))

        return Module

    import m2l_export.export

    monkeypatch.setattr(m2l_export.export, "build_plans", build)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda _: GPU)
    monkeypatch.setattr(library, "load", lambda _: None)
    monkeypatch.setattr(library, "installed", lambda: ("tensorrt",))
    monkeypatch.setattr(tensorrt, "build_plan", build_plan)
    monkeypatch.setattr(tensorrt, "backend_module", module)
    tensorrt.write_timings(tmp_path / "b.timings", b"timings, ")
    outcome = m2l("export", small, tmp_path / "b", "--tensorrt", "--precision", "fp16")
    assert tensorrt.read_timings(tmp_path / "b.timings") == (b"timings, " if off > 2 else b"timings, more")
    if off > 2:
        assert outcome.code == 1
        assert "is too far from the network: up to 3 levels" in outcome.err
        assert not (tmp_path / "b").exists()
        return
    assert outcome.code == 0, outcome.err
    (plan,) = open_bundle(tmp_path / "b").manifest.plans
    assert not isinstance(plan.parity, str)
    assert (plan.parity.kind, plan.parity.engine) == ("measured", "tensorrt 11.4, cuda:0")
    assert plan.parity.max_level_difference == off
    assert (plan.card, plan.types_read_from, plan.convolutions) == ("Fake H100", "engine", {"fp16": 1})
    ((source, options),) = loaded
    assert (source.plans[0].read(), options.trust_plans, options.batch_size) == (b"plan", True, 16)


def _sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_plans__timings(tmp_path: Path) -> None:
    path = tmp_path / "b.timings"
    assert tensorrt.read_timings(path) == b""
    tensorrt.write_timings(path, b"of tactics")
    assert tensorrt.read_timings(path) == b"of tactics"
    options_for_plans, options = PlanOptions(), (BuildOptions(flavour="tensorrt"),)
    assert tensorrt.timings_file(options_for_plans, options, tmp_path / "b") == path
    assert tensorrt.timings_file(options_for_plans, (BuildOptions(),), tmp_path / "b") is None
    path.write_bytes(b"my lap times")
    with pytest.raises(InputError, match="b.timings is not a file of timings that m2l wrote, and would be replaced"):
        tensorrt.read_timings(path)
    with pytest.raises(OutputError, match="is a folder"):
        tensorrt.timings_file(PlanOptions(timing_cache=tmp_path), options, tmp_path / "b")
    with pytest.raises(InputError, match="TensorRT for RTX keeps no timings; leave out --timing-cache"):
        tensorrt.timings_file(PlanOptions(timing_cache=path), (BuildOptions(),), tmp_path / "b")


def test_plans__precisions_without_a_file_for_tensorrt_are_told_of(m2l: CommandLine, tmp_path: Path) -> None:
    words = ("--tensorrt", "--compute-capability", "8.9", "--engines", "onnxruntime", "--precision", "fp16")
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", *words)
    assert (outcome.code, "of --precision fp16 nothing is made for tensorrt here" in outcome.err) == (1, True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("number", "status", "delays"),
    [(signal.SIGTERM, 143, (1.0, 1.37, 1.61)), (signal.SIGINT, 130, (1.0, 1.37, 1.61))],
)
def test_plans__a_signal_while_a_plan_is_built_ends_it(
    tmp_path: Path, number: signal.Signals, status: int, delays: tuple[float, ...]
) -> None:
    """The bindings swallow what a handler raises in their callbacks: by far most of the time of a build."""
    onnx_file = tmp_path / "x.onnx"
    torch.manual_seed(0)
    spec = UnetSpec(6, 4, 3, 3, "instance")
    onnx_file.write_bytes(
        to_onnx(deploy(UnetGenerator(spec), "instance", "pixel-shuffle").graph, input_specs(spec, (64, 64)))
    )
    code = (
        "import os, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        "from m2l_runtime.bundle import TensorSpec\n"
        "from m2l_runtime._utils.signals import exit_on_sigterm\n"
        "from m2l_runtime.backends.trt.build import BuildOptions, build_plan\n"
        "mask = TensorSpec(name='mask', role='mask', dtype='uint8', shape=('batch', 64, 64))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background lacks\n"
        "delay = float(sys.argv[2])\n"
        f"threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), {int(number)}))).start()\n"
        "try:\n"
        "    with exit_on_sigterm():\n"
        "        for _ in range(50):\n"
        "            options = BuildOptions(compute_capability='8.9')\n"
        "            build_plan(Path(sys.argv[1]).read_bytes(), [mask], 'fp32', options)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    for delay in delays:
        done = subprocess.run([sys.executable, "-c", code, onnx_file, str(delay)], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception caught" not in done.stdout + done.stderr


def test_plans__a_builder_that_is_not_there_is_told_ahead_of_the_work(
    m2l: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: str) -> Any:
        raise EngineNotInstalled("TensorRT for RTX (tensorrt_rtx) does not load: pip install it")

    monkeypatch.setattr(library, "load", absent)
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", "--tensorrt", "--compute-capability", "8.9")
    assert (outcome.code, outcome.err) == (
        1,
        "m2l: error: TensorRT for RTX (tensorrt_rtx) does not load: pip install it\n",
    )
