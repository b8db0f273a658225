"""The fast tests notice each mistake that is made on purpose in a copy of the source."""

from __future__ import annotations

from pathlib import Path

import pytest
from sabotage import MISTAKES, Mistake, noticed_by


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_sabotage__is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert noticed_by(mistake, tmp_path)
