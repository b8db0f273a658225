"""onnxruntime's CUDA provider behind the ring, with fakes of the card and of the library: no session runs here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from support import TINY_BUNDLE, disc

from m2l_runtime import Synthesizer
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.cuda.devices import Gpu
from m2l_runtime.backends.registry import load_backend
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError, EngineNotInstalled

onnxruntime = pytest.importorskip("onnxruntime")
from m2l_runtime.backends import onnxruntime as backend  # noqa: E402

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
SIDE = 256
LEFT = "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been dis"
GPU = Gpu(0, "Fake 4090", "8.9", 1 << 34, "13.0")


class FakeBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        self.inputs[name] = where

    def bind_output(self, name: str, *where: Any) -> None:
        self.outputs[name] = where


class FakeRunOptions:
    log_severity_level = 2

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeSessionOptions:
    log_severity_level = 2
    intra_op_num_threads = inter_op_num_threads = 0

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.overrides: dict[str, int] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        self.overrides[name] = size


class FakeLibrary:
    """A fake of onnxruntime-gpu on a fake card: its sessions turn masks to channels mask, 255 - mask, mask / 2."""

    __version__ = "1.99"
    SessionOptions = FakeSessionOptions
    RunOptions = FakeRunOptions

    def __init__(self) -> None:
        self.cuda_runtime = FakeCuda()
        self.started: tuple[str, ...] = (CUDA, CPU)
        self.error: str | None = None
        self.run_error: str | None = None
        self.side = SIDE
        self.sessions: list[Any] = []
        self.preloaded = 0
        self.graphs: set[tuple[int, str]] = set()
        self.is_warm = False

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def InferenceSession(  # noqa: N802 - its name
        self, content: bytes, options: Any, providers: list[Any], enable_fallback: int = 1
    ) -> Any:
        """As the library does it: without CUDA all is left to the CPU, which is an error where that is forbidden."""
        assert enable_fallback == 0, "or its Python prints to standard output and tries again on the CPU"
        is_cpu_forbidden = options.entries.get("session.disable_cpu_ep_fallback") == "1"
        if self.error is not None and (is_cpu_forbidden or "CPU EP" not in self.error):
            raise RuntimeError(self.error)
        if is_cpu_forbidden and CUDA not in self.started:
            raise RuntimeError(LEFT)
        library = self
        name, provider_options = (providers[0], {}) if isinstance(providers[0], str) else providers[0]

        class Session:
            def __init__(self) -> None:
                self.options, self.provider_options = options, provider_options
                self.runs: list[dict[str, str]] = []

            def get_providers(self) -> list[str]:
                return [one for one in (name, CPU) if one in library.started]

            def get_inputs(self) -> list[Any]:
                return [SimpleNamespace(name="mask", type="tensor(uint8)", shape=[1, library.side, library.side])]

            def get_outputs(self) -> list[Any]:
                return [SimpleNamespace(name="image", type="tensor(uint8)", shape=[1, library.side, library.side, 3])]

            def io_binding(self) -> FakeBinding:
                return FakeBinding()

            def run_with_iobinding(self, binding: FakeBinding, run_options: FakeRunOptions) -> None:
                if library.run_error is not None:
                    raise RuntimeError(library.run_error)
                self.runs.append(run_options.entries)
                if "gpu_graph_id" in run_options.entries:  # of which the library keeps one for each thread
                    key = (threading.get_ident(), run_options.entries["gpu_graph_id"])
                    if key not in library.graphs:
                        assert not library.is_warm, "captured while calls are under way"
                        library.graphs.add(key)
                (_, _, _, shape, source), (_, _, _, _, sink) = binding.inputs["mask"], binding.outputs["image"]
                cuda_runtime, pixels = library.cuda_runtime, int(np.prod(shape))

                def compute() -> None:
                    masks = cuda_runtime.on_gpu(source, pixels)
                    cuda_runtime.on_gpu(sink, 3 * pixels)[:] = np.stack([masks, 255 - masks, masks // 2], 1).reshape(-1)

                cuda_runtime.put("compute", int(provider_options["user_compute_stream"]), compute)

        self.sessions.append(Session())
        return self.sessions[-1]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    fake = FakeLibrary()
    monkeypatch.setattr(backend, "onnxruntime", fake)
    monkeypatch.setattr("m2l_runtime.backends.cuda.runtime_api.BindingsRuntime", lambda _: fake.cuda_runtime)
    monkeypatch.setattr("m2l_runtime.backends.cuda.devices.find_gpu", lambda _: GPU)
    yield fake
    assert not fake.cuda_runtime.violations


def expected(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.stack([masks, 255 - masks, masks // 2], -1)


def test_onnxruntime_cuda__masks_go_to_the_card_and_images_come_back(library: FakeLibrary) -> None:
    masks = np.stack([disc(radius=r) for r in range(5, 55)])
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cuda:1", streams=3, batch_size=4) as synth:
        np.testing.assert_array_equal(synth(masks), expected(masks))
        assert (synth.settings.device, synth.settings.batch_size, synth.settings.streams) == ("cuda:1", 4, 3)
    (session,) = library.sessions
    assert library.preloaded == 1
    assert session.options.overrides == {"batch": 4}
    assert session.options.entries["session.disable_cpu_ep_fallback"] == "1"
    assert session.provider_options["device_id"] == "1"
    assert not library.cuda_runtime.live


def test_onnxruntime_cuda__defaults(library: FakeLibrary) -> None:
    for streams, count in ((None, 2), (1, 1)):
        made = load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda", streams=streams))
        assert (made.settings.batch_size, made.settings.streams) == (16, count)
        assert made.settings.provider_options == (("device_id", "0"), ("enable_cuda_graph", "1"), ("use_tf32", "0"))
        made.close()


def test_onnxruntime_cuda__each_slot_and_batch_size_has_a_graph_of_its_own(library: FakeLibrary) -> None:
    """onnxruntime keeps graphs by number, and a graph holds addresses."""
    masks = np.stack([disc(radius=r) for r in range(5, 13)])
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cuda", streams=2, batch_size=2) as synth:
        library.is_warm = True
        synth(masks)
        synth(masks)
    (session,) = library.sessions
    assert {entries["gpu_graph_id"] for entries in session.runs} == {"1", "2"}
    assert {entries["disable_synchronize_execution_providers"] for entries in session.runs} == {"1"}
    assert library.cuda_runtime.calls["capture"] == 0


def test_onnxruntime_cuda__without_graphs(library: FakeLibrary) -> None:
    options = BackendOptions(device="cuda", provider_options={"enable_cuda_graph": "0", "use_tf32": "1"})
    made = load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", options)
    assert "gpu_graph_id" not in library.sessions[0].runs[0]
    assert library.cuda_runtime.calls["capture"] > 0, "then the ring captures them"
    assert dict(made.settings.provider_options)["use_tf32"] == "1"
    made.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"user_compute_stream": "1"},
            "the provider option user_compute_stream is not for users: m2l brings a stream of",
        ),
        ({"device_id": "1"}, "the provider option device_id is not for users: name the GPU by the device, cuda:N"),
        ({"use_tf32": "yes"}, "the provider option use_tf32 is 1 or 0, got 'yes'"),
    ],
)
def test_onnxruntime_cuda__provider_options_that_cannot_be(
    library: FakeLibrary, options: dict[str, str], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda", provider_options=options))
    assert not library.cuda_runtime.live


def test_onnxruntime_cuda__an_option_in_other_words(library: FakeLibrary) -> None:
    options = BackendOptions(device="cuda", provider_options={"enable_cuda_graph": "True"})
    made = load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", options)
    assert dict(made.settings.provider_options)["enable_cuda_graph"] == "1"
    assert "gpu_graph_id" in library.sessions[0].runs[0]
    made.close()


def test_onnxruntime_cuda__threads_share_the_card(library: FakeLibrary) -> None:
    masks = np.stack([disc(radius=r) for r in range(5, 25)])
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cuda", streams=2, batch_size=3) as synth:
        library.is_warm = True
        wrong: list[int] = []

        def go(start: int) -> None:
            some = masks[start::4]
            if not np.array_equal(synth(some), expected(some)):
                wrong.append(start)

        threads = [threading.Thread(target=go, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("started", "error", "kind", "said"),
    [
        ((CPU,), None, DeviceUnavailable, "would run on the CPU instead; check the driver"),
        (
            (CUDA, CPU),
            LEFT,
            EngineError,
            r"onnxruntime 1.99 would compute a part of this graph on the CPU, silently .*; update it, or choose dev",
        ),
        (
            (CUDA, CPU),
            "Failed to load libcublas.so.13",
            DeviceUnavailable,
            "^CUDA does not start: Failed to load libcu",
        ),
        ((CUDA, CPU), "CUDA failure 2: out of memory", EngineError, "^.*too little memory"),
        ((CUDA, CPU), "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : no", BundleDamaged, "cannot load the model: .*no"),
        ((CUDA, CPU), "Opset 27 is under development", EngineError, "does not know version 27 of ONNX's operators"),
    ],
)
def test_onnxruntime_cuda__what_does_not_start(
    library: FakeLibrary, started: tuple[str, ...], error: str | None, kind: type[Exception], said: str
) -> None:
    library.started, library.error = started, error
    with pytest.raises(kind, match=said) as caught:
        load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda"))
    assert isinstance(caught.value, DeviceUnavailable) == (kind is DeviceUnavailable)
    assert not library.cuda_runtime.live


def test_onnxruntime_cuda__a_file_of_another_size(library: FakeLibrary) -> None:
    library.side = 128
    with pytest.raises(BundleDamaged, match="the manifest declares"):
        load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda"))
    assert not library.cuda_runtime.live


def test_onnxruntime_cuda__a_call_that_fails(library: FakeLibrary) -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cuda") as synth:
        library.run_error = "[ONNXRuntimeError] : 6 : cuDNN failure"
        with pytest.raises(EngineError, match="onnxruntime failed on cuda:0: .*cuDNN failure"):
            synth(disc()[None])
        library.run_error = None
        np.testing.assert_array_equal(synth(disc()[None]), expected(disc()[None]))


def test_onnxruntime_cuda__memory_that_is_not_there(library: FakeLibrary) -> None:
    library.cuda_runtime = FakeCuda(memory_bytes=1 << 20)
    with pytest.raises(EngineError, match="too little memory for 64 images a call"):
        load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda", batch_size=64))


@pytest.mark.parametrize("error", [DeviceUnavailable("no card"), EngineNotInstalled("no cuda.bindings")])
def test_onnxruntime_cuda__auto_is_the_cpu_where_there_is_no_card(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: int) -> Gpu:
        raise error

    monkeypatch.setattr("m2l_runtime.backends.cuda.devices.find_gpu", absent)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with Synthesizer.open(TINY_BUNDLE, backend="onnxruntime") as synth:
        assert (synth.settings.device, synth.settings.batch_size) == ("cpu", 1)
        assert synth(disc()[None]).any()
        assert f"onnxruntime runs on the CPU, as CUDA does not: {error}" in synth.notes
    with pytest.raises(EngineError, match=rf"provider of onnxruntime takes none \({error}\)"):
        Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", provider_options={"use_tf32": "0"})
    with pytest.raises(type(error), match=str(error)):
        Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cuda")


def test_onnxruntime_cuda__with_the_batch_fixed_nothing_is_left_that_computes_shapes(tmp_path: Any) -> None:
    """The real library, on the CPU: on a card such nodes would be left to the CPU, and are refused there."""
    onnx = pytest.importorskip("onnx")
    opened = open_bundle(TINY_BUNDLE)
    options = backend._session_options(1)
    options.add_free_dimension_override_by_name("batch", 4)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(opened.read_model(opened.manifest.models[0]), options, providers=[CPU])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "Conv" in kinds
    assert not kinds & {"Shape", "Gather", "Range", "ConstantOfShape", "Expand", "Reshape"}


def test_onnxruntime_cuda__fp16_is_for_cards() -> None:
    opened = open_bundle(TINY_BUNDLE)
    source = ModelSource("x", b"", "fp16", opened.manifest.inputs, opened.manifest.outputs)
    with pytest.raises(DeviceUnavailable, match="fp16 is for CUDA: on CPUs onnxruntime computes in fp32"):
        backend.load(source, BackendOptions(device="cpu", precision="fp16"))
