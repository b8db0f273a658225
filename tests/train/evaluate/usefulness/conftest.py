"""Data and a bundle that tests of the usefulness experiment share."""

from __future__ import annotations

from pathlib import Path

import pytest
from usefulness_data import write_bundle_of_fakes, write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("usefulness") / "data")


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle_of_fakes(tmp_path_factory.mktemp("usefulness") / "bundle")
