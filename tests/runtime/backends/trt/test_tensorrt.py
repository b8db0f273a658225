"""Plans and the backend that runs them, with fakes of card and library; of a real library only what needs no card."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from command_line import CommandLine
from fake_cuda import FakeCuda
from plan_bundle import A_PLAN
from support import TINY_BUNDLE, disc

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.backends import registry
from m2l_runtime.backends import tensorrt as backend
from m2l_runtime.backends.base import BackendOptions
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.backends.cuda.devices import Gpu, load_runtime
from m2l_runtime.backends.registry import load_backend
from m2l_runtime.backends.trt import inspect, plans
from m2l_runtime.backends.trt import library as library_module
from m2l_runtime.backends.trt.build import BuildOptions, Plan, PlanError
from m2l_runtime.backends.trt.inspect import ConvolutionType
from m2l_runtime.backends.trt.plans import Environment, mismatch
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import FileEntry, PlanFile, TensorRtVariant
from m2l_runtime.errors import (
    ArgumentTypeError,
    BundleDamaged,
    DeviceUnavailable,
    EngineError,
    EngineNotInstalled,
    OutputError,
)

GPU = Gpu(0, "Fake 4090", "8.9", 1 << 34, "13.0")
HERE = Environment(GPU, {"tensorrt_rtx": "1.7.1"})
GOOD = b"a plan, it is made out"
MISSING = "which is not installed here: pip install "


class FakeContext:
    def __init__(self, library: FakeLibrary) -> None:
        self._library, self.shapes, self.addresses = library, dict[str, tuple[int, ...]](), dict[str, int]()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= self._library.most

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._library.run_fails:
            return False
        cuda_runtime, pixels = self._library.cuda_runtime, int(np.prod(self.shapes["mask"]))
        source, sink = self.addresses["mask"], self.addresses["image"]

        def compute() -> None:
            masks = cuda_runtime.on_gpu(source, pixels)
            cuda_runtime.on_gpu(sink, 3 * pixels)[:] = np.stack([masks, 255 - masks, masks // 2], 1).reshape(-1)

        cuda_runtime.put("compute", stream, compute)
        return True


class FakeKernels:
    def __init__(self, library: FakeLibrary) -> None:
        self._library, self._content = library, b""

    def deserialize(self, content: bytes) -> bool:
        self._library.kernels_given.append(content)
        self._content = content
        return content == b"kernels"

    def reset(self) -> None:
        self._content = b""

    def serialize(self) -> bytes:
        return b"kernels"


class FakeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def __init__(self, library: FakeLibrary) -> None:
        self._library = library
        self.cache: FakeKernels | None = None

    def create_runtime_cache(self) -> FakeKernels:
        return FakeKernels(self._library)

    def set_runtime_cache(self, cache: FakeKernels) -> bool:
        self.cache = cache
        return True


class FakeEngine:
    def __init__(self, library: FakeLibrary) -> None:
        self._library = library
        self.num_io_tensors = 2

    def get_tensor_name(self, place: int) -> str:
        return ("mask", "image")[place]

    def get_tensor_dtype(self, _: str) -> Any:
        return self._library.DataType

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        side = self._library.side
        return (-1, side, side) if name == "mask" else (-1, side, side, 3)

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig(self._library)

    def create_execution_context(self, config: FakeConfig) -> FakeContext | None:
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        if self._library.context_error is not None:
            self._library.say("ERROR", self._library.context_error)
            return None
        self._library.contexts.append(FakeContext(self._library))
        return self._library.contexts[-1]


class FakeLibrary:
    """A fake of TensorRT for RTX: plans are bytes that begin as `GOOD`, and images masks, 255 - masks, masks / 2."""

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1"

    class ILogger:
        VERBOSE = "verbose"

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    class DataType:
        name = "UINT8"

    class DynamicShapesKernelSpecializationStrategy:
        EAGER = "eager"

    def __init__(self) -> None:
        self.kernels_given: list[bytes] = []
        self.cuda_runtime = FakeCuda()
        self.most, self.side = 64, 256
        self.run_fails = False
        self.context_error: str | None = None
        self.contexts: list[FakeContext] = []
        self.loaded: list[bytes] = []
        self.builds: list[tuple[str, BuildOptions]] = []
        self._logger: Any = None

    def say(self, severity: str, message: str) -> None:
        self._logger.log(type("Severity", (), {"name": severity}), message)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - its name
        library = self
        self._logger = logger

        class Runtime:
            def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
                library.loaded.append(content)
                if not content.startswith(GOOD):
                    library.say("ERROR", "deserialization failed: magic tag does not match")
                    return None
                return FakeEngine(library)

        return Runtime()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeLibrary]:
    fake = FakeLibrary()
    monkeypatch.setattr(backend, "BindingsRuntime", lambda _: fake.cuda_runtime)
    monkeypatch.setattr(backend, "detect_environment", lambda _: HERE)
    monkeypatch.setattr(library_module, "load", lambda _: fake)
    monkeypatch.setattr(registry, "is_installed", lambda _: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def build(content: bytes, inputs: Any, precision: str, options: BuildOptions, *, float_count: int) -> Plan:
        fake.builds.append((precision, options))
        return a_plan(GOOD + hashlib.sha256(content).digest(), options)

    monkeypatch.setattr(backend, "build_plan", build)
    yield fake
    assert not fake.cuda_runtime.violations


def a_plan(content: bytes, options: BuildOptions) -> Plan:
    types = (ConvolutionType("downs.0", "fp32"),)
    return Plan(
        content, options.flavour, "1.7.1", "8.9", None, options.batch_sizes, "0" * 64, types, "network", b"", (), 1
    )


def with_plans(folder: Path, *changes: dict[str, Any], content: bytes = GOOD) -> Bundle:
    """A bundle for tensorrt, with a plan for the card that is here, changed as each of `changes` says."""
    opened = open_bundle(folder)
    model = opened.manifest.models[0]
    made = []
    for number, change in enumerate(changes):
        file, log = (
            FileEntry.from_content(f"{number}.plan", content),
            FileEntry.from_content(f"{number}.log", b"built\n"),
        )
        (folder / file.path).write_bytes(content)
        (folder / log.path).write_bytes(b"built\n")
        fields: dict[str, Any] = {
            "file": file,
            "log": log,
            "flavour": "tensorrt_rtx",
            "version": "1.7.1",
            "onnx_sha256": model.file.sha256,
        }
        made.append(PlanFile(**(A_PLAN | fields | change)))
    ours = msgspec.structs.replace(model, engines=("tensorrt",))
    manifest = msgspec.structs.replace(opened.manifest, models=(*opened.manifest.models, ours), plans=tuple(made))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest.fields()))
    return open_bundle(folder)


def expected(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.stack([masks, 255 - masks, masks // 2], -1)


MASKS = np.stack([disc(radius=r) for r in range(5, 26)])


def test_tensorrt__a_plan_is_built_once_and_kept(library: FakeLibrary, bundle_copy: Path, tmp_path: Path) -> None:
    bundle = with_plans(bundle_copy)
    for number in range(2):
        with Synthesizer.open(bundle, backend="tensorrt", batch_size=4, streams=2) as synth:
            np.testing.assert_array_equal(synth(MASKS), expected(MASKS))
            assert synth.settings.engine == "tensorrt_rtx 1.7.1"
            assert (synth.settings.device, synth.settings.precision) == ("cuda:0", "fp32")
            built = [note for note in synth.notes if note.startswith("built a plan in")]
            assert len(built) == (number == 0)
    ((precision, options),) = library.builds
    assert (precision, options.batch_sizes, options.card) == ("fp32", (4, 4, 4), GPU)
    assert library.kernels_given == [b"kernels"], "compiled the first time, and kept"
    folder = tmp_path / "cache" / "m2l" / "plans"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not library.cuda_runtime.live


def test_tensorrt__another_batch_size_card_driver_or_version_is_another_plan(
    library: FakeLibrary, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_plans(bundle_copy)
    others = [
        HERE,
        Environment(replace(GPU, name="Another"), HERE.versions),
        Environment(replace(GPU, driver_version="13.1"), HERE.versions),
        Environment(replace(GPU, compute_capability="8.6"), HERE.versions),
        Environment(GPU, {"tensorrt_rtx": "1.7.2"}),
        Environment(GPU, {"tensorrt": "11.4", "tensorrt_rtx": "1.7.1"}),
    ]
    for number, environment in enumerate(others, 1):
        monkeypatch.setattr(backend, "detect_environment", lambda _, environment=environment: environment)
        for _ in range(2):
            load_backend(bundle, "tensorrt", BackendOptions(batch_size=2)).close()
        assert len(library.builds) == number
    assert library.builds[-1][1].flavour == "tensorrt", "which times what it builds"
    load_backend(bundle, "tensorrt", BackendOptions(batch_size=3)).close()
    assert len(library.builds) == len(others) + 1


def test_tensorrt__a_damaged_plan_in_the_cache_is_built_anew(
    library: FakeLibrary, bundle_copy: Path, tmp_path: Path
) -> None:
    bundle, cache = with_plans(bundle_copy), tmp_path / "mine"
    options = BackendOptions(cache_dir=cache)
    load_backend(bundle, "tensorrt", options).close()
    for kept in cache.glob("*.compiled"):
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.write_bytes(content)
    load_backend(bundle, "tensorrt", options).close()
    assert len(library.builds) == 2
    assert all(one.startswith(GOOD) for one in library.loaded)
    assert len({*library.loaded}) == 1, "the damaged one came nowhere near the library"
    assert not library.kernels_given


def test_tensorrt__a_plan_in_the_cache_that_the_library_does_not_take_is_built_anew(
    library: FakeLibrary, bundle_copy: Path, tmp_path: Path
) -> None:
    bundle = with_plans(bundle_copy)
    options = BackendOptions(cache_dir=tmp_path / "mine", batch_size=2)
    load_backend(bundle, "tensorrt", options).close()
    model = bundle.manifest.models[-1]
    words = plans.plan_cache_key(HERE, "tensorrt_rtx", "fp32", 2, model.file.sha256)
    CompiledCache(tmp_path / "mine").write(words, b"of a driver that was updated under the same name")
    said: list[str] = []
    load_backend(bundle, "tensorrt", replace(options, on_step=said.append)).close()
    assert len(library.builds) == 2
    assert said == [
        "building a plan of generator.fp32.onnx for 2 masks a call, which may take minutes, on TensorRT for RTX 1.7.1 "
        "on Fake 4090 (compute capability 8.9)"
    ]
    load_backend(bundle, "tensorrt", options).close()
    assert len(library.builds) == 2


def test_tensorrt__a_plan_of_the_bundle_is_taken_only_where_it_is_trusted(
    library: FakeLibrary, bundle_copy: Path
) -> None:
    bundle = with_plans(bundle_copy, {}, content=GOOD + b" of the bundle")
    with Synthesizer.open(bundle, backend="tensorrt") as synth:
        assert any("0.plan: it fits, but plans are code" in note for note in synth.notes)
        assert any("--trust-plans" in note for note in synth.notes)
    assert len(library.builds) == 1
    with Synthesizer.open(bundle, backend="tensorrt", trust_plans=True) as synth:
        np.testing.assert_array_equal(synth(MASKS), expected(MASKS))
        assert synth.notes == ("runs the bundle's plan 0.plan",)
    assert len(library.builds) == 1
    assert library.loaded[-1] == GOOD + b" of the bundle"


def test_tensorrt__an_altered_plan_is_not_loaded_even_if_trusted(library: FakeLibrary, bundle_copy: Path) -> None:
    bundle = with_plans(bundle_copy, {})
    (bundle_copy / "0.plan").write_bytes(GOOD[:-1] + b"?")
    with pytest.raises(BundleDamaged, match=r"0\.plan is not the file the bundle was made with"):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True)
    (bundle_copy / "0.plan").write_bytes(GOOD[:10])
    with pytest.raises(BundleDamaged, match=r"0\.plan has 10 bytes, the manifest says 22"):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True)
    assert not library.loaded


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flavour": "tensorrt", "version": "11.4"}, f"it is for TensorRT, {MISSING}tensorrt-cu13"),
        ({"version": "1.7.0\x1b"}, r"it is for TensorRT for RTX 1.7.0\x1b, here is 1.7.1"),
        ({"compute_capability": "9.0"}, "it is for compute capability 9.0, here is 8.9 (Fake 4090)"),
        ({"card": "NVIDIA H100"}, "it is for NVIDIA H100, here is Fake 4090"),
        ({"batch_sizes": (1, 2, 3)}, "it takes 1 to 3 masks a call, asked for are 16"),
    ],
)
def test_tensorrt__a_plan_that_does_not_fit_names_both_sides(
    library: FakeLibrary,
    bundle_copy: Path,
    change: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = with_plans(bundle_copy, change)
    with Synthesizer.open(bundle, backend="tensorrt", trust_plans=True) as synth:
        assert f"the bundle's plan is not used: 0.plan: {said}" in synth.notes
    assert len(library.builds) == 1, "it is rebuilt from the ONNX file"
    nothing = Environment(GPU, {})
    monkeypatch.setattr(backend, "detect_environment", lambda _: nothing)
    with pytest.raises(
        EngineError, match=r"no plan runs here, on neither TensorRT nor TensorRT for RTX on Fake 4090 .*"
    ):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True)


def test_tensorrt__the_first_plan_that_fits_is_taken(library: FakeLibrary, bundle_copy: Path) -> None:
    bundle = with_plans(bundle_copy, {"compute_capability": "8.6"}, {"card": "Fake 4090"}, {})
    with Synthesizer.open(bundle, backend="tensorrt", trust_plans=True) as synth:
        assert synth.notes == ("runs the bundle's plan 1.plan",)
    assert not library.builds


def test_tensorrt__a_card_that_rtx_does_not_build_for(
    library: FakeLibrary, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = Environment(Gpu(0, "Fake H100", "9.0", 1 << 36, "13.0"), {"tensorrt_rtx": "1.7.1"})
    assert hopper.builder is None
    assert replace(hopper, versions={"tensorrt": "11.4"}).builder == "tensorrt"
    monkeypatch.setattr(backend, "detect_environment", lambda _: hopper)
    with pytest.raises(
        EngineError,
        match=r"on Fake H100 \(compute capability 9.0\): the bundle has none; and .* for this GPU: pip inst",
    ):
        Synthesizer.open(with_plans(bundle_copy), backend="tensorrt")


def test_tensorrt__a_foreign_plan_is_refused_by_the_library_and_told(library: FakeLibrary, bundle_copy: Path) -> None:
    bundle = with_plans(bundle_copy, {}, content=b"something else altogether")
    with pytest.raises(PlanError, match=r"does not load in tensorrt_rtx 1\.7\.1: deserialization failed: magic tag"):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True)
    assert not library.cuda_runtime.live


def test_tensorrt__a_plan_of_another_size(library: FakeLibrary, bundle_copy: Path) -> None:
    library.side = 128
    with pytest.raises(PlanError, match=r"has \{'mask': \('uint8', \(128, 128\)\).*, the manifest declares"):
        Synthesizer.open(with_plans(bundle_copy, {}), backend="tensorrt", trust_plans=True)


def test_tensorrt__memory_that_is_not_there(library: FakeLibrary, bundle_copy: Path) -> None:
    bundle = with_plans(bundle_copy, {})
    library.context_error = "Error Code 2: OutOfMemory (Requested size was 8053063680 bytes.)"
    with pytest.raises(
        EngineError, match="too little memory for 16 images a call and 1 call at once; choose a smaller"
    ):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True)
    assert not library.cuda_runtime.live
    library.context_error = None
    library.cuda_runtime = FakeCuda(memory_bytes=1 << 20)
    with pytest.raises(EngineError, match="too little memory for 64 images a call"):
        Synthesizer.open(bundle, backend="tensorrt", trust_plans=True, batch_size=64)


def test_tensorrt__a_call_that_fails_does_not_end_the_next(library: FakeLibrary, bundle_copy: Path) -> None:
    with Synthesizer.open(with_plans(bundle_copy, {}), backend="tensorrt", trust_plans=True) as synth:
        library.cuda_runtime.fails["launch", library.cuda_runtime.calls["launch"] + 1] = "CUDA failed: launch failure"
        with pytest.raises(EngineError, match="launch failure"):
            synth(MASKS)
        np.testing.assert_array_equal(synth(MASKS), expected(MASKS))


def test_tensorrt__a_call_that_does_not_run(library: FakeLibrary, bundle_copy: Path) -> None:
    library.run_fails = True
    with pytest.raises(PlanError, match="did not run in tensorrt_rtx"):
        Synthesizer.open(with_plans(bundle_copy, {}), backend="tensorrt", trust_plans=True)
    assert not library.cuda_runtime.live


def test_tensorrt__options_that_are_not_for_it(library: FakeLibrary, bundle_copy: Path) -> None:
    bundle = with_plans(bundle_copy)
    with pytest.raises(DeviceUnavailable, match="runs on NVIDIA GPUs; choose device cuda"):
        Synthesizer.open(bundle, backend="tensorrt", device="cpu")
    with pytest.raises(EngineError, match="provider options are for onnxruntime on CUDA"):
        Synthesizer.open(bundle, backend="tensorrt", provider_options={"use_tf32": "0"})


def test_tensorrt__one_process_at_a_time_builds_a_plan(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom m2l_runtime.backends.compiled_cache import CompiledCache\n"
        "with CompiledCache(Path(sys.argv[1])).locked({'model': 'x'}):\n    print('inside', flush=True); input()\n"
    )
    order: list[str] = []
    cache = CompiledCache(tmp_path / "c")

    def build() -> None:
        with cache.locked({"model": "x"}):
            order.append("inside")

    thread = threading.Thread(target=build)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "c")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "inside\n"
        with cache.locked({"model": "y"}):
            order.append("another plan does not wait")
        thread.start()
        thread.join(0.3)
        assert order == ["another plan does not wait"]
        other.communicate("\n")
    thread.join(30)
    assert order == ["another plan does not wait", "inside"]


def test_tensorrt__a_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from m2l_runtime.backends.compiled_cache import CompiledCache\n"
        "with CompiledCache(Path(sys.argv[1])).locked({'model': 'x'}):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")])
    assert done.returncode != 0
    with CompiledCache(tmp_path / "c").locked({"model": "x"}):
        pass


def test_tensorrt__a_cache_that_cannot_be_written_still_gives_a_plan(
    library: FakeLibrary, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("no space left on device")

    monkeypatch.setattr(CompiledCache, "write", full)
    with Synthesizer.open(with_plans(bundle_copy), backend="tensorrt") as synth:
        np.testing.assert_array_equal(synth(MASKS), expected(MASKS))
        assert "the plan is not kept for the next time: no space left on device" in synth.notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"onnx_sha256": "1" * 64}, "made in fp32 of a file with SHA-256 111111111111..., and no model for tensorrt"),
        ({"precision": "fp16"}, "made in fp16 of a file with SHA-256 .*, and no model for tensorrt in that precision"),
        ({"batch_sizes": (4, 2, 8)}, "has batch sizes out of order: 4, 2, 8"),
        ({"batch_sizes": (0, 2, 8)}, "Expected `int` >= 1"),
        ({"compute_capability": "sm89"}, "Expected `str` matching regex"),
        ({"parity": "measured, trust me"}, "Invalid enum value"),
    ],
)
def test_tensorrt__manifests_that_contradict_themselves(bundle_copy: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleDamaged, match=said):
        with_plans(bundle_copy, change)


def test_tensorrt__inspect_tells_which_plans_load_here(
    m2l: CommandLine, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_plans(bundle_copy, {}, {"compute_capability": "9.0"})
    monkeypatch.setattr(plans, "detect_environment", lambda _: HERE)
    outcome = m2l("inspect", bundle_copy)
    assert outcome.code == 0
    head, _, tail = outcome.out.partition("Plans on this machine:\n")
    assert "0.plan: TensorRT for RTX 1.7.1, fp32, compute capability 8.9, 1 to 64 masks a call, best at 16" in head
    assert "16 in fp32, as read in the network that was built, as no GPU was there" in head
    assert "not measured" in head
    lines = tail.splitlines()
    assert lines[0].startswith("0.plan  loads  with --trust-plans, on TensorRT for RTX 1.7.1 on Fake 4090")
    assert lines[1] == "1.plan  no     it is for compute capability 9.0, here is 8.9 (Fake 4090)"
    document = json.loads(m2l("inspect", bundle_copy, "--json").out)
    assert [one["loads"] for one in document["plans"]] == [True, False]
    (bundle_copy / "1.plan").write_bytes(b"x" * len(GOOD))
    outcome = m2l("inspect", bundle_copy)
    assert (outcome.code, "1.plan is not the file the bundle was made with" in outcome.err) == (1, True)


def test_tensorrt__without_a_card_it_is_told_and_the_process_lives(
    m2l: CommandLine, bundle_copy: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cuda.bindings")
    pytest.importorskip("tensorrt_rtx")
    try:
        plans.detect_environment()
    except DeviceUnavailable:
        pass
    else:
        pytest.skip("there is a card here")
    with_plans(bundle_copy, {})
    command = [sys.executable, "-m", "m2l_runtime.cli.main"]
    code = "import sys; from m2l_runtime.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "synth", str(TINY_BUNDLE / "golden.npz"), str(tmp_path / "out")]
    command += ["--bundle", str(bundle_copy), "--backend", "tensorrt", "--trust-plans"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no NVIDIA GPU can be used" in done.stderr
    assert "Traceback" not in done.stderr
    outcome = m2l("inspect", bundle_copy)
    assert outcome.code == 0
    assert "0.plan  no  no NVIDIA GPU can be used" in outcome.out


def test_tensorrt__verify_replays_the_bundles_plan_where_it_is_trusted(
    library: FakeLibrary, m2l: CommandLine, bundle_copy: Path
) -> None:
    """The fake's images differ from the golden ones, which is told; whose plan it was as well."""
    with_plans(bundle_copy, {"batch_sizes": (1, 4, 8)})
    for words, whose in ((("--trust-plans",), "the bundle's plan"), ((), "a plan built here")):
        outcome = m2l("verify", bundle_copy, *words)
        assert outcome.code == 1
        (line,) = [line for line in outcome.out.splitlines() if line.startswith("tensorrt")]
        assert f"DIFFERS  tensorrt_rtx 1.7.1, {whose}: " in line
    assert library.contexts[0].shapes["mask"][0] == 4


@pytest.mark.parametrize("base", ["/proc/self/nope", "relative"])
def test_tensorrt__a_cache_that_cannot_be_is_no_reason_not_to_run(
    library: FakeLibrary, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, base: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", str(tmp_path / "home") if base == "relative" else "/proc/self/nope")
    monkeypatch.chdir(tmp_path)
    bundle = with_plans(bundle_copy)
    with Synthesizer.open(bundle, backend="tensorrt") as synth:
        np.testing.assert_array_equal(synth(MASKS), expected(MASKS))
        assert any("plans are not kept for the next time" in note for note in synth.notes) == (base != "relative")
    assert not (tmp_path / "relative").exists()
    assert (tmp_path / "home" / ".cache" / "m2l" / "plans").exists() == (base == "relative")
    with pytest.raises(OutputError):
        Synthesizer.open(bundle, backend="tensorrt", cache_dir="/proc/self/nope")


def test_tensorrt__trust_is_a_truth_value(bundle_copy: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="trust_plans must be True or False, got 'no'"):
        Synthesizer.open(bundle_copy, trust_plans="no")  # type: ignore[arg-type]


def test_tensorrt__what_a_manifest_says_of_plans_cannot_steer_a_terminal(bundle_copy: Path) -> None:
    with pytest.raises(BundleDamaged, match="Invalid enum value"):
        with_plans(bundle_copy, {"convolutions": {"fp16\x1b[2J": 16}})


@pytest.mark.parametrize("error", [OSError("libnvinfer.so.11"), AttributeError("odd"), RuntimeError("odder")])
def test_tensorrt__a_library_that_breaks_when_it_loads(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise error

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(EngineNotInstalled, match="does not load"):
        library_module.load("tensorrt_rtx")
    with pytest.raises(EngineNotInstalled, match=f"does not load .{type(error).__name__}: "):
        load_runtime()


def test_tensorrt__where_plans_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plans.cache_folder() == tmp_path / "m2l" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert plans.cache_folder() == Path.home() / ".cache" / "m2l" / "plans"


def test_tensorrt__what_runs_plans_is_asked_only_once_a_card_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: int) -> Gpu:
        raise DeviceUnavailable("no GPU")

    def touched(_: TensorRtVariant) -> Any:
        raise AssertionError("the library was touched")

    monkeypatch.setattr(plans, "find_gpu", absent)
    monkeypatch.setattr(library_module, "load", touched)
    with pytest.raises(DeviceUnavailable, match="no GPU"):
        plans.detect_environment()


def test_tensorrt__mismatch_of_a_plan_that_fits(bundle_copy: Path) -> None:
    (plan,) = with_plans(bundle_copy, {"card": "Fake 4090"}).manifest.plans
    assert mismatch(plan, HERE) is None


def test_tensorrt__types_as_the_inspector_tells_them() -> None:
    """In the form of TensorRT's documentation of its detailed inspector; none was at hand to look at."""

    def layer(kind: str, name: str, told: str) -> dict[str, Any]:
        return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "x", "Format/Datatype": told}]}

    layers = [
        layer("CaskConvolution", "downs.0", "Channel major FP16 format where channel % 8 == 0"),
        layer("CaskDeconvolution", "ups.0", "Row major linear FP32"),
        layer("CaskConvolution", "downs.1", "Thirty-two wide channel vectorized row major Int8 format"),
        layer("CaskConvolution", "downs.2", "Row major linear BF16"),
        layer("CaskConvolution", "downs.3", "Row major linear FP8"),
        layer("CaskConvolution", "downs.4", "something new"),
        layer("PointWise", "add", "Row major linear FP16 format"),
        "a name alone, as without details",
    ]
    found = inspect.read(json.dumps({"Layers": layers}))
    assert [(one.name, one.type) for one in found] == [
        ("downs.0", "fp16"),
        ("ups.0", "fp32"),
        ("downs.1", "int8"),
        ("downs.2", "bf16"),
        ("downs.3", "fp8"),
    ]
    for text in ("", "[]", "{}", "null", '{"Layers": []}'):
        assert inspect.read(text) == ()
