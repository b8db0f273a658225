"""Backends: which is taken, and what is said when one cannot be."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support import TINY_BUNDLE, add_model_entry, disc, edit, save, slow

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime._utils.cpu import MAX_STREAMS, share_threads, usable_cpus
from m2l_runtime.backends import messages
from m2l_runtime.backends import onnxruntime as ort_backend
from m2l_runtime.backends.base import BackendOptions
from m2l_runtime.backends.registry import BACKENDS, choose_backend
from m2l_runtime.errors import ArgumentError, DeviceUnavailable, EngineError, EngineNotInstalled

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
HAS_CUDA = CUDA in onnxruntime.get_available_providers()


def test_registry__auto_takes_a_real_engine() -> None:
    with Synthesizer.open(TINY_BUNDLE) as synth:
        assert synth.settings.backend == "onnxruntime"
        assert synth.settings.engine == f"onnxruntime {onnxruntime.__version__}"


def test_registry__an_engine_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else find_spec(n, *a))
    for backend in ("onnxruntime", "auto"):
        with pytest.raises(EngineNotInstalled, match=r'pip install "m2l\[cpu\]"') as error:
            Synthesizer.open(TINY_BUNDLE, backend=backend)
        assert isinstance(error.value, ImportError)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages and distributions that seem to be installed; a test may change them."""
    there = {"onnxruntime", "openvino"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object() if name in there else None)
    monkeypatch.setattr(importlib.metadata, "version", version)
    return there


@pytest.fixture
def replay_targets(bundle_copy: Path) -> Path:
    """A bundle made for OpenVINO in fp32 and bf16, and for onnxruntime in fp32."""
    add_model_entry(bundle_copy, "openvino")
    add_model_entry(bundle_copy, "openvino", "bf16")
    return bundle_copy


@pytest.mark.parametrize(
    ("options", "also_there", "missing", "name", "reason"),
    [
        ({}, (), (), "openvino", "the fastest installed on a CPU"),
        ({"device": "cpu"}, ("onnxruntime-gpu",), (), "openvino", "the fastest installed on a CPU"),
        ({}, ("onnxruntime-gpu",), (), "onnxruntime", "onnxruntime-gpu is installed"),
        ({}, (), ("openvino",), "onnxruntime", "the only one installed"),
        ({}, (), ("onnxruntime",), "openvino", "the only one installed"),
        ({"device": "cuda"}, (), (), "onnxruntime", "the only one installed"),
        ({"device": "cuda:1"}, (), (), "onnxruntime", "the only one installed"),
        ({"precision": "bf16"}, ("onnxruntime-gpu",), (), "openvino", "the only one installed"),
        ({"provider_options": {"use_tf32": "0"}}, (), (), "onnxruntime", "provider options are its own"),
    ],
)
def test_registry__what_auto_takes(
    replay_targets: Path,
    installed: set[str],
    options: dict[str, Any],
    also_there: tuple[str, ...],
    missing: tuple[str, ...],
    name: str,
    reason: str,
) -> None:
    installed |= set(also_there)
    installed -= set(missing)
    choice = choose_backend(open_bundle(replay_targets), "auto", BackendOptions(**options))
    assert choice.name == name
    assert choice.reason.startswith(reason)
    assert choice.candidates == ((name,) if reason == "the only one installed" else ("openvino", "onnxruntime"))


def test_registry__auto_keeps_to_what_the_bundle_was_made_for(installed: set[str]) -> None:
    choice = choose_backend(open_bundle(TINY_BUNDLE), "auto", BackendOptions())
    assert (choice.name, choice.candidates) == ("onnxruntime", ("onnxruntime",))


def test_registry__what_auto_cannot_take(replay_targets: Path, installed: set[str]) -> None:
    bundle = open_bundle(replay_targets)
    for name in ("auto", "onnxruntime"):
        with pytest.raises(ArgumentError, match="there is no precision 'int4'; choose one of fp32, fp16, bf16, int8"):
            choose_backend(bundle, name, BackendOptions(precision="int4"))  # type: ignore[arg-type]
    with pytest.raises(
        EngineError, match="not made for any backend known here in int8, only for onnxruntime in fp32, "
    ):
        choose_backend(bundle, "auto", BackendOptions(precision="int8"))
    with pytest.raises(
        DeviceUnavailable, match="in bf16 the bundle was made for openvino, which has no CUDA; choose d"
    ):
        choose_backend(bundle, "auto", BackendOptions(precision="bf16", device="cuda"))
    installed.clear()
    with pytest.raises(EngineNotInstalled, match=r'made for in fp32: pip install "m2l\[openvino\]".*"m2l\[cpu\]"'):
        choose_backend(bundle, "auto", BackendOptions())
    with pytest.raises(EngineNotInstalled, match=r'made for in bf16: pip install "m2l\[openvino\]"$'):
        choose_backend(bundle, "auto", BackendOptions(precision="bf16"))


def test_choose_backend__a_cpu_is_never_answered_with_a_backend_of_gpus(bundle_copy: Path, installed: set[str]) -> None:
    add_model_entry(bundle_copy, "onnxruntime", "fp16")
    add_model_entry(bundle_copy, "tensorrt", "fp16")
    bundle, options = open_bundle(bundle_copy), BackendOptions(device="cpu", precision="fp16")
    installed |= {"tensorrt-cu13", "tensorrt"}
    assert choose_backend(bundle, "auto", options).name == "onnxruntime"  # which says that fp16 is for CUDA
    with pytest.raises(DeviceUnavailable, match="fp16 is for CUDA"):
        Synthesizer.open(bundle, device="cpu", precision="fp16")


def test_choose_backend__a_bundle_of_plans_alone_names_the_device(bundle_copy: Path, installed: set[str]) -> None:
    add_model_entry(bundle_copy, "tensorrt", "fp16")
    message = (
        "in fp16 the bundle was made for tensorrt, which runs on NVIDIA GPUs alone; choose device cuda, or another"
    )
    with pytest.raises(DeviceUnavailable, match=message):
        Synthesizer.open(bundle_copy, device="cpu", precision="fp16")


def test_registry__a_bundle_for_engines_unknown_here(bundle_copy: Path) -> None:
    edit(bundle_copy, lambda m: m["models"][0].update(engines=["abacus\x1b"]))
    for name in ("auto", "onnxruntime"):
        with pytest.raises(EngineError, match=r"only for abacus\\x1b in fp32; choose among these"):
            Synthesizer.open(bundle_copy, backend=name)


def test_registry__a_synthesizer_says_what_was_chosen() -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth:
        assert (synth.choice.name, synth.choice.reason) == ("fake", "it was asked for")
        assert synth.notes == ()


def test_registry__an_engine_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, BACKENDS["onnxruntime"].module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    with pytest.raises(EngineNotInstalled, match="is installed but does not load"):
        Synthesizer.open(TINY_BUNDLE, backend="onnxruntime")


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has CUDA")
def test_registry__cuda_on_a_cpu_build_names_the_command() -> None:
    with pytest.raises(DeviceUnavailable, match=r'built without CUDA: .*pip install "m2l\[gpu\]"'):
        Synthesizer.open(TINY_BUNDLE, device="cuda")


def test_registry__threads_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_registry__thread_counts_give_the_same_bytes(tiny_synth: Synthesizer) -> None:
    masks = np.stack([disc(), disc(radius=3)])
    for threads in (1, 2, 3):
        with Synthesizer.open(TINY_BUNDLE, threads=threads, device="cpu") as synth:
            np.testing.assert_array_equal(synth(masks), tiny_synth(masks))


def test_registry__threads_are_shared_among_streams() -> None:
    cpus = usable_cpus()
    assert share_threads(8, 2) == (4, 2)
    assert share_threads(7, 2) == (3, 2)
    assert share_threads(2, 5) == (1, 5)
    assert share_threads(8, None) == (1, 8)
    assert share_threads(64, None) == (64 // MAX_STREAMS, MAX_STREAMS)
    assert share_threads(None, 1) == (cpus, 1)


def test_registry__more_threads_than_cpus_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "usable_cpus", lambda: 2)
    for threads, streams, told in (
        (2, 2, ""),
        (3, 1, "3 threads"),
        (None, 4, "4 streams"),
        (9, 9, "9 threads and 9 st"),
    ):
        with Synthesizer.open(TINY_BUNDLE, device="cpu", threads=threads, streams=streams) as synth:
            assert synth(disc()[None]).any()
            assert len(synth.notes) == bool(told)
            for note in synth.notes:
                assert re.match(f"asked for {told}.*; this process may use 2 CPUs, more do not pay", note)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("backend", [slow("onnxruntime"), "openvino"])
def test_registry__a_batch_that_does_not_fit_in_memory(bundle_copy: Path, tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
        add_model_entry(bundle_copy, "openvino")
    command = ["synth", save(tmp_path / "m.png", disc()), tmp_path / "out", "--bundle", bundle_copy, "--threads", "1"]
    command += ["--backend", backend, "--batch-size", "4096"]
    code = (
        "import resource, sys\n"
        "from m2l_runtime.cli.main import main\n"
        "import numpy, PIL.Image\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        f"sys.argv = ['m2l', *{[str(word) for word in command]!r}]\n"
        "main()\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert re.fullmatch(
        "m2l: error: there is too little memory for (4,096 images a call and 1 call at once|.* to load the model); "
        "choose a smaller batch size or fewer streams.*\n",
        done.stderr,
    )


def test_registry__onnxruntime_keeps_nothing_to_tell_its_makers(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    code = (
        "from m2l_runtime import Synthesizer, open_bundle\n"
        f"with Synthesizer.open({str(TINY_BUNDLE)!r}, backend='onnxruntime') as synth:\n"
        "    synth.run_inputs(synth.bundle.read_golden()[0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("known", "is_set"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), (set(), False)])
def test_registry__int8_sums_are_widened_only_where_they_would_saturate(
    known: set[str], is_set: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a CPU has VNNI the option makes int8 slower than fp32."""
    pytest.importorskip("onnxruntime")
    from m2l_runtime._utils import cpu
    from m2l_runtime.backends import onnxruntime as backend

    monkeypatch.setattr(cpu, "instructions", lambda: frozenset(known))
    options = backend._session_options(1)
    try:
        value = options.get_session_config_entry("session.x64quantprecision")
    except RuntimeError:  # it was not set
        value = ""
    assert (value == "1") is is_set
