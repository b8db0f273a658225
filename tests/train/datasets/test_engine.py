"""What transforms of other libraries rest on: an image painted into a mask of any size."""

from __future__ import annotations

import numpy as np
import pytest

from m2l_runtime.bundle.io import Bundle
from m2l_runtime.errors import ArrayError
from m2l_train.datasets.engine import WorkerSynthesizer, to_lesion


def test_worker_synthesizer__paints_into_masks_of_any_size(bundle: Bundle) -> None:
    """Of the steered bundle: red is the mask."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    image = np.full((40, 60, 3), 0.5, np.float32)
    engine = WorkerSynthesizer(bundle)
    made = engine.replace(image, mask, 1, None)
    assert made.shape == image.shape
    assert made.dtype == np.float32
    assert ((made[..., 0] > 0.5) == mask).mean() > 0.95
    assert np.array_equal(engine.replace(image, mask, 1, None), made)
    assert not np.array_equal(engine.replace(image, mask, 2, None), made)
    assert engine.replace(image, np.zeros((40, 60)), 1, None) is image
    assert engine.replace((image * 255).astype(np.uint8), mask, 1, None).dtype == np.uint8


@pytest.mark.parametrize("white", [1, 255, 1.0, True, 200])
def test_to_lesion__masks_as_libraries_have_them(white: float) -> None:
    mask = np.array([[0, white], [white, 0]])
    assert to_lesion(mask, (2, 2, 3)).tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("values", [[0, 2], [0, 127], [-1, 1], [0, 256]])
def test_to_lesion__class_labels_are_refused(values: list[int]) -> None:
    with pytest.raises(ArrayError, match="of 0 and 1, or of 0 to 255"):
        to_lesion(np.array([values, values]), (2, 2, 3))


def test_to_lesion__shapes_must_agree() -> None:
    with pytest.raises(ArrayError, match=r"got \(2, 3, 3\) and \(2, 2\)"):
        to_lesion(np.zeros((2, 2)), (2, 3, 3))
