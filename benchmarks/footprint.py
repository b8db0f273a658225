"""Measure what the command line costs before any work: CPU seconds of `m2l --help`, size of the environment.

    make demo && .venv-demo/bin/python benchmarks/footprint.py

Prints one line of JSON. The environment is the one of the Python that runs this; pip, setuptools and the bundle
inside the package are left out of its size.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 7
EXCLUDED = ("pip", "setuptools", "_distutils_hack", "pkg_resources")


def help_cpu_s(m2l: Path) -> list[float]:
    """Measure user plus system CPU seconds of each of `RUNS` runs of `m2l --help`, after one that is not counted."""
    seconds = []
    for _ in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([m2l, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return seconds[1:]


def environment_bytes(prefix: Path) -> int:
    """Count bytes of all files below `prefix`, each counted once, less what is left out."""
    total = 0
    for folder, folders, files in os.walk(prefix):
        folders[:] = [f for f in folders if not f.startswith(EXCLUDED)]
        if Path(folder).parts[-3:] == ("m2l_runtime", "data", "bundle"):
            continue
        total += sum(Path(folder, f).lstat().st_size for f in files)
    return total


def main() -> None:
    m2l = Path(sys.prefix) / "bin" / "m2l"
    if not m2l.exists():
        sys.exit(f"{m2l} is not there; run this with the Python of an environment that has m2l")
    seconds = help_cpu_s(m2l)
    print(
        json.dumps(
            {
                "benchmark": "footprint",
                "python": platform.python_version(),
                "machine": platform.machine(),
                "help_cpu_s_median": round(statistics.median(seconds), 4),
                "help_cpu_s_max": round(max(seconds), 4),
                "environment_megabytes": round(environment_bytes(Path(sys.prefix)) / 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
