"""Save and restore the state of a training run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from m2l_runtime._utils.reading import reason
from m2l_runtime._utils.text import printable, shown
from m2l_runtime.errors import InputError
from m2l_train.config import TrainConfig, differences
from m2l_train.config_file import from_json, to_json
from m2l_train.data.data_folder import DataFolder
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training.memory import is_out_of_memory
from m2l_train.training.run_folder import STATE, STATE_FORMAT, versions


def pairs_fingerprint(data: DataFolder) -> str:
    """Return the SHA-256 of the names of the pairs trained on, in order."""
    hashed = hashlib.sha256()
    for pair in data.train:
        hashed.update(f"{pair.image.name}\0{pair.mask.name}\n".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def appearance_rows_in(state: dict[str, Any] | None) -> int:
    """Count the appearances kept in a state; 0 if it has none, or is none."""
    table = None if state is None else state["G"].get("appearance.table")
    return len(table) if isinstance(table, torch.Tensor) and table.dim() else 0


def _is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


_STATE_PARTS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "config": ("text", lambda v: isinstance(v, str)),
    "data": ("text", lambda v: isinstance(v, str)),
    "epoch": ("a whole number from 1", lambda v: _is_whole(v, 1)),
    "position": ("a whole number from -1", lambda v: _is_whole(v, -1)),
    "step": ("a whole number from 0", lambda v: _is_whole(v, 0)),
    "seconds": ("a finite number from 0", lambda v: _is_finite(v) and v >= 0),
    "val_l1": ("a finite number or None", lambda v: v is None or _is_finite(v)),
    "G": ("tensors by name", lambda v: isinstance(v, dict)),
    "D": ("tensors by name", lambda v: isinstance(v, dict)),
    "optimizer_G": ("the state of an optimizer", lambda v: isinstance(v, dict)),
    "optimizer_D": ("the state of an optimizer", lambda v: isinstance(v, dict)),
    "rng_cpu": ("a tensor", lambda v: isinstance(v, torch.Tensor)),
}
"""By key of a state: what is expected, and whether a value is that."""


_FIXED: Final = ("betas", "eps", "weight_decay", "amsgrad", "maximize")
"""Settings of an optimizer that a run's config decides; PyTorch takes others over, and fails in the next step."""


def _load_optimizer(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """Load the state of an optimizer whose settings are this one's, and whose moments have its shapes.

    Raises:
        ValueError: they are not; and whatever PyTorch raises.
    """
    before = [{name: group[name] for name in _FIXED} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, expected in zip(optimizer.param_groups, before, strict=True):
        for name in _FIXED:
            value = group.get(name)
            value = tuple(value) if isinstance(value, list) else value
            if type(value) is not type(expected[name]) or value != expected[name]:
                raise ValueError(f"an optimizer has other {name} than {expected[name]}")
        if not isinstance(group["lr"], (int, float)) or not 0 <= group["lr"] < math.inf:
            raise ValueError("an optimizer has a learning rate that is no number from 0")
    _require_moments(optimizer)


def _require_moments(optimizer: torch.optim.Adam) -> None:
    """Make sure that an optimizer's moments have the shapes of its parameters.

    PyTorch takes any shape over from a state, and fails in the next step.

    Raises:
        ValueError: a moment has another shape.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, torch.Tensor) or (value.dim() and value.shape != parameter.shape):
                    raise ValueError(f"size mismatch for '{key}' of an optimizer")


@dataclass(frozen=True)
class Position:
    """Describe how far a run has come."""

    epoch: int
    """From 1; the one under way, or one more than there are."""
    position: int
    """Place in the epoch's order of the last pair used, from 0; -1 before the first."""
    step: int
    """Steps done."""
    seconds: float
    """Spent training, over all sessions."""
    val_l1: float | None
    """Of the last epoch that was validated, in levels."""


def collect_state(networks: Pix2Pix, config: TrainConfig, fingerprint: str, where: Position) -> dict[str, Any]:
    """Collect all that is needed to resume: networks, optimizers, random states, config and position.

    Args:
        networks: in training.
        config: of the run.
        fingerprint: of the pairs trained on, as :func:`pairs_fingerprint` gives it.
        where: how far the run has come.

    Returns:
        Tensors, numbers and strings; tensors are not copied.
    """
    state = {
        "format": STATE_FORMAT,
        "versions": versions(),
        "config": to_json(config).decode(),
        "data": fingerprint,
        **asdict(where),
        "G": networks.generator.state_dict(),
        "D": networks.discriminator.state_dict(),
        **({} if networks.ema_generator is None else {"G_averaged": networks.ema_generator.state_dict()}),
        "optimizer_G": networks.optimizer_G.state_dict(),
        "optimizer_D": networks.optimizer_D.state_dict(),
        "rng_cpu": torch.get_rng_state(),
    }
    if networks.device.type == "cuda":
        state["rng_cuda"] = torch.cuda.get_rng_state(networks.device)
    return state


def check_state(state: Mapping[str, Any], run: Path, config: TrainConfig, pair_count: int) -> None:
    """Make sure that a state is complete, and of this config.

    Args:
        state: as loaded.
        run: folder of the run.
        config: of the run.
        pair_count: pairs to train on.

    Raises:
        InputError: it is not; the message says what is wrong.
    """
    name = printable(run / STATE)
    parts = dict(_STATE_PARTS)
    if config.ema:
        parts["G_averaged"] = parts["G"]
    for key, (expected, is_right) in parts.items():
        if key not in state:
            raise InputError(f"{name} is damaged: it has no '{key}'")
        if not is_right(state[key]):
            raise InputError(f"{name} is damaged: its '{key}' must be {expected}, got {shown(state[key])}")
    began = from_json(state["config"].encode(errors="surrogateescape"), f"the config in {name}")
    changed = differences(began, config)
    if changed:
        settings = ", ".join(f"{n} {old!r} (config.json says {new!r})" for n, (old, new) in changed.items())
        raise InputError(f"{name} was trained with {settings}; put config.json back, or begin a new run")
    for key, high in (("epoch", config.epoch_count + 1), ("position", pair_count - 1)):
        if state[key] > high:
            raise InputError(f"{name} is damaged: its '{key}' must be at most {high}, got {shown(state[key])}")


def check_data(
    state: Mapping[str, Any], run: Path, fingerprint: str, changes: Sequence[str], *, accept_changes: bool
) -> list[str]:
    """Make sure that a state is of these pairs.

    Args:
        state: as loaded.
        run: folder of the run.
        fingerprint: of the pairs there are now, as :func:`pairs_fingerprint` gives it.
        changes: of the data since the run began, as :func:`m2l_train.data.data_record.data_changes` gives them.
        accept_changes: whether to go on with other pairs.

    Returns:
        Warnings: what has changed and is accepted.

    Raises:
        InputError: they are others, and that is not accepted; the message says what has changed.
    """
    if state["data"] == fingerprint and not changes:
        return []
    what = "; ".join(changes) or "their names are others"
    if accept_changes:
        return [f"the run goes on with other data than it was trained on: {what}"]
    raise InputError(
        f"{printable(run)} was trained on other pairs than the data folder has now: {what}. Give the data that it "
        "began with, or go on with what is there now by --accept-changes"
    )


def version_changes(state: Mapping[str, Any]) -> list[str]:
    """Return a warning for each version that a state was saved with and that is another one here."""
    before, now = state.get("versions"), versions()
    before = before if isinstance(before, dict) else {}
    changes = [
        f"{name} {printable(str(before.get(name, 'of an unknown version'))[:40])} (now {version})"
        for name, version in now.items()
        if before.get(name) != version
    ]
    if not changes:
        return []
    return [f"the state was saved by {' and '.join(changes)}: what follows may differ from a run of one version"]


def restore_state(state: Mapping[str, Any], networks: Pix2Pix, run_name: str) -> None:
    """Load a state that :func:`check_state` has seen into networks, optimizers and random generators.

    Args:
        state: as :func:`collect_state` gives it.
        networks: of the state's config; changed in place.
        run_name: for messages.

    Raises:
        InputError: the state is of another architecture.
    """
    try:
        networks.generator.load_state_dict(state["G"])
        networks.discriminator.load_state_dict(state["D"])
        if networks.ema_generator is not None:
            networks.ema_generator.load_state_dict(state["G_averaged"])
        _load_optimizer(networks.optimizer_G, state["optimizer_G"])
        _load_optimizer(networks.optimizer_D, state["optimizer_D"])
        torch.set_rng_state(state["rng_cpu"].cpu())
        if networks.device.type == "cuda" and "rng_cuda" in state:
            torch.cuda.set_rng_state(state["rng_cuda"].cpu(), networks.device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"the state in {run_name} is of another architecture than its config.json: {reason(error)}"
        ) from error
    networks.count_steps(state["step"])
