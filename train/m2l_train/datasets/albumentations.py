"""A transform of Albumentations that paints a synthesized lesion into the mask, in place of the photograph.

What comes before it in a pipeline may deform image and mask together, as in the paper; what comes after it changes
light and color.
"""

from __future__ import annotations

import os
from typing import Any

from m2l_runtime import AppearanceChoice, Bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineNotInstalled
from m2l_train.datasets.engine import BACKEND, AnyImage, WorkerSynthesizer

try:
    from albumentations import ImageOnlyTransform
except ModuleNotFoundError as error:
    raise EngineNotInstalled(
        f"m2l_train.datasets.albumentations needs {error.name}, which is not installed: "
        'pip install "m2l[albumentations]"'
    ) from error


class Mask2Lesion(ImageOnlyTransform):  # type: ignore[misc]
    """Replace the image by one that is synthesized from its mask.

    Image and mask keep their size. Where the mask has no lesion, the image stays. What is left to chance is drawn with
    Albumentations' own generator, so `Compose(..., seed=0)` decides. Each worker opens an engine of its own.

    Example:
        >>> import albumentations as A, numpy as np
        >>> pipeline = A.Compose([A.HorizontalFlip(), Mask2Lesion(p=1)], seed=0)
        >>> mask = np.zeros((100, 120), np.uint8)
        >>> mask[30:70, 40:90] = 1
        >>> pair = pipeline(image=np.zeros((100, 120, 3), np.uint8), mask=mask)
        >>> pair["image"].shape, pair["image"].any()
        ((100, 120, 3), np.True_)
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        appearance: AppearanceChoice | None = None,
        backend: str = BACKEND,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = 1,
        p: float = 0.5,
    ) -> None:
        """Open the bundle's documents.

        Args:
            bundle: folder of a bundle, or an opened one; None: the model inside the package.
            appearance: what appearances are to be; None: sampled from those of the training images.
            backend: as :meth:`m2l_runtime.Synthesizer.open` takes it, and the next three.
            device: one on the CPU does in forked workers, which cannot use CUDA if their parent has.
            precision: see there.
            threads: of each engine; workers are the parallelism.
            p: how often an image is replaced, 0..1.

        Raises:
            BundleError: the bundle cannot be used.
        """
        super().__init__(p=p)
        self.bundle, self.appearance, self.backend = bundle, appearance, backend
        self.device, self.precision, self.threads = device, precision, threads
        self._engine = WorkerSynthesizer(bundle, backend, device, precision, threads)
        self._engine.conditions(0, appearance)  # told now, not in a worker

    @property
    def targets_as_params(self) -> list[str]:
        """Name what an image is made from."""
        return ["mask"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw a seed, and take the mask."""
        mask = data["mask"]
        return {"lesion": mask[..., 0] if mask.ndim == 3 else mask, "image_seed": self.py_random.getrandbits(64)}

    def apply(self, img: AnyImage, lesion: AnyImage, image_seed: int, **params: Any) -> AnyImage:
        """Synthesize the image."""
        return self._engine.replace(img, lesion, image_seed, self.appearance)
