"""Name the choices that training, export and the manifest of a bundle share."""

from __future__ import annotations

from typing import Literal

Norm = Literal["instance", "batch", "none"]
"""Norm of a network's layers."""

Upsample = Literal["deconv", "resize"]
"""How a generator doubles the side: by transposed convolutions, or by repeating pixels and convolving."""
