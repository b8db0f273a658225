"""A file to its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a plain file; None if it is none, or cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for somebody to write to it
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
