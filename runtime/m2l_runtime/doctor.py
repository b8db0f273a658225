"""Report which backends work on this machine, and why the others do not."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._version import __version__
from m2l_runtime.backends.base import BackendOptions
from m2l_runtime.backends.registry import BACKENDS, backend_module, load_backend, read_device
from m2l_runtime.backends.trt import library
from m2l_runtime.backends.trt.build import COMPUTE_CAPABILITIES
from m2l_runtime.backends.trt.plans import detect_environment
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineNotInstalled, M2LError

NEEDED_BY: Final[Mapping[str, tuple[str, ...]]] = {"torch": ("train", "export", "evaluate"), "onnx": ("export",)}
"""Commands that need a package which the runtime does without."""


@dataclass(frozen=True)
class EngineReport:
    """Hold whether a backend runs a bundle on a device here, in one precision."""

    backend: str
    device: str
    precision: str
    loads: bool
    detail: str
    """Engine and version, or why it does not load and what to do."""
    is_fake: bool


def engine_reports(bundle: Bundle) -> list[EngineReport]:
    """Load `bundle` on every backend and device in each precision it has for it, one after the other."""
    reports = []
    for name, entry in BACKENDS.items():
        made_for: list[Precision] = [model.precision for model in bundle.manifest.models if name in model.engines]
        for precision in made_for or ["fp32"]:
            for device in entry.devices:
                loads, detail = _try(bundle, name, device, precision)
                reports.append(EngineReport(name, device, precision, loads, detail, entry.is_fake))
    return reports


def _try(bundle: Bundle, name: str, device: str, precision: Precision) -> tuple[bool, str]:
    """Try a backend: return whether it loads, and the engine with its notes or why it does not load."""
    if BACKENDS[name].runs_plans:
        return _could_run_plans(name, device)
    try:
        backend = load_backend(bundle, name, BackendOptions(device=device, precision=precision))
    except M2LError as error:
        return False, str(error)
    notes = ("a fake: no model is run",) if BACKENDS[name].is_fake else backend.notes
    backend.close()
    return True, backend.settings.engine + "".join(f" ({note})" for note in notes)


def _could_run_plans(name: str, device: str) -> tuple[bool, str]:
    """Look for a GPU and a TensorRT library. No plan is built, as that takes minutes."""
    try:
        backend_module(name)
        environment = detect_environment(read_device(device)[1])
    except M2LError as error:
        return False, str(error)
    if environment.builder is None:
        return False, f"nothing here builds plans for {environment}"
    return True, f"{environment}; builds a plan when it is first used"


def machine_facts() -> dict[str, str]:
    """Collect the versions and sizes that a bug report needs, by name."""
    facts = {
        "m2l": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "usable CPUs": str(usable_cpus()),
    }
    for package in ("numpy", "pillow"):
        facts[package] = _version(package)
    for package, verbs in NEEDED_BY.items():
        there = importlib.util.find_spec(package) is not None
        users = ", ".join(f"`m2l {verb}`" for verb in verbs)
        facts[package] = _version(package) if there else f"not installed (only for {users})"
    facts["TensorRT plans"] = _plans()
    return facts


def _plans() -> str:
    """Say what builds plans here, with or without a GPU."""
    reports = []
    for flavour in library.installed():
        try:
            version_here = library.load(flavour).__version__
        except EngineNotInstalled as error:
            reports.append(str(error))
            continue
        which = "the GPU that is here"
        if flavour == "tensorrt_rtx":
            which = f"compute capability {', '.join(COMPUTE_CAPABILITIES)}, whatever GPU is here"
        reports.append(f"{library.TITLES[flavour]} {version_here} builds them for {which}")
    missing = "; or ".join(f"{library.TITLES[name]}: {how}" for name, how in library.INSTALL.items())
    return (
        "; ".join(reports)
        or f"nothing builds them (only `m2l export --tensorrt` and the backend tensorrt need it): {missing}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
