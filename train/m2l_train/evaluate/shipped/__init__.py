"""Hold the segmenter inside the package: a file of tensors, the same in ONNX, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHIPPED_SEGMENTER: Final = Path(__file__).resolve().parent / "segmenter.pt"
"""File of the segmenter inside the package, weights in half precision; `segmenter.onnx` and the card lie beside it.

Example:
    >>> SHIPPED_SEGMENTER.name, SHIPPED_SEGMENTER.with_suffix(".onnx").is_file()
    ('segmenter.pt', True)
"""
