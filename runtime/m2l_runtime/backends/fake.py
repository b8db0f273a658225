"""Paint a lesion-colored patch where the mask is. No model is run.

For tests, and to time everything around an engine. Whatever it makes is marked as a fake's work. What comes in beside
the mask shifts the color, by a checksum (CRC-32): so any change of it shows.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._version import __version__
from m2l_runtime.backends.base import BackendOptions, BackendSettings, Inputs, ModelSource
from m2l_runtime.errors import DeviceUnavailable

SKIN: Final = np.array([216, 178, 160], np.int16)
LESION: Final = np.array([120, 72, 60], np.int16)

SHIFT: Final = 16
"""Levels below which each other input shifts a color channel."""

# (256, 3): the color of each mask level, from skin at 0 to lesion at 255.
_PALETTE: Final = (SKIN + (LESION - SKIN) * np.arange(256)[:, None] / 255).round().astype(np.uint8)


def load(source: ModelSource, options: BackendOptions) -> FakeBackend:
    """Load a fake backend. Of the model it only uses the names of the inputs, the mask's first.

    Raises:
        DeviceUnavailable: any device but the CPU was asked for.
    """
    if options.device not in ("auto", "cpu"):
        raise DeviceUnavailable(f"the fake backend has no device '{options.device}', only cpu")
    return FakeBackend(
        BackendSettings(
            backend="fake",
            engine=f"fake {__version__}",
            device="cpu",
            precision="fake",
            batch_size=options.batch_size or 1,
            threads=1,
            streams=options.streams or 1,
        ),
        names=[spec.name for spec in source.inputs],
    )


class FakeBackend:
    """Map each level of a mask to a color between skin and lesion, shifted by the other inputs of its item."""

    def __init__(self, settings: BackendSettings, names: list[str]) -> None:
        self.settings = settings
        self.notes: tuple[str, ...] = ()
        self._mask_name, *self._other_names = names

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.base.Backend`."""
        images: npt.NDArray[np.uint8] = _PALETTE[inputs[self._mask_name]]
        for name in self._other_names:
            for image, row in zip(images, inputs[name], strict=True):
                image += shift(row)
        return images

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def shift(row: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return (3,) levels from 0 to `SHIFT` - 1: the three lower half-bytes of the CRC-32 of an item's input."""
    checksum = zlib.crc32(np.ascontiguousarray(row).tobytes())
    return np.array([checksum >> place & SHIFT - 1 for place in (0, 4, 8)], np.uint8)
