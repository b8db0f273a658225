"""Hold a photograph and its mask, with what several measurements of it share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from m2l_runtime.conditioning._filters import gaussian
from m2l_runtime.conditioning.appearance import LESION_FROM, lab, measure_colors
from m2l_runtime.types import Appearance, Image, Mask


@dataclass(frozen=True)
class Picture:
    """Hold a photograph and its mask. What is derived is computed once, when it is first asked for.

    Raises:
        ValueError: the sizes differ.
    """

    image: Image
    mask: Mask

    def __post_init__(self) -> None:
        if self.image.shape != (*self.mask.shape, 3):
            raise ValueError(
                f"image must be {(*self.mask.shape, 3)} as its mask is {self.mask.shape}, got {self.image.shape}"
            )

    @cached_property
    def lab(self) -> npt.NDArray[np.float32]:
        """CIE L*a*b*, float32 (H, W, 3)."""
        return lab(self.image)

    @property
    def lightness(self) -> npt.NDArray[np.float32]:
        """CIE L*, float32 (H, W)."""
        return self.lab[..., 0]

    @cached_property
    def colors(self) -> Appearance:
        """The numbers of :data:`m2l_runtime.types.NAMES`, float32 (12,)."""
        return measure_colors(self.lab, self.mask)

    @cached_property
    def soft_red_and_yellow(self) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """CIE a* and b*, each blurred by 1 pixel."""
        return gaussian(self.lab[..., 1], 1.0), gaussian(self.lab[..., 2], 1.0)

    @cached_property
    def band(self) -> npt.NDArray[np.floating]:
        """L* blurred by 1 pixel less L* blurred by 4: structure of some pixels' size."""
        return gaussian(self.lightness, 1.0) - gaussian(self.lightness, 4.0)

    @cached_property
    def regions(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Pixels (H, W) of lesion and of skin. All of the image for both, where one has none."""
        is_lesion = self.mask >= LESION_FROM
        if is_lesion.all() or not is_lesion.any():
            whole = np.ones_like(is_lesion)
            return whole, whole
        return is_lesion, ~is_lesion
