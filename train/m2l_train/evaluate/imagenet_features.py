"""Compute ImageNet features of images with EfficientNet-Lite2, and keep them in a cache."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from m2l_runtime._utils import atomic
from m2l_runtime._utils.npz import read_array
from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime.types import Image, Images
from m2l_train.device import torch_threads
from m2l_train.evaluate.sets import in_threads
from m2l_train.models.efficientnet_lite import FEATURES, VERSIONS, load_network

VERSION: Final = 2
SIDE: Final = VERSIONS[VERSION].side
"""Pixels of the images that it was trained on; others are resized to that."""

_BATCH: Final = 4  # quicker than 16 on a CPU, by cache

Features = npt.NDArray[np.float32]


def resized(image: Image) -> Image:
    """Squash an image (H, W, 3) to 260x260, bicubic with antialiasing."""
    return np.asarray(PillowImage.fromarray(image).resize((SIDE, SIDE), PillowImage.Resampling.BICUBIC))


_MAX_HEADER_BYTES: Final = 4096  # of a .npy file


def _read_features(path: Path, count: int) -> Features | None:
    """Read features from a cache; None if they are not there, or are not what was written."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > count * FEATURES * 4 + _MAX_HEADER_BYTES:
                return None
            content = file.read()
        features = read_array(content, path.name)
    except Exception:  # noqa: BLE001 - whatever is there is computed anew
        return None
    is_whole = features.shape == (count, FEATURES) and features.dtype == np.float32 and np.isfinite(features).all()
    return features if is_whole else None


class ImageNetFeatures:
    """Compute features of images with the weights of the installed package.

    Example:
        >>> features = ImageNetFeatures()  # doctest: +SKIP
        >>> features(np.zeros((2, 256, 256, 3), np.uint8)).shape  # doctest: +SKIP
        (2, 1280)
    """

    def __init__(self, cache: str | os.PathLike[str] | None = None) -> None:
        """Load the network.

        Args:
            cache: folder that keeps features, made if it is not there; None: they are computed each time.

        Raises:
            EngineNotInstalled: the weights are not installed.
            InputError: they are others than those that were tested.
            OutputError: the folder cannot be made.
        """
        self._network, self.sha256 = load_network(VERSION)
        self._cache = None if cache is None else Path(cache)
        if self._cache is not None:
            with atomic.output_errors(self._cache):
                self._cache.mkdir(parents=True, exist_ok=True)

    def __call__(
        self,
        images: Images,
        *,
        workers: int = 1,
        on_image: Callable[[int], None] = lambda count: None,
        is_kept: bool = True,
    ) -> Features:
        """Return features (N, 1280) of images (N, S, S, 3) uint8, which are squashed to 260x260.

        Args:
            images: at least one.
            workers: threads.
            on_image: called with the number of images done.
            is_kept: whether they go to the cache, under the SHA-256 of pixels and weights, if there is one.

        Raises:
            OutputError: they could not be written.
        """
        if self._cache is None or not is_kept:
            return self._compute(images, workers, on_image)
        content = hashlib.sha256(f"{self.sha256} {images.shape}".encode() + images.tobytes()).hexdigest()
        path = self._cache / f"efflite2-{content}.npy"
        features = _read_features(path, len(images))
        if features is None:
            features = self._compute(images, workers, on_image)
            file = io.BytesIO()
            np.save(file, features, allow_pickle=False)
            atomic.write_file(path, file.getvalue())
        else:
            on_image(len(images))
        return features

    def _compute(self, images: Images, workers: int, on_image: Callable[[int], None]) -> Features:
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        features = []
        with torch_threads(1):
            for rows in in_threads(self._run, batches, workers):
                features.append(rows)
                on_image(len(rows))
        return np.concatenate(features)

    @torch.no_grad()
    def _run(self, images: Images) -> Features:
        levels = torch.from_numpy(np.stack([resized(image) for image in images])).permute(0, 3, 1, 2).float()
        rows: Features = self._network(levels).numpy()
        return rows
