"""OpenVINO: the images onnxruntime gives, the settings that were made, and what is said when it cannot."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import TINY_BUNDLE, Array, add_model_entry, disc, edit, replace_file

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime._utils import atomic, cpu
from m2l_runtime._utils.cpu import instructions, usable_cpus
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.compiled_cache import CompiledCache
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import BundleDamaged, DeviceUnavailable, EngineError, OutputError

openvino = pytest.importorskip("openvino")

from m2l_runtime.backends import openvino as backend  # noqa: E402

HAS_BF16 = "BF16" in backend.CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the key of the cache out of the real home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def bundle(bundle_copy: Path) -> Path:
    add_model_entry(bundle_copy, "openvino")
    return bundle_copy


@pytest.fixture
def opened(bundle: Path) -> Iterator[Synthesizer]:
    with Synthesizer.open(bundle, backend="openvino", threads=1) as synth:
        yield synth


def source(precision: Precision = "fp32", **changes: Any) -> ModelSource:
    tiny = open_bundle(TINY_BUNDLE)
    model, manifest = tiny.manifest.models[0], tiny.manifest
    made = ModelSource(model.file.path, tiny.read_model(model), precision, manifest.inputs, manifest.outputs)
    return dataclasses.replace(made, **changes)


def masks() -> Array:
    soft = (np.indices((256, 256)).sum(0) // 2).astype(np.uint8)
    return np.stack([disc(), disc(radius=3), soft, np.zeros_like(soft), np.full_like(soft, 255)])


def test_openvino__images_are_those_of_onnxruntime_and_the_golden_ones(
    opened: Synthesizer, tiny_synth: Synthesizer
) -> None:
    """Bfloat16, which OpenVINO takes unasked where a CPU has it, would be off by a hundred times as much on average."""
    golden, images = opened.bundle.read_golden()
    for given, expected in ((masks(), tiny_synth(masks())), (golden["mask"], images)):
        difference = np.abs(opened(given).astype(np.int16) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.002


@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_openvino__streams_and_batches_give_the_same_bytes(
    bundle: Path, opened: Synthesizer, streams: int, batch_size: int
) -> None:
    expected = opened(masks())
    with Synthesizer.open(bundle, backend="openvino", threads=streams, streams=streams, batch_size=batch_size) as synth:
        assert synth.settings.threads == 1
        assert synth.settings.batch_size == batch_size
        np.testing.assert_array_equal(synth(masks()), expected)


def test_openvino__many_callers_at_once(opened: Synthesizer) -> None:
    """More than there are streams; each gets its own image, which the next call leaves alone."""
    expected = opened(masks())
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: opened(masks()[i : i + 1]), list(range(5)) * 8))
    for number, image in enumerate(images):
        np.testing.assert_array_equal(image[0], expected[number % 5])


def test_openvino__a_result_belongs_to_the_caller() -> None:
    one = backend.load(source(), BackendOptions(threads=1))
    first = one.run({"mask": masks()[:1]})
    kept = first.copy()
    one.run({"mask": masks()[4:5]})
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable
    assert one.settings.backend == "openvino"


def test_openvino__settings_say_what_was_really_taken() -> None:
    """OpenVINO takes no more threads than there are CPUs."""
    cpus = usable_cpus()
    one = backend.load(source(), BackendOptions(threads=cpus + 60, streams=1))
    assert one.settings.threads <= cpus
    assert one.settings.engine == f"openvino {openvino.__version__.split('-')[0]}"
    assert one.settings.device == "cpu"
    assert re.search(rf"asked for {cpus + 60} threads; .* may use {cpus} CPUs?, more do not pay", one.notes[0])


def test_openvino__as_many_streams_as_give_the_most_images() -> None:
    one = backend.load(source(), BackendOptions(streams=None))
    assert one.settings.streams == min(usable_cpus(), 16)
    assert one.notes == ()


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_openvino__bf16_is_another_precision(bundle: Path, opened: Synthesizer) -> None:
    add_model_entry(bundle, "openvino", "bf16")
    with Synthesizer.open(bundle, backend="openvino", precision="bf16", threads=1) as synth:
        assert synth.settings.precision == "bf16"
        assert synth.notes == ()
        difference = np.abs(synth(masks()).astype(np.int16) - opened(masks()))
    assert 0 < difference.mean() < 2
    assert difference.max() < 40


def test_openvino__bf16_without_instructions_for_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    one = backend.load(source("bf16"), BackendOptions())
    if one.settings.precision == "bf16":
        assert one.notes == ("this CPU has no instructions for bf16 (AVX512_BF16 or AMX): it may be slower than fp32",)


def test_openvino__bf16_that_openvino_does_not_take_is_not_called_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does on a CPU that has nothing of the kind."""
    real = openvino.Core.compile_model

    def compile_in_f32(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        return real(core, model, device, config | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", compile_in_f32)
    one = backend.load(source("bf16"), BackendOptions())
    assert one.settings.precision == "fp32"
    assert one.notes == ("this CPU does not compute in bf16; openvino takes fp32 in its place",)


def test_openvino__int8_without_instructions_for_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert instructions() or sys.platform != "linux"
    for known, told in (({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), ((), False)):
        monkeypatch.setattr(cpu, "instructions", lambda known=known: frozenset(known))
        one = backend.load(source("int8"), BackendOptions())
        assert [("VNNI" in note) for note in one.notes] == [True] * told


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_openvino__other_devices(bundle: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"runs on CPUs, not on '{device}'; choose cpu, or the backend onnx"):
        Synthesizer.open(bundle, backend="openvino", device=device)


def test_openvino__options_of_another_engine(bundle: Path) -> None:
    with pytest.raises(EngineError, match="provider options are for onnxruntime on CUDA; openvino takes none"):
        Synthesizer.open(bundle, backend="openvino", provider_options={"a": "b"})


SPEC, IMAGE = source().inputs[0], source().outputs[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [{"name": "picture"}]},
        {"inputs": [{"dtype": "float32"}]},
        {"inputs": [{"shape": ("batch", 256, 128)}]},
        {"outputs": [{"name": "picture"}]},
        {"outputs": [{"dtype": "float32"}]},
        {"outputs": [{"shape": ("batch", 128, 256, 3)}]},
    ],
)
def test_openvino__a_file_of_another_signature(changes: dict[str, Sequence[dict[str, Any]]]) -> None:
    import msgspec

    specs = {"inputs": SPEC, "outputs": IMAGE}
    changed: dict[str, Any] = {
        name: tuple(msgspec.structs.replace(specs[name], **change) for change in several)
        for name, several in changes.items()
    }
    with pytest.raises(BundleDamaged, match=r"generator.fp32.onnx has \{.*'(mask|image)'.*the manifest declares"):
        backend.load(source(**changed), BackendOptions())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.replace(b"InstanceNorm", b"Instancenorm"), "No conversion rule .* Instancenormalizat"),
        (lambda content: content[:5000], "Error during import of ONNX model"),
        (lambda content: b"", "Unable to read the model"),
    ],
)
def test_openvino__a_file_it_cannot_read(change: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(BundleDamaged, match=rf"^openvino [\d.]+ cannot load the model: {said}") as error:
        backend.load(source(content=change(source().content)), BackendOptions())
    assert not re.search(r"\n|Exception from|\.cpp", str(error.value))


def test_openvino__a_batch_that_is_not_the_one_it_was_made_for() -> None:
    one = backend.load(source(), BackendOptions(batch_size=2))
    with pytest.raises(EngineError, match=r"openvino failed on cpu: .*\(shape=\[2,256,256\]\).* incompatible$"):
        one.run({"mask": masks()[:1]})
    assert one.run({"mask": masks()[:2]}).shape == (2, 256, 256, 3)


def test_openvino__closed() -> None:
    one = backend.load(source(), BackendOptions())
    one.close()
    with pytest.raises(EngineError, match="the backend is closed"):
        one.run({"mask": masks()[:1]})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork")
def test_openvino__a_fork_is_told_to_open_its_own(bundle: Path) -> None:
    """Where engine threads are, they are not in the child, and the call would wait for them."""
    code = (
        "import multiprocessing, sys\n"
        "import numpy as np\n"
        "from m2l_runtime import Synthesizer\n"
        "mask = np.zeros((1, 256, 256), np.uint8)\n"
        "def child(results):\n"
        "    try: results.put(synth(mask).shape)\n"
        "    except Exception as error: results.put(f'{type(error).__name__}: {error}')\n"
        "synth = Synthesizer.open(sys.argv[1], backend='openvino', streams=2, threads=2)\n"
        "synth(mask)\n"
        "context = multiprocessing.get_context('fork')\n"
        "results = context.SimpleQueue()\n"
        "process = context.Process(target=child, args=(results,), daemon=True)\n"
        "process.start(); process.join(20); print(results.get() if not results.empty() else 'nothing came')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    assert re.match(r"EngineError: openvino was loaded in process \d+ .* fork \d+; its thr", done.stdout), done


_FORK_AFTER_USE = """
import os, sys
import numpy as np
from m2l_runtime import Synthesizer

mask = np.zeros((1, 256, 256), np.uint8)
mask[:, 50:200, 50:200] = 255
backend, grandchild, bundle = sys.argv[1], sys.argv[2] == "grandchild", sys.argv[3]
with Synthesizer.open(bundle, backend="openvino", threads=2) as parent:
    parent(mask)  # a preview, say, which is closed again
for generation in range(1 + grandchild):
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status)
try:
    with Synthesizer.open(bundle, backend=backend, threads=2) as synth:
        print(synth.settings.backend, synth(mask).shape, synth.choice.reason, flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
os._exit(0)
"""
_TIME_LIMIT_S = 60
"""Of a test that would wait for ever; it takes a second."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork")
@pytest.mark.parametrize(
    ("generation", "asked", "expected"),
    [
        (
            "grandchild",
            "auto",
            r"onnxruntime \(1, 256, 256, 3\) openvino cannot be used in a fork of a process that has used it",
        ),
        ("child", "onnxruntime", r"onnxruntime \(1, 256, 256, 3\) it was asked for"),
        (
            "child",
            "openvino",
            r"EngineError: openvino was used in process \d+, of which this one is a fork; .* onnxruntime",
        ),
    ],
)
def test_openvino__a_fork_of_a_process_that_used_it_runs_or_is_told(
    bundle: Path, generation: str, asked: str, expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK_AFTER_USE, asked, generation, str(bundle)],
        capture_output=True,
        text=True,
        timeout=_TIME_LIMIT_S,
    )
    assert re.match(expected, done.stdout), done


def test_openvino__a_fork_of_a_process_that_only_loaded_it_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = backend._Process()
    process._note_fork()  # as the interpreter calls it in the child
    monkeypatch.setattr(backend, "_PROCESS", process)
    assert backend.why_unusable_here() is None
    process.user = 1
    process._note_fork()
    assert "process 1" in (backend.why_unusable_here() or "")


def test_openvino__memory_that_does_not_hold_a_batch_at_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Exception from src/core/src/runtime/allocator.cpp:79:\nstd::bad_alloc\n")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    with pytest.raises(
        EngineError, match="too little memory for openvino .* to load the model; choose a smaller batch"
    ):
        backend.load(source(), BackendOptions(batch_size=4096, threads=2, streams=2))


def test_openvino__its_makers_are_not_told(tmp_path: Path) -> None:
    """The package that would tell them is not even loaded, and is there again for others."""
    code = (
        "import sys, os\n"
        "from m2l_runtime.backends import openvino\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "import openvino_telemetry\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


def test_openvino__signals_reach_python_after_one_of_two_synthesizers_was_closed(bundle: Path) -> None:
    """With an OpenVINO core each, the second to go puts a freed stack for signal handlers in place: SIGSEGV."""
    code = (
        "import faulthandler, gc, os, signal, sys\n"
        "faulthandler.enable()\n"  # which has a stack for signal handlers, too
        "from m2l_runtime import Synthesizer\n"
        "first, second = (Synthesizer.open(sys.argv[1], backend='openvino') for _ in range(2))\n"
        "first.close(); del first; gc.collect(); second.close(); del second; gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('reached'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "reached\n"), done


def test_openvino__first_calls_in_several_threads_at_once() -> None:
    """Of bindings whose tables are not filled yet, more than half of such processes wait for ever."""
    code = (
        "import faulthandler, sys, threading\n"
        "import numpy as np\n"
        "from m2l_runtime.backends.openvino import openvino\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"  # with the interpreter's lock held, nothing else ends it
        "sys.setswitchinterval(1e-6)\n"
        "barrier = threading.Barrier(16)\n"
        "def use():\n"
        "    barrier.wait()\n"
        "    openvino.Type.u8.to_dtype()\n"
        "threads = [threading.Thread(target=use) for _ in range(16)]\n"
        "[one.start() for one in threads], [one.join() for one in threads]\n"
    )
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done


def test_openvino__a_compiled_model_is_kept_and_gives_the_same_bytes(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(**options: Any) -> Array:
        with Synthesizer.open(bundle, backend="openvino", cache_dir=tmp_path / "cache", **options) as synth:
            assert synth.notes == ()
            return synth(masks())

    with Synthesizer.open(bundle, backend="openvino") as synth:
        expected = synth(masks())
    np.testing.assert_array_equal(images(), expected)
    (kept,) = (tmp_path / "cache").iterdir()
    images(batch_size=2)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # another batch size is another model

    def fail(*_: Any) -> None:
        raise AssertionError("it was compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", fail)
        np.testing.assert_array_equal(images(), expected)
    content = kept.read_bytes()
    half = len(content) // 2  # where weights are: OpenVINO itself takes them as they are
    kept.write_bytes(
        content[:half] + bytes(byte ^ 255 for byte in content[half : half + 4096]) + content[half + 4096 :]
    )
    np.testing.assert_array_equal(images(), expected)
    again = kept.read_bytes()
    assert hashlib.sha256(again[64:]).digest() == again[32:64]


def test_openvino__a_compiled_model_that_is_not_taken_is_compiled_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Synthesizer.open(bundle, backend="openvino", cache_dir=tmp_path / "cache") as synth:
        expected = synth(masks())
    (kept,) = (tmp_path / "cache").iterdir()
    good = kept.read_bytes()
    with monkeypatch.context() as patch:  # whatever it is kept under, it comes back as this
        patch.setattr(CompiledCache, "_path", lambda *_: kept)
        seal = CompiledCache._seal
        patch.setattr(CompiledCache, "_seal", lambda cache, _, *of: seal(cache, {}, *of))
        CompiledCache(tmp_path / "cache").write({}, b"of another version")
        assert CompiledCache(tmp_path / "cache").read({}, bytearray), "it is sealed"
        with Synthesizer.open(bundle, backend="openvino", cache_dir=tmp_path / "cache") as synth:
            np.testing.assert_array_equal(synth(masks()), expected)
    with Synthesizer.open(bundle, backend="openvino", cache_dir=tmp_path / "cache") as synth:
        np.testing.assert_array_equal(synth(masks()), expected)
    assert abs(kept.stat().st_size - len(good)) < 10_000


def test_openvino__a_compiled_model_that_cannot_be_kept(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OutputError("cannot write it: No space left on device")

    monkeypatch.setattr(atomic, "write_file", full)
    with Synthesizer.open(bundle, backend="openvino", cache_dir=tmp_path / "cache") as synth:
        assert len(synth(masks())) == len(masks())
        (note,) = synth.notes
    assert re.search("not kept for the next time: .*No space left", note)


def test_cache__another_model_is_compiled_anew(bundle_copy: Path, tmp_path: Path) -> None:
    """The same graph with a word of documentation is another file, and has an entry of its own."""
    content = (bundle_copy / "generator.fp32.onnx").read_bytes()
    for count, file in enumerate((content, content + b"\x32\x01x"), 1):
        replace_file(bundle_copy, "generator.fp32.onnx", file)
        add_model_entry(bundle_copy, "openvino")
        with Synthesizer.open(bundle_copy, backend="openvino", cache_dir=tmp_path / "cache"):
            assert len(list((tmp_path / "cache").glob("*.compiled"))) == count
        edit(bundle_copy, lambda manifest: manifest["models"].pop())
