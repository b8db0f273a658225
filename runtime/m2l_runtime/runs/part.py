"""Synthesize one file of a run that is dealt out to many machines, with the bytes that a whole run gives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime.conditioning.conditions import AppearanceChoice, Conditions
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import SampledMasks
from m2l_runtime.output.encoding import self_description
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers import open_writer
from m2l_runtime.runs.checks import Run, check_log, run_settings
from m2l_runtime.runs.folder import Job, RunCallbacks, Summary, make_images
from m2l_runtime.runs.jsonl import LineWriter
from m2l_runtime.runs.log import LOG_FOLDER, LogIndex, Record, log_path
from m2l_runtime.synthesizer import Synthesizer


@dataclass(frozen=True)
class Part:
    """Name the images of one file: a tar or a Parquet file."""

    number: int
    """Number of the file, from 0."""
    count: int
    """Number of files of the whole run."""
    first: int
    """Place of its first image in the whole run, from 0."""
    names: Sequence[str]
    """Names of its images, as the whole run has them."""

    @property
    def shard(self) -> tuple[int, int]:
        """The shard that holds this file alone, where there are as many shards as files."""
        return self.number + 1, self.count


def deal_out(names: Sequence[str], per_file: int) -> Iterator[Part]:
    """Deal the names of a run out to its files.

    >>> [(part.number, part.first, list(part.names)) for part in deal_out(["a", "b", "c"], 2)]
    [(0, 0, ['a', 'b']), (1, 2, ['c'])]
    """
    count = -(-len(names) // per_file)
    for number in range(count):
        first = number * per_file
        yield Part(number, count, first, names[first : first + per_file])


@dataclass(frozen=True)
class _PartRun(Run):
    """Describe a run of one part, whose names have the places that they have in the whole run."""

    part: Part

    def groups(self) -> Iterator[tuple[int, list[tuple[int, str]]]]:
        """Yield the one group."""
        yield self.part.number, list(enumerate(self.part.names, self.part.first))


class _PartIndex(LogIndex):
    """Find lines of the log about a part's masks, by their places in the whole run."""

    def __init__(self, out: Path, part: Part) -> None:
        self._first = part.first
        super().__init__(out, part.names, part.shard)

    def get(self, place: int) -> Record | None:
        """See LogIndex."""
        return super().get(place - self._first)

    def other_bundle(self, place: int, bundle_sha256: str) -> str | None:
        """See LogIndex; `place` is one of the whole run."""
        self_place = place - self._first
        record = super().get(self_place)
        is_other = record is not None and record.problem is None and record.bundle_sha256 != bundle_sha256
        return record.bundle_sha256 if record is not None and is_other else None


class _Named:
    """Offer some masks of a set; see MaskSet."""

    def __init__(self, masks: MaskSet, names: Sequence[str]) -> None:
        self.names = list(names)
        self.base: Final = masks.base
        self.is_single_file: Final = False
        self.seed: Final = masks.seed
        self._masks = masks

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See MaskSet."""
        return self._masks.read(name, image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See MaskSet."""
        return self._masks.sha256(name)


def masks_of(part: Part, masks: MaskSet, samples: int) -> MaskSet:
    """Return the masks of a part, repeated where there are several samples of each.

    Args:
        part: its names are those of samples where there are several.
        masks: what the names of masks refer to; all of them need not be listed.
        samples: images of each mask.
    """
    if samples == 1:
        return _Named(masks, part.names)
    repeated = SampledMasks(_Named(masks, ()), samples)
    repeated.names = list(part.names)
    return repeated


def synthesize_part(
    part: Part,
    masks: MaskSet,
    out: Path,
    synthesizer: Synthesizer,
    options: OutputOptions,
    *,
    workers: int | None = None,
    resume: bool = False,
    seed: int = 0,
    samples: int = 1,
    appearance: AppearanceChoice | None = None,
    callbacks: RunCallbacks | None = None,
) -> Summary:
    """Synthesize the images of one file, and write it and its log, as shard `part.shard` of a run would.

    It may be called again for the same part, also where an earlier call was killed: the file appears whole or not at
    all, and the same options give the same bytes.

    Args:
        part: which file.
        masks: see :func:`masks_of`.
        out: folder of the files, made if need be.
        synthesizer: what to synthesize with; left open.
        options: a format whose files hold many images.
        workers: threads that read masks and encode images; None: as many as CPUs.
        resume: keep the file if it is what the log says, of these masks and settings.
        seed: seed of the run.
        samples: images of each mask.
        appearance: what appearances are to be; None: sampled.
        callbacks: what follows the run.

    Raises:
        InputError, OutputError, EngineError: see :func:`m2l_runtime.runs.folder.synthesize_folder`.
    """
    conditions = Conditions(synthesizer.extra, seed, appearance, samples)
    part_masks = masks_of(part, masks, samples)
    text = self_description(synthesizer.bundle, synthesizer.settings)
    tag = f"{part.shard[0]}-of-{part.shard[1]}-"
    atomic.make_folder(out / LOG_FOLDER)
    settings = run_settings(synthesizer, part_masks, options, conditions)
    run = _PartRun(part_masks, out, options, part.shard, settings, part)
    writer = open_writer(out, options, text, tag)
    job = Job(run, writer, synthesizer, conditions, text, tag, workers, callbacks or RunCallbacks())
    with contextlib.ExitStack() as stack:
        atomic.remove_leftovers(out, tag, is_deep=False)
        index = stack.enter_context(contextlib.closing(_PartIndex(out, part))) if resume else None
        if index is not None:
            check_log(run, index)
        log = stack.enter_context(contextlib.closing(LineWriter(log_path(out, run.shard))))
        stack.callback(writer.abandon)
        summary, _ = make_images(job, index, log)
    return summary
