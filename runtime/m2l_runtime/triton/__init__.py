"""Serve a bundle with Triton Inference Server: write its model repository, and the model in Triton's Python backend.

Nothing of Triton is needed to write a repository; docs/triton.md has the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.triton.repository import TritonModel, TritonOptions, TritonRepository, write_model_repository

_HOMES = {
    "TritonModel": "repository",
    "TritonOptions": "repository",
    "TritonRepository": "repository",
    "write_model_repository": "repository",
}

__all__ = ["TritonModel", "TritonOptions", "TritonRepository", "write_model_repository"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(__name__, _HOMES)
