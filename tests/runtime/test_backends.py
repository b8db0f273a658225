"""Backends: which is taken, and what is said when one cannot be."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support import TINY_BUNDLE, disc

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.backends import BACKENDS, BackendOptions, load_backend
from m2l_runtime.backends import onnxruntime as ort_backend
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
HAS_CUDA = CUDA in onnxruntime.get_available_providers()


def test_auto_takes_a_real_engine() -> None:
    with Synthesizer.open(TINY_BUNDLE) as synth:
        assert synth.settings.backend == "onnxruntime"
        assert synth.settings.engine == f"onnxruntime {onnxruntime.__version__}"


def test_an_engine_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else find_spec(n, *a))
    for backend in ("onnxruntime", "auto"):
        with pytest.raises(EngineNotInstalled, match=r"pip install '\.\[cpu\]'") as error:
            Synthesizer.open(TINY_BUNDLE, backend=backend)
        assert isinstance(error.value, ImportError)


def test_an_engine_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, BACKENDS["onnxruntime"].module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    with pytest.raises(EngineNotInstalled, match="is installed but does not load"):
        Synthesizer.open(TINY_BUNDLE, backend="onnxruntime")


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_cuda_on_a_cpu_build_names_the_command() -> None:
    with pytest.raises(DeviceUnavailable, match=r"built without CUDA: .*pip install '\.\[gpu\]'"):
        Synthesizer.open(TINY_BUNDLE, device="cuda")


class FakeSession:
    """Stands in for an InferenceSession of a CUDA build; `started` are the providers that came up."""

    started: tuple[str, ...] = ()

    def __init__(self, content: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.providers = providers

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers if name in self.started]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="mask", type="tensor(uint8)", shape=["batch", 256, 256])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image", type="tensor(uint8)", shape=["batch", 256, 256, 3])]


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    class Session(FakeSession):
        pass

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return Session


def test_cuda_that_silently_falls_back_is_an_error(cuda_build: type[FakeSession]) -> None:
    cuda_build.started = (CPU,)
    with pytest.raises(DeviceUnavailable, match="would run on the CPU instead"):
        load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="cuda"))


def test_auto_says_that_it_fell_back(cuda_build: type[FakeSession]) -> None:
    cuda_build.started = (CPU,)
    backend = load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", BackendOptions(device="auto"))
    assert backend.settings.device == "cpu"
    assert backend.settings.batch_size == 1


def test_cuda_that_starts(cuda_build: type[FakeSession]) -> None:
    cuda_build.started = (CUDA, CPU)
    options = BackendOptions(device="cuda:1", provider_options={"use_tf32": "0"})
    settings = load_backend(open_bundle(TINY_BUNDLE), "onnxruntime", options).settings
    assert settings.device == "cuda:1"
    assert settings.provider_options == (("device_id", "1"), ("use_tf32", "0"))
    assert settings.batch_size == 16


def test_threads_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    make = ort_backend._session_options

    def keep(threads: int) -> Any:
        seen.append(make(threads))
        return seen[-1]

    monkeypatch.setattr(ort_backend, "_session_options", keep)
    with Synthesizer.open(TINY_BUNDLE, threads=1, device="cpu") as synth:
        assert synth.settings.threads == 1
        synth(disc()[None])
    assert [options.intra_op_num_threads for options in seen] == [1]


def test_thread_counts_give_the_same_bytes(tiny_synth: Synthesizer) -> None:
    masks = np.stack([disc(), disc(radius=3)])
    for threads in (1, 2, 3):
        with Synthesizer.open(TINY_BUNDLE, threads=threads, device="cpu") as synth:
            np.testing.assert_array_equal(synth(masks), tiny_synth(masks))
