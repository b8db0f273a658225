"""Let tests whose subject is no engine export for onnxruntime alone: OpenVINO's part is half of what a gate costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from m2l_runtime.backends import registry


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide OpenVINO from a test."""
    _hide_openvino(monkeypatch)


@pytest.fixture(scope="module")
def only_onnxruntime() -> Iterator[None]:
    """Hide OpenVINO from all tests of a module, and from what they share."""
    with pytest.MonkeyPatch.context() as patch:
        _hide_openvino(patch)
        yield


def _hide_openvino(patch: pytest.MonkeyPatch) -> None:
    real = registry.is_installed
    patch.setattr(registry, "is_installed", lambda entry: "openvino" not in entry.packages and real(entry))
