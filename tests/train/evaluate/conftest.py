"""Data and a small segmenter that tests of evaluation share, so that each is made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_data import masks, write, write_data
from synthetic_data import photograph

from m2l_train.evaluate.training import train_segmenter


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations compute no ImageNet features, whether the weights are installed or not: a second for 16 images."""
    monkeypatch.setattr("m2l_train.models.efficientnet_lite.weights_path", lambda version: None)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluate") / "data")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other photographs of the masks of the val split."""
    images = np.stack([photograph(mask, 500 + n) for n, mask in enumerate(masks(8, first=100))])
    return write(tmp_path_factory.mktemp("evaluate") / "synthetic", images, 100)


@pytest.fixture(scope="session")
def segmenter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that has learnt that dark is lesion."""
    out = tmp_path_factory.mktemp("evaluate") / "segmenter.pt"
    train_segmenter(data, out, epochs=24, width=4, threads=1, workers=1)
    return out
