"""The machine to the CPUs this process may really use, and the memory it has used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """CPUs in this process's affinity mask, or fewer where a container's CPU quota is lower; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        count = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, count if quota is None else min(count, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs that the control group allows (cpu.max of version 2, cpu.cfs_* of version 1); None: no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text() for name in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such version here, or the word "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def peak_memory_megabytes() -> float | None:
    """Most memory this process has held so far, in 10^6 bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
