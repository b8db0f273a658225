"""The runtime never sees PyTorch or onnx, and help never sees an engine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "PIL", "msgspec")


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh process after `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports__a_synthesis_loads_neither_torch_nor_onnx() -> None:
    loaded = modules_after(
        "import numpy, m2l_runtime, m2l_runtime.runs.folder, m2l_runtime.cli.progress, m2l_runtime.cli.report\n"
        "with m2l_runtime.Synthesizer.open() as synth:\n"
        "    assert synth(numpy.zeros((1, 256, 256), numpy.uint8)).any()\n"
    )
    assert {"m2l_runtime", "numpy"} <= loaded
    assert {"onnxruntime", "openvino"} & loaded
    assert not {"torch", "onnx", "onnxscript"} & loaded


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_imports__a_synthesis_on_a_cpu_loads_nothing_of_cards(backend: str) -> None:
    """Whose imports a first image would wait for."""
    pytest.importorskip(backend)
    loaded = modules_after(
        "import numpy, m2l_runtime.runs.folder, m2l_runtime.cli.progress, m2l_runtime.cli.report\n"
        f"with m2l_runtime.Synthesizer.open(backend={backend!r}, device='cpu') as synth:\n"
        "    assert synth(numpy.zeros((1, 256, 256), numpy.uint8)).any()\n"
        "unwanted = 'm2l_runtime.backends.cuda', 'm2l_runtime.backends.trt.build'\n"
        "assert not [m for m in sys.modules if m.startswith(unwanted)]\n"
    )
    assert not {"cuda", "tensorrt", "tensorrt_rtx"} & loaded


def test_imports__help_lists_every_verb_and_loads_no_engine() -> None:
    loaded = modules_after(
        "from m2l_runtime.cli.main import main\n"
        "import contextlib, io\n"
        "sys.argv = ['m2l', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "for verb in ('synth', 'inspect', 'verify', 'doctor', 'export'):\n"
        "    assert f'  {verb} ' in out.getvalue(), out.getvalue()\n"
    )
    assert "typer" in loaded
    assert not set(HEAVY) & loaded


def test_imports__every_layer_registers_under_the_entry_point_group() -> None:
    assert {"runtime", "export"} <= {entry.name for entry in entry_points(group="m2l.commands")}


def test_imports__importing_the_package_is_light() -> None:
    assert not set(HEAVY) & modules_after("import m2l_runtime")


@pytest.mark.skipif("M2L_WITHOUT_TORCH" not in os.environ, reason="only in the environment without PyTorch")
def test_imports__this_environment_has_neither_torch_nor_onnx() -> None:
    assert importlib.util.find_spec("torch") is None
    assert importlib.util.find_spec("onnx") is None


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed here")
def test_imports__export_without_torch_names_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from m2l_runtime.cli.main import main; main()", "export", "a.pth", "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert 'pip install "m2l[export,cpu]"' in done.stderr
    assert "Traceback" not in done.stderr
