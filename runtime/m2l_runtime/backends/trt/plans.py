"""Find the plan, of a bundle or the cache, that runs on the GPU that is here; or say why none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m2l_runtime._utils.text import printable
from m2l_runtime.backends.base import PlanRef
from m2l_runtime.backends.cache_key import user_folder
from m2l_runtime.backends.cuda.devices import Gpu, find_gpu
from m2l_runtime.backends.trt import library as libraries
from m2l_runtime.backends.trt.build import COMPUTE_CAPABILITIES
from m2l_runtime.bundle.schema import Manifest, PlanFile, Precision, TensorRtVariant
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled

TRUST_ADVICE: Final = (
    "plans are code, and a bundle's are loaded only where its maker is trusted: --trust-plans (trust_plans=True)"
)

CACHE_VERSION: Final = "1"
"""Version of how plans are built: raised when that changes, so that older ones are not taken."""


@dataclass(frozen=True)
class Environment:
    """Describe what is here to run plans."""

    card: Gpu
    versions: dict[TensorRtVariant, str]
    """Versions of the variants that load."""

    @property
    def builder(self) -> TensorRtVariant | None:
        """The variant that builds for this GPU: TensorRT, which times what it builds, before TensorRT for RTX."""
        if "tensorrt" in self.versions:
            return "tensorrt"
        can = self.card.compute_capability in COMPUTE_CAPABILITIES
        return "tensorrt_rtx" if "tensorrt_rtx" in self.versions and can else None

    def __str__(self) -> str:
        """Name the GPU and the libraries, for a message."""
        names = [f"{libraries.TITLES[flavour]} {version}" for flavour, version in self.versions.items()]
        there = " and ".join(names) or "neither TensorRT nor TensorRT for RTX"
        return f"{there} on {printable(self.card.name)} (compute capability {self.card.compute_capability})"


def detect_environment(index: int = 0) -> Environment:
    """Detect GPU `index`, then the libraries: these are asked nothing before a GPU is known to be there.

    Raises:
        DeviceUnavailable: there is no such GPU.
        EngineNotInstalled: what finds GPUs is not installed.
    """
    gpu = find_gpu(index)
    versions: dict[TensorRtVariant, str] = {}
    for flavour in libraries.installed():
        try:
            versions[flavour] = str(libraries.load(flavour).__version__)
        except EngineNotInstalled:
            continue
    return Environment(gpu, versions)


def mismatch(plan: PlanFile, environment: Environment) -> str | None:
    """Say why a plan does not run here, both sides named; None if it does."""
    title, version = libraries.TITLES[plan.flavour], environment.versions.get(plan.flavour)
    if version is None:
        return f"it is for {title}, which is not installed here: {libraries.INSTALL[plan.flavour]}"
    if version != plan.version:
        return f"it is for {title} {printable(plan.version)}, here is {version}"
    if plan.compute_capability != environment.card.compute_capability:
        return (
            f"it is for compute capability {plan.compute_capability}, here is {environment.card.compute_capability} "
            f"({printable(environment.card.name)})"
        )
    if plan.card is not None and plan.card != environment.card.name:
        return f"it is for {printable(plan.card)}, here is {printable(environment.card.name)}"
    return None


@dataclass(frozen=True)
class PlanCompatibility:
    """Hold whether a bundle's plan loads here."""

    path: str
    loads: bool
    detail: str


def check_plans(manifest: Manifest, index: int = 0) -> list[PlanCompatibility]:
    """Check every plan of a bundle. No engine is made, so that nothing of an untrusted plan runs."""
    if not manifest.plans:
        return []
    try:
        environment = detect_environment(index)
    except (DeviceUnavailable, EngineNotInstalled) as error:
        return [PlanCompatibility(plan.file.path, False, str(error)) for plan in manifest.plans]
    results = []
    for plan in manifest.plans:
        why = mismatch(plan, environment)
        results.append(
            PlanCompatibility(
                plan.file.path, why is None, f"with --trust-plans, on {environment}" if why is None else why
            )
        )
    return results


@dataclass(frozen=True)
class PlanSearch:
    """Hold the plan to take, if there is one, and what there was to say of the others."""

    plan_ref: PlanRef | None
    reasons: tuple[str, ...]


def find_plan(
    plan_refs: Sequence[PlanRef], environment: Environment, precision: Precision, batch_size: int, is_trusted: bool
) -> PlanSearch:
    """Find the first plan of a bundle that runs a batch of this size here, if plans are trusted."""
    reasons: list[str] = []
    for plan_ref in plan_refs:
        plan = plan_ref.entry
        if plan.precision != precision:
            continue
        why = mismatch(plan, environment)
        least, _, most = plan.batch_sizes
        if why is None and not least <= batch_size <= most:
            why = f"it takes {least} to {most} masks a call, asked for are {batch_size}"
        if why is None and not is_trusted:
            why = f"it fits, but {TRUST_ADVICE}"
        if why is None:
            return PlanSearch(plan_ref, tuple(reasons))
        reasons.append(f"{plan.file.path}: {why}")
    return PlanSearch(None, tuple(reasons))


def cache_folder() -> Path:
    """Return where the user's own plans are kept: m2l/plans in the system's cache folder.

    Raises:
        RuntimeError: the user has no home.
    """
    return user_folder() / "plans"


def plan_cache_key(
    environment: Environment, flavour: TensorRtVariant, precision: Precision, batch_size: int, onnx_sha256: str
) -> dict[str, Any]:
    """Return the words that a plan is kept under: all that it depends on."""
    return {
        "recipe": CACHE_VERSION,
        "model": onnx_sha256,
        "engine": f"{flavour} {environment.versions[flavour]}",
        "compute capability": environment.card.compute_capability,
        "card": environment.card.name,
        "driver": environment.card.driver_version,
        "precision": precision,
        "batch size": str(batch_size),
    }
