"""The machine to the number of CPUs this process may really use."""

from __future__ import annotations

import os
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
