"""A plan that a bundle has, as it is handed to who may load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from m2l_runtime.bundle import PlanFile

BUNDLES_PLAN: Final = "runs the bundle's plan"
"""What a backend notes that does."""


@dataclass(frozen=True)
class Offer:
    """A plan that a bundle has."""

    entry: PlanFile
    read: Callable[[], bytes]
    """Its bytes, once their hash was checked."""
