"""Plans of a bundle, or the cache's, to the one that runs on the card that is there; or why none does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m2l_runtime._utils.text import printable
from m2l_runtime.backends.base import Offer
from m2l_runtime.backends.cuda.devices import Card, card
from m2l_runtime.backends.trt import library as libraries
from m2l_runtime.backends.trt.build import COMPUTE_CAPABILITIES
from m2l_runtime.bundle.schema import Flavour, Manifest, PlanFile, Precision
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled

TRUST: Final = (
    "plans are code, and a bundle's are loaded only where its maker is trusted: --trust-engines (trust_engines=True)"
)

RECIPE: Final = "1"
"""Of how plans are built: raised when that changes, so that older ones are not taken."""


@dataclass(frozen=True)
class Here:
    """What is here to run plans."""

    card: Card
    versions: dict[Flavour, str]
    """Of the flavours that load."""

    @property
    def builder(self) -> Flavour | None:
        """The flavour that builds for this card: TensorRT, which times what it builds, ahead of TensorRT for RTX."""
        if "tensorrt" in self.versions:
            return "tensorrt"
        can = self.card.compute_capability in COMPUTE_CAPABILITIES
        return "tensorrt_rtx" if "tensorrt_rtx" in self.versions and can else None

    def __str__(self) -> str:
        """The card and the libraries, for a message."""
        names = [f"{libraries.TITLES[flavour]} {version}" for flavour, version in self.versions.items()]
        there = " and ".join(names) or "neither TensorRT nor TensorRT for RTX"
        return f"{there} on {printable(self.card.name)} (compute capability {self.card.compute_capability})"


def look_around(index: int = 0) -> Here:
    """The card `index`, then the libraries: these are asked nothing before a card is known to be there.

    Raises:
        DeviceUnavailable: there is no such card.
        EngineNotInstalled: what finds cards is not installed.
    """
    found = card(index)
    versions: dict[Flavour, str] = {}
    for flavour in libraries.installed():
        try:
            versions[flavour] = str(libraries.load(flavour).__version__)
        except EngineNotInstalled:
            continue
    return Here(found, versions)


def mismatch(plan: PlanFile, here: Here) -> str | None:
    """Why a plan does not run here, both sides named; None if it does."""
    title, version = libraries.TITLES[plan.flavour], here.versions.get(plan.flavour)
    if version is None:
        return f"it is for {title}, which is not installed here: {libraries.INSTALL[plan.flavour]}"
    if version != plan.version:
        return f"it is for {title} {printable(plan.version)}, here is {version}"
    if plan.compute_capability != here.card.compute_capability:
        return (
            f"it is for compute capability {plan.compute_capability}, here is {here.card.compute_capability} "
            f"({printable(here.card.name)})"
        )
    if plan.card is not None and plan.card != here.card.name:
        return f"it is for {printable(plan.card)}, here is {printable(here.card.name)}"
    return None


@dataclass(frozen=True)
class Verdict:
    """Whether a bundle's plan loads here."""

    path: str
    loads: bool
    detail: str


def verdicts(manifest: Manifest, index: int = 0) -> list[Verdict]:
    """Of every plan of a bundle. No engine is made, so that nothing of an untrusted plan runs."""
    if not manifest.plans:
        return []
    try:
        here = look_around(index)
    except (DeviceUnavailable, EngineNotInstalled) as error:
        return [Verdict(plan.file.path, False, str(error)) for plan in manifest.plans]
    found = []
    for plan in manifest.plans:
        why = mismatch(plan, here)
        found.append(Verdict(plan.file.path, why is None, f"with --trust-engines, on {here}" if why is None else why))
    return found


@dataclass(frozen=True)
class Search:
    """The plan to take, if there is one, and what there was to say of the others."""

    offer: Offer | None
    reasons: tuple[str, ...]


def find(offers: Sequence[Offer], here: Here, precision: Precision, batch_size: int, is_trusted: bool) -> Search:
    """The first plan of a bundle that runs a batch of this size here, if plans are trusted."""
    reasons: list[str] = []
    for offer in offers:
        plan = offer.entry
        if plan.precision != precision:
            continue
        why = mismatch(plan, here)
        least, _, most = plan.batch_sizes
        if why is None and not least <= batch_size <= most:
            why = f"it takes {least} to {most} masks a call, asked for are {batch_size}"
        if why is None and not is_trusted:
            why = f"it fits, but {TRUST}"
        if why is None:
            return Search(offer, tuple(reasons))
        reasons.append(f"{plan.file.path}: {why}")
    return Search(None, tuple(reasons))


def cache_folder() -> Path:
    """Where the user's own plans are kept: m2l/plans in the system's folder for what can be made again.

    Raises:
        RuntimeError: the user has no home.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local", "m2l", "plans")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if Path(base).is_absolute() else Path.home() / ".cache", "m2l", "plans")


def cache_words(
    here: Here, flavour: Flavour, precision: Precision, batch_size: int, onnx_sha256: str
) -> dict[str, Any]:
    """What a plan is kept under: all that it depends on."""
    return {
        "recipe": RECIPE,
        "model": onnx_sha256,
        "engine": f"{flavour} {here.versions[flavour]}",
        "compute capability": here.card.compute_capability,
        "card": here.card.name,
        "driver": here.card.driver_version,
        "precision": precision,
        "batch size": str(batch_size),
    }
