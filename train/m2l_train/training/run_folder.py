"""Read and write the folder of a training run: its settings, its state and its metrics.

::

    config.json          the settings, all of them
    state.pt             all that is needed to go on; tensors, numbers and strings, loads with weights_only=True
    latest_net_G.pth     the generator as of the state (averaged, if an average is kept), in the original's key layout
    latest_net_D.pth     the discriminator
    progress.json        for people and for export: epoch, step, hours, versions, SHA-256 of latest_net_G.pth
    data.json            name, SHA-256 and stamp of each file that is trained or validated on
    metrics.jsonl        a line a step and a line an epoch
    grids/epoch_0001.png mask | synthesized | real, of the same masks each time
    events/              for TensorBoard
    10_net_G.pth         the generator after an epoch that is kept

Files that are replaced appear under their names whole or not at all. Of a save, a kept generator comes first, then the
state, then the others, which are made up from the state if a kill came in between.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import torch

from m2l_runtime._utils import atomic
from m2l_runtime._utils.held_folder import remove_folder
from m2l_runtime._utils.plain_file import read_plain
from m2l_runtime._utils.reading import decode_line, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.errors import ArgumentError, InputError, OutOfMemory, OutputError
from m2l_train import config_file
from m2l_train.config import TrainConfig
from m2l_train.data.data_record import DataRecord
from m2l_train.tensorfile import MAX_FILE_BYTES, load_tensors

CONFIG: Final = "config.json"
STATE: Final = "state.pt"
GENERATOR: Final = "latest_net_G.pth"
DISCRIMINATOR: Final = "latest_net_D.pth"
PROGRESS: Final = "progress.json"
DATA: Final = "data.json"
METRICS: Final = "metrics.jsonl"
SAMPLES: Final = "grids"
EVENTS: Final = "events"

STATE_FORMAT: Final = 1
MAX_DATA_BYTES: Final = 1 << 28
MAX_TEXT_BYTES: Final = 1 << 20
"""Size of config.json and progress.json that is read."""
TAG: Final = "train-"
"""Of temporary files."""

_NETWORK: Final = re.compile(r"latest_net_[GD]\.pth|[0-9]+_net_G\.pth")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Describe how far a run has come, for people and for export."""

    epoch: int
    """From 1; the one under way, or the last one if it is done."""
    epoch_count: int
    step: int
    """Steps done."""
    is_complete: bool
    hours: float
    """Of training, all sessions together."""
    pair_count: int
    val_l1_levels: float | None
    """Of the last epoch that was validated: mean absolute difference on the validation split, in levels of 0..255."""
    device: str
    versions: dict[str, str]
    net_G_sha256: str  # noqa: N815 - named as the file


@dataclass(frozen=True)
class RunFolder:
    """Read and write the folder of one run."""

    path: Path

    def is_run(self) -> bool:
        """Tell whether a run lies there: a config.json of m2l, not just any."""
        try:
            return config_file.is_config(read_plain(self.path / CONFIG, MAX_TEXT_BYTES))
        except (OSError, ValueError):
            return False

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Make sure that there is a run to resume, or place for a new one.

        Raises:
            OutputError: there is a run that has saved something and it is neither to be resumed nor replaced, or
                something else is there.
            InputError: there is no run to resume.
        """
        name = printable(self.path)
        if resume and overwrite:
            raise ArgumentError("a run is either gone on with (--resume) or begun anew (--overwrite); choose one")
        if resume:
            if not os.path.lexists(self.path / CONFIG):  # what else is wrong with it is told of when it is read
                raise InputError(f"{name} holds no run to resume; leave out --resume to begin one")
            return
        if self.is_run():
            if not overwrite and self._saved():
                raise OutputError(f"{name} holds a run; --resume goes on with it, --overwrite begins anew")
        elif self.path.exists() and (
            not self.path.is_dir() or any(not file.name.startswith(".m2l-") for file in self.path.iterdir())
        ):
            raise OutputError(f"{name} is there and is no run; choose another folder")

    def begin(self, config: TrainConfig) -> None:
        """Remove what an earlier run has written, and nothing else; then write config.json.

        The old config.json stays until the new one replaces it, so after a kill the folder can still be told for a
        run's and be overwritten.
        """
        content = config_file.to_json(config)
        with atomic.output_errors(self.path):
            networks = [file.name for file in self.path.iterdir() if _NETWORK.fullmatch(file.name)]
            for name in (STATE, PROGRESS, DATA, METRICS, *networks):
                atomic.remove_inside(self.path, name)
            for folder, pattern in ((SAMPLES, "epoch_*.png"), (EVENTS, "events.out.tfevents.*")):
                for file in list((self.path / folder).glob(pattern)):
                    atomic.remove_inside(self.path, f"{folder}/{file.name}")
                with contextlib.suppress(OSError):  # not there, or others' files are in it
                    remove_folder(self.path / folder)
        atomic.write_file(self.path / CONFIG, content, durable=True, tag=TAG)

    def read_config(self) -> TrainConfig:
        """Read the settings of the run.

        Raises:
            InputError: config.json cannot be read, or is damaged.
        """
        path = self.path / CONFIG
        with reader_errors(InputError, path, "cannot be read"):
            content = read_plain(path, MAX_TEXT_BYTES)
        return config_file.from_json(content, printable(path))

    def read_data(self) -> DataRecord | None:
        """Read what the run was trained on; None if there is no such file, or a damaged one."""
        try:
            return DataRecord.from_json(read_plain(self.path / DATA, MAX_DATA_BYTES))
        except OSError:
            return None

    def write_data(self, record: DataRecord) -> None:
        """Write what the run is trained on.

        Raises:
            OutputError
        """
        atomic.write_file(self.path / DATA, record.to_json(), durable=True, tag=TAG)

    def read_progress(self) -> Progress | None:
        """Read how far the run has come; None if there is no such file, or a damaged one."""
        try:
            return decode_line(read_plain(self.path / PROGRESS, MAX_TEXT_BYTES), Progress)
        except (OSError, ValueError):
            return None

    def save(self, state: Mapping[str, Any], progress: Progress, *, keep_epoch: int | None = None) -> None:
        """Write the state, then the networks, then how far they are.

        Args:
            state: all that is needed to go on; `G` and `D` are the networks.
            progress: of that state; the hash is filled in.
            keep_epoch: write the generator as ``<epoch>_net_G.pth`` too. First of all: once the state says that the
                epoch is over, nobody comes back to it.

        Raises:
            OutputError: the disk is full, or the folder is gone; the state before is still there.
        """
        if keep_epoch is not None:
            _save(self.path / f"{keep_epoch}_net_G.pth", _inference_weights(state))
        _save(self.path / STATE, state)
        self.save_networks(state, progress)

    def save_networks(self, state: Mapping[str, Any], progress: Progress) -> None:
        """Write the networks of a state that lies there, and how far they are.

        Raises:
            OutputError
        """
        sha256 = _save(self.path / GENERATOR, _inference_weights(state))
        _save(self.path / DISCRIMINATOR, state["D"])
        written = msgspec.structs.replace(progress, net_G_sha256=sha256)
        content = msgspec.json.format(msgspec.json.encode(written), indent=2)
        atomic.write_file(self.path / PROGRESS, content + b"\n", durable=True, tag=TAG)

    def matches(self, progress: Progress) -> bool:
        """Tell whether the networks and progress.json are those of a state that is as far as `progress`."""
        written = self.read_progress()
        if written is None or not (self.path / DISCRIMINATOR).is_file():
            return False
        sha256 = atomic.file_sha256(self.path / GENERATOR)
        return (written.step, written.epoch, written.is_complete, written.net_G_sha256) == (
            progress.step,
            progress.epoch,
            progress.is_complete,
            sha256,
        )

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Load the state last saved; None if the run was stopped before its first one.

        Raises:
            InputError: it is damaged, of another version of m2l, or gone though the run had one.
        """
        path = self.path / STATE
        if not os.path.lexists(path):
            self._require_no_trace_of_a_state()
            return None
        with reader_errors(InputError, path, "is damaged, or no state of a training run"):
            content = read_plain(path, MAX_FILE_BYTES)
            if not content:
                raise ValueError("it is empty (0 bytes)")
            try:
                state = load_tensors(content, device)
            except torch.OutOfMemoryError as error:
                raise OutOfMemory(f"{device} has too little memory for the state in {printable(path)}") from error
        if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
            raise InputError(f"{printable(path)} is not a state of format {STATE_FORMAT}; it needs another m2l")
        return cast(dict[str, Any], state)

    def _saved(self) -> list[str]:
        """Return the names of files of a save that are there."""
        return [name for name in (STATE, PROGRESS, GENERATOR, DISCRIMINATOR) if (self.path / name).exists()]

    def _require_no_trace_of_a_state(self) -> None:
        left = self._saved()
        if left:
            raise InputError(
                f"{printable(self.path / STATE)} is gone, but {left[0]} is there, so the run had one and cannot go on "
                "without; bring the file back, or begin anew with --overwrite"
            )


def _inference_weights(state: Mapping[str, Any]) -> Any:
    """Return the weights of the generator to use: the averaged one where there is one."""
    return state.get("G_averaged", state["G"])


class _ErrorRecorder:
    """Remember why writing a file failed: PyTorch's writer raises an error of its own instead."""

    def __init__(self, file: atomic.HashedFile) -> None:
        self._file = file
        self.problem: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.problem = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(path: Path, value: Any) -> str:
    """Save with torch.save, whole or not at all, and return the SHA-256 of the file."""
    file = atomic.HashedFile(path, tag=TAG)
    recorder = _ErrorRecorder(file)
    try:
        with atomic.output_errors(path):
            try:
                torch.save(value, cast(Any, recorder))
            except RuntimeError:
                if recorder.problem is None:
                    raise
                raise recorder.problem from None
        return file.commit()
    finally:
        file.discard()


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's bits."""
    return {"m2l": __version__, "torch": str(torch.__version__)}
