"""Hold the bundle that is served: what a request asks of it, and its replacement by another under way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.conditioning.conditions import (
    AppearanceChoice,
    Appearances,
    Condition,
    Conditions,
    stack_conditions,
)
from m2l_runtime.errors import InputError
from m2l_runtime.output.encoding import self_description
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Image, Mask

DEFAULT_NAME: Final = "mask"
"""Name of a mask that comes without one; with it, images are those of ``m2l synth mask.png``."""


class ServedModel:
    """Hold a synthesizer, and count who uses it, so that it is closed when it is replaced and nobody does."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.synthesizer: Final = synthesizer
        self.text: Final = self_description(synthesizer.bundle, synthesizer.settings)
        """What images say about themselves, but for their seed and appearance."""
        self._users = 0
        self._is_replaced = False

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of masks and images, in pixels."""
        return self.synthesizer.image_size

    def warm_up(self) -> None:
        """Synthesize one image, so that no client waits for what an engine does the first time."""
        self.synthesizer(np.zeros((1, *self.image_size), np.uint8))

    def conditions(
        self, names: Sequence[str], seed: int, samples: Sequence[int], choice: AppearanceChoice | None
    ) -> list[Condition | None]:
        """Sample what the images depend on beside their masks, as `m2l synth` does.

        Args:
            names: of masks, without the ending of a file.
            seed: of the run, 0..2^64-1.
            samples: numbers of the images of each mask, from 1.
            choice: what appearances are to be; None: sampled from the training images.

        Returns:
            One for each image, those of a mask one after the other; None where the generator takes the mask alone.

        Raises:
            InputError: the generator cannot do what is asked for, or a number is out of range.
        """
        conditions = Conditions(self.synthesizer.extra, seed, choice, max(samples))
        return [conditions.for_item(name, sample) for name in names for sample in samples]

    def conditions_of_seeds(self, seeds: Sequence[int], choice: AppearanceChoice | None) -> list[Condition | None]:
        """Sample what images depend on with a seed for each, as a call of a `Synthesizer` does."""
        extra = self.synthesizer.extra
        if not extra.is_random:
            raise InputError("the generator of this bundle takes the mask alone; leave out the seeds")
        conditions = Conditions(extra, 0, choice)
        return [conditions.for_seed(seed) for seed in seeds]

    def with_appearances(
        self, conditions: Sequence[Condition | None], appearances: Appearances
    ) -> list[Condition | None]:
        """Replace the appearance of each condition."""
        return [
            one if one is None else replace(one, appearance=row)
            for one, row in zip(conditions, appearances, strict=True)
        ]

    @contextlib.contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """Use the model within a block; it is not closed before the block ends."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._close_if_unused()

    def retire(self) -> None:
        """Close the model as soon as nobody uses it."""
        self._is_replaced = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_replaced and not self._users:
            self.synthesizer.close()


@dataclass(frozen=True)
class Job:
    """Ask for one image."""

    model: ServedModel
    mask: Mask
    """uint8 (H, W) of the model's size."""
    condition: Condition | None
    """None where the generator takes the mask alone."""


def run_jobs(jobs: Sequence[Job]) -> list[Image]:
    """Synthesize the images of jobs of one model, each uint8 (H, W, 3)."""
    seeds, appearances = stack_conditions([one.condition for one in jobs])
    masks = np.stack([one.mask for one in jobs])
    return list(jobs[0].model.synthesizer.synthesize_checked(masks, seeds, appearances))


class ModelHolder:
    """Hold the model that new requests get, and replace it."""

    def __init__(self, model: ServedModel, reopen: Callable[[], Synthesizer] | None = None) -> None:
        self._model = model
        self._reopen = reopen
        self.is_ready = True
        """Whether requests are taken; false once the service is stopping."""

    @property
    def current(self) -> ServedModel:
        """The model that new requests get."""
        return self._model

    def load_next(self) -> ServedModel:
        """Open the bundle again, check every file of it, and synthesize with it. The current model stays.

        Raises:
            InputError: it was handed in as a synthesizer, so nothing says where it comes from.
            BundleError, EngineError: the bundle there now cannot be used.
        """
        if self._reopen is None:
            raise InputError("the synthesizer was handed in, so there is no bundle to open again")
        path = self._model.synthesizer.bundle.path
        open_bundle(path).check()
        synthesizer = self._reopen()
        try:
            model = ServedModel(synthesizer)
            model.warm_up()
        except BaseException:
            synthesizer.close()
            raise
        return model

    def replace(self, model: ServedModel) -> None:
        """Give new requests another model; the one before is closed when its requests are done."""
        before, self._model = self._model, model
        before.retire()
