"""Write the pairs that the arms of a fraction and seed are trained on as data folders, to train a generator on each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import InputError, OutputError
from m2l_train.data.data_folder import IMAGES, MASKS, TRAIN, VAL
from m2l_train.data.pairing import Pair
from m2l_train.evaluate.usefulness.data import draw_pairs, read_real
from m2l_train.evaluate.usefulness.plan import UsefulnessOptions, draw_name, draws


@dataclass(frozen=True)
class OwnPairs:
    """Report the data folders of a call.

    Example:
        >>> OwnPairs(folders=(Path("pairs/5pct-seed0"),), total=3, warnings=(), was_stopped=True).total
        3
    """

    folders: tuple[Path, ...]
    """That are there now, one for each fraction and seed."""
    total: int
    """Folders to write."""
    warnings: tuple[str, ...]
    """Of the data."""
    was_stopped: bool
    """Whether `should_stop` ended it."""


@check_types()
def write_own_pairs(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: UsefulnessOptions | None = None,
    *,
    on_note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> OwnPairs:
    """Write a data folder for each fraction and seed: the pairs that its arms are trained on, and validated on.

    ``OUT/5pct-seed0/train`` has the training pairs, ``val`` the validation pairs; test pairs are in none. Files are
    hard links where the disk has them, else copies. Each folder appears whole; those that are there are kept, so the
    same call goes on where one was ended or killed.

    Example:
        >>> report = write_own_pairs("data", "pairs", UsefulnessOptions(fractions=(5.0,)))  # doctest: +SKIP
        >>> report.folders[0]  # doctest: +SKIP
        PosixPath('pairs/5pct-seed0')

    Args:
        data: a data folder, as :func:`m2l_train.evaluate.evaluate_usefulness` takes it.
        out: folder for the data folders; made if it is not there.
        options: those of the experiment: its fractions, seeds and side say which pairs are drawn.
        on_note: called with a line for each folder written.
        should_stop: asked before each folder.

    Raises:
        InputError: the data cannot be used, test pairs are among training pairs, there are too few pairs for an arm, or
            several have one name.
        OutputError: a folder of that name holds other pairs, or cannot be written.
    """
    options, root = options or UsefulnessOptions(), Path(out)
    if os.path.lexists(root) and not root.is_dir():
        raise OutputError(f"{printable(root)} is not a folder; expected a folder for the pairs of each fraction")
    real = read_real(data, options)
    pairs = real.train.pairs
    plan = []
    for fraction, seed in draws(options):
        drawn = draw_pairs(len(pairs), fraction, seed)
        splits = {TRAIN: [pairs[place] for place in drawn.training], VAL: [pairs[place] for place in drawn.validation]}
        plan.append((root / draw_name(fraction, seed), splits))
    for _, splits in plan:
        _check_names(splits)
    atomic.make_folder(root)
    done: list[Path] = []
    for folder, splits in plan:
        if should_stop():
            return OwnPairs(tuple(done), len(plan), real.warnings, True)
        if os.path.lexists(folder):
            _require_same(folder, splits)
        else:
            with atomic.staged_folder(folder) as staging:
                _write(staging, splits)
            counted = f"{plural(len(splits[TRAIN]), 'pair')} to train on, {len(splits[VAL]):,} to validate on"
            on_note(f"{printable(folder)}: {counted}")
        done.append(folder)
    return OwnPairs(tuple(done), len(plan), real.warnings, False)


def _files(splits: dict[str, list[Pair]]) -> list[tuple[str, Path]]:
    """List (name in the folder, source) of all files."""
    found = []
    for split, pairs in splits.items():
        for pair in pairs:
            if pair.is_combined:
                found.append((f"{split}/{pair.image.name}", pair.image))
            else:
                found.append((f"{split}/{IMAGES}/{pair.image.name}", pair.image))
                found.append((f"{split}/{MASKS}/{pair.mask.name}", pair.mask))
    return found


def _check_names(splits: dict[str, list[Pair]]) -> None:
    """Make sure that no two files would have one name.

    Raises:
        InputError: some would.
    """
    seen: dict[str, Path] = {}
    for name, source in _files(splits):
        key = name.lower()  # a disk may not tell letter cases apart
        other = seen.get(key)
        seen[key] = source
        if other is not None:
            raise InputError(
                f"{printable(other)} and {printable(source)} have one name, and cannot lie in one folder; rename one"
            )


def _write(folder: Path, splits: dict[str, list[Pair]]) -> None:
    for name, source in _files(splits):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        original = source.resolve()  # a link to a link would lead elsewhere
        try:
            os.link(original, target)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(original, target)


def _require_same(folder: Path, splits: dict[str, list[Pair]]) -> None:
    """Make sure that a folder that is there holds these very pairs, and no others.

    Raises:
        OutputError: it does not.
    """
    expected = dict(_files(splits))
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() and path.name[:1] != "."
    }
    if there == expected.keys() and all(_is_same(folder / name, source) for name, source in expected.items()):
        return
    raise OutputError(
        f"{printable(folder)} holds other pairs than are drawn now, of other data or options; choose another folder, "
        "or remove it"
    )


def _is_same(one: Path, other: Path) -> bool:
    try:
        if one.samefile(other):
            return True
    except OSError:
        return False
    sha256 = atomic.file_sha256(one)
    return sha256 is not None and sha256 == atomic.file_sha256(other)
