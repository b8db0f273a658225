"""A file or folder of masks to a folder of lesion images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from m2l_runtime import atomic
from m2l_runtime.arrays import Image, Mask
from m2l_runtime.contactsheet import ContactSheet
from m2l_runtime.errors import InputError, MaskFileError, OutputError
from m2l_runtime.maskfile import MaskFile, read_mask
from m2l_runtime.maskfolder import SUFFIXES, find_masks
from m2l_runtime.sinks import encode_png, self_description
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.terminal import plural, printable


@dataclass(frozen=True)
class Job:
    """One mask to be turned into one image."""

    source: Path
    """The mask file."""
    name: str
    """Where the image goes, relative to the output folder, with ``/`` between parts."""
    target: Path
    """The image file."""


@dataclass(frozen=True)
class Result:
    """What became of a job: an image, or the reason why there is none."""

    job: Job
    mask: Mask | None = None
    """uint8 (H, W) at the model's size, owned by the caller."""
    image: Image | None = None
    """uint8 (H, W, 3), owned by the caller."""
    note: str | None = None
    """'empty' or 'full' where the mask is legal but unusual."""
    problem: str | None = None
    """Why the mask was skipped."""


@dataclass
class Summary:
    """What a run did."""

    image_count: int = 0
    bad_masks: list[str] = field(default_factory=list)
    """A message for each mask that was skipped; it begins with the file's name."""
    empty_count: int = 0
    full_count: int = 0
    seconds: float = 0.0
    """From the first file read to the last one written."""

    @property
    def images_per_s(self) -> float:
        """End to end: reading, synthesis, writing."""
        return self.image_count / self.seconds if self.seconds else 0.0


def plan(masks: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False) -> list[Job]:
    """The jobs of a run: image names mirror the tree below `masks`, with the ending .png.

    Where `masks` is a file and `out` ends in .png, `out` is the image file.

    Raises:
        InputError: no masks, or two that would give the same image name.
        OutputError: `out` is `masks` or inside it, or holds an image already and `overwrite` is off.
    """
    root, folder = Path(masks), Path(out)
    found = find_masks(root)
    if not found:
        endings = ", ".join(sorted(s.removeprefix(".") for s in SUFFIXES))
        raise InputError(f"{printable(root)} holds no masks; looked for files ending in {endings}")
    if root.is_file() and folder.suffix.lower() == ".png" and not folder.is_dir():
        jobs = [Job(root, folder.name, folder)]
    else:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{printable(folder)} is a file; expected a folder for the images")
        if root.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            raise OutputError(
                f"{printable(folder)} is inside {printable(root)}: the next run would take images for masks; "
                "choose a folder elsewhere"
            )
        names = [relative.with_suffix(".png") for relative, _ in found]
        jobs = [Job(path, name.as_posix(), folder / name) for name, (_, path) in zip(names, found, strict=True)]
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.name, job)
        if other is not job:
            raise InputError(
                f"{printable(other.source)} and {printable(job.source)} would both become {printable(job.name)}; "
                "rename one or run them apart"
            )
        if job.target.exists() and job.target.resolve() == job.source.resolve():
            raise OutputError(f"{printable(job.target)} is the mask itself; choose another output")
    there = [job.target for job in jobs if os.path.lexists(job.target)]
    if there and not overwrite:
        more = f" and {plural(len(there) - 1, 'more image')}" if len(there) > 1 else ""
        raise OutputError(f"{printable(there[0])}{more} exists already; choose another folder or give --overwrite")
    return jobs


def synthesize(jobs: list[Job], synthesizer: Synthesizer) -> Iterator[Result]:
    """Read masks, synthesize images, and write each as PNG; yields a result per job, in order.

    A mask that cannot be used is a result with a `problem`; the others are still done.

    Raises:
        EngineError: the engine failed.
        OutputError: an image cannot be written.
    """
    size = synthesizer.settings.batch_size
    text = self_description(synthesizer.bundle, synthesizer.settings)
    for start in range(0, len(jobs), size):
        read = [_read(job, synthesizer.image_size) for job in jobs[start : start + size]]
        masks = [found.mask for found in read if isinstance(found, MaskFile)]
        images = synthesizer.synthesize_checked(np.stack(masks)) if masks else ()
        made: Iterator[Image] = iter(images)
        for job, found in zip(jobs[start : start + size], read, strict=True):
            if isinstance(found, str):
                yield Result(job, problem=found)
                continue
            image = next(made)
            with atomic.output_errors(job.target):
                job.target.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(job.target, encode_png(image, text))
            yield Result(job, found.mask, image, found.note)


def _read(job: Job, image_size: tuple[int, int]) -> MaskFile | str:
    try:
        return read_mask(job.source, image_size)
    except MaskFileError as error:
        return str(error)


def synthesize_folder(
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    synthesizer: Synthesizer,
    *,
    overwrite: bool = False,
    contact_sheet: str | os.PathLike[str] | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Summary:
    """Synthesize a lesion image for every mask in a folder, or for one mask file.

    Args:
        masks: mask file, or folder searched to its depth.
        out: folder of the images, made if need be; for a single mask also a name ending in .png.
        synthesizer: what to synthesize with; left open.
        overwrite: replace images that are there already.
        contact_sheet: also write a sheet of mask | lesion pairs to this PNG file.
        on_start: called once with the number of masks.
        on_result: called for each mask as it is done.

    Raises:
        InputError, OutputError: before any work, see :func:`plan`.
        EngineError, OutputError: during it; images already written stay.
    """
    jobs = plan(masks, out, overwrite=overwrite)
    sheet_path = None if contact_sheet is None else _sheet_path(Path(contact_sheet), jobs)
    atomic.make_folder(jobs[0].target.parent if Path(out) == jobs[0].target else Path(out))
    manifest = synthesizer.bundle.manifest
    text = self_description(synthesizer.bundle, synthesizer.settings)
    sheet = ContactSheet(f"{manifest.name}, bundle {synthesizer.bundle.sha256[:12]}", text["Description"])
    summary = Summary()
    on_start(len(jobs))
    began = time.perf_counter()
    for result in synthesize(jobs, synthesizer):
        if result.problem is not None:
            summary.bad_masks.append(result.problem)
        else:
            summary.image_count += 1
            summary.empty_count += result.note == "empty"
            summary.full_count += result.note == "full"
            if result.mask is not None and result.image is not None:
                sheet.add(result.job.name, result.mask, result.image)
        on_result(result)
    summary.seconds = time.perf_counter() - began
    if sheet_path is not None and summary.image_count:
        atomic.write_file(sheet_path, encode_png(np.asarray(sheet.draw()), text))
    return summary


def _sheet_path(path: Path, jobs: list[Job]) -> Path:
    if path.suffix.lower() != ".png":
        raise OutputError(f"the contact sheet is a PNG; {printable(path)} should end in .png")
    if path.is_dir():
        raise OutputError(f"{printable(path)} is a folder; expected a file name for the contact sheet")
    resolved = path.resolve()
    for job in jobs:
        if resolved in (job.target.resolve(), job.source.resolve()):
            raise OutputError(f"the contact sheet would overwrite {printable(path)}; choose another name")
    atomic.make_folder(path.parent)
    return path
