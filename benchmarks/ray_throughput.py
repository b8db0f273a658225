"""Compare two actors of Ray Data with the plain command: images per second after start-up, by turns.

    python benchmarks/ray_throughput.py [MASKS] [ROUNDS]

Both write tars of the same masks with the same seed, and the tars are compared. Beside wall time, which depends on what
else the machine does, it prints CPU seconds an image of the processes that synthesize. m2l is installed there, with the
extras `cpu` and `ray`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import ray
import ray.data

from m2l_runtime import OutputOptions
from m2l_runtime.ray_data import EngineOptions, LesionFileWriter, plan_files

BACKEND = "onnxruntime"
PER_FILE = 100
ACTORS = 2


class TimedWriter(LesionFileWriter):
    """Note when the engine is open, and CPU seconds since then."""

    def __init__(self, notes: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._path = Path(notes) / str(os.getpid())
        self._ready, self._cpu = time.time(), time.process_time()
        self._note()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """Write files, and note CPU seconds."""
        rows = super().__call__(batch)
        self._note()
        return rows

    def _note(self) -> None:
        self._path.write_text(json.dumps([self._ready, time.time(), time.process_time() - self._cpu]))


def run_ray(masks: Path, out: Path) -> tuple[float, float]:
    """Return images per second from the time on when all actors are ready, and CPU seconds of actors an image."""
    options = OutputOptions(format="webdataset", masks_per_file=PER_FILE)
    files = plan_files(masks, out, options)
    with tempfile.TemporaryDirectory() as notes:
        rows = ray.data.from_items(files, override_num_blocks=len(files)).map_batches(
            TimedWriter,
            fn_constructor_args=(notes, str(masks), str(out)),
            fn_constructor_kwargs={"options": options, "engine": EngineOptions(backend=BACKEND, device="cpu")},
            compute=ray.data.ActorPoolStrategy(size=ACTORS),
            batch_size=1,
            num_cpus=1,
        )
        count = sum(row["error"] is None for row in rows.iter_rows())
        ready, last, cpu = zip(*(json.loads(path.read_text()) for path in Path(notes).iterdir()), strict=True)
    return count / (max(last) - max(ready)), sum(cpu) / count


def run_plain(masks: Path, out: Path) -> tuple[float, float]:
    """Return images per second of `m2l synth`, as its summary tells it, and its CPU seconds an image, start and all."""
    words = [
        "synth",
        masks,
        out,
        "--format",
        "webdataset",
        "--masks-per-file",
        PER_FILE,
        "--backend",
        BACKEND,
        "--json",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "m2l_runtime", *map(str, words), "--device", "cpu", "--threads", str(ACTORS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(summary["images_per_s"]), cpu / int(summary["images"])


def main(count: str = "2000", rounds: str = "2") -> None:
    """Run both by turns, and print what came of each and their ratios as JSON."""
    ray.init(num_cpus=ACTORS, logging_level="ERROR")
    turns: dict[str, list[tuple[float, float]]] = {"plain": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "masks"
        words = [sys.executable, "-m", "m2l_runtime", "masks", "shapes", masks, "--count", count]
        subprocess.run(list(map(str, words)), check=True, capture_output=True)
        hashes = {}
        for _ in range(int(rounds)):
            for name, run in (("plain", run_plain), ("ray", run_ray)):
                out = Path(folder) / name
                turns[name].append(run(masks, out))
                print(name, *turns[name][-1], file=sys.stderr, flush=True)
                files = sorted(out.glob("*.tar"))
                hashes[name] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
                size = sum(path.stat().st_size for path in files)
                shutil.rmtree(out)
    speeds = {name: [speed for speed, _ in one] for name, one in turns.items()}
    cpu = {name: [seconds for _, seconds in one] for name, one in turns.items()}
    report = {
        "masks": int(count),
        "images_per_s": speeds,
        "cpu_s_per_image": cpu,
        "ratio_images_per_s": sum(speeds["ray"]) / sum(speeds["plain"]),
        "ratio_images_per_cpu_s": sum(cpu["plain"]) / sum(cpu["ray"]),
        "tars_are_equal": hashes["plain"] == hashes["ray"],
        "tar_bytes_per_image": size / int(count),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
