"""The reference of the Python API has what the packages export, and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "package"), [("runtime", "m2l_runtime"), ("train", "m2l_train"), ("export", "m2l_export")]
)
def test_api_page__has_every_public_name(page: str, package: str) -> None:
    listed = re.findall(rf"^::: {package}\.(\w+)$", (DOCS / "api" / f"{page}.md").read_text(), re.M)
    public = importlib.import_module(package).__all__
    assert sorted(listed) == sorted(set(public) - {"__version__"})


def test_mkdocs__lists_every_page() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (DOCS.parent / "mkdocs.yml").read_text()))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
