"""Train and test the segmenter of one cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import PIL
import scipy
import torch
from PIL import Image as PillowImage

from m2l_runtime import Synthesizer, __version__
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.conditioning.conditions import Conditions, stack_conditions
from m2l_runtime.masks.mask_file import resize
from m2l_runtime.types import Image, Images, Masks
from m2l_train.device import torch_threads
from m2l_train.evaluate.fitting import BATCH_SIZE, Fitting, find_lesions, mean_dice
from m2l_train.evaluate.usefulness.arms import ARMS, Arm
from m2l_train.evaluate.usefulness.batches import Batches, Pool
from m2l_train.evaluate.usefulness.data import Drawn, PairSet, RealData, draw_pairs, read_masks
from m2l_train.evaluate.usefulness.generators import Bundles
from m2l_train.evaluate.usefulness.masks import NamedMask, make_masks
from m2l_train.evaluate.usefulness.plan import CHECKS, Cell, UsefulnessCallbacks, UsefulnessOptions
from m2l_train.evaluate.usefulness.result import CellResult, score

_CHUNK: Final = 16


class CellStopped(Exception):
    """End a cell because the caller says to stop."""


class SynthesizedPairs:
    """Synthesize the pairs of a fraction and seed; those asked for last are kept, as arms share them.

    One bundle is open at a time. Use it as a context manager, which closes it.
    """

    def __init__(
        self, bundles: Bundles, real: RealData, options: UsefulnessOptions, open_bundle: Callable[[Bundle], Synthesizer]
    ) -> None:
        self._bundles, self._real, self._options, self._open_bundle = bundles, real, options, open_bundle
        self._kept: tuple[str, Pool] | None = None
        self._synthesizer: Synthesizer | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bundle that is open."""
        self._close()

    def _close(self) -> None:
        if self._synthesizer is not None:
            self._synthesizer.close()
            self._synthesizer = None

    def open(self, cell: Cell) -> Synthesizer:
        """Open the bundle of a cell, unless it is open.

        Raises:
            BundleError: it cannot be used.
            EngineError: no engine runs it here.
            InputError: it gives equal images where different ones are asked for.
        """
        bundle = self._bundles.of(cell.draw)
        if self._synthesizer is None or self._synthesizer.bundle.sha256 != bundle.sha256:
            self._close()
            self._synthesizer = self._open_bundle(bundle)
        return self._synthesizer

    def of(self, cell: Cell, drawn: Drawn, callbacks: UsefulnessCallbacks) -> Pool:
        """Return the pairs synthesized from the masks of the training pairs drawn.

        Raises:
            CellStopped: the caller says so.
            InputError: no such masks can be made.
        """
        if self._kept is None or self._kept[0] != cell.draw:
            self._kept = None  # not two at once in memory
            self._kept = (cell.draw, self._synthesize(self.open(cell), cell, drawn, callbacks))
        return self._kept[1]

    def engine(self, cell: Cell) -> str:
        """Say what synthesizes, in words."""
        settings = self.open(cell).settings
        return f"{settings.engine}, {settings.device}, {settings.precision}"

    def _synthesize(self, synthesizer: Synthesizer, cell: Cell, drawn: Drawn, callbacks: UsefulnessCallbacks) -> Pool:
        options, side = self._options, synthesizer.image_size[0]
        pairs = [self._real.train.pairs[place] for place in drawn.training]
        count = max(1, round(options.ratio * len(pairs)))
        callbacks.on_note(f"synthesizing {count:,} images of {cell.fraction:g} %, seed {cell.seed}")
        masks = np.stack(list(read_masks(pairs, side, options)))
        conditions = Conditions(synthesizer.extra, cell.seed, options.appearance_choice)
        images: Images = np.empty((count, options.side, options.side, 3), np.uint8)
        small: Masks = np.empty(images.shape[:3], np.uint8)
        named = make_masks(options.masks, [pair.name for pair in pairs], masks, count, cell.seed)
        chunk: list[NamedMask] = []
        for number, one in enumerate(named):
            if callbacks.should_stop():
                raise CellStopped
            chunk.append(one)
            small[number] = resize(one.mask, (options.side, options.side))
            if len(chunk) == _CHUNK or number == count - 1:
                drawn_inputs = stack_conditions([conditions.for_item(each.name, each.sample) for each in chunk])
                made = synthesizer.synthesize_checked(np.stack([each.mask for each in chunk]), *drawn_inputs)
                images[number + 1 - len(chunk) : number + 1] = [_resized(image, options.side) for image in made]
                chunk = []
        return Pool("synthesized", images, small)


def _resized(image: Image, side: int) -> Image:
    """Squash a synthesized image as real ones are: bicubic, with antialiasing."""
    picture = PillowImage.fromarray(image)
    return np.array(picture.resize((side, side), PillowImage.Resampling.BICUBIC))


@dataclass(frozen=True)
class _Best:
    dice: float
    step: int
    weights: dict[str, torch.Tensor]


def run_cell(
    cell: Cell,
    real: RealData,
    options: UsefulnessOptions,
    synthesized: SynthesizedPairs | None,
    device: torch.device,
    settings_sha256: str,
    callbacks: UsefulnessCallbacks,
) -> CellResult:
    """Train a segmenter for the given number of steps, and test the best of its checks.

    Args:
        cell: which one.
        real: all real pairs.
        options: of the experiment; their precision is not auto.
        synthesized: makes the synthesized pairs; None where no arm needs them.
        device: of the segmenter.
        settings_sha256: of what else the result depends on.
        callbacks: to follow and end it.

    Raises:
        CellStopped: the caller says so.
        Diverged: the loss is not a finite number.
    """
    started, arm = time.monotonic(), ARMS[cell.arm]
    drawn = draw_pairs(len(real.train.pairs), cell.fraction, cell.seed)
    pool = None
    if arm.uses_synthesized:
        assert synthesized is not None  # noqa: S101 - opened where an arm needs it
        pool = synthesized.of(cell, drawn, callbacks)
    with torch_threads(options.thread_count):
        fitting = Fitting(options.spec, cell.seed, options.steps, device, is_bf16=options.precision == "bf16")
        batches = _batches(cell, arm, real.train, drawn, pool, options)
        curve, best = _fit(fitting, batches, real.train, drawn, options, callbacks)
        fitting.network.load_state_dict(best.weights)
        scores, one_empty = score(real.test.masks, find_lesions(fitting.network, real.test.images, device))
    return CellResult(
        settings_sha256=settings_sha256,
        arm=cell.arm,
        fraction=cell.fraction,
        seed=cell.seed,
        training_pairs=[real.train.pairs[place].name for place in drawn.training],
        validation_pairs=[real.train.pairs[place].name for place in drawn.validation],
        synthesized_count=0 if pool is None else len(pool.images),
        engine="" if pool is None or synthesized is None else synthesized.engine(cell),
        bundle_sha256="" if pool is None or synthesized is None else synthesized.open(cell).bundle.sha256,
        validation_dice=curve,
        best_step=best.step,
        scores=scores,
        one_empty=one_empty,
        seconds=time.monotonic() - started,
        versions=versions(),
    )


def _batches(
    cell: Cell, arm: Arm, train: PairSet, drawn: Drawn, pool: Pool | None, options: UsefulnessOptions
) -> Batches:
    places = list(drawn.training)
    real = Pool("real", train.images[places], train.masks[places]) if arm.uses_real else None
    return Batches(
        real,
        pool,
        options.synthesized_share,
        options.use,
        steps=options.steps,
        size=BATCH_SIZE,
        seed=cell.seed,
        augments=arm.augments,
    )


def check_steps(steps: int) -> list[int]:
    """Return the steps, from 1, after which the validation pairs are looked at; the last is among them.

    Example:
        >>> check_steps(40)[:3], check_steps(3)
        ([2, 4, 6], [1, 2, 3])
    """
    return sorted({-(-steps * number // CHECKS) for number in range(1, CHECKS + 1)})


def _fit(
    fitting: Fitting,
    batches: Batches,
    train: PairSet,
    drawn: Drawn,
    options: UsefulnessOptions,
    callbacks: UsefulnessCallbacks,
) -> tuple[list[float], _Best]:
    """Take all steps; return the validation Dice at each check, and the best (the latest of equals)."""
    places, checks = list(drawn.validation), set(check_steps(options.steps))
    images, masks = train.images[places], train.masks[places]
    curve: list[float] = []
    best: _Best | None = None
    for step in range(options.steps):
        if callbacks.should_stop():
            raise CellStopped
        fitting.train(*batches.at(step))
        callbacks.on_steps(1)
        if step + 1 in checks:
            with fitting.autocast():
                dice = mean_dice(fitting.network, images, masks, fitting.device)
            curve.append(dice)
            if best is None or dice >= best.dice:
                weights = {name: value.detach().clone() for name, value in fitting.network.state_dict().items()}
                best = _Best(dice, step + 1, weights)
    assert best is not None  # noqa: S101 - the last step is a check
    return curve, best


def versions() -> dict[str, str]:
    """Return the version of each package that results depend on."""
    return {
        "m2l": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "Pillow": PIL.__version__,
    }
