"""Replay a bundle's golden images on this machine and compare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.base import BUNDLE_PLAN_NOTE, BackendSettings, Inputs
from m2l_runtime.backends.registry import BACKENDS
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import ModelFile
from m2l_runtime.errors import DeviceUnavailable, EngineNotInstalled
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Images

TOLERANCE: Final = 1
"""Levels by which fp32 may differ on another engine or version, as it rounds differently."""

MARGIN_DB: Final = 3.0
"""How far the PSNR in a lower precision may be below the recorded one.

Another version or number of threads adds up in another order. What then rounds to another bf16 or int8 number adds an
error. If that error is as large as the recorded one and independent of it, it doubles the mean square: 3 dB.
"""


@dataclass(frozen=True)
class Replay:
    """Hold how the golden images compare on one backend and device, in one precision."""

    backend: str
    device: str
    precision: str
    detail: str
    """Engine and version, or why it was not run."""
    max_level_difference: int | None
    """In 8-bit levels. None: not run, as the backend does not load here."""
    mean_level_difference: float | None
    worst_psnr_db: float | None
    """Lowest PSNR of an image; None where every byte is equal, or it was not run."""
    least_psnr_db: float | None
    """Lowest PSNR accepted: what the bundle records less `MARGIN_DB`; None: levels decide, as in fp32."""

    @property
    def agrees(self) -> bool:
        """Whether it ran and is within `TOLERANCE`, or reaches `least_psnr_db` where PSNR decides."""
        if self.max_level_difference is None:
            return False
        if self.least_psnr_db is None:
            return self.max_level_difference <= TOLERANCE
        return self.worst_psnr_db is None or self.worst_psnr_db >= self.least_psnr_db


def replay_golden(bundle: Bundle, *, trust_plans: bool = False) -> list[Replay]:
    """Hash every file, then replay the golden pairs on each backend, device and precision that loads here.

    Fake backends are left out. TensorRT plans of the bundle are replayed if they are trusted; otherwise plans are built
    here and replayed.

    Raises:
        BundleDamaged: a file is missing or altered.
        EngineError: a backend loads but fails.
    """
    bundle.check()
    inputs, expected = bundle.read_golden()
    replays = []
    for name, device, model in replay_targets(bundle):
        least = least_psnr_db(model)
        try:
            engine, images = _replay(bundle, name, device, model, inputs, trust_plans)
        except (EngineNotInstalled, DeviceUnavailable) as error:
            replays.append(Replay(name, device, model.precision, str(error), None, None, None, least))
            continue
        difference = np.abs(images.astype(np.int16) - expected)  # of one batch size or two
        replays.append(
            Replay(
                backend=name,
                device=device,
                precision=model.precision,
                detail=engine,
                max_level_difference=int(difference.max()),
                mean_level_difference=float(difference.mean()),
                worst_psnr_db=_worst_psnr_db(images, expected),
                least_psnr_db=least,
            )
        )
    return replays


def _replay(
    bundle: Bundle, name: str, device: str, model: ModelFile, inputs: Inputs, trust_plans: bool
) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return (engine, images (batch sizes, N, H, W, 3)).

    Where calls are of one image by default, a batch of them all is replayed as well: images may depend on others of
    their batch, by a fault of a file or of an engine.
    """

    def run(batch_size: int | None) -> tuple[npt.NDArray[np.uint8], BackendSettings, tuple[str, ...]]:
        with Synthesizer.open(
            bundle,
            backend=name,
            device=device,
            precision=model.precision,
            batch_size=batch_size,
            trust_plans=trust_plans,
        ) as synth:
            return synth.run_inputs(inputs), synth.settings, tuple(synth.notes)

    runs_plans = BACKENDS[name].runs_plans
    first, settings, notes = run(_batch_size(bundle, name, model))
    images = [first]
    if not runs_plans and settings.batch_size == 1 < len(first):
        images.append(run(len(first))[0])
    engine = settings.engine
    if runs_plans:
        is_bundles = any(note.startswith(BUNDLE_PLAN_NOTE) for note in notes)
        engine += ", the bundle's plan" if is_bundles else ", a plan built here"
    return engine, np.stack(images)


def _batch_size(bundle: Bundle, name: str, model: ModelFile) -> int | None:
    """Return a batch size that the bundle's plans of this file take; None: the backend's default."""
    plans = [plan for plan in bundle.manifest.plans if plan.onnx_sha256 == model.file.sha256]
    return plans[0].batch_sizes[1] if BACKENDS[name].runs_plans and plans else None


def replay_targets(bundle: Bundle) -> list[tuple[str, str, ModelFile]]:
    """List (backend, device, model) for all that the bundle was exported for and this version knows, without fakes."""
    return [
        (name, device, model)
        for name, entry in BACKENDS.items()
        if not entry.is_fake
        for model in bundle.manifest.models
        if name in model.engines
        for device in entry.devices
    ]


def least_psnr_db(model: ModelFile) -> float | None:
    """Return the lowest PSNR of a golden image that is accepted; None: levels decide."""
    recorded = model.parity.psnr_db if model.parity.worst_psnr_db is None else model.parity.worst_psnr_db
    return None if model.precision == "fp32" or recorded is None else recorded - MARGIN_DB


def _worst_psnr_db(images: npt.NDArray[np.uint8], expected: Images) -> float | None:
    """Compute the images' lowest peak signal-to-noise ratio, 10 log10(255^2 / mean square); None: all bytes equal."""
    difference = images.astype(np.float64) - expected
    worst = float(np.square(difference).mean(axis=(-3, -2, -1)).max())
    return 10 * math.log10(255**2 / worst) if worst else None
