"""A fake: paints a lesion-coloured patch where the mask is. No model is run.

For tests, and to time everything around an engine. Whatever it makes is marked as a fake's work.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._version import __version__
from m2l_runtime.backends import BackendOptions, Inputs, ModelSource, Settings
from m2l_runtime.errors import DeviceUnavailable

SKIN: Final = np.array([216, 178, 160], np.int16)
LESION: Final = np.array([120, 72, 60], np.int16)

# (256, 3): the colour of each mask level, from skin at 0 to lesion at 255.
_PALETTE: Final = (SKIN + (LESION - SKIN) * np.arange(256)[:, None] / 255).round().astype(np.uint8)


def load(source: ModelSource, options: BackendOptions) -> FakeBackend:
    """A fake backend; of the model it only uses the name of the mask input.

    Raises:
        DeviceUnavailable: any device but the CPU was asked for.
    """
    if options.device not in ("auto", "cpu"):
        raise DeviceUnavailable(f"the fake backend has no device '{options.device}', only cpu")
    return FakeBackend(
        Settings(
            backend="fake",
            engine=f"fake {__version__}",
            device="cpu",
            precision="fake",
            batch_size=options.batch_size or 1,
            threads=1,
            streams=options.streams or 1,
        ),
        mask_name=source.inputs[0].name,
    )


class FakeBackend:
    """Maps each level of a mask to a colour between skin and lesion."""

    def __init__(self, settings: Settings, mask_name: str) -> None:
        self.settings = settings
        self._mask_name = mask_name

    def run(self, inputs: Inputs) -> npt.NDArray[np.uint8]:
        """See :class:`m2l_runtime.backends.Backend`."""
        images: npt.NDArray[np.uint8] = _PALETTE[inputs[self._mask_name]]
        return images

    def close(self) -> None:
        """Nothing to give back."""
