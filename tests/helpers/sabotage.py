"""Break the source on purpose, one mistake at a time, and see that the fast tests notice.

    python tests/helpers/sabotage.py [WORD ...]

copies the tree, makes each mistake (or those whose names hold a word) in the copy, runs the fast tests of the files
that are to notice until one fails, and prints the table of docs/testing.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREES = ("runtime", "train", "m2l_export", "tests")
TIMEOUT_S = 900


@dataclass(frozen=True)
class Mistake:
    """Describe one change of the source, and the files of tests that must notice it."""

    name: str
    source: str
    before: str
    after: str
    tests: tuple[str, ...]


MASKS = "runtime/m2l_runtime/masks/mask_file.py"
WRITER = "m2l_export/graph/onnx_writer.py"
LAYERS = "m2l_export/graph/onnx_layers.py"
MODULATED_WRITER = "m2l_export/graph/onnx_modulated.py"
NETWORKS = "train/m2l_train/models/networks.py"
MODULATED = "train/m2l_train/models/modulated.py"
MISTAKES = (
    Mistake(
        "mask flipped top to bottom",
        MASKS,
        "mask=resize(gray, image_size),",
        "mask=resize(gray, image_size)[::-1].copy(),",
        ("tests/runtime/masks/test_mask_file.py",),
    ),
    Mistake(
        "mask shifted by 1 pixel",
        MASKS,
        "mask=resize(gray, image_size),",
        "mask=np.roll(resize(gray, image_size), 1, 1),",
        ("tests/runtime/masks/test_mask_file.py",),
    ),
    Mistake(
        "nearest resize",
        MASKS,
        "PillowImage.Resampling.BICUBIC",
        "PillowImage.Resampling.NEAREST",
        ("tests/runtime/masks/test_mask_file.py",),
    ),
    Mistake(
        "BGR",
        WRITER,
        'y = to.node("Clip", "image.levels", y, 0.0, 255.0)\n',
        'y = to.node("Clip", "image.levels", y, 0.0, 255.0)\n'
        '    y = to.node("Slice", "image.bgr", y, (-1,), (-4,), (1,), (-1,))\n',
        ("tests/export/graph/test_onnx_writer.py",),
    ),
    Mistake(
        "LeakyReLU slope 0.1",
        NETWORKS,
        "LEAKY_RELU_SLOPE: Final = 0.2",
        "LEAKY_RELU_SLOPE: Final = 0.1",
        ("tests/export/test_mutations.py", "tests/train/models/test_networks.py"),
    ),
    Mistake(
        "norm eps 1e-3",
        NETWORKS,
        "NORM_EPS: Final = 1e-5",
        "NORM_EPS: Final = 1e-3",
        ("tests/export/test_mutations.py", "tests/train/models/test_networks.py"),
    ),
    Mistake(
        "scale and shift of an appearance swapped, in the network",
        NETWORKS,
        "    scale, shift = by\n",
        "    shift, scale = by\n",
        ("tests/train/training/test_fast_preset.py",),
    ),
    Mistake(
        "scale and shift of an appearance swapped, in the exported graph",
        WRITER,
        "            scale, shift = (to.cast(",
        "            shift, scale = (to.cast(",
        ("tests/export/graph/test_onnx_writer.py",),
    ),
    Mistake(
        "one dropout bit of eight dropped",
        WRITER,
        "np.array([2.0**-k for k in range(9)], packed.dtype)",
        "np.array([2.0**-k for k in range(8)] + [2.0**-7], packed.dtype)",
        ("tests/export/graph/test_dropout.py", "tests/export/graph/test_onnx_writer.py"),
    ),
    Mistake(
        "stale cache: the model is no part of the key",
        "runtime/m2l_runtime/backends/openvino.py",
        '        "model": source.sha256 or hashlib.sha256(source.content).hexdigest(),\n',
        "",
        ("tests/runtime/backends/test_openvino.py",),
    ),
    Mistake(
        "damaged cache: the hash is not compared",
        "runtime/m2l_runtime/backends/compiled_cache.py",
        "file.readinto(memory) == size and hashlib.sha256(memory).digest() == expected",
        "file.readinto(memory) == size",
        ("tests/runtime/backends/test_compiled_cache.py", "tests/runtime/backends/test_openvino.py"),
    ),
    Mistake(
        "a torn log line is kept",
        "runtime/m2l_runtime/runs/jsonl.py",
        "                _drop_torn_line(self._file)\n",
        "                pass\n",
        ("tests/runtime/runs/test_writers_and_resume.py",),
    ),
    Mistake(
        "a swapped weight: rows and columns of each kernel",
        LAYERS,
        "    return to.initializer(name, to_array(tensor))",
        "    return to.initializer(name, to_array(tensor.transpose(-1, -2) if tensor.ndim == 4 else tensor))",
        ("tests/export/graph/test_onnx_writer.py",),
    ),
    Mistake(
        "outputs of a modulated layer are normalized as if its inputs were not scaled, in the network",
        MODULATED,
        "power = scale.square() @ self",
        "power = torch.ones_like(scale) @ self",
        ("tests/train/models/test_modulated.py",),
    ),
    Mistake(
        "a plane of noise dropped, in the network",
        MODULATED,
        "        y = y + F.conv2d(noise, self.noise_weight, padding=1)\n",
        "        y = y + F.conv2d(noise, self.noise_weight, padding=1) * (self.skip_weight is None)\n",
        ("tests/train/models/test_modulated.py",),
    ),
    Mistake(
        "outputs of a modulated layer are not normalized, in the exported graph",
        MODULATED_WRITER,
        'by = scale if normalizing is None else to.node("Mul", f"ups.{index}.factor", normalizing, scale)',
        "by = scale",
        ("tests/export/graph/test_modulated.py",),
    ),
    Mistake(
        "planes of noise of one side swapped, in the exported graph",
        MODULATED_WRITER,
        "    features = []\n",
        "    planes[:2] = planes[1::-1]\n    features = []\n",
        ("tests/export/graph/test_modulated.py",),
    ),
)


def noticed_by(mistake: Mistake, folder: Path) -> str:
    """Make a mistake in a copy of the tree, and name the first fast test that fails; empty where none does.

    Args:
        mistake: what to change.
        folder: an empty folder, for the copy.

    Raises:
        LookupError: the source does not hold what is to be changed exactly once: renew the mistake.
        RuntimeError: the tests did not run to their end.
    """
    for tree in TREES:
        shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    source = folder / mistake.source
    text = source.read_text()
    if text.count(mistake.before) != 1:
        raise LookupError(f"{mistake.source} holds {text.count(mistake.before)} times: {mistake.before!r}")
    source.write_text(text.replace(mistake.before, mistake.after))
    trees = (folder / "runtime", folder / "train", folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, trees), os.environ.get("PYTHONPATH", "")])
    options = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--basetemp", str(folder / "tmp")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *mistake.tests],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\w+)", done.stdout, re.M)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return failed.group(1)


def main() -> None:
    """Print the table."""
    missed = 0
    print("| mistake | in | noticed by |\n|---|---|---|", flush=True)
    for mistake in MISTAKES:
        if sys.argv[1:] and not any(word in mistake.name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            test = noticed_by(mistake, Path(folder))
        missed += not test
        file, _, name = test.removeprefix("tests/").partition("::")
        print(f"| {mistake.name} | {mistake.source} | {f'{file}: {name}' if test else '**nothing**'} |", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
