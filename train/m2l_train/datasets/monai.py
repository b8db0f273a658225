"""A transform of MONAI's dictionaries that paints a synthesized lesion into the label, in place of the photograph."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from m2l_runtime import AppearanceChoice, Bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import ArrayError, EngineNotInstalled
from m2l_train.datasets.engine import BACKEND, WorkerSynthesizer

try:
    from monai.config import KeysCollection
    from monai.transforms import MapTransform, RandomizableTransform
    from monai.utils import convert_data_type, convert_to_dst_type
except ModuleNotFoundError as error:
    raise EngineNotInstalled(
        f'm2l_train.datasets.monai needs {error.name}, which is not installed: pip install "m2l[monai]"'
    ) from error


class Mask2Lesiond(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Replace images by ones that are synthesized from their label, in a dictionary.

    Images are channel first, (3, H, W), and keep size, type and meta data; the label is (1, H, W) of 0 and 1 or 0 to
    255. Where it has no lesion, the image stays. What is left to chance is drawn with MONAI's own state, so
    `set_determinism` and `set_random_state` decide. Each worker opens an engine of its own.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 100, 120)
        >>> label[:, 30:70, 40:90] = 1
        >>> pair = Mask2Lesiond("image", "label", prob=1)({"image": torch.zeros(3, 100, 120), "label": label})
        >>> tuple(pair["image"].shape), bool(pair["image"].max() <= 1)
        ((3, 100, 120), True)
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        prob: float = 0.5,
        white: float = 1.0,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        appearance: AppearanceChoice | None = None,
        backend: str = BACKEND,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        """Open the bundle's documents.

        Args:
            keys: of the images.
            label_key: of the mask.
            prob: how often images are replaced, 0..1.
            white: what white is in images: 1 after `ScaleIntensityRanged`, 255 as `LoadImaged` reads them.
            bundle: folder of a bundle, or an opened one; None: the model inside the package.
            appearance: what appearances are to be; None: sampled from those of the training images.
            backend: as :meth:`m2l_runtime.Synthesizer.open` takes it, and the next three.
            device: one on the CPU does in forked workers, which cannot use CUDA if their parent has.
            precision: see there.
            threads: of each engine; workers are the parallelism.
            allow_missing_keys: whether a dictionary may lack an image.

        Raises:
            BundleError: the bundle cannot be used.
        """
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key, self.white, self.appearance = label_key, white, appearance
        self._engine = WorkerSynthesizer(bundle, backend, device, precision, threads)
        self._engine.conditions(0, appearance)  # told now, not in a worker
        self._image_seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether images are replaced, and a seed."""
        super().randomize(None)
        self._image_seed = int(self.R.randint(2**63, dtype=np.int64))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with other images.

        Raises:
            ArrayError: an image or the label has another shape, or values that are no mask's.
        """
        pair = dict(data)
        self.randomize()
        if not self._do_transform:
            return pair
        label = np.asarray(convert_data_type(pair[self.label_key], np.ndarray)[0])
        if label.ndim != 3 or label.shape[0] != 1:
            raise ArrayError(f"expected a label (1, H, W), got {label.shape}; use EnsureChannelFirstd before")
        for key in self.key_iterator(pair):
            image = np.asarray(convert_data_type(pair[key], np.ndarray)[0])
            scaled = image.transpose(1, 2, 0).astype(np.float32) / self.white if image.ndim == 3 else image
            made = self._engine.replace(scaled, label[0], self._image_seed, self.appearance)
            if made is scaled:
                continue
            made = made * self.white
            if image.dtype.kind in "iu":
                made = np.rint(made)
            pair[key] = convert_to_dst_type(np.ascontiguousarray(made.transpose(2, 0, 1)), pair[key])[0]
        return pair
