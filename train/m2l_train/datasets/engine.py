"""Open a synthesizer in the process that uses it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime import AppearanceChoice, Bundle, Synthesizer, open_bundle
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.conditioning.conditions import Condition, Conditions, ExtraInputs, stack_conditions
from m2l_runtime.errors import ArrayError
from m2l_runtime.masks.mask_file import resize
from m2l_runtime.types import Images, Mask, Masks
from m2l_train.datasets.tensors import LESION_FROM

AnyImage = npt.NDArray[Any]
"""(H, W, 3) RGB, uint8 or floating, of 0..1."""
AnyMask = npt.NDArray[Any]
"""(H, W) of any type."""
WHITE: Final = 255

BACKEND: Final = "onnxruntime"
"""Where none is named. Not "auto": which engine that is may differ between processes, and with it the last bits."""


def to_lesion(mask: AnyMask, shape: tuple[int, ...]) -> Mask:
    """Turn a mask as augmentation libraries have it into uint8 (H, W) of 0 and 255, for an image of `shape`.

    Raises:
        ArrayError: its shape is not that of the image, or its values are those of class labels.
    """
    if shape != (*mask.shape, 3):
        raise ArrayError(f"expected an image (H, W, 3) and its mask (H, W), got {shape} and {mask.shape}")
    largest = float(mask.max(initial=0))
    if mask.min(initial=0) < 0 or 1 < largest < LESION_FROM or largest > WHITE:
        raise ArrayError(f"expected a mask of 0 and 1, or of 0 to 255, got values up to {largest:g}; set others to 0")
    return np.where(mask >= (LESION_FROM if largest > 1 else 0.5), np.uint8(WHITE), np.uint8(0))


class WorkerSynthesizer:
    """Describe a synthesizer that each process opens for itself, when it first needs it.

    Threads of an engine do not survive a fork, so nothing that is open is handed over; pickled, it is a description.

    Raises:
        BundleError: the bundle cannot be used.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle | None,
        backend: str = BACKEND,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = 1,
    ) -> None:
        if not isinstance(bundle, Bundle):
            bundle = open_bundle(embedded.BUNDLE if bundle is None else bundle)
        self.bundle: Final = bundle
        self.extra: Final = ExtraInputs(bundle)
        self._options: dict[str, Any] = {
            "backend": backend,
            "device": device,
            "precision": precision,
            "threads": threads,
        }
        self._conditions: tuple[tuple[int, AppearanceChoice | None, int], Conditions] | None = None
        self._opened: dict[int, Synthesizer] = {}
        """By process: what was open before a fork stays unused, as closing it there could wait for its threads."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of masks and images, in pixels."""
        return self.bundle.manifest.image_size

    def conditions(self, seed: int, appearance: AppearanceChoice | None, samples: int = 1) -> Conditions:
        """Prepare what images depend on beside their masks; see :class:`Conditions` for what it refuses."""
        asked = (seed, appearance, samples)
        if self._conditions is None or self._conditions[0] != asked:
            self._conditions = (asked, Conditions(self.extra, *asked))
        return self._conditions[1]

    def __call__(self, masks: Masks, conditions: Sequence[Condition | None]) -> Images:
        """Synthesize checked masks (N, H, W) of `image_size` to images (N, H, W, 3) uint8."""
        synthesizer = self._opened.get(os.getpid())
        if synthesizer is None:
            synthesizer = self._opened[os.getpid()] = Synthesizer.open(self.bundle, **self._options)
        seeds, appearances = stack_conditions(conditions)
        return synthesizer.synthesize_checked(masks, seeds, appearances)

    def replace(self, image: AnyImage, mask: AnyMask, seed: int, appearance: AppearanceChoice | None) -> AnyImage:
        """Synthesize another image of a mask of any size; a mask without lesion keeps its image.

        Args:
            image: (H, W, 3), uint8 or floating.
            mask: (H, W), of 0 and 1 or of 0 to 255.
            seed: of what is left to chance beside the mask.
            appearance: what it is to be; None: sampled.

        Returns:
            (H, W, 3): uint8 where `image` is uint8, else of its type and of 0..1.

        Raises:
            ArrayError: a shape or value is another one.
        """
        lesion = to_lesion(mask, image.shape)
        if not lesion.any():
            return image
        condition = self.conditions(seed, appearance).for_item("")
        made: AnyImage = self(resize(lesion, self.image_size)[None], [condition])[0]
        if made.shape != image.shape:
            height, width = lesion.shape
            resized = PillowImage.fromarray(made).resize((width, height), PillowImage.Resampling.BICUBIC)
            made = np.array(resized)
        if image.dtype == np.uint8:
            return made
        scaled: AnyImage = (made / WHITE).astype(image.dtype)
        return scaled

    def __getstate__(self) -> dict[str, Any]:
        """Pickle all but what is open."""
        return {**self.__dict__, "_opened": {}}
