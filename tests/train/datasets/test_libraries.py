"""The transforms and their examples with the real libraries, in an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support import ROOT

HERE = Path(__file__).resolve().parent
LIBRARIES = ("albumentations", "monai")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with both libraries, and beside them all that this one has, PyTorch foremost; it is not installed anew."""
    folder = tmp_path_factory.mktemp("libraries") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    site = Path(found.stdout.strip())
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint"]
    done = subprocess.run(
        [python, *words, ROOT / "constraints.txt", *LIBRARIES],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    if done.returncode != 0:
        pytest.skip(f"{' and '.join(LIBRARIES)} cannot be had: {done.stderr.strip()[-300:]}")
    assert not (site / "torch").exists(), "PyTorch was installed once more"
    return python


def run(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "train", ""))
    settings = {**os.environ, "PYTHONPATH": paths, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False, timeout=900, cwd=ROOT, env=settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_transforms__with_the_real_library(environment: Path, library: str) -> None:
    options = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--override-ini", "filterwarnings=default")
    done = run(environment, *options, HERE / f"test_{library}.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "shown"),
    [
        ("albumentations", ["(3, 300, 400) (300, 400)", "(4, 3, 256, 256) (4, 256, 256)"]),
        ("monai", ["(4, 3, 300, 400) (4, 1, 300, 400)", "(4, 3, 256, 256) (4, 1, 256, 256)"]),
    ],
)
def test_examples__with_the_real_library(environment: Path, library: str, shown: list[str]) -> None:
    done = run(environment, ROOT / "examples" / f"{library}_pipeline.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == shown


@pytest.mark.slow
def test_transforms__name_what_is_missing(tmp_path: Path) -> None:
    """In a process where neither can be imported."""
    code = (
        "import sys\n"
        f"for name in {LIBRARIES}:\n"
        "    sys.modules[name] = None\n"
        "from m2l_runtime.errors import EngineNotInstalled\n"
        f"for name in {LIBRARIES}:\n"
        "    try:\n"
        "        __import__(f'm2l_train.datasets.{name}')\n"
        "    except EngineNotInstalled as error:\n"
        "        print(error)\n"
    )
    done = run(Path(sys.executable), "-c", code)
    for name, line in zip(LIBRARIES, done.stdout.splitlines(), strict=True):
        assert f"datasets.{name} needs {name}" in line
        assert f'pip install "m2l[{name}]"' in line
