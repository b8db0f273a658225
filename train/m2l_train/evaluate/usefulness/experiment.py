"""Run the experiment: deal its cells out, keep each as it is done, and compare them when all are there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from m2l_runtime import Synthesizer, __version__
from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.held_folder import forget
from m2l_runtime._utils.plain_file import read_plain
from m2l_runtime._utils.reading import decode_line, reader_errors
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.backends.engines import is_fake
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.conditioning.conditions import Conditions, ExtraInputs
from m2l_runtime.errors import ArgumentError, InputError, OutputError
from m2l_runtime.runs.lock import locked
from m2l_train.device import computes_bf16, open_device
from m2l_train.evaluate.fitting import BATCH_SIZE, LEARNING_RATE
from m2l_train.evaluate.sets import check_side
from m2l_train.evaluate.usefulness.arms import ARMS
from m2l_train.evaluate.usefulness.cells import CellStopped, SynthesizedPairs, run_cell, versions
from m2l_train.evaluate.usefulness.data import RealData, draw_pairs, read_real
from m2l_train.evaluate.usefulness.generators import Bundles, check_own, describe_bundle, open_bundles
from m2l_train.evaluate.usefulness.plan import (
    CHECKS,
    MAX_VALIDATION,
    VALIDATION_SHARE,
    Cell,
    UsefulnessCallbacks,
    UsefulnessOptions,
    cells,
    draw_name,
    draws,
    fraction_name,
    of_shard,
)
from m2l_train.evaluate.usefulness.report import conclude
from m2l_train.evaluate.usefulness.result import (
    METRICS,
    SCHEMA,
    SCHEMA_VERSION,
    CellResult,
    Generator,
    Settings,
    Usefulness,
    to_document,
)
from m2l_train.evaluate.usefulness.statistics import Scores, compare, summarize

SETTINGS_FILE: Final = "settings.json"
RESULT_FILE: Final = "usefulness.json"
CELLS: Final = "cells"
PLOTS: Final = {"svg": "forest.svg", "png": "forest.png"}
_OURS: Final = (SETTINGS_FILE, RESULT_FILE, CELLS, *PLOTS.values())


@dataclass(frozen=True)
class UsefulnessReport:
    """Report a call that has ended.

    Example:
        >>> report = UsefulnessReport(result=None, done=3, total=30, was_stopped=True)
        >>> report.total - report.done
        27
    """

    result: Usefulness | None
    """None: cells are missing."""
    done: int
    """Cells that are there, of this shard and others."""
    total: int
    """Cells of the experiment."""
    was_stopped: bool
    """Whether `should_stop` ended it."""


@dataclass(frozen=True)
class _Experiment:
    """Hold what a call works with."""

    data: Path
    out: Path
    options: UsefulnessOptions
    bundles: Bundles
    real: RealData
    settings: Settings
    own_generators: tuple[Generator, ...]
    """One for each fraction and seed; none where one bundle is of all, or nothing is synthesized."""

    @property
    def settings_sha256(self) -> str:
        return hashlib.sha256(to_document(self.settings)).hexdigest()

    def path(self, cell: Cell) -> Path:
        return self.out / CELLS / f"{cell.name}.json"

    def read(self, cell: Cell) -> CellResult | None:
        """Read the result of a cell; None if it is not there."""
        found = _read_cell(self.path(cell), cell, self.settings_sha256, len(self.real.test.pairs))
        if found is not None and self.own_generators and ARMS[cell.arm].uses_synthesized:
            _check_bundle(self.path(cell), found, self.bundles.of(cell.draw))
        return found


@check_types()
def evaluate_usefulness(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: UsefulnessOptions | None = None,
    *,
    bundle: str | os.PathLike[str] | None = None,
    bundles: str | os.PathLike[str] | None = None,
    training_runs: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    callbacks: UsefulnessCallbacks | None = None,
) -> UsefulnessReport:
    r"""Measure whether pairs that a bundle synthesizes help a segmenter, beside real ones and alone.

    Each segmenter is a cell, written to `out` when it is done. The same call goes on where one was ended or killed, and
    trains what is missing. Whoever finds all cells there compares them and writes usefulness.json and the forest plot.

    On the CPU of one machine, with one torch version and number of threads, a cell always gives the same scores.

    Example:
        >>> report = evaluate_usefulness("data", "run", bundle="my-bundle")  # doctest: +SKIP
        >>> print("\n".join(report.result.conclusions))  # doctest: +SKIP

    Args:
        data: a data folder with a train and a val split, as :func:`m2l_train.data.data_folder.open_data` reads it.
        out: folder for the cells and the result; made if it is not there.
        options: arms, fractions, seeds, size; None: the defaults.
        bundle: folder of a bundle; None: the model inside the package.
        bundles: in place of `bundle`, a folder with a bundle for each fraction and seed, by names such as
            ``5pct-seed0``, whose generator was trained on the training pairs of its arms alone (see
            :func:`m2l_train.evaluate.write_own_pairs`).
        training_runs: folder of the runs of `m2l train` that these were exported from, by the same names. Their records
            are compared with the arms' pairs, file by file; without them, only the numbers of pairs are.
        backend: of the bundle, see :meth:`m2l_runtime.Synthesizer.open`.
        shard: (I, N): train every N-th cell, from the I-th. Any split gives the same cells.
        overwrite: discard what an earlier run left in `out`.
        callbacks: to follow the experiment, and end it.

    Raises:
        InputError: the data cannot be used, test pairs are among training pairs, there are too few pairs for an arm, a
            bundle of a fraction and seed is missing or saw other pairs, or `out` holds results of other settings or of
            another version.
        OutputError: `out` holds other files, is in use, or cannot be written.
        EngineError: the bundle cannot be run here.
        Diverged: a loss is not a finite number.
    """
    options, callbacks = options or UsefulnessOptions(), callbacks or UsefulnessCallbacks()
    _check_shard(shard, overwrite)
    device = open_device(options.device)
    if options.precision == "auto":
        options = replace(options, precision="bf16" if computes_bf16(device) else "fp32")
    root = Path(out)
    _check_folder(root)
    opened = open_bundles(bundle, bundles, training_runs, options)
    for one in opened.all():
        check_side(*one.manifest.image_size)
        Conditions(ExtraInputs(one), choice=options.appearance_choice)  # raises if it cannot be had
    real = read_real(data, options)
    experiment = _Experiment(
        data=Path(data),
        out=root,
        options=options,
        bundles=opened,
        real=real,
        settings=_settings(options, opened, real, fake=is_fake(backend)),
        own_generators=_own_generators(options, opened, real),
    )
    return _run(experiment, backend, device, shard, overwrite=overwrite, callbacks=callbacks)


def _check_shard(shard: tuple[int, int], overwrite: bool) -> None:
    if not 1 <= shard[0] <= shard[1]:
        raise ArgumentError(f"a shard is I/N with I from 1 to N, got {shard[0]}/{shard[1]}")
    if overwrite and shard[1] > 1:
        raise ArgumentError("overwriting goes with a whole run: a shard would discard the cells of the others")


def _run(
    experiment: _Experiment,
    backend: str,
    device: torch.device,
    shard: tuple[int, int],
    *,
    overwrite: bool,
    callbacks: UsefulnessCallbacks,
) -> UsefulnessReport:
    """Train what is missing of a shard, and compare the cells if all are there."""
    root, options, real = experiment.out, experiment.options, experiment.real
    atomic.make_folder(root / CELLS)
    with locked(root, shard), contextlib.ExitStack() as stack:
        tag = f"usefulness-{shard[0]}-of-{shard[1]}-"
        atomic.remove_leftovers(root, "usefulness-" if shard[1] == 1 else tag)
        if overwrite:
            _remove_earlier(root)
        _keep_settings(experiment, tag)
        ours = of_shard(cells(options), shard)
        missing = [cell for cell in ours if experiment.read(cell) is None]
        callbacks.on_start(options.steps * len(ours), options.steps * (len(ours) - len(missing)))
        synthesized = None
        synthesizing = [cell for cell in missing if ARMS[cell.arm].uses_synthesized]
        if synthesizing:
            synthesized = stack.enter_context(
                SynthesizedPairs(experiment.bundles, real, options, lambda one: _open(one, backend, options, device))
            )
            synthesized.open(synthesizing[0])  # an engine that is missing is told before anything is trained
        for cell in missing:
            try:
                found = run_cell(cell, real, options, synthesized, device, experiment.settings_sha256, callbacks)
            except CellStopped:
                return UsefulnessReport(None, _count_done(experiment), len(cells(options)), True)
            atomic.write_file(experiment.path(cell), to_document(found), durable=True, tag=tag)
            dice = float(np.mean(found.scores["dice"]))
            callbacks.on_note(
                f"{cell.title}: Dice {dice:.4f} on {plural(len(real.test.pairs), 'test pair')} (best at step "
                f"{found.best_step:,} of {options.steps:,})"
            )
        return _finish(experiment, tag, callbacks)


def _open(bundle: Bundle, backend: str, options: UsefulnessOptions, device: torch.device) -> Synthesizer:
    on = "cpu" if device.type == "cpu" else "auto"
    synthesizer = Synthesizer.open(bundle, backend=backend, threads=options.threads, device=on)
    try:
        _check_varies(synthesizer, options)
    except BaseException:
        synthesizer.close()
        raise
    return synthesizer


def _own_generators(options: UsefulnessOptions, bundles: Bundles, real: RealData) -> tuple[Generator, ...]:
    """Describe the generator of each fraction and seed, where these have their own and something is synthesized.

    Raises:
        InputError: a fraction is too small, or a generator saw other pairs than its arms.
    """
    found = []
    for fraction, seed in draws(options):
        drawn = draw_pairs(len(real.train.pairs), fraction, seed)
        if bundles.shared is None and _synthesizing(options):
            pairs = [real.train.pairs[place] for place in drawn.training]
            found.append(check_own(bundles, draw_name(fraction, seed), pairs))
    return tuple(found)


def _synthesizing(options: UsefulnessOptions) -> list[str]:
    return [arm for arm in options.arms if ARMS[arm].uses_synthesized]


def _check_varies(synthesizer: Synthesizer, options: UsefulnessOptions) -> None:
    if options.ratio > 1 and options.masks == "as-they-are" and not synthesizer.extra.is_random:
        raise InputError(
            f"with a ratio of {options.ratio:g} several images of a mask would be the same: the generator of this "
            "bundle takes the mask alone; give a ratio of at most 1, or masks that are deformed or pca"
        )


def _check_folder(root: Path) -> None:
    """Make sure that a folder is new, or one of this command.

    Raises:
        OutputError: it holds other files.
    """
    if os.path.lexists(root) and not root.is_dir():
        raise OutputError(f"{printable(root)} is not a folder; expected a folder for the cells and the result")
    if not root.is_dir() or (root / SETTINGS_FILE).is_file():
        return
    others = sorted(path.name for path in root.iterdir() if path.name != CELLS and not path.name.startswith(".m2l-"))
    if others:
        raise OutputError(
            f"{printable(root)} holds other files, such as {printable(others[0])}; expected a new folder, or one that "
            "m2l evaluate usefulness has written"
        )


def _settings(options: UsefulnessOptions, bundles: Bundles, real: RealData, *, fake: bool) -> Settings:
    return Settings(
        m2l=__version__,
        train_fingerprint=real.train.fingerprint,
        test_fingerprint=real.test.fingerprint,
        bundle_sha256=None if bundles.shared is None else bundles.shared.sha256,
        fake=fake,
        steps=options.steps,
        width=options.width,
        levels=options.spec.levels,
        side=options.side,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        ratio=options.ratio,
        share=options.synthesized_share,
        use=options.use,
        masks=options.masks,
        appearance="" if options.appearance_choice is None else options.appearance_choice.label,
        precision="bf16" if options.precision == "bf16" else "fp32",
        checks=CHECKS,
        validation_share=VALIDATION_SHARE,
        max_validation=MAX_VALIDATION,
    )


def _remove_earlier(root: Path) -> None:
    """Remove what an earlier run has left.

    Raises:
        OutputError: the settings there are not those of such a run, whatever its version.
    """
    path = root / SETTINGS_FILE
    if not os.path.lexists(path):
        return
    with atomic.output_errors(root):
        if not _is_ours(read_plain(path)):
            raise OutputError(
                f"{printable(path)} is not of m2l evaluate usefulness, so nothing is discarded; choose another folder"
            )
        for name in _OURS:
            if (root / name).is_dir() and not (root / name).is_symlink():
                shutil.rmtree(root / name)
                forget(root / name)
            else:
                (root / name).unlink(missing_ok=True)
        (root / CELLS).mkdir()


def _keep_settings(experiment: _Experiment, tag: str) -> None:
    """Write the settings, or make sure that those of an earlier run are the same.

    Raises:
        InputError: they are not.
    """
    path, settings = experiment.out / SETTINGS_FILE, experiment.settings
    advice = "choose another folder, or discard it with --overwrite"
    if not os.path.lexists(path):
        atomic.write_file(path, to_document(settings), durable=True, tag=tag)
        return
    with reader_errors(InputError, path, "is damaged", "; choose another folder"):
        content = read_plain(path)
    if not _is_ours(content):
        advice = "choose another folder"  # --overwrite discards nothing there
    with reader_errors(InputError, path, "is damaged", f"; {advice}"):
        _check_version(path, content, advice)
        earlier = msgspec.json.decode(content, type=Settings)
    differences = [
        f"{name} {printable(str(getattr(earlier, name)))}, now {printable(str(getattr(settings, name)))}"
        for name in Settings.__struct_fields__
        if getattr(earlier, name) != getattr(settings, name)
    ]
    if differences:
        raise InputError(
            f"{printable(experiment.out)} holds results of other settings: {'; '.join(differences)}; {advice}"
        )


class _Head(msgspec.Struct):
    schema: str
    schema_version: int


def _is_ours(content: bytes) -> bool:
    """Tell whether these are settings of a run, whatever its version."""
    head = decode_line(content, _Head)
    return head is not None and head.schema == SCHEMA


def _check_version(path: Path, content: bytes, advice: str) -> None:
    head = msgspec.json.decode(content, type=_Head)
    if head.schema != SCHEMA or head.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{printable(path)} is of {printable(head.schema)} version {head.schema_version}, this m2l writes "
            f"{SCHEMA} version {SCHEMA_VERSION}; {advice}"
        )


def _read_cell(path: Path, cell: Cell, settings_sha256: str, test_count: int) -> CellResult | None:
    advice = "remove it, and the same command trains it again"
    if not os.path.lexists(path):
        return None
    with reader_errors(InputError, path, "is damaged", f"; {advice}"):
        content = read_plain(path)
        _check_version(path, content, advice)
        found = msgspec.json.decode(content, type=CellResult)
    if found.settings_sha256 != settings_sha256:
        raise InputError(f"{printable(path)} is of other settings than {SETTINGS_FILE} beside it; {advice}")
    is_whole = (found.arm, found.fraction, found.seed) == (cell.arm, cell.fraction, cell.seed) and all(
        len(found.scores.get(metric, ())) == test_count for metric in METRICS
    )
    if not is_whole:
        raise InputError(f"{printable(path)} is damaged: it is of another cell, or scores are missing; {advice}")
    return found


def _check_bundle(path: Path, found: CellResult, bundle: Bundle) -> None:
    if found.bundle_sha256 != bundle.sha256:
        raise InputError(
            f"{printable(path)} was trained on images of another bundle than {printable(bundle.path)}: SHA-256 "
            f"{printable(found.bundle_sha256[:12]) or 'unknown'}, now {bundle.sha256[:12]}; remove it, and the same "
            "command trains it again"
        )


def _count_done(experiment: _Experiment) -> int:
    return sum(experiment.path(cell).is_file() for cell in cells(experiment.options))


def _finish(experiment: _Experiment, tag: str, callbacks: UsefulnessCallbacks) -> UsefulnessReport:
    """Compare the cells, if all are there."""
    planned = cells(experiment.options)
    found = [experiment.read(cell) for cell in planned]
    results = [one for one in found if one is not None]
    if len(results) < len(planned):
        return UsefulnessReport(None, len(results), len(planned), False)
    result = _gather(experiment, results)
    atomic.write_file(experiment.out / RESULT_FILE, to_document(result), durable=True, tag=tag)
    if result.comparisons:
        try:
            from m2l_train.evaluate.usefulness.plot import forest_plot
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            callbacks.on_note('no forest plot: it needs matplotlib (pip install "m2l[evaluate]")')
        else:
            atomic.write_file(experiment.out / PLOTS["svg"], forest_plot(result.comparisons, "svg"), tag=tag)
            atomic.write_file(experiment.out / PLOTS["png"], forest_plot(result.comparisons, "png"), tag=tag)
    return UsefulnessReport(result, len(results), len(planned), False)


def _gather(experiment: _Experiment, results: Sequence[CellResult]) -> Usefulness:
    options, test = experiment.options, experiment.real.test
    by_arm: dict[tuple[str, float], list[CellResult]] = {}
    for one in results:  # by fraction, then by seed
        by_arm.setdefault((one.arm, one.fraction), []).append(one)
    keys = [(arm, fraction) for fraction in options.fractions for arm in options.arms]
    scores: dict[tuple[str, float], dict[str, Scores]] = {
        key: {metric: np.array([one.scores[metric] for one in by_arm[key]]) for metric in METRICS} for key in keys
    }
    comparisons = compare(scores)
    first = {fraction_name(fraction): by_arm[options.arms[0], fraction][0] for fraction in options.fractions}
    pairs = {name: len(one.training_pairs) for name, one in first.items()}
    synthesizing = _synthesizing(options)
    generator, own = _generators(experiment, results) if synthesizing else (None, [])
    warnings = list(experiment.real.warnings)
    if experiment.settings.fake and synthesizing:
        warnings.append("images are of the fake backend, which runs no model: this says nothing about a generator")
    return Usefulness(
        data=printable(experiment.data.resolve().name),
        generator=generator,
        generators=own,
        arms=list(options.arms),
        fractions=list(options.fractions),
        seeds=options.seeds,
        pairs=pairs,
        validation_pairs={name: len(one.validation_pairs) for name, one in first.items()},
        test_pairs=len(test.pairs),
        settings=experiment.settings,
        scores=summarize(scores),
        comparisons=comparisons,
        comparison_count=sum(one.metric == "dice" for one in comparisons),
        conclusions=conclude(comparisons, generator, pairs, options.seeds, synthesizing, own),
        warnings=warnings,
        seconds=sum(one.seconds for one in results),
        versions=versions(),
    )


def _generators(experiment: _Experiment, results: Sequence[CellResult]) -> tuple[Generator | None, list[Generator]]:
    """Describe the generator of all fractions and seeds, or those of each."""

    def engine(draw: str) -> str:
        names = {one.engine for one in results if one.engine and draw in ("", draw_name(one.fraction, one.seed))}
        return "; ".join(sorted(names))

    shared = experiment.bundles.shared
    if shared is not None:
        return msgspec.structs.replace(describe_bundle(shared), engine=engine("")), []
    return None, [msgspec.structs.replace(one, engine=engine(one.draw)) for one in experiment.own_generators]
