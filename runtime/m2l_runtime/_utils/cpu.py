"""Find the processor, the CPUs that this process may use, and the memory it has used."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Final

from m2l_runtime.errors import ArgumentError

_CGROUP = Path("/sys/fs/cgroup")

MAX_STREAMS = 16
"""Most engine calls at once unless more are asked for; each holds the network's activations."""


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Count the CPUs in this process's affinity mask, or fewer where a container's quota is lower; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS, Windows, sandboxes
        count = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, count if quota is None else min(count, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Read how many CPUs the control group allows (cpu.max in version 2, cpu.cfs_* in version 1); None: no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / name).read_text() for name in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such version here, or the word "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def share_threads(threads: int | None, streams: int | None) -> tuple[int, int]:
    """Divide threads among engine calls that run at once.

    Calls of one thread never wait for one another. On two cores, two of them at once gave more images/s than one call
    of two threads (docs/bulk.md).

    Args:
        threads: in all; None: as many as CPUs.
        streams: calls at once; None: as many as threads, at most `MAX_STREAMS`.

    Returns:
        (threads of each call, calls at once).
    """
    total = threads or usable_cpus()
    streams = min(total, MAX_STREAMS) if streams is None else streams
    return max(1, total // streams), streams


_INT8_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})


def instructions() -> frozenset[str]:
    """List the processor's instruction sets by Linux's names, such as avx512_vnni; empty where unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    words = next((line.split(":", 1)[1] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(words.split())


def lacks_int8_products() -> bool:
    """Tell whether the processor is known to lack int8 dot products (VNNI, AMX, Arm's dot)."""
    known = instructions()
    return bool(known) and not known & _INT8_PRODUCTS


def cpu_model() -> str:
    """Return the processor's name, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory_megabytes() -> float | None:
    """Return the most memory this process has held so far, in 10^6 bytes; None where unknown."""
    try:  # getrusage would on Linux also count what the process that started this one held at that moment
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6, 1)
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def check_workers(workers: int | None) -> None:
    """Check that a number of threads is in range, or None.

    Raises:
        InputError: it is below 1 or above 1024.
    """
    if workers is not None and not 1 <= workers <= 1024:
        raise ArgumentError(f"the number of workers must be between 1 and 1024, got {workers}")
