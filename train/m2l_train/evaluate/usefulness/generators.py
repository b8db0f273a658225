"""Open the bundles that synthesize: one for all fractions and seeds, or one for each, which saw its pairs alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.plain_file import read_plain
from m2l_runtime._utils.reading import reader_errors
from m2l_runtime._utils.text import plural, printable, utf8
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.errors import InputError
from m2l_train.data.data_record import DataRecord
from m2l_train.data.pairing import Pair
from m2l_train.evaluate.usefulness.plan import UsefulnessOptions, draw_name, draws
from m2l_train.evaluate.usefulness.result import Generator

RUN_DATA: Final = "data.json"
"""In which a run of `m2l train` records the files that it is trained on."""
_MAX_RECORD_BYTES: Final = 1 << 28
_SHOWN: Final = 3
_ADVICE: Final = "export it from a run of m2l train on the folder that m2l evaluate usefulness-pairs has written"


@dataclass(frozen=True)
class Bundles:
    """Hold the bundles of an experiment."""

    shared: Bundle | None = None
    """Of all fractions and seeds; None: each has its own."""
    own: Mapping[str, Bundle] = field(default_factory=dict)
    """By the name of fraction and seed, as 5pct-seed0."""
    training_runs: Path | None = None
    """Folder of the runs that they were exported from, by the same names."""

    def of(self, draw: str) -> Bundle:
        """Return the bundle of a fraction and seed, by their name."""
        return self.own[draw] if self.shared is None else self.shared

    def all(self) -> Sequence[Bundle]:
        """Return each bundle once."""
        return tuple(self.own.values()) if self.shared is None else (self.shared,)


def open_bundles(
    bundle: str | os.PathLike[str] | None,
    bundles: str | os.PathLike[str] | None,
    training_runs: str | os.PathLike[str] | None,
    options: UsefulnessOptions,
) -> Bundles:
    """Open one bundle for all, or those of each fraction and seed in a folder.

    Args:
        bundle: folder of the one for all; None: the model inside the package, unless `bundles` is given.
        bundles: folder of those of each fraction and seed, such as ``5pct-seed0``.
        training_runs: folder of the runs that these were exported from, by the same names.
        options: say which fractions and seeds there are.

    Raises:
        InputError: both are given, or some bundles or runs are not there, which are named.
        BundleError: a bundle cannot be used.
    """
    if bundles is None:
        if training_runs is not None:
            raise InputError("training runs belong to bundles of each fraction and seed; give these too (--bundles)")
        return Bundles(open_bundle(embedded.BUNDLE if bundle is None else bundle))
    if bundle is not None:
        raise InputError("expected one bundle for all fractions and seeds, or a folder of their own ones, got both")
    names = [draw_name(fraction, seed) for fraction, seed in draws(options)]
    for given, what in ((bundles, "bundle"), (training_runs, "run")):
        root = Path(bundles if given is None else given)
        missing = [name for name in names if not (root / name).is_dir()]
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
            raise InputError(
                f"{printable(root)} lacks {plural(len(missing), what)} of {len(names)}: {shown}; expected a folder of "
                "that name for each fraction and seed"
            )
    opened = {name: open_bundle(Path(bundles) / name) for name in names}
    return Bundles(None, opened, None if training_runs is None else Path(training_runs))


def describe_bundle(bundle: Bundle, draw: str = "") -> Generator:
    """Describe a bundle's generator, as far as the bundle does; its engine is not known yet.

    Args:
        bundle: that synthesizes.
        draw: name of the fraction and seed that it does so for; "" for all.
    """
    manifest = bundle.manifest
    training = manifest.provenance.training
    return Generator(
        draw=draw,
        name=printable(manifest.name),
        sha256=bundle.sha256,
        engine="",
        training_pairs=None if training is None else training.pair_count or None,  # 0: it is not known
        at_least=None if manifest.appearance is None else manifest.appearance.count,
    )


def check_own(bundles: Bundles, draw: str, pairs: Sequence[Pair]) -> Generator:
    """Describe the generator of a fraction and seed, and make sure that it saw these training pairs and no others.

    By their number, if its bundle says it; with the run that it was exported from, by names and content of each file.

    Args:
        bundles: each fraction and seed has its own.
        draw: name of the fraction and seed.
        pairs: that its arms are trained on.

    Raises:
        InputError: it did not, or the bundle is not of the run.
    """
    bundle = bundles.own[draw]
    found = describe_bundle(bundle, draw)
    name = printable(bundle.path)
    known = found.training_pairs
    if known is not None and known != len(pairs):
        raise InputError(
            f"the generator of {name} was trained on {plural(known, 'pair')}, and the arms of {draw} on "
            f"{len(pairs):,}; {_ADVICE}"
        )
    if known is None and (found.at_least or 0) > len(pairs):
        raise InputError(
            f"the generator of {name} was trained on at least {plural(found.at_least or 0, 'pair')}, and the arms of "
            f"{draw} on {len(pairs):,}; {_ADVICE}"
        )
    if bundles.training_runs is None:
        return found
    _check_run(bundles.training_runs / draw, bundle, draw, pairs)
    return msgspec.structs.replace(found, is_record_compared=True)


def _check_run(run: Path, bundle: Bundle, draw: str, pairs: Sequence[Pair]) -> None:
    """Make sure that a bundle is of a run, and the run of these pairs.

    Raises:
        InputError: one is not, or the run has no record.
    """
    provenance = bundle.manifest.provenance
    if file_sha256(run / Path(provenance.checkpoint).name) != provenance.checkpoint_sha256:
        raise InputError(
            f"{printable(bundle.path)} was not exported from {printable(run)} as it is now: "
            f"{printable(provenance.checkpoint)} there is another file, or none; export it again"
        )
    path = run / RUN_DATA
    with reader_errors(InputError, path, "cannot be read", "; give the run of m2l train that made the bundle"):
        record = DataRecord.from_json(read_plain(path, _MAX_RECORD_BYTES))
    if record is None:
        raise InputError(f"{printable(path)} is damaged; train again, or leave the training runs out")
    recorded = sorted((pair.image.name, pair.image.sha256, pair.mask.name, pair.mask.sha256) for pair in record.train)
    expected = sorted(tuple(word for path in (pair.image, pair.mask) for word in _named(path)) for pair in pairs)
    if recorded != expected:
        others = {name for name, *_ in recorded} - {name for name, *_ in expected}
        which = f"{plural(len(others), 'other pair')}, such as {printable(min(others))}" if others else "others"
        raise InputError(
            f"{printable(run)} was trained on {which}, not on the pairs that the arms of {draw} are trained on; "
            f"{_ADVICE}"
        )


def _named(path: Path) -> tuple[str, str]:
    """Return a file's name and the SHA-256 of its content, "" where it cannot be read."""
    return utf8(path.name), file_sha256(path) or ""
