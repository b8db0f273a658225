"""Validate a generator on held-out pairs: metrics, and a picture for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from m2l_runtime.output.contact_sheet import Cell, Row, SheetLayout, draw_rows
from m2l_runtime.types import Image, Images, Masks
from m2l_train.config import TrainConfig
from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import PairError, read_pair
from m2l_train.models.pix2pix import Pix2Pix

GRID_ROWS: Final = 8
GAP: Final = 4
"""Pixels between pictures of a grid."""


@dataclass(frozen=True)
class ValidationMetrics:
    """Hold the metrics of a generator on validation pairs."""

    l1_levels: float
    """Mean absolute difference in levels of 0..255."""
    psnr_db: float
    """Of the mean squared difference over all pictures."""


class Validation:
    """Validate after each epoch on the same pairs, decoded once."""

    def __init__(self, pairs: Sequence[Pair], config: TrainConfig, pool: ThreadPoolExecutor, most: int) -> None:
        """Take at most `most` pairs, evenly spaced, straight to the model's size.

        Raises:
            PairError: none of them can be read.
        """
        chosen = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))]
        futures = [
            pool.submit(read_pair, pair, config.size, mask_is_left=config.direction == "AtoB") for pair in chosen
        ]
        self.problems: list[str] = []
        masks, images = [], []
        for future in futures:
            try:
                arrays = future.result()
            except PairError as error:
                self.problems.append(str(error))
            else:
                masks.append(arrays.mask)
                images.append(arrays.image)
        if not masks:
            raise PairError(f"no pair to validate on can be read: {self.problems[0]}")
        self.masks: Masks = np.stack(masks)
        self.images: Images = np.stack(images)

    def evaluate(self, networks: Pix2Pix) -> tuple[ValidationMetrics, Image]:
        """Return (metrics over all pairs, a picture of some).

        A generator that takes an appearance gets that of the real image.
        """
        synthesized = np.concatenate(
            [networks.synthesize(self.masks[i : i + 8], self.images[i : i + 8]) for i in range(0, len(self.masks), 8)]
        )
        difference = synthesized.astype(np.float32) - self.images
        square = float(np.square(difference).mean(dtype=np.float64))
        metrics = ValidationMetrics(
            l1_levels=float(np.abs(difference).mean(dtype=np.float64)),
            psnr_db=math.inf if square == 0 else 10 * math.log10(255**2 / square),
        )
        rows = np.unique(np.linspace(0, len(synthesized) - 1, min(GRID_ROWS, len(synthesized))).astype(int))
        return metrics, grid(self.masks[rows], synthesized[rows], self.images[rows])


def grid(masks: Masks, made: Images, real: Images) -> Image:
    """Draw rows of mask | synthesized | real as one picture (H, W, 3) uint8, each at its own size."""
    rows = [Row("", [Cell(pictures)]) for pictures in zip(masks, made, real, strict=True)]
    layout = SheetLayout(
        tile=max(masks.shape[1:]),
        is_beside=True,
        picture_gap=GAP,
        row_gap=GAP,
        title_height=0,
        top=0,
        bottom=-GAP,
        left=0,
        min_width=0,
        paper=(255, 255, 255),
    )
    return np.array(draw_rows(rows, layout=layout))
