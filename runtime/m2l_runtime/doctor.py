"""A machine to a report of what works on it and why the rest does not."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from m2l_runtime._version import __version__
from m2l_runtime.backends import BACKENDS, BackendOptions, load_backend
from m2l_runtime.bundle import Bundle
from m2l_runtime.cpu import usable_cpus
from m2l_runtime.errors import M2LError


@dataclass(frozen=True)
class EngineReport:
    """Whether a backend runs a bundle on a device here."""

    backend: str
    device: str
    loads: bool
    detail: str
    """Engine and version, or why it does not load and what to do."""
    is_fake: bool


def engine_reports(bundle: Bundle) -> list[EngineReport]:
    """Load `bundle` on every backend and device, one after the other."""
    reports = []
    for name, entry in BACKENDS.items():
        for device in entry.devices:
            try:
                backend = load_backend(bundle, name, BackendOptions(device=device))
            except M2LError as error:
                reports.append(EngineReport(name, device, False, str(error), entry.is_fake))
                continue
            detail = backend.settings.engine + (" (a fake: no model is run)" if entry.is_fake else "")
            backend.close()
            reports.append(EngineReport(name, device, True, detail, entry.is_fake))
    return reports


def machine_facts() -> dict[str, str]:
    """Versions and sizes that a bug report needs, by name."""
    facts = {
        "m2l": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "usable CPUs": str(usable_cpus()),
    }
    for package in ("numpy", "pillow"):
        facts[package] = _version(package)
    for package, users in (("torch", "`m2l train` and `m2l export` need"), ("onnx", "`m2l export` needs")):
        there = importlib.util.find_spec(package) is not None
        facts[package] = _version(package) if there else f"not installed (only {users} it)"
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
