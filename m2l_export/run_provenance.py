"""Find the checkpoint that a path means, and what the training run around it says about it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_export.checkpoint import Checkpoint
from m2l_runtime._utils.reading import decode_line, lines_of, open_input
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.schema import Training
from m2l_runtime.errors import CheckpointError
from m2l_train.config import TrainConfig
from m2l_train.models.modulated import ModulatedSpec
from m2l_train.models.networks import UnetSpec
from m2l_train.models.resnet import ResnetSpec
from m2l_train.training.run_folder import GENERATOR, METRICS, RunFolder

_OF_A_RUN: Final = re.compile(r"(latest|[0-9]+)_net_G\.pth")


@dataclass(frozen=True)
class RunProvenance:
    """Hold a checkpoint's path, and the run of `m2l train` that it is in, if any."""

    file: Path
    run: RunFolder | None = None
    config: TrainConfig | None = None
    is_named_by_run: bool = False
    """Whether the folder of the run was given rather than the file."""

    def for_network(self, spec: UnetSpec | ModulatedSpec | ResnetSpec) -> RunProvenance:
        """Check the run against the network in the file. A file of another network is not of the run around it.

        Raises:
            CheckpointError: the run itself was given, and its file holds another network than its config says.
        """
        config = self.config
        if config is None:
            return self
        wanted = _of_config(config)
        holds = _of_network(spec)
        if holds == wanted:
            return self
        says = wanted
        if holds.partition(" of ")[0] == wanted.partition(" of ")[0]:  # of a kind: their numbers tell them apart
            says = wanted[wanted.index("(") :]
        if not self.is_named_by_run:
            return RunProvenance(self.file)
        raise CheckpointError(
            f"{printable(self.file)}: holds {holds}, but config.json beside it says {says}; export the file by its own "
            "name, from another folder, if that is what you want"
        )

    def training(self, checkpoint: Checkpoint) -> Training | None:
        """Describe the training. How far it was is known only if the run wrote that for these very weights."""
        if self.run is None or self.config is None:
            return None
        progress = self.run.read_progress()
        known: dict[str, Any] = {}
        if progress is not None and progress.net_G_sha256 == checkpoint.sha256:
            known = {name: getattr(progress, name) for name in ("epoch", "step", "hours", "val_l1_levels")}
        elif self.file.name != GENERATOR:
            known = _epoch(self.run, int(self.file.name.partition("_")[0]))
        return Training(
            config=dataclasses.asdict(self.config),
            pair_count=0 if progress is None else progress.pair_count,
            epoch=known.get("epoch"),
            step=known.get("step"),
            hours=known.get("hours"),
            val_l1_levels=known.get("val_l1_levels"),
            device=None if progress is None else progress.device,
            versions={} if progress is None else progress.versions,
        )


def _of_config(config: TrainConfig) -> str:
    """Describe the generator that a run trains."""
    if config.blocks:
        return _RESNET.format((config.blocks, config.ngf, config.norm, config.dropout))
    return _UNET.format((config.levels, config.ngf, config.norm, config.upsample, config.appearance))


def _of_network(spec: UnetSpec | ModulatedSpec | ResnetSpec) -> str:
    """Describe a generator in the same words."""
    if isinstance(spec, ModulatedSpec):
        return "a modulated generator"
    if isinstance(spec, ResnetSpec):
        return _RESNET.format((spec.blocks, spec.ngf, spec.norm, spec.dropout))
    return _UNET.format((spec.levels, spec.ngf, spec.norm, spec.upsample, bool(spec.appearance_rows)))


_UNET: Final = "a U-Net generator of levels, ngf, norm, upsampling and appearance {}"
_RESNET: Final = "a ResNet generator of blocks, ngf, norm and dropout {}"


def find_run_provenance(path: Path) -> RunProvenance:
    """Find what a path means: a file alone, a run of `m2l train`, or the latest or a kept generator in one.

    Raises:
        InputError: the config.json of the run is damaged.
    """
    run = RunFolder(path)
    if run.is_run():
        return RunProvenance(path / GENERATOR, run, run.read_config(), is_named_by_run=True)
    around = RunFolder(path.parent)
    if _OF_A_RUN.fullmatch(path.name) and around.is_run():
        return RunProvenance(path, around, around.read_config())
    return RunProvenance(path)


class _Epoch(msgspec.Struct):
    """Describe the line of a whole epoch in metrics.jsonl."""

    step: int
    epoch: int
    val_l1_levels: float
    hours: float


def _epoch(run: RunFolder, epoch: int) -> dict[str, Any]:
    """Find what the run's metrics say about a generator kept after `epoch`; at least the epoch."""
    with contextlib.suppress(OSError), open_input(run.path / METRICS) as file:
        for line in lines_of(file):
            record = decode_line(line, _Epoch)  # None of the line of a step, or a damaged one
            if record is not None and record.epoch == epoch:
                return msgspec.structs.asdict(record)
    return {"epoch": epoch}
