"""Hints that say what to install name extras that there are, and work wherever m2l was installed from."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from support import ROOT

PACKAGES = ("runtime/m2l_runtime", "train/m2l_train", "m2l_export")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_install_hints__name_extras_that_there_are() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    hints = [hint for path in SOURCES for hint in re.findall(r'pip install \\?"m2l\[([^\]{]*)\]', path.read_text())]
    assert len(hints) >= 12
    assert {extra for hint in hints for extra in hint.split(",")} <= extras.keys()


def test_install_hints__ask_for_no_checkout() -> None:
    """A wheel that is installed has none."""
    for path in SOURCES:
        assert not re.search(r"pip install '?\.\[|in a checkout", path.read_text()), path


@pytest.mark.slow
def test_wheel__runs_where_nothing_else_is(tmp_path: Path) -> None:
    """Installed by itself in a fresh environment, outside the checkout; the hint for an engine is followed."""

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=900)

    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("m2l-*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    python, m2l = (tmp_path / "fresh" / "bin" / name for name in ("python", "m2l"))
    constraints = ("--constraint", ROOT / "constraints.txt")
    assert run(python, "-m", "pip", "install", "--quiet", *constraints, wheel).returncode == 0
    without = run(m2l, "synth", "shapes:2", "none")
    assert without.returncode == 1
    assert 'pip install "m2l[cpu]"' in without.stderr
    assert run(python, "-m", "pip", "install", "--quiet", *constraints, "m2l[cpu]").returncode == 0
    made = run(m2l, "synth", "shapes:2", "lesions")
    assert made.returncode == 0, made.stderr
    assert len(list((tmp_path / "lesions" / "images").glob("*.png"))) == 2
    assert run(m2l, "verify").returncode == 0
    assert run(m2l, "export", "absent.pth", "x").returncode == 1
