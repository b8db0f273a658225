"""Read the images and masks that an evaluation compares."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from m2l_runtime import AppearanceChoice, Synthesizer
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.backends.engines import is_fake
from m2l_runtime.conditioning.conditions import (
    TAKES_NO_APPEARANCE,
    Condition,
    Conditions,
    stack_conditions,
)
from m2l_runtime.errors import InputError
from m2l_runtime.masks.appearance_query import resolve_appearance_query
from m2l_runtime.types import Images, Masks
from m2l_train.data.pairing import Pair, pair_key
from m2l_train.evaluate import sets
from m2l_train.evaluate.encoding import JpegEncoding, common_encoding, encode_once
from m2l_train.evaluate.options import EvaluationOptions, EvaluationStopped

MAX_IMAGES: Final = 2000
"""Synthesized images that are looked at; of more, a sample."""

_SHOWN: Final = 3

_CHUNK: Final = 16


@dataclass(frozen=True)
class EvaluationData:
    """Hold what is evaluated, from files or from a bundle."""

    names: tuple[str, ...]
    generated: Images
    samples: tuple[Images, ...]
    real: sets.RealSet
    files: sets.RealFiles
    warnings: list[str]
    synthesized: str
    data: Path
    sample_names: list[str]
    engine: str | None
    bundles: Mapping[str, int]
    fake: int
    unmatched_generated: list[str]
    unmatched_real: list[str]
    encoding: JpegEncoding | None
    """That most of the real files have; None: most have none, or it is not asked for."""
    conditions: Conditions | None = None
    """Of a bundle: what its images depend on beside their masks."""


def read_folders(
    synthetic: Path, data: Path, options: EvaluationOptions, sample_folders: Sequence[Path]
) -> EvaluationData:
    """Read synthesized images and the real ones that belong to them.

    Args:
        synthetic: folder of synthesized images.
        data: folder of real images.
        options: of the evaluation.
        sample_folders: folders with more images of the same masks.

    Raises:
        InputError: a folder or an image is not what it should be, or too few images match.
    """
    if synthetic.resolve() == data.resolve():
        raise InputError(f"{printable(data)} is given as synthesized and as real; expected two folders")
    files = sets.find_real(data, options.split, mask_is_left=options.mask_is_left)
    by_key = {pair_key(pair.name): pair for pair in files.pairs}
    real_keys = by_key.keys() if files.has_masks else ()
    made_files, *given = (sets.find_synthetic(folder, real_keys) for folder in (synthetic, *sample_folders))
    _refuse_overlap([made_files, *given], files)
    sample_files = [*made_files.more, *(found for one in given for found in (one, *one.more))]
    sets.refuse_synthetic(files.pairs, options.worker_count)
    warnings = list(files.warnings)
    if made_files.ambiguous:
        count = plural(len(made_files.ambiguous), "synthesized image")
        warnings.append(f"{count} of one name with others, not used: {_first_names(made_files.ambiguous)}")
    unmatched_generated: list[str] = []
    unmatched_real: list[str] = []
    keys = sorted(made_files.by_key)
    if files.has_masks:
        unmatched_generated = sorted(made_files.by_key[key].stem for key in made_files.by_key.keys() - by_key.keys())
        unmatched_real = sorted(by_key[key].name for key in by_key.keys() - made_files.by_key.keys())
        keys = sorted(by_key.keys() & made_files.by_key.keys())
        if not keys:
            raise InputError(
                f"no image in {printable(made_files.folder)} has the name of a pair in {printable(data)}: there are "
                f"{_first_names(unmatched_generated)} and {_first_names(unmatched_real)}; expected images of the "
                "masks of these pairs, or "
                "as DATA a folder of photographs alone, to compare sets"
            )
        for names, what in ((unmatched_generated, "synthesized image"), (unmatched_real, "real image")):
            if names:
                warnings.append(f"{plural(len(names), what)} without a counterpart, not used: {_first_names(names)}")
    keys = _subsample(keys, MAX_IMAGES, "synthesized image", options.seed, warnings)
    if len(keys) < sets.MIN_IMAGES:
        raise InputError(f"{plural(len(keys), 'synthesized image')} can be used, at least {sets.MIN_IMAGES} are needed")
    paths = [made_files.by_key[key] for key in keys]
    generated = sets.read_synthetic(paths, options.worker_count)
    sets.refuse_masks(generated, synthetic)
    wanted = [by_key[key] for key in keys] if files.has_masks else list(by_key.values())
    wanted = _subsample(wanted, MAX_IMAGES, "real image", options.seed, warnings)
    encoding = _encoding_of(wanted, options)
    real = _read_real(wanted, files, generated.shape[1:3], options, encoding)
    warnings += [f"left out {problem}" for problem in real.problems]
    if files.has_masks:
        place = {pair_key(name): i for i, name in enumerate(real.names)}
        rows = [i for i, key in enumerate(keys) if key in place]
        keys, paths, generated = [keys[i] for i in rows], [paths[i] for i in rows], generated[rows]
    origins = list(sets.in_threads(sets.image_provenance, paths, options.worker_count))
    fake = sum(found is not None and found.is_fake for found in origins)
    return EvaluationData(
        names=tuple(by_key[key].name if files.has_masks else made_files.by_key[key].stem for key in keys),
        generated=generated,
        samples=tuple(_read_samples(found, keys, generated.shape[1:3], options) for found in sample_files),
        real=real,
        files=files,
        warnings=warnings,
        synthesized=synthetic.resolve().name,
        data=data,
        sample_names=[found.label for found in sample_files],
        engine=None,
        bundles=Counter((found.bundle_sha256 or "") if found is not None else "" for found in origins),
        fake=fake,
        unmatched_generated=unmatched_generated,
        unmatched_real=unmatched_real,
        encoding=encoding,
    )


def synthesize_with_bundle(
    data: Path,
    synthesizer: Synthesizer,
    options: EvaluationOptions,
    appearance: str | AppearanceChoice | None = None,
    samples: int = 1,
) -> EvaluationData:
    """Read real pairs, and synthesize `samples` images from the mask of each.

    Raises:
        InputError: the data has no masks, too few pairs can be read, or the generator takes the mask alone and an
            appearance or samples are asked for.
        EvaluationStopped: the options say to stop.
    """
    files = sets.find_real(data, options.split, mask_is_left=options.mask_is_left)
    if not files.has_masks:
        raise InputError(
            f"{printable(data)} has no masks to synthesize from; expected pairs, as m2l prepare makes them"
        )
    sets.refuse_synthetic(files.pairs, options.worker_count)
    warnings = list(files.warnings)
    sets.check_side(*synthesizer.image_size)
    choice, notes = _appearance_choice(appearance, synthesizer)
    warnings += notes
    conditions = Conditions(synthesizer.extra, options.seed, choice, samples)
    wanted = _subsample(files.pairs, MAX_IMAGES, "pair", options.seed, warnings)
    encoding = _encoding_of(wanted, options)
    real = _read_real(wanted, files, synthesizer.image_size, options, encoding)
    warnings += [f"left out {problem}" for problem in real.problems]
    settings = synthesizer.settings
    generated, *more = (
        synthesize_under(synthesizer, real.masks, [conditions.for_item(name, sample) for name in real.names], options)
        for sample in range(1, samples + 1)
    )
    return EvaluationData(
        names=real.names,
        generated=generated,
        samples=tuple(more),
        real=real,
        files=files,
        warnings=warnings,
        synthesized=f"bundle {synthesizer.bundle.manifest.name}",
        data=data,
        sample_names=[f"sample {sample}" for sample in range(2, samples + 1)],
        engine=f"{settings.engine}, {settings.device}, {settings.precision}",
        bundles={synthesizer.bundle.sha256: len(real.names)},
        fake=len(real.names) if is_fake(settings.backend) else 0,
        unmatched_generated=[],
        unmatched_real=[],
        encoding=encoding,
        conditions=conditions,
    )


def synthesize_under(
    synthesizer: Synthesizer, masks: Masks, drawn: Sequence[Condition | None], options: EvaluationOptions
) -> Images:
    """Synthesize an image (S, S, 3) from each mask (N, S, S) under its own condition.

    Raises:
        EvaluationStopped: the options say to stop.
    """
    generated = []
    step = _CHUNK * synthesizer.settings.streams
    for start in range(0, len(masks), step):
        if options.should_stop():
            raise EvaluationStopped
        some = stack_conditions(drawn[start : start + step])
        generated.append(synthesizer.synthesize_checked(masks[start : start + step], *some))
    return np.concatenate(generated)


def _appearance_choice(
    appearance: str | AppearanceChoice | None, synthesizer: Synthesizer
) -> tuple[AppearanceChoice | None, list[str]]:
    """Return what appearances are to be, and notes on it."""
    if appearance is None:
        return None, []
    if synthesizer.extra.table is None:
        raise InputError(TAKES_NO_APPEARANCE)
    choice, notes = (
        resolve_appearance_query(appearance, synthesizer.image_size, names=synthesizer.appearance_names)
        if isinstance(appearance, str)
        else (appearance, [])
    )
    return choice, notes + synthesizer.extra.sampler_for(choice).warnings


def _subsample(items: Sequence[Any], max_count: int, noun: str, seed: int, warnings: list[str]) -> list[Any]:
    chosen = sets.sample(len(items), max_count, seed, noun)
    if len(chosen) < len(items):
        warnings.append(f"a sample of {max_count:,} of {plural(len(items), noun)} is looked at")
    return [items[i] for i in chosen]


def _encoding_of(pairs: Sequence[Pair], options: EvaluationOptions) -> JpegEncoding | None:
    if options.encoding == "none":
        return None
    return common_encoding([pair.image for pair in pairs], options.worker_count)


def finisher(encoding: JpegEncoding | None) -> sets.Finish:
    """Return what brings a real image to `encoding`, unless its file has it: see :func:`encode_once`."""
    return (lambda path, image: image) if encoding is None else functools.partial(encode_once, encoding)


def _read_real(
    pairs: Sequence[Pair],
    files: sets.RealFiles,
    size: tuple[int, int],
    options: EvaluationOptions,
    encoding: JpegEncoding | None,
) -> sets.RealSet:
    return sets.read_pairs(
        pairs,
        size,
        workers=options.worker_count,
        has_masks=files.has_masks,
        mask_is_left=files.mask_is_left,
        finish=finisher(encoding),
    )


def _refuse_overlap(folders: Sequence[sets.SyntheticFiles], real: sets.RealFiles) -> None:
    """No file is synthesized and real at once, and no folder stands for two sets of samples."""
    photographs = {pair.image.resolve() for pair in (*real.pairs, *real.reference)}
    masks = {pair.mask.resolve() for pair in (*real.pairs, *real.reference)}
    for found in folders:
        for path in (path for one in (found, *found.more) for path in one.by_key.values()):
            for files, what in ((photographs, "a real image of DATA"), (masks, "a mask of DATA")):
                if path.resolve() in files:
                    raise InputError(
                        f"{printable(path)} is given as synthesized and is {what}; expected a folder of m2l "
                        "synth, which DATA does not hold"
                    )
    for one, other in itertools.combinations(folders, 2):
        if one.folder.resolve() == other.folder.resolve():
            raise InputError(f"{printable(other.folder)} is given twice; samples are other images of the same masks")


def _read_samples(
    files: sets.SyntheticFiles, keys: Sequence[str], size: tuple[int, int], options: EvaluationOptions
) -> Images:
    missing = [key for key in keys if key not in files.by_key]
    if missing:
        raise InputError(
            f"{printable(files.folder)} has no image for {plural(len(missing), 'mask')} "
            f"({_first_names(missing)}); expected "
            "samples of the same masks, by the same names"
        )
    images = sets.read_synthetic([files.by_key[key] for key in keys], options.worker_count)
    height, width = images.shape[1:3]
    if (height, width) != size:
        raise InputError(
            f"the images in {printable(files.folder)} are {width} x {height} pixels, the others {size[1]} x {size[0]}; "
            "expected one size"
        )
    return images


def _first_names(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
