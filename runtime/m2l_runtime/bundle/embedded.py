"""Locate the model and the example masks inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DATA: Final = Path(__file__).resolve().parent.parent / "data"

BUNDLE: Final = _DATA / "bundle"
"""The bundle that is used when none is given."""

EXAMPLE_MASKS: Final = _DATA / "masks"
"""A dozen drawn masks, 1-bit PNG, written by scripts/draw_example_masks.py."""
