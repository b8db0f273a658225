"""A bundle whose images tell what went into them."""

from __future__ import annotations

import pytest
from steered_bundle import steered_bundle

from m2l_runtime.bundle.io import Bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its images are the mask in red, the appearance in green and the bits in blue."""
    return steered_bundle(tmp_path_factory.mktemp("datasets") / "bundle")
