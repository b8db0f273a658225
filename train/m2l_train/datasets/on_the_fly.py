"""Synthesize pairs while a network trains: nothing is written to disk.

An item's image depends on the seed, the mask's name and the number of the sample, as that of `m2l synth --seed` does;
not on workers, batches or order.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, SupportsIndex, cast

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from m2l_runtime import AppearanceChoice, Bundle, MaskSource
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import stem
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import ArgumentError, InputError
from m2l_runtime.masks.mask_file import parse_mask
from m2l_runtime.masks.mask_folder import mask_set
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import sampled, source_mask
from m2l_runtime.masks.sources.spec import is_spec, open_source
from m2l_runtime.output.encoding import encode_gray_mask
from m2l_runtime.types import Mask
from m2l_train.datasets.engine import BACKEND, WorkerSynthesizer
from m2l_train.datasets.sharing import Epoch, check_shard, dealt, loader_seed, shard_length
from m2l_train.datasets.tensors import PairTransform, make_item


@check_types()
class SyntheticDataset(Dataset[Any]):
    """Synthesize the image of a mask when its pair is asked for: a map-style dataset.

    Each worker of a loader, forked or spawned, opens an engine of its own.

    Example:
        >>> pairs = SyntheticDataset("shapes:3", seed=7, backend="fake")  # without the backend, the model is run
        >>> image, mask = pairs[0]
        >>> len(pairs), image.shape, mask.shape, pairs.names[0]
        (3, torch.Size([3, 256, 256]), torch.Size([1, 256, 256]), '000000-circle.png')
    """

    def __init__(
        self,
        masks: str | os.PathLike[str] | MaskSet,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        seed: int = 0,
        samples: int = 1,
        appearance: AppearanceChoice | None = None,
        transform: PairTransform | None = None,
        backend: str = BACKEND,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = 1,
    ) -> None:
        """List the masks, and open the bundle's documents.

        Args:
            masks: a mask file or folder, masks to draw such as ``shapes:200``, or a set of masks.
            bundle: folder of a bundle, or an opened one; None: the model inside the package.
            seed: of what is left to chance beside the mask, 0..2^64-1.
            samples: images of each mask.
            appearance: what appearances are to be; None: sampled from those of the training images.
            transform: see `PairTransform`; None: :func:`m2l_train.datasets.to_tensors`.
            backend: as :meth:`m2l_runtime.Synthesizer.open` takes it, and the next three.
            device: one on the CPU does in forked workers, which cannot use CUDA if their parent has.
            precision: see there.
            threads: of each engine; workers are the parallelism.

        Raises:
            InputError: there are no such masks, or an option is out of range, or the bundle does not vary and `samples`
                or `appearance` ask for it.
            BundleError: the bundle cannot be used.
        """
        self._engine = WorkerSynthesizer(bundle, backend, device, precision, threads)
        self._appearance, self._transform, self._seed = appearance, transform, seed
        self._engine.conditions(seed, appearance, samples)  # told now, not in a worker
        self._samples: Final = samples
        self._masks = sampled(open_masks(masks, self._engine.image_size[0]), samples)
        self._epoch = Epoch()

    @property
    def names(self) -> Sequence[str]:
        """Names of the masks, in order; with the sample's number where there are several."""
        return self._masks.names

    def set_epoch(self, epoch: int) -> None:
        """Draw other images of the same masks from now on, in workers too; epoch 0 has those of `m2l synth`.

        Raises:
            ArgumentError: it is below 0.
        """
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Return several items; PyTorch's loader asks for a batch in this way.

        Raises:
            IndexError: there is no such item.
            MaskFileError: a mask cannot be used.
            EngineError: the engine cannot be opened, or failed.
        """
        conditions = self._engine.conditions(self._epoch.seed(self._seed), self._appearance, self._samples)
        masks, chosen = [], []
        for index in indices:
            name = self.names[operator.index(index)]
            masks.append(self._masks.read(name, self._engine.image_size).mask)
            source, sample = source_mask(self._masks, name)
            chosen.append(conditions.for_item(stem(source), sample))
        images = self._engine(np.stack(masks), chosen)
        return [make_item(image, mask, self._transform) for image, mask in zip(images, masks, strict=True)]


@check_types()
class SyntheticIterableDataset(IterableDataset[Any]):
    """Synthesize pairs one after another, without an end or for some passes over the masks: an iterable dataset.

    Item n goes to shard n mod N, and there to the workers in turn; no two make the same one. Each pass over a folder
    draws other images of its masks; a source of masks draws other masks.

    Example:
        >>> import itertools
        >>> from m2l_runtime import Shapes
        >>> pairs = SyntheticIterableDataset(Shapes(seed=1), backend="fake")
        >>> [tuple(mask.shape) for _, mask in itertools.islice(pairs, 2)]
        [(1, 256, 256), (1, 256, 256)]
        >>> len(SyntheticIterableDataset("shapes:3", passes=2, backend="fake"))
        6
    """

    def __init__(
        self,
        masks: str | os.PathLike[str] | MaskSet | MaskSource,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        seed: int | None = 0,
        passes: int | None = None,
        appearance: AppearanceChoice | None = None,
        transform: PairTransform | None = None,
        backend: str = BACKEND,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = 1,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        """List the masks, and open the bundle's documents.

        Args:
            masks: as of :class:`SyntheticDataset`; or a source of masks, such as :class:`m2l_runtime.Shapes`, which
                draws other masks without end.
            bundle: folder of a bundle, or an opened one; None: the model inside the package.
            seed: of what is left to chance beside the mask; None: drawn from PyTorch when iteration begins, so that
                `torch.manual_seed` and the loader's generator decide, and each epoch has others.
            passes: over the masks; None: no end.
            appearance: what appearances are to be; None: sampled from those of the training images.
            transform: see `PairTransform`; None: :func:`m2l_train.datasets.to_tensors`.
            backend: as :meth:`m2l_runtime.Synthesizer.open` takes it, and the next three.
            device: see :class:`SyntheticDataset`.
            precision: see there.
            threads: of each engine; workers are the parallelism.
            shard: (I, N), I from 1 to N: this process makes every N-th pair, as one of N machines or GPUs.

        Raises:
            InputError: there are no masks, or an option is out of range.
            BundleError: the bundle cannot be used.
        """
        self._engine = WorkerSynthesizer(bundle, backend, device, precision, threads)
        self._engine.conditions(seed or 0, appearance)  # told now, not in a worker
        check_shard(shard)
        side = self._engine.image_size[0]
        self._masks = _Drawn(cast(MaskSource, masks)) if is_source(masks) else _Repeated(open_masks(masks, side))
        if passes is not None and (passes < 1 or self._masks.count is None):
            raise ArgumentError(f"passes are at least 1, and over masks that end, got {passes}")
        self._count = None if passes is None or self._masks.count is None else passes * self._masks.count
        self._seed, self._appearance, self._transform, self._shard = seed, appearance, transform, shard
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Draw other images from now on, in workers too.

        Raises:
            ArgumentError: it is below 0.
        """
        self._epoch.set(epoch)

    def __len__(self) -> int:
        if self._count is None:
            raise TypeError("pairs without an end have no length; give `passes`")
        return shard_length(self._shard, self._count)

    def __iter__(self) -> Iterator[Any]:
        seed = self._epoch.seed(loader_seed() if self._seed is None else self._seed)
        conditions = self._engine.conditions(seed, self._appearance)
        for number in dealt(self._shard, self._count):
            name, sample, mask = self._masks.read(number, self._engine.image_size)
            image = self._engine(mask[None], [conditions.for_item(stem(name), sample)])[0]
            yield make_item(image, mask, self._transform)


class _Repeated:
    """Number the masks of a set, pass after pass."""

    def __init__(self, masks: MaskSet) -> None:
        self._masks = masks
        self.count: int | None = len(masks.names)

    def read(self, number: int, image_size: tuple[int, int]) -> tuple[str, int, Mask]:
        """Return name, number of the sample from 1, and mask."""
        sample, place = divmod(number, len(self._masks.names))
        name = self._masks.names[place]
        return name, sample + 1, self._masks.read(name, image_size).mask


class _Drawn:
    """Number the masks of a source, as :class:`m2l_runtime.DrawnMasks` names them, without end."""

    count: int | None = None

    def __init__(self, source: MaskSource) -> None:
        self._source = source

    def read(self, number: int, image_size: tuple[int, int]) -> tuple[str, int, Mask]:
        """Return name, number of the sample from 1, and mask."""
        mask = parse_mask(encode_gray_mask(self._source.draw(number)), image_size).mask
        return f"{number:06}-{self._source.label(number)}.png", 1, mask


def is_source(masks: object) -> bool:
    """Tell a source of masks from a set or the name of one."""
    return hasattr(masks, "draw") and hasattr(masks, "label")


def open_masks(masks: Any, side: int) -> MaskSet:
    """Open masks by name, or as they are.

    Raises:
        InputError: there are none.
    """
    found = open_source(masks, side) if isinstance(masks, str) and is_spec(masks) else mask_set(masks)
    if not found.names:
        raise InputError(f"{masks} holds no masks; expected PNG, JPEG, BMP, TIFF, WebP, GIF or PGM files")
    return found
