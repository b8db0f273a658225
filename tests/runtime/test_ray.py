"""The callables in Ray Data itself, with two actors, in an environment that has Ray."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from command_line import CommandLine
from support import ROOT, disc, save

pytestmark = pytest.mark.slow
TAR_FLAGS = ("--format", "webdataset", "--threads", 1, "--streams", 1)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with Ray: this one, that of M2L_RAY_PYTHON, or a new environment beside this one."""
    if importlib.util.find_spec("ray") is not None:
        return Path(sys.executable)
    if "M2L_RAY_PYTHON" in os.environ:
        return Path(os.environ["M2L_RAY_PYTHON"])
    folder = tmp_path_factory.mktemp("ray") / "venv"
    venv.create(folder, with_pip=True)
    own = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([own, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ray[data]>=2.50", "pyarrow>=20"]
    done = subprocess.run([own, *words], capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode != 0:
        pytest.skip(f"Ray cannot be had: {done.stderr.strip()[-300:]}")
    return own


def run(python: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with Ray and the sources of this checkout."""
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "runtime"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    words = [str(python), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, cwd=folder, env=settings)


def hashes(folder: Path, pattern: str = "*.tar") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def test_example__two_actors_write_the_tars_of_one_run(python: Path, tmp_path: Path, m2l: CommandLine) -> None:
    assert m2l("synth", "shapes:12", tmp_path / "out", "--backend", "fake", *TAR_FLAGS, "--masks-per-file", 4).code == 0
    example = ROOT / "examples" / "ray_synthesis.py"
    done = run(python, tmp_path, example, "shapes:12", "ray", 2, 4, "fake")
    assert done.returncode == 0, done.stderr
    assert "12 images in 3 tars, 0 masks skipped" in done.stdout
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "out") != {}


ROWS = """
import json, sys
from pathlib import Path
import numpy as np, ray, ray.data
from m2l_runtime.ray_data import EngineOptions, LesionSynthesizer

ray.init(num_cpus=2, logging_level="ERROR")
folder = Path(sys.argv[1])
rows = ray.data.read_binary_files(str(folder), include_paths=True, override_num_blocks=4)
rows = rows.map(lambda row: {"name": row["path"].rpartition("/")[2], "mask": row["bytes"]})
made = rows.map_batches(
    LesionSynthesizer,
    fn_constructor_kwargs={"seed": 3, "engine": EngineOptions(backend="fake")},
    compute=ray.data.ActorPoolStrategy(size=2),
    batch_size=3,
    num_cpus=0.5,
)
made.write_parquet("made")
back = ray.data.read_parquet("made")
for row in back.take_all():
    image = row["image"]
    (Path("images") / row["name"]).write_bytes(image or b"")
    print(json.dumps([row["name"], row["seed"], row["note"], row["error"]]))
"""


def test_rows__bad_masks_are_rows_with_an_error(python: Path, tmp_path: Path, m2l: CommandLine) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    for number in range(10):
        save(tmp_path / "masks" / f"{number}.png", disc(64, 5 + number, 30, 30))
    (tmp_path / "masks" / "bad.png").write_bytes(b"no picture")
    assert m2l("synth", tmp_path / "masks", tmp_path / "out", "--backend", "fake", "--seed", 3).code == 3
    (tmp_path / "rows.py").write_text(ROWS)
    done = run(python, tmp_path, "rows.py", tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    rows = {row[0]: row for row in map(json.loads, done.stdout.splitlines())}
    assert len(rows) == 11
    assert rows["bad.png"][3].startswith("bad.png: is not a PNG")
    assert all(row[3] is None and row[1] > 0 for name, row in rows.items() if name != "bad.png")
    assert (tmp_path / "images" / "bad.png").read_bytes() == b""
    (tmp_path / "images" / "bad.png").unlink()
    assert hashes(tmp_path / "images", "*.png") == hashes(tmp_path / "out", "*.png")


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
import ray, ray.data
from m2l_runtime import OutputOptions
from m2l_runtime.ray_data import EngineOptions, LesionFileWriter, plan_files

out, pids = Path(sys.argv[1]), Path(sys.argv[2])

class Slow(LesionFileWriter):
    '''Wait amid each file, so that a kill finds one under way, and say which process this is.'''

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        (pids / str(os.getpid())).touch()

    def __call__(self, batch):
        time.sleep(0.3)
        return super().__call__(batch)

def kill():
    while len(list(out.glob("*.tar"))) < 2:
        time.sleep(0.05)
    victim = sorted(pids.iterdir())[0]
    os.kill(int(victim.name), signal.SIGKILL)
    print("killed", victim.name, flush=True)

ray.init(num_cpus=2, logging_level="ERROR")
options = OutputOptions(format="webdataset", masks_per_file=5)
rows = plan_files("shapes:100", out, options)
killer = threading.Thread(target=kill)
killer.start()
made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
    Slow,
    fn_constructor_args=("shapes:100", str(out)),
    fn_constructor_kwargs={"options": options, "engine": EngineOptions(backend="fake")},
    compute=ray.data.ActorPoolStrategy(size=2),
    batch_size=1,
    num_cpus=1,
)
names = sorted(row["name"] for row in made.iter_rows())
killer.join()
print(len(names), len(set(names)), len(list(pids.iterdir())))
"""


def test_killed_worker__the_run_is_completed(python: Path, tmp_path: Path, m2l: CommandLine) -> None:
    flags = ("--backend", "fake", *TAR_FLAGS, "--masks-per-file", 5)
    assert m2l("synth", "shapes:100", tmp_path / "out", *flags).code == 0
    (tmp_path / "ray").mkdir()
    (tmp_path / "pids").mkdir()
    (tmp_path / "killed.py").write_text(KILLED)
    done = run(python, tmp_path, "killed.py", tmp_path / "ray", tmp_path / "pids")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("killed ")] != []
    assert "100 100 3" in lines, "three processes: two, and the one in the place of the killed"  # amid words of Ray's
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "out") != {}
    assert [path.name for path in (tmp_path / "ray").glob(".m2l-*.partial")] == []


def test_lost_bundle__is_reported_and_no_rows_are_made(python: Path, tmp_path: Path) -> None:
    code = (
        "import ray, ray.data\n"
        "from m2l_runtime.ray_data import LesionSynthesizer\n"
        "ray.init(num_cpus=1, logging_level='ERROR')\n"
        "rows = ray.data.from_items([{'name': 'a', 'mask': b''}])\n"
        "actors = ray.data.ActorPoolStrategy(size=1)\n"
        "rows.map_batches(LesionSynthesizer, fn_constructor_args=('absent',), compute=actors).take_all()\n"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode != 0
    assert "BundleNotFound" in done.stderr
    assert "absent does not exist" in done.stderr


def test_rows__arrays_of_masks(python: Path, tmp_path: Path) -> None:
    """Ray hands arrays of one size over as one block."""
    code = (
        "import numpy as np, ray, ray.data\n"
        "from m2l_runtime.ray_data import EngineOptions, LesionSynthesizer\n"
        "ray.init(num_cpus=1, logging_level='ERROR')\n"
        "masks = np.zeros((3, 32, 32), np.uint8); masks[:, 8:20, 8:20] = 255\n"
        "rows = ray.data.from_items([{'name': str(i), 'mask': mask} for i, mask in enumerate(masks)])\n"
        "actors = ray.data.ActorPoolStrategy(size=1)\n"
        "made = rows.map_batches(LesionSynthesizer, fn_constructor_kwargs={'engine': EngineOptions(backend='fake')},"
        " compute=actors)\n"
        "print([row['image'][:4] for row in made.take_all()])\n"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([b"\x89PNG"] * 3)
