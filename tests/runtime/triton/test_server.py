"""Triton itself, as nvidia-pytriton brings it: configurations as its protocol buffers, the Python backend as a server.

The wheel has the Python backend alone; models of the other backends are not run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from plan_bundle import with_plans
from support import ROOT, disc, save

from m2l_runtime import open_bundle
from m2l_runtime.bundle import embedded
from m2l_runtime.triton import TritonOptions, write_model_repository

pytestmark = pytest.mark.slow
WHEEL = "nvidia-pytriton==0.7.0"
NEEDS = ("numpy<2", "pillow", "msgspec", "typer", "filelock", "rich", "onnxruntime")
CLIENT = Path(__file__).resolve().parent / "client_session.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with tritonserver, its client, and m2l: that of M2L_TRITON_PYTHON, or a new environment."""
    if "M2L_TRITON_PYTHON" in os.environ:
        return Path(os.environ["M2L_TRITON_PYTHON"])
    folder = tmp_path_factory.mktemp("triton") / "venv"
    venv.create(folder, with_pip=True)
    own = folder / "bin" / "python"
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", WHEEL, *NEEDS]
    done = subprocess.run([own, *words], capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode != 0:
        pytest.skip(f"{WHEEL} cannot be had: {done.stderr.strip()[-300:]}")
    return own


def site_of(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


PARSE = """
import json, sys
from pathlib import Path
from google.protobuf import text_format, json_format
from tritonclient.grpc import model_config_pb2

for path in sorted(Path(sys.argv[1]).glob("*/config.pbtxt")):
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def test_configurations__are_model_config_protos(python: Path, bundle_copy: Path, tmp_path: Path) -> None:
    bundle = with_plans(bundle_copy, {}, {"compute_capability": "9.0"})
    for number, (one, has_plans) in enumerate(((bundle, True), (open_bundle(embedded.BUNDLE), False))):
        made = write_model_repository(one, tmp_path / str(number), TritonOptions(name="x", threads=2, instances=2))
        done = subprocess.run([python, "-c", PARSE, made.path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        configs = {config["name"]: config for config in map(json.loads, done.stdout.splitlines())}
        assert configs.keys() == {model.name for model in made.models}
        assert ("x_tensorrt_fp32" in configs) is has_plans
        for model in made.models:
            config = configs[model.name]
            assert config["backend"] == model.backend
            assert config["max_batch_size"] == 16
            assert config["dynamic_batching"]["preferred_batch_size"] == [16]
            assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 256
            assert config["instance_group"][0]["count"] == 2
            assert [one["batch_size"] for one in config["model_warmup"]] == [1, 16]
            assert config["output"][0] == {"name": "image", "data_type": "TYPE_UINT8", "dims": ["256", "256", "3"]}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def server(python: Path, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A server of the model inside the package; its ports for HTTP and gRPC."""
    options = TritonOptions(name="lesions", backend="onnxruntime", max_batch_size=8, threads=1)
    write_model_repository(None, tmp_path / "models", options)
    site = site_of(python)
    binary = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    backends = Path(shutil.copytree(site / "pytriton" / "tritonserver" / "backends", tmp_path / "backends"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = site / "pytriton" / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"{WHEEL} has no Python backend for Python {version}")
    shutil.copy(stub, backends / "python")
    for path in (binary, backends / "python" / stub.name):
        path.chmod(0o755)
    # The backend's Python reads no PYTHONPATH: where m2l is not installed, a .pth file names this checkout.
    (site / "m2l-checkout.pth").write_text(f"{ROOT / 'runtime'}\n")
    ports = free_port(), free_port()
    words = [binary, "--model-repository", tmp_path / "models", "--backend-directory", backends]
    words += ["--model-control-mode", "explicit", "--load-model", "lesions", "--allow-metrics", "false"]
    words += ["--http-address", "127.0.0.1", "--http-port", ports[0]]
    words += ["--grpc-address", "127.0.0.1", "--grpc-port", ports[1]]
    settings = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    settings["LD_LIBRARY_PATH"] = str(site / "nvidia_pytriton.libs")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, env=settings)
    try:
        deadline = time.monotonic() + 120
        while not is_ready(ports[0]):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((tmp_path / "log").read_text()[-3000:])
            time.sleep(0.2)
        yield ports
        assert process.poll() is None, "the server died"
    finally:
        process.terminate()
        process.wait(60)
        (site / "m2l-checkout.pth").unlink()


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/lesions/ready", timeout=5)
        return bool(answer.status == 200)
    return False


def test_server__answers_its_own_client_over_http_and_grpc(
    python: Path, server: tuple[int, int], tmp_path: Path, m2l: CommandLine
) -> None:
    masks = np.stack([disc(), disc(radius=40.0), np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)])
    np.save(tmp_path / "masks.npy", masks)
    (tmp_path / "masks" / "b").mkdir(parents=True)
    for name, mask in zip(("a", "b/c"), masks, strict=False):
        save(tmp_path / "masks" / f"{name}.png", mask)
    flags = ("--seed", 7, "--backend", "onnxruntime", "--device", "cpu", "--threads", 1)
    assert m2l("synth", tmp_path / "masks", tmp_path / "out", *flags).code == 0
    expected = []
    for name in ("a", "b/c"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            expected.append(np.asarray(picture).astype(int))
    words = [python, CLIENT, server[0], server[1], tmp_path / "masks.npy", tmp_path / "out.npz"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    shown: dict[str, dict[str, Any]] = json.loads(done.stdout)
    with np.load(tmp_path / "out.npz") as file:
        arrays = dict(file)
    for protocol in ("http", "grpc"):
        told = shown[protocol]
        assert told["live"] is told["ready"] is told["after"] is True
        assert told["errors"][0] == ""
        assert told["errors"][1].startswith("mask 1: looks like a photograph")
        assert told["bad seed"] == "seed must be a whole number from 0, got -1"
        assert "names are 2 words" in told["bad names"]
        assert "have no 'shoe_size'" in told["bad appearance"]
        assert "seeds given one by one" in told["seeds and seed"]
        assert "unexpected shape for input 'mask'" in told["bad type"]
        assert "batch-size must be <= 8" in told["too many"]
        named = arrays[f"{protocol}_named"].astype(int)
        assert np.abs(named - np.stack(expected)).max() <= 1  # onnxruntime may be another there
        assert np.array_equal(arrays[f"{protocol}_again"], named)
        assert arrays[f"{protocol}_dark"][0, 0] == 35
        assert not arrays[f"{protocol}_mixed"][1].any()
        assert arrays[f"{protocol}_small"].shape == (1, 256, 256, 3)
        many = arrays[f"{protocol}_many"]
        assert len({one.tobytes() for one in many}) == 16
        assert np.array_equal(many[7], named[0])
    assert np.array_equal(arrays["http_many"], arrays["grpc_many"])
