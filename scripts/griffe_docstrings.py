"""Bring docstrings into the shape that the reference is made from; `mkdocs.yml` loads this."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:func|class|data|meth|attr|mod):(?=`)")
_EXAMPLE: Final = re.compile(r"^Example:$", re.M)


class Docstrings(griffe.Extension):  # type: ignore[misc]  # griffe is not where mypy runs
    """Head examples as the parser wants it, and drop Sphinx roles ahead of code."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of an object that has been read."""
        if obj.docstring is not None:
            text = _ROLE.sub("", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)
