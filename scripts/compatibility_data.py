"""Make tests/data/before-0.2: a bundle, a run of `m2l train` and runs of `m2l synth`, by the m2l that is installed.

tests/test_compatibility.py opens and resumes them with the m2l of today. Run it with m2l 0.1.0; the commands are in
tests/data/before-0.2/README.md.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

M2L = "from importlib.metadata import entry_points as e; next(iter(e(group='console_scripts', name='m2l'))).load()()"

TRAIN = [
    "--image-size",
    "128",
    "--ngf",
    "1",
    "--ndf",
    "1",
    "--appearance",
    "--ema",
    "0.9",
    "--n-epochs",
    "2",
    "--n-epochs-decay",
    "1",
    "--seed",
    "3",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--no-tensorboard",
]
STEPS, STEPS_RESUMED = 7, 9
SYNTH = ["--seed", "7", "--samples", "2", "--batch-size", "1", "--threads", "1", "--streams", "1"]
ASKED = "lesion_L=35,skin_a=12"


def m2l(*arguments: str | Path, expected: int = 0) -> None:
    """Run the command line in a process of its own."""
    done = subprocess.run([sys.executable, "-P", "-c", M2L, *map(str, arguments)], check=False)  # noqa: S603
    if done.returncode != expected:
        sys.exit(f"m2l {' '.join(map(str, arguments))}: exit status {done.returncode}, expected {expected}")


def draw_masks(folder: Path) -> None:
    """Three masks of different sizes, and a file that is none."""
    folder.mkdir()
    for name, (height, width), radius in (
        ("a_small", (128, 128), 20),
        ("c_large", (96, 128), 40),
        ("d", (150, 150), 50),
    ):
        rows, columns = np.ogrid[:height, :width]
        inside = np.hypot(rows - height * 0.45, columns - width * 0.55) < radius
        Image.fromarray(np.where(inside, np.uint8(255), np.uint8(0))).save(folder / f"{name}.png")
    (folder / "b_broken.png").write_bytes(b"not an image")


def chunks(png: bytes) -> list[tuple[str, bytes]]:
    """(type, content) of each chunk of a PNG file."""
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8].decode(), png[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def pixels_sha256(path: Path) -> str:
    """SHA-256 of the RGB bytes of an image."""
    with Image.open(path) as image:
        return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "m2l-log.jsonl").read_text().splitlines()]


def make_training_run(out: Path, work: Path) -> dict[str, Any]:
    """Train a few steps into `out`, go on in a copy, and return what going on gives."""
    import torch

    data_folder = importlib.import_module("photographs").data_folder  # of the tests of then

    data = data_folder(work / "data", 5, 2)
    m2l("train", data, out / "run", *TRAIN, "--max-steps", str(STEPS))
    shutil.rmtree(out / "run" / "grids")  # noisy pictures, which nothing reads
    (out / "run" / ".m2l-lock").unlink(missing_ok=True)
    resumed = shutil.copytree(out / "run", work / "run")
    m2l("train", data, resumed, "--resume", "--max-steps", str(STEPS_RESUMED), "--threads", "1", "--no-tensorboard")
    weights = torch.load(resumed / "latest_net_G.pth", weights_only=True)
    return {
        "metrics": [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()],
        "weights": {name: [float(v) for v in tensor.flatten()[:8]] for name, tensor in weights.items()},
    }


def make_half_of_a_png_run(out: Path, work: Path) -> dict[str, Any]:
    """Synthesize PNG files, keep half of them as a kill would leave them, and return what the whole run gives."""
    whole = work / "png"
    m2l(
        "synth",
        out / "masks",
        whole,
        "--bundle",
        out / "bundle",
        "--backend",
        "onnxruntime",
        "--pairs",
        *SYNTH,
        expected=3,
    )
    half = out / "synth-png"
    lines = (whole / "m2l-log.jsonl").read_bytes().splitlines(keepends=True)
    torn = next(i for i, line in enumerate(lines) if b'"c_large_sample2' in line)
    (half / "images").mkdir(parents=True)
    (half / "masks").mkdir()
    for line in lines[: torn + 1]:  # the image of the torn line is there, as files come ahead of their lines
        record = json.loads(line)
        for output in filter(None, (record.get("output"), record.get("mask_output"))):
            shutil.copy(whole / output, half / output)
    (half / "m2l-log.jsonl").write_bytes(b"".join(lines[:torn]) + lines[torn][:200])
    images: dict[str, Any] = {}
    for record in log_lines(whole):
        if "output" in record and not (half / record["output"]).exists():
            with Image.open(whole / record["output"]) as image:
                images[record["output"]] = np.asarray(image)
    np.savez_compressed(out / "missing-images.npz", allow_pickle=False, **images)
    return {"log": log_lines(whole), "pairs": (whole / "pairs.csv").read_text().splitlines()}


def make_half_of_a_tar_run(out: Path, work: Path) -> dict[str, Any]:
    """Synthesize two tars, keep the first, and return the headers of both."""
    whole, half = work / "tar", out / "synth-webdataset"
    options = ["--format", "webdataset", "--masks-per-file", "4"]
    m2l(
        "synth",
        out / "masks",
        whole,
        "--bundle",
        out / "bundle",
        "--backend",
        "onnxruntime",
        *options,
        *SYNTH,
        expected=3,
    )
    first, *others = sorted(whole.glob("*.tar"))
    half.mkdir()
    shutil.copy(first, half)
    kept = [line for line in (whole / "m2l-log.jsonl").read_text().splitlines(True) if others[0].name not in line]
    (half / "m2l-log.jsonl").write_text("".join(kept))
    members = {}
    for path in (first, *others):
        with tarfile.open(path) as tar:
            members[path.name] = [(m.name, m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in tar.getmembers()]
    return {"log": log_lines(whole), "members": members}


def fake_images(out: Path, work: Path) -> dict[str, Any]:
    """Synthesize with the backend that runs no model: pixels that are the same on every machine."""
    found: dict[str, Any] = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for name, options in (("drawn", []), ("asked", ["--appearance", ASKED])):
        folder = work / name
        m2l(
            "synth",
            out / "masks",
            folder,
            "--bundle",
            out / "bundle",
            "--backend",
            "fake",
            *SYNTH,
            *options,
            expected=3,
        )
        found[name] = {path.name: pixels_sha256(path) for path in sorted(folder.glob("*.png"))}
    png = chunks((work / "drawn" / "a_small_sample1.png").read_bytes())
    compressed = b"".join(content for kind, content in png if kind == "IDAT")
    found["png"] = {
        "chunks": [kind for kind, _ in png],
        "header": png[0][1].hex(),
        "keywords": [content.split(b"\0")[0].decode() for kind, content in png if kind in ("tEXt", "zTXt", "iTXt")],
        "filtered_sha256": hashlib.sha256(zlib.decompress(compressed)).hexdigest(),
        "compressed_sha256": hashlib.sha256(compressed).hexdigest(),
    }
    return found


def main() -> None:
    """Make the folder given as the one argument; what it held, but for its README, is replaced."""
    out = Path(sys.argv[1])
    for path in out.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "README.md":
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    draw_masks(out / "masks")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        expected: dict[str, Any] = {"train": make_training_run(out, work)}
        m2l("export", out / "run", out / "bundle", "--stochastic", "--name", "before 0.2")
        expected["png"] = make_half_of_a_png_run(out, work)
        expected["webdataset"] = make_half_of_a_tar_run(out, work)
        expected["fake"] = fake_images(out, work)
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for lock in out.rglob(".m2l-*lock"):
        lock.unlink()


if __name__ == "__main__":
    main()
