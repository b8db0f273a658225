"""The transform of Albumentations. test_libraries.py runs this where Albumentations is installed."""

from __future__ import annotations

import doctest
import pickle
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from m2l_runtime.bundle.io import Bundle
from m2l_runtime.errors import ArrayError
from m2l_train.datasets import SyntheticDataset

A = pytest.importorskip("albumentations")

SIDE = 40


@pytest.fixture
def pair() -> dict[str, Any]:
    mask = np.zeros((SIDE, 60), np.uint8)
    mask[10:30, 20:40] = 1
    return {"image": np.full((SIDE, 60, 3), 200, np.uint8), "mask": mask}


def transform(bundle: Bundle, **options: Any) -> Any:
    from m2l_train.datasets.albumentations import Mask2Lesion

    return Mask2Lesion(bundle, **{"p": 1, **options})


def test_mask2lesion__paints_the_lesion_where_the_mask_is(bundle: Bundle, pair: dict[str, Any]) -> None:
    """Of the steered bundle: red is the mask."""
    made = A.Compose([transform(bundle)], seed=1)(**pair)
    assert (made["image"].shape, made["image"].dtype) == ((SIDE, 60, 3), np.uint8)
    assert np.array_equal(made["mask"], pair["mask"])
    found = made["image"][..., 0] >= 128
    both = np.logical_and(found, pair["mask"] == 1).sum()
    assert 2 * both / (found.sum() + pair["mask"].sum()) > 0.9


def test_mask2lesion__the_seed_of_the_pipeline_decides(bundle: Bundle, pair: dict[str, Any]) -> None:
    def run(seed: int) -> list[bytes]:
        pipeline = A.Compose([transform(bundle)], seed=seed)
        return [pipeline(**pair)["image"].tobytes() for _ in range(3)]

    assert run(1) == run(1)
    assert len({*run(1), *run(2)}) == 6


def test_mask2lesion__it_follows_what_comes_before(bundle: Bundle, pair: dict[str, Any]) -> None:
    made = A.Compose([A.Transpose(p=1), transform(bundle)], seed=1)(**pair)
    assert made["image"].shape == (60, SIDE, 3)
    red = made["image"][..., 0].astype(float)
    assert red[made["mask"] == 1].mean() > 200 > 60 > red[made["mask"] == 0].mean()


def test_mask2lesion__images_of_0_to_1_and_masks_of_0_to_255(bundle: Bundle, pair: dict[str, Any]) -> None:
    exact = A.Compose([transform(bundle)], seed=1)(**pair)["image"]
    other = A.Compose([transform(bundle)], seed=1)(
        image=pair["image"].astype(np.float32) / 255, mask=pair["mask"][..., None] * 255
    )["image"]
    assert other.dtype == np.float32
    np.testing.assert_allclose(other * 255, exact, atol=1e-3)


def test_mask2lesion__probability_and_masks_without_lesion(bundle: Bundle, pair: dict[str, Any]) -> None:
    never = A.Compose([transform(bundle, p=0)], seed=1)(**pair)
    assert np.array_equal(never["image"], pair["image"])
    empty = A.Compose([transform(bundle)], seed=1)(image=pair["image"], mask=np.zeros_like(pair["mask"]))
    assert np.array_equal(empty["image"], pair["image"])
    with pytest.raises(ArrayError, match="of 0 and 1, or of 0 to 255"):
        A.Compose([transform(bundle)])(image=pair["image"], mask=pair["mask"] * 3)


def test_mask2lesion__in_workers(bundle: Bundle, pair: dict[str, Any]) -> None:
    used = transform(bundle)
    A.Compose([used])(**pair)  # the parent's engine is open
    pickle.loads(pickle.dumps(used))
    pairs = SyntheticDataset("shapes:4,size=64", bundle, transform=A.Compose([used, A.ToTensorV2()], seed=1))
    images, masks = next(iter(DataLoader(pairs, batch_size=4, num_workers=2, multiprocessing_context="fork")))
    assert (images.shape, masks.shape) == ((4, 3, 12, 12), (4, 12, 12))


def test_mask2lesion__its_example() -> None:
    from m2l_train.datasets import albumentations

    assert doctest.testmod(albumentations) == (0, 6)
