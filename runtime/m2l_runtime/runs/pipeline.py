"""Run reading, the engine and encoding at once, on threads, with results in order and memory bounded.

Threads: a pool of workers reads masks and encodes images; as many engine threads as the synthesizer has streams each
run one call of the engine at a time; the caller's thread deals out and collects. Queues between them are bounded, so
memory does not grow with the number of masks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import numpy as np
from PIL import Image as PillowImage

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import check_workers, usable_cpus
from m2l_runtime._utils.text import stem
from m2l_runtime.conditioning.conditions import AppearanceChoice, Condition, Conditions, stack_conditions
from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.mask_folder import mask_set
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import sampled, source_mask
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Appearance, Image, Mask

_I = TypeVar("_I")

_K = TypeVar("_K")

_E = TypeVar("_E")

_MAX_WAITING: Final = 64
"""Batches' worth of masks that may wait for one batch to fill when most masks are bad or kept."""


@dataclass(frozen=True)
class Result:
    """Hold what became of a mask: an image, one kept from an earlier run, or the reason why there is none.

    Example:
        >>> from m2l_runtime import DrawnMasks, Shapes, Synthesizer
        >>> with Synthesizer.open(backend="fake") as synth:
        ...     result = next(iterate_folder(DrawnMasks(Shapes(), 1), synth))
        >>> result.name, result.image.shape, result.problem
        ('000000-circle.png', (256, 256, 3), None)
    """

    name: str
    """Name of the mask file, relative to its folder; with the sample's number where there are several."""
    mask: Mask | None = None
    """uint8 (H, W), 0 background, 255 lesion, owned by the caller; None if kept or bad."""
    image: Image | None = None
    """uint8 (H, W, 3) RGB of the mask's size, owned by the caller; None if kept or bad."""
    output: str | None = None
    """The file that holds the image, relative to the output folder; None if none was written."""
    note: str | None = None
    """'empty', 'full' or 'inverted?' where the mask is legal but unusual."""
    problem: str | None = None
    """Why the mask was skipped; begins with the file's name."""
    is_kept: bool = False
    """Whether an earlier run made the image, and it was found as it was."""
    seed: int | None = None
    """Seed of the image, as a synthesizer takes it; None where the generator takes the mask alone."""
    appearance: Appearance | None = None
    """float32 (12,) that the generator was given; None where it takes none."""


@check_types()
def iterate_folder(
    masks: str | os.PathLike[str] | MaskSet,
    synthesizer: Synthesizer,
    *,
    original_size: bool = False,
    workers: int | None = None,
    seed: int = 0,
    samples: int = 1,
    appearance: AppearanceChoice | None = None,
) -> Iterator[Result]:
    """Synthesize every mask in a folder, or one mask file, and yield the images one by one. Nothing is written to disk.

    Results come in the order of names without their endings. A mask that cannot be used is a result with `problem`;
    the others go on. Work runs a few batches ahead of the caller; leaving the loop ends it.

    Example:
        >>> from m2l_runtime import Synthesizer, open_source
        >>> with Synthesizer.open(backend="fake") as synth:
        ...     for result in iterate_folder(open_source("shapes:2"), synth):  # or a folder of masks
        ...         if result.problem is None:
        ...             print(result.name, result.image.shape)
        000000-circle.png (256, 256, 3)
        000001-ellipse.png (256, 256, 3)

    Args:
        masks: mask file, folder searched to its depth, or masks that are drawn (:mod:`m2l_runtime.masks.sources`).
        synthesizer: what to synthesize with; left open.
        original_size: mask and image at the size of the mask's file rather than at the model's.
        workers: threads that read masks; None: as many as CPUs.
        seed: what is left to chance is drawn with it and the mask's name, where the generator takes more than the mask.
        samples: images of each mask.
        appearance: what appearances are to be; None: drawn from what the network was trained with.

    Yields:
        A result for each mask: `mask` uint8 (H, W) and `image` uint8 (H, W, 3), new arrays owned by the caller.

    Raises:
        InputError: there is no such folder or file, a number is out of range, or the generator takes the mask alone and
            samples or an appearance are asked for.
        EngineError: the engine failed; what came before stands.
    """
    check_workers(workers)
    conditions = Conditions(synthesizer.extra, seed, appearance, samples)
    sampled_masks = sampled(mask_set(masks), samples)

    def read(name: str) -> Input[Result]:
        try:
            file = sampled_masks.read(name, synthesizer.image_size, keep_original=original_size)
        except MaskFileError as error:
            return Input(Result(name, problem=str(error)))
        condition = condition_of(conditions, sampled_masks, name)
        if condition is None:
            return Input(Result(name, note=file.note), file)
        key = Result(name, note=file.note, seed=condition.seed, appearance=condition.appearance)
        return Input(key, file, condition)

    def encode(_: Result, file: MaskFile, image: Image) -> tuple[Mask, Image]:
        return at_output_size(file, image)

    return _results(overlap(sampled_masks.names, synthesizer, read, encode, workers=workers))


def _results(made: Iterator[Output[Result, tuple[Mask, Image]]]) -> Iterator[Result]:
    for one in made:
        mask, image = one.encoded or (None, None)
        yield replace(one.key, mask=mask, image=image)


def condition_of(conditions: Conditions, masks: MaskSet, name: str) -> Condition | None:
    """Return what the image of a mask depends on beside it; None if the generator takes the mask alone."""
    source, sample = source_mask(masks, name)
    return conditions.for_item(stem(source), sample)


@dataclass(frozen=True)
class Input(Generic[_K]):
    """Hold a mask that was read, or an item that needs no engine."""

    key: _K
    """What the caller wants to know of the item later."""
    mask_file: MaskFile | None = None
    condition: Condition | None = None
    """What the image depends on beside the mask; None where the generator takes the mask alone."""


@dataclass(frozen=True)
class Output(Generic[_K, _E]):
    """Hold what became of an input."""

    key: _K
    mask_file: MaskFile | None = None
    image: Image | None = None
    """uint8 (H, W, 3) at the model's size."""
    encoded: _E | None = None
    """What `encode` returned."""


class Clock:
    """Measure for how many seconds the engine was at work: at least one call of it under way."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    def __enter__(self) -> None:
        """Begin a call, on any thread."""
        with self._lock:
            if not self._running:
                self._since = time.perf_counter()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        """End a call."""
        with self._lock:
            self._running -= 1
            now = time.perf_counter()
            self.seconds += now - self._since
            self._since = now


def overlap(
    items: Iterable[_I],
    synthesizer: Synthesizer,
    read: Callable[[_I], Input[_K]],
    encode: Callable[[_K, MaskFile, Image], _E],
    *,
    workers: int | None = None,
    clock: Clock | None = None,
) -> Generator[Output[_K, _E], None, None]:
    """Call `read` on each item, the engine on the masks and `encode` on the images: all at once, results in order.

    Args:
        items: taken one by one, a bounded number ahead of the results.
        synthesizer: run with its own batch size, as many batches at once as it has streams.
        read: called on several threads.
        encode: called on several threads, with the key of the reading, the mask and its image.
        workers: threads for `read` and `encode`; None: as many as CPUs.
        clock: is told how long the engine worked.

    Raises:
        Whatever `read`, the engine and `encode` raise, in its turn; what is in flight is dropped.
    """
    count, clock = workers or usable_cpus(), clock or Clock()
    batch_size, streams = synthesizer.settings.batch_size, synthesizer.settings.streams
    max_in_flight = 2 * (batch_size * streams + count)
    with _pool(count, "m2l-worker") as worker_pool, _pool(streams, "m2l-engine") as engine_pool:
        jobs: deque[_Job[_K, _E]] = deque()
        batch: list[_Job[_K, _E]] = []

        def start() -> None:
            if batch:
                engine_call = engine_pool.submit(_run, batch.copy(), synthesizer, encode, worker_pool, clock)
                for job in batch:
                    job.engine_call = engine_call
                batch.clear()

        for input_item in _prefetch(items, read, worker_pool, max_in_flight):
            job: _Job[_K, _E] = _Job(input_item)
            jobs.append(job)
            if input_item.mask_file is not None:
                batch.append(job)
            if len(batch) == batch_size or len(jobs) >= _MAX_WAITING * max_in_flight:
                start()
            while jobs and (jobs[0].is_ready() or (len(jobs) > max_in_flight and jobs[0].has_started())):
                yield jobs.popleft().result()
        start()
        while jobs:
            yield jobs.popleft().result()


class _Job(Generic[_K, _E]):
    """Follow an item through the engine and the encoder."""

    def __init__(self, input_item: Input[_K]) -> None:
        self.input_item: Final = input_item
        self.engine_call: Future[None] | None = None
        """The engine call; None until it is submitted."""
        self.image: Image | None = None
        self.encoded: Future[_E] | None = None

    def has_started(self) -> bool:
        """Tell whether it needs no more masks to fill its batch."""
        return self.input_item.mask_file is None or self.engine_call is not None

    def is_ready(self) -> bool:
        if self.input_item.mask_file is None:
            return True
        return (
            self.engine_call is not None and self.engine_call.done() and (self.encoded is None or self.encoded.done())
        )

    def result(self) -> Output[_K, _E]:
        """Wait for it, and raise what it raised."""
        input_item = self.input_item
        if self.engine_call is None:
            return Output(input_item.key)
        self.engine_call.result()
        return Output(
            input_item.key, input_item.mask_file, self.image, None if self.encoded is None else self.encoded.result()
        )


def _run(
    batch: list[_Job[_K, _E]],
    synthesizer: Synthesizer,
    encode: Callable[[_K, MaskFile, Image], _E],
    worker_pool: ThreadPoolExecutor,
    clock: Clock,
) -> None:
    """Make one call of the engine; its images go to the pool for encoding."""
    mask_file = [job.input_item.mask_file for job in batch if job.input_item.mask_file is not None]
    conditions = stack_conditions([job.input_item.condition for job in batch])
    with clock:
        images = synthesizer.synthesize_checked(np.stack([file.mask for file in mask_file]), *conditions)
    for job, file, image in zip(batch, mask_file, images, strict=True):
        job.image = image
        job.encoded = worker_pool.submit(encode, job.input_item.key, file, image)


def _prefetch(
    items: Iterable[_I], read: Callable[[_I], Input[_K]], pool: ThreadPoolExecutor, max_count: int
) -> Iterator[Input[_K]]:
    """Yield inputs in the order of items, at most `max_count` of them being read."""
    pending: deque[Future[Input[_K]]] = deque()
    for item in items:
        pending.append(pool.submit(read, item))
        if len(pending) >= max_count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextlib.contextmanager
def _pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads that drops what it has not begun when the block ends."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def at_output_size(mask_file: MaskFile, image: Image) -> tuple[Mask, Image]:
    """Bring mask and image to the size of the mask's file if its original was kept; else return them as they are.

    The image is brought there bicubic with antialiasing, which undoes the squash.
    """
    if mask_file.original is None:
        return mask_file.mask, image
    height, width = mask_file.original_size
    resized = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BICUBIC)
    return mask_file.original, np.array(resized)
