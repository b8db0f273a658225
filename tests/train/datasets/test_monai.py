"""The transform of MONAI's dictionaries. test_libraries.py runs this where MONAI is installed."""

from __future__ import annotations

import doctest
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from m2l_runtime.bundle.io import Bundle
from m2l_runtime.errors import ArrayError
from m2l_train.datasets import SyntheticDataset, to_dictionary

monai = pytest.importorskip("monai")

SIDE = 40


@pytest.fixture
def pair() -> dict[str, Any]:
    label = torch.zeros(1, SIDE, 60)
    label[:, 10:30, 20:40] = 1
    return {"image": monai.data.MetaTensor(torch.full((3, SIDE, 60), 0.8), meta={"from": "here"}), "label": label}


def transform(bundle: Bundle, **options: Any) -> Any:
    from m2l_train.datasets.monai import Mask2Lesiond

    return Mask2Lesiond("image", "label", bundle=bundle, **{"prob": 1, **options})


def test_mask2lesiond__paints_the_lesion_where_the_label_is(bundle: Bundle, pair: dict[str, Any]) -> None:
    """Of the steered bundle: red is the mask."""
    made = transform(bundle)(pair)
    assert made["image"].shape == (3, SIDE, 60)
    assert made["image"].dtype == torch.float32
    assert made["image"].meta["from"] == "here"
    assert torch.equal(made["label"], pair["label"])
    assert float(pair["image"].min()) == pytest.approx(0.8), "what came in is as it was"
    found, label = np.asarray(made["image"])[0] >= 0.5, np.asarray(pair["label"])[0] == 1
    assert 2 * (found & label).sum() / (found.sum() + label.sum()) > 0.9


def test_mask2lesiond__its_random_state_decides(bundle: Bundle, pair: dict[str, Any]) -> None:
    def run(seed: int) -> list[bytes]:
        one = transform(bundle)
        one.set_random_state(seed)
        return [np.asarray(one(pair)["image"]).tobytes() for _ in range(3)]

    assert run(1) == run(1)
    assert len({*run(1), *run(2)}) == 6


def test_mask2lesiond__images_of_0_to_255(bundle: Bundle, pair: dict[str, Any]) -> None:
    def run(image: Any, white: float) -> Any:
        return transform(bundle, white=white).set_random_state(1)({**pair, "image": image})["image"]

    exact = np.asarray(run(pair["image"], 1))
    np.testing.assert_allclose(np.asarray(run(pair["image"] * 255, 255)), exact * 255, atol=1e-3)
    levels = run(torch.full((3, SIDE, 60), 200, dtype=torch.uint8), 255)
    assert levels.dtype == torch.uint8
    assert np.array_equal(np.asarray(levels), np.rint(exact * 255))


def test_mask2lesiond__probability_and_labels_without_lesion(bundle: Bundle, pair: dict[str, Any]) -> None:
    assert transform(bundle, prob=0)(pair)["image"] is pair["image"]
    empty = {**pair, "label": torch.zeros(1, SIDE, 60)}
    assert torch.equal(transform(bundle)(empty)["image"], pair["image"])
    half = transform(bundle, prob=0.5).set_random_state(0)
    replaced = sum(half(pair)["image"] is not pair["image"] for _ in range(200))
    assert 70 < replaced < 130
    for label in (pair["label"] * 3, pair["label"][0], torch.ones(1, 5, 5)):
        with pytest.raises(ArrayError):
            transform(bundle)({**pair, "label": label})


def test_mask2lesiond__in_workers(bundle: Bundle, pair: dict[str, Any]) -> None:
    used = transform(bundle)
    used(pair)  # the parent's engine is open
    pickle.loads(pickle.dumps(used))
    pairs = monai.data.Dataset(SyntheticDataset("shapes:4,size=64", bundle, transform=to_dictionary), used)
    loader = monai.data.DataLoader(pairs, batch_size=4, num_workers=2)
    batch = next(iter(loader))
    assert (batch["image"].shape, batch["label"].shape) == ((4, 3, 12, 12), (4, 1, 12, 12))


def test_mask2lesiond__its_example() -> None:
    from m2l_train.datasets import monai as ours

    assert doctest.testmod(ours) == (0, 5)
