"""Take the Sphinx roles out of docstrings on the pages of the reference; `mkdocs.yml` loads this."""

from __future__ import annotations

import re
from typing import Any, Final

_ROLE: Final = re.compile(r":(?:func|class|data|meth|attr|mod):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Remove ``:func:`` and the like ahead of code."""
    return _ROLE.sub("", html)
