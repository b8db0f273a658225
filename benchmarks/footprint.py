"""Measure what the command line costs before any work: CPU seconds of `m2l --help`, size of the environment.

    make demo && .venv-demo/bin/python benchmarks/footprint.py

Prints one line of JSON. The environment is the one of the Python that runs this, which needs no more than Python; pip,
setuptools and the bundle inside the package are left out of its size.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

RUNS: Final = 7
EXCLUDED: Final = ("pip", "setuptools", "_distutils_hack", "pkg_resources")


def help_cpu_s(m2l: Path) -> list[float]:
    """Measure user plus system CPU seconds of each of `RUNS` runs of `m2l --help`, after one that is not counted."""
    totals = []
    for _ in range(RUNS + 1):
        subprocess.run([m2l, "--help"], check=True, stdout=subprocess.DEVNULL)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        totals.append(usage.ru_utime + usage.ru_stime)
    return [after - before for before, after in itertools.pairwise(totals)]


def environment_bytes(prefix: Path) -> int:
    """Count bytes of all files below `prefix`, less what is left out."""
    total = 0
    for folder, folders, files in os.walk(prefix):
        folders[:] = [name for name in folders if not name.startswith(EXCLUDED)]
        if Path(folder).parts[-3:] != ("m2l_runtime", "data", "bundle"):
            total += sum(Path(folder, name).lstat().st_size for name in files)
    return total


def main() -> None:
    m2l = Path(sys.prefix) / "bin" / "m2l"
    if not m2l.exists():
        sys.exit(f"{m2l} is not there; run this with the Python of an environment that has m2l")
    seconds = help_cpu_s(m2l)
    facts = {
        "benchmark": "footprint",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "help_cpu_s_median": round(statistics.median(seconds), 4),
        "help_cpu_s_max": round(max(seconds), 4),
        "environment_megabytes": round(environment_bytes(Path(sys.prefix)) / 1e6, 1),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
