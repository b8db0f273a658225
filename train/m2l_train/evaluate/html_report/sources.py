"""Find what a result was measured on among the folders that are given, and read or synthesize its images again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from m2l_runtime import Synthesizer
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import InputError
from m2l_train.evaluate import sets
from m2l_train.evaluate.html_report.options import ReportOptions
from m2l_train.evaluate.html_report.results import Column, LoadedResult, bundle_of
from m2l_train.evaluate.inputs import EvaluationData
from m2l_train.evaluate.options import EvaluationOptions
from m2l_train.evaluate.result import Provenance
from m2l_train.evaluate.segmenter import Segmenter, load_segmenter
from m2l_train.evaluate.usefulness.result import Usefulness


class SourceMissing(Exception):
    """Say why pictures are left out: a folder was not given."""


@dataclass
class Sources:
    """Hold what was given beside the results, each opened and checked once."""

    options: ReportOptions
    data: Path | None
    bundles: dict[str, Bundle]
    """By SHA-256, the one inside the package among them."""
    folders: dict[str, Path]
    """Of images from files, by their own names."""
    segmenter: Segmenter | None
    notes: list[str] = field(default_factory=list)

    def open_bundle(self, column: Column) -> AbstractContextManager[Synthesizer]:
        """Open the bundle that a column was measured of.

        Raises:
            SourceMissing: it was not given.
        """
        sha256 = bundle_of(column.counts, column.provenance)
        if sha256 is None or sha256 not in self.bundles:
            raise SourceMissing(
                f"the bundle of {column.label} was not given; add --bundle FOLDER"
                + ("" if sha256 is None else f" (its SHA-256 begins with {sha256[:12]})")
            )
        chosen = self.options
        return Synthesizer.open(
            self.bundles[sha256],
            backend=chosen.backend,
            device=chosen.device,
            threads=chosen.threads,
            streams=None,
            precision=precision_of(column.provenance),
        )

    def require_data(self, label: str) -> Path:
        """Return the data folder.

        Raises:
            SourceMissing: it was not given.
        """
        if self.data is None:
            raise SourceMissing(f"the data that {label} was measured on was not given; add --data FOLDER")
        return self.data

    def folder_of(self, column: Column) -> Path:
        """Return the folder of images that a column was measured of.

        Raises:
            SourceMissing: it was not given.
        """
        name = column.provenance.synthesized
        if name in self.folders:
            return self.folders[name]
        raise SourceMissing(
            f"the images of {column.label} were not given; add --synthesized FOLDER, of the folder named {name}"
        )

    def evaluation_options(self, provenance: Provenance) -> EvaluationOptions:
        """Return the options under which the images were read and made."""
        return EvaluationOptions(
            split=provenance.split,
            encoding="none" if provenance.encoding is None else "real",
            mask_is_left=self.options.mask_is_left,
            seed=provenance.seed,
            workers=self.options.worker_count,
            should_stop=self.options.should_stop,
        )


def precision_of(provenance: Provenance) -> Precision:
    """Return the precision that the engine had, which its name ends with."""
    last = (provenance.engine or "").rpartition(", ")[2]
    return next((known for known in get_args(Precision) if known == last), "fp32")


def open_sources(results: Sequence[LoadedResult], options: ReportOptions) -> Sources:
    """Open what the options name, and make sure that each bundle and folder belongs to a result.

    Raises:
        InputError: the data is not there, or a folder belongs to no result.
        BundleError: a bundle cannot be used.
    """
    columns = [column for loaded in results for column in loaded.columns]
    wanted = {bundle_of(column.counts, column.provenance) for column in columns} | _synthesizing_bundles(results)
    bundles: dict[str, Bundle] = {}
    for path in options.bundles:
        bundle = open_bundle(path)
        if bundle.sha256 not in wanted:
            raise InputError(
                f"{printable(path)} is not the bundle of any result given: its SHA-256 begins with "
                f"{bundle.sha256[:12]}, those of the results with "
                f"{', '.join(sorted(sha[:12] for sha in wanted if sha)) or 'none'}"
            )
        bundles[bundle.sha256] = bundle
    inside = open_bundle(embedded.BUNDLE)
    bundles.setdefault(inside.sha256, inside)
    names = {column.provenance.synthesized for column in columns if column.provenance.engine is None}
    folders: dict[str, Path] = {}
    for path in map(Path, options.synthesized):
        if not path.is_dir():
            raise InputError(f"{printable(path)} is no folder; expected the images that a result was measured of")
        name = printable(path.resolve().name)
        if name not in names:
            raise InputError(
                f"{printable(path)} is not the folder of any result given; they name "
                f"{', '.join(sorted(names)) or 'bundles alone'}"
            )
        folders[name] = path
    data = None if options.data is None else Path(options.data)
    if data is not None and not data.is_dir():
        raise InputError(f"{printable(data)} is no folder; expected the pairs that the results were measured on")
    segmenter = None if options.segmenter is None else load_segmenter(options.segmenter)
    return Sources(options, data, bundles, folders, segmenter)


def _synthesizing_bundles(results: Sequence[LoadedResult]) -> set[str | None]:
    """Return the SHA-256 of bundles of experiments: they may be given, though no picture is made with them."""
    trials = [one.document for one in results if isinstance(one.document, Usefulness)]
    return {
        generator.sha256 for one in trials for generator in (one.generator, *one.generators) if generator is not None
    }


def describe_difference(column: Column, found: EvaluationData) -> list[str]:
    """Say where images are not those that were measured.

    Raises:
        InputError: there are others, or as many of other names.
    """
    provenance, counts = column.provenance, column.counts
    if len(found.names) != counts.synthesized:
        raise InputError(
            f"the data given has {len(found.names):,} pairs where {column.label} was measured on "
            f"{counts.synthesized:,}; expected the folder {provenance.data} that it was measured on"
        )
    lines = []
    real = sets.fingerprint(found.real.names, found.real.images, found.real.masks)
    if real != provenance.real_fingerprint:
        lines.append(
            "The real images of the data given are not, pixel for pixel and name for name, those that were measured."
        )
    synthesized = sets.fingerprint(found.names, found.generated, found.real.masks)
    if synthesized != provenance.synthesized_fingerprint and real == provenance.real_fingerprint:
        lines.append(
            "The synthesized pictures were made again for this page, and differ in some pixels from those that were "
            f"measured ({provenance.engine or 'files'}; here {found.engine or 'files'})."
        )
    return lines
