"""Find the generator in what frameworks save: wrapped, prefixed, or beside other networks and an optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import CheckpointError

WRAPPERS: Final = ("module", "_orig_mod")
"""Parts of keys that DataParallel and torch.compile put in, at any level."""

_FIRST_OF_UNET: Final = "model.model.0.weight"
_BLOCK_OF_RESNET: Final = re.compile(r"(|.*\.)model\.\d+\.conv_block\.")
_MAX_DEPTH: Final = 3
_MAX_ENTRIES: Final = 100_000


@dataclass(frozen=True)
class GeneratorState:
    """Hold the state_dict of a generator, and what was done to get it."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """What was chosen, stripped and left out; empty of a bare state_dict."""


def find_generator(loaded: Mapping[object, object]) -> GeneratorState:
    """Return the one generator in a dict of tensors and dicts.

    What holds a single state_dict that is no generator is returned as it is, for the caller to say what it is.

    Example:
        >>> import torch
        >>> weights = {"module._orig_mod.model.model.0.weight": torch.zeros(2, 3, 4, 4)}
        >>> found = find_generator({"epoch": 3, "netG": weights})
        >>> list(found.state), found.notes
        (['model.model.0.weight'], ("took 'netG', left out epoch", "dropped 'module' and '_orig_mod' from its keys"))

    Raises:
        CheckpointError: there are several generators, or no state_dict; the message names what there is.
    """
    found: list[tuple[str, GeneratorState]] = []
    states = list(_states(loaded))
    for path, tensors in states:
        state, wrappers = _unwrapped(tensors)
        found += [
            (".".join(filter(None, (path, prefix.rstrip(".")))), _taken(state, prefix, wrappers))
            for prefix in _prefixes(state)
        ]
    if len(found) > 1:
        names = printable(", ".join(name or "(no name)" for name, _ in found[:6]))
        raise CheckpointError(f"holds {len(found)} generators ({names}); save the state_dict of one of them alone")
    if found:
        name, generator = found[0]
        return _with_choice(loaded, name, generator)
    own = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if len(states) == 1 and (len(own) == len(loaded) or not own):
        state, wrappers = _unwrapped(states[0][1])
        return GeneratorState(state, wrappers)
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    raise CheckpointError(
        f"holds entries that are no tensors ({printable(', '.join(others[:6]))}), and no generator among them"
    )


def _states(loaded: Mapping[object, object], path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (keys that lead to it, the tensors that lie there) of each dict that holds any."""
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    if depth < _MAX_DEPTH and len(loaded) <= _MAX_ENTRIES:
        for key, value in loaded.items():
            if isinstance(value, Mapping):
                yield from _states(value, f"{path}.{key}" if path else str(key), depth + 1)


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors without wrappers in their keys, and a note on these."""
    state: dict[str, Tensor] = {}
    wrappers: set[str] = set()
    for key, value in tensors.items():
        parts = key.split(".")
        wrappers.update(part for part in parts if part in WRAPPERS)
        short = ".".join(part for part in parts if part not in WRAPPERS)
        if short in state:
            raise CheckpointError(f"has {printable(short)} twice, with and without a wrapper; expected one network")
        state[short] = value
    if not wrappers:
        return state, ()
    if state.pop("n_averaged", None) is not None:  # of torch.optim.swa_utils.AveragedModel
        wrappers.add("n_averaged")
    named = " and ".join(f"'{name}'" for name in (*WRAPPERS, "n_averaged") if name in wrappers)
    return state, (f"dropped {named} from its keys",)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Return what stands before the keys of each generator."""
    prefixes: dict[str, None] = {}
    for key in state:
        if key == _FIRST_OF_UNET or key.endswith(f".{_FIRST_OF_UNET}"):
            prefixes[key.removesuffix(_FIRST_OF_UNET)] = None
        elif (match := _BLOCK_OF_RESNET.match(key)) is not None:
            prefixes[match[1]] = None
    return list(prefixes)


def _taken(state: Mapping[str, Tensor], prefix: str, notes: tuple[str, ...]) -> GeneratorState:
    taken = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not prefix:
        return GeneratorState(taken, notes)
    left_out = sorted({key.split(".")[0] for key in state if not key.startswith(prefix)})
    what = f"took the keys that begin with '{printable(prefix)}'" + _without(left_out)
    return GeneratorState(taken, (*notes, what))


def _with_choice(loaded: Mapping[object, object], name: str, generator: GeneratorState) -> GeneratorState:
    """Add a note on the entry that the generator lies in, and on others beside it."""
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if not others:
        return generator
    chosen = next((key for key in others if name == key or name.startswith(f"{key}.")), None)
    left_out = [key for key in others if key != chosen]
    note = ("took its tensors" if chosen is None else f"took '{printable(name)}'") + _without(left_out)
    return GeneratorState(generator.state, (note, *generator.notes))


def _without(names: list[str]) -> str:
    if not names:
        return ""
    return ", left out " + (printable(", ".join(names)) if len(names) <= 6 else plural(len(names), "other entry"))
