"""A bundle to proof that it gives here the images it gave where it was made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2l_runtime.backends import BACKENDS
from m2l_runtime.bundle import Bundle
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled
from m2l_runtime.synthesizer import Synthesizer

TOLERANCE = 1
"""Levels by which another engine or version may round differently in fp32."""


@dataclass(frozen=True)
class Replay:
    """The golden pair on one backend and device."""

    backend: str
    device: str
    detail: str
    """Engine and version, or why it was not run."""
    max_level_difference: int | None
    """None: not run, the backend does not load here."""
    mean_level_difference: float | None

    @property
    def agrees(self) -> bool:
        """Whether it ran and is within `TOLERANCE`."""
        return self.max_level_difference is not None and self.max_level_difference <= TOLERANCE


def replay_golden(bundle: Bundle) -> list[Replay]:
    """Hash every file, then replay the golden pair on every backend and device that loads here (no fakes).

    Raises:
        BundleDamaged: a file is missing or altered.
        EngineError: a backend loads but fails.
    """
    bundle.check()
    inputs, expected = bundle.read_golden()
    replays = []
    for name, entry in BACKENDS.items():
        if entry.is_fake:
            continue
        for device in entry.devices:
            try:
                with Synthesizer.open(bundle, backend=name, device=device) as synth:
                    images, engine = synth.run_inputs(inputs), synth.settings.engine
            except (EngineNotInstalled, DeviceUnavailable) as error:
                replays.append(Replay(name, device, str(error), None, None))
                continue
            difference = np.abs(images.astype(np.int16) - expected)
            replays.append(Replay(name, device, engine, int(difference.max()), float(difference.mean())))
    return replays
