"""Run each script of examples/ as a user would, with little to do, and look at what it leaves."""

from __future__ import annotations

import ast
import csv
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from preloaded import PreloadedProcess

from m2l_runtime import open_bundle

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FEWEST_LEVELS = 3.0
"""Standard deviation of the pixels of an image that shows something."""


def run(folder: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_preloaded(folder: Path, name: str, *arguments: str) -> str:
    """Run a script that does its own work in the process: PyTorch need not be imported anew."""
    code = (
        "import os, runpy, sys; os.chdir(sys.argv.pop(1)); sys.argv.pop(0)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    process = PreloadedProcess(code, folder, EXAMPLES / name, *arguments)
    assert process.wait() == 0, process.stderr
    return process.stdout


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_examples__are_all_tested_and_short() -> None:
    tested = Path(__file__).read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f'"{script.name}"' in tested, f"{script.name} is not tested"
        assert len(script.read_text().splitlines()) <= 60, script.name


def test_synthesize_folder__pairs_images_with_masks_and_keeps_them(tmp_path: Path) -> None:
    assert "3 images made" in run(tmp_path, "synthesize_folder.py", "out", "shapes:3,seed=2")
    with (tmp_path / "out" / "pairs.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 3
    for row in rows:
        image, mask = pixels(tmp_path / "out" / row["image"]).astype(float), pixels(tmp_path / "out" / row["mask"])
        assert image.shape == (256, 256, 3)
        assert mask.shape == (256, 256)
        # Lesions are darker than skin. If masks and images were swapped among each other, they were not.
        assert image[mask > 127].mean() < image[mask < 128].mean() - FEWEST_LEVELS
    assert (tmp_path / "out" / "sheet.png").exists()
    assert "0 images made, 3 kept" in run(tmp_path, "synthesize_folder.py", "out", "shapes:3,seed=2")


INTEGRATIONS = ("data_loader.py", "written_pairs.py", "albumentations_pipeline.py", "monai_pipeline.py")
MAX_LINES = 15
ELSEWHERE = ("ray_synthesis.py",)
"""Run by tests/runtime/test_ray.py, with Ray."""


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_integrations__are_shown_in_a_few_lines(name: str) -> None:
    """Lines of code, without the docstrings, comments and empty ones."""
    tree = ast.parse((EXAMPLES / name).read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    lines = {line for node in main.body[1:] for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines |= {node.lineno for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)}
    assert len(lines) <= MAX_LINES


@pytest.mark.parametrize("options", [("--pairs",), ("--format", "webdataset"), ("--format", "parquet")])
def test_written_pairs__reads_what_m2l_synth_wrote(tmp_path: Path, m2l: CommandLine, options: tuple[str, ...]) -> None:
    assert m2l("synth", "shapes:5", tmp_path / "out", "--backend", "fake", *options).code == 0
    shown = run_preloaded(tmp_path, "written_pairs.py", "out", "0").splitlines()
    assert shown == ["5 pairs, the first of 000000-circle.png"] * 2


def test_data_loader__gives_pairs_from_worker_processes(tmp_path: Path) -> None:
    lines = run(tmp_path, "data_loader.py", "4", "2").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("4 pairs: lesions ")
    inside, outside = (float(part.split()[1]) for part in lines[0].partition(": ")[2].split(", "))
    assert 0 < inside < outside < 1


def test_own_checkpoint__bundle_is_verified(tmp_path: Path) -> None:
    shown = run_preloaded(tmp_path, "own_checkpoint.py", "bundle")
    assert "agrees" in shown
    assert "one image: (1, 256, 256, 3) uint8" in shown
    assert open_bundle(tmp_path / "bundle").manifest.image_size == (256, 256)


def test_train_small__trains_exports_and_synthesizes(tmp_path: Path) -> None:
    shown = run_preloaded(tmp_path, "train_small.py", "all", "4")
    speed = re.search(r"^4 steps, ([0-9.e+]+) images/s$", shown, re.MULTILINE)
    assert speed is not None
    assert float(speed[1]) > 0
    images = sorted((tmp_path / "all" / "lesions").glob("*.png"))
    assert len(images) == 4
    assert all(pixels(path).shape == (128, 128, 3) and pixels(path).std() > FEWEST_LEVELS for path in images)
    assert len({pixels(path).tobytes() for path in images}) == 4


def test_train_small__a_folder_that_is_there_is_told(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLES / "train_small.py"))["main"]
    with pytest.raises(SystemExit, match="is there already; remove it, or give another folder"):
        main(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
