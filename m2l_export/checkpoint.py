"""Load checkpoint files: generators of pytorch-CycleGAN-and-pix2pix, and those of m2l.

Such a file is a bare state_dict, or what frameworks make of one: prefixes, entries beside it, safetensors
(:mod:`m2l_export.generator_state`). The kind of network, depth, width, channels and norm are inferred from its keys and
shapes alone.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import torch
from torch import Tensor

from m2l_export.generator_state import GeneratorState, find_generator
from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.placeholder import describe_placeholder
from m2l_runtime._utils.reading import read_input, reader_errors, reason
from m2l_runtime._utils.text import command_word, plural, printable
from m2l_runtime.bundle.schema import MANIFEST_NAME
from m2l_runtime.errors import CheckpointError, kind_of
from m2l_runtime.literals import Norm, Upsample
from m2l_runtime.types import KNOWN_NAMES, list_names
from m2l_train.data.data_folder import DATASET_FILE, IMAGES, TRAIN, VAL
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec, infer_modulated_spec, is_modulated
from m2l_train.models.networks import MIN_DEPTH, UnetGenerator, UnetSpec
from m2l_train.models.resnet import ResnetGenerator, infer_resnet_spec, is_resnet
from m2l_train.pickle_scan import ForeignNames
from m2l_train.tensorfile import load_tensors

Generator: TypeAlias = UnetGenerator | ModulatedGenerator | ResnetGenerator
"""A network that can be shipped."""

EXPECTED: Final = (
    "expected the generator of pix2pix with --netG unet_128, unet_256, resnet_6blocks or resnet_9blocks, or m2l's "
    "modulated generator, as in latest_net_G.pth"
)
MAX_BYTES: Final = 1 << 32

_Network = TypeVar("_Network", bound=torch.nn.Module)
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Checkpoint:
    """Hold a generator as trained."""

    network: Generator
    """On the CPU, fp32, in evaluation mode."""
    file_name: str
    sha256: str
    """Hash of the bytes that were loaded."""
    notes: tuple[str, ...] = ()
    """What was chosen, stripped and left out of the file; empty of a bare state_dict."""


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Load a ``{latest,N,iter_N}_net_G.pth``. Python code in it is never run.

    Raises:
        CheckpointError: the file cannot be read, holds Python code or objects, or is no generator; the message begins
            with the file's name and says what the file holds.
    """
    file, name = Path(path), printable(path)
    try:
        with reader_errors(CheckpointError, "it", "is like a generator, but is none", f"; {EXPECTED}"):
            if file.is_dir():
                raise CheckpointError(f"is a folder{_weights_inside(file) or _describe_folder(file)}; {EXPECTED}")
            content = _read(file)
            found = read_generator(content)
            network = to_network(found.state)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return Checkpoint(network, file.name, hashlib.sha256(content).hexdigest(), found.notes)


def _weights_inside(folder: Path) -> str:
    try:
        checkpoint_names = sorted(f.name for f in folder.glob("*_net_G.pth"))
    except OSError:
        checkpoint_names = []
    return f" that holds {printable(', '.join(checkpoint_names[:3]))}" if checkpoint_names else ""


def _describe_folder(folder: Path) -> str:
    """Say which folder of m2l it is, where it is another one than a run of training."""
    if (folder / MANIFEST_NAME).is_file():
        return " that is a bundle already: m2l synth MASKS OUT --bundle runs it"
    if (folder / DATASET_FILE).is_file() or any((folder / name).is_dir() for name in (TRAIN, VAL, IMAGES)):
        return f" of data: m2l train {command_word(folder)} RUN trains on it, and RUN is what is exported"
    return ""


def _read(file: Path) -> bytes:
    try:
        if not file.exists():
            raise CheckpointError(f"does not exist; {EXPECTED}")
        if not file.is_file():
            raise CheckpointError(f"is not a plain file; {EXPECTED}")
        if file.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"has {file.stat().st_size:,} bytes, too many for a generator")
        content = read_input(file, MAX_BYTES)
    except MemoryError:
        raise CheckpointError("does not fit in memory") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not content:
        raise CheckpointError(f"is empty (0 bytes); {EXPECTED}")
    return content


def load_state(content: bytes) -> dict[str, Tensor]:
    """Load the generator's state_dict in a checkpoint's bytes; see :func:`read_generator`.

    Raises:
        CheckpointError: as there.
    """
    return read_generator(content).state


def read_generator(content: bytes) -> GeneratorState:
    """Load the generator's state_dict in a checkpoint's bytes, without the prefixes of wrappers, and notes on these.

    Raises:
        CheckpointError: neither a PyTorch nor a safetensors file, truncated, with code or objects in it, not a dict, or
            with several generators.
    """
    loaded = _load_safetensors(content) if content[8:9] == b"{" else _load(content)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"holds {kind_of(loaded)}, not a state_dict; {EXPECTED}")
    if not loaded:
        raise CheckpointError(f"holds an empty state_dict; {EXPECTED}")
    try:
        return find_generator(loaded)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {EXPECTED}") from None


def _load_safetensors(content: bytes) -> object:
    """Load a file that begins as safetensors do: eight bytes of a length, then JSON."""
    import safetensors.torch  # only here: most checkpoints are none

    try:
        return safetensors.torch.load(content)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it
        if is_out_of_memory(error):
            raise CheckpointError("does not fit in memory") from None
        raise CheckpointError(
            f"is a damaged safetensors file, or has types that are not read ({reason(error)}); {EXPECTED}"
        ) from None


def _load(content: bytes) -> object:
    try:
        return load_tensors(content)
    except Exception as error:
        raise CheckpointError(_why_not_loaded(content, error)) from error


def _why_not_loaded(content: bytes, error: Exception) -> str:
    if is_out_of_memory(error):
        return "does not fit in memory"
    placeholder = describe_placeholder(content)
    if placeholder is not None:
        return f"is {placeholder}; {EXPECTED}"
    if content[:2] == b"\x1f\x8b":
        return f"is packed with gzip; unpack it first; {EXPECTED}"
    if content[:2] == b"PK" and b"constants.pkl" in content:
        return f"is a TorchScript archive (code and weights), not a state_dict; {EXPECTED}"
    unsafe = error.names if isinstance(error, ForeignNames) else _names_in_pickle(content)
    if unsafe:
        return (
            f"holds Python code or objects ({printable(', '.join(sorted(unsafe)[:3]))}), which are never loaded; "
            f"{EXPECTED}"
        )
    for start, kind in ((b"PK", "zip"), (b"\x80", "pickle")):
        if content.startswith(start):
            return f"is a truncated or damaged PyTorch file, or another kind of {kind} ({reason(error)}); {EXPECTED}"
    return f"is not a PyTorch file; {EXPECTED}"


def _names_in_pickle(content: bytes) -> list[str]:
    """List what a bare pickle would import, read without loading it, but for PyTorch's own names."""
    names, strings = [], [""]
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # noqa: BLE001, S110 - it ends where the damage begins
        pass
    return [name for name in names if not name.startswith(("torch.", "collections."))]


def to_network(state: Mapping[str, Tensor]) -> Generator:
    """Build the generator that a state_dict belongs to.

    Raises:
        CheckpointError: the state_dict is of something else, a shape does not fit, or a weight is not finite.
    """
    if is_modulated(state):
        return _to_modulated(state)
    if is_resnet(state):
        return _to_resnet(state)
    spec = infer_spec(state)
    network = _build(lambda: UnetGenerator(spec), "a U-Net generator")
    _fill(network, state, spec.norm, f"a U-Net generator with {spec.levels} levels and ngf {spec.ngf}")
    if spec.appearance_rows and not (state["appearance.std"] > 0).all():
        raise CheckpointError("has numbers in appearance.std that are not above 0, and appearances are divided by them")
    return network.float().eval()


def _to_resnet(state: Mapping[str, Tensor]) -> ResnetGenerator:
    """Build the ResNet generator of a state_dict.

    Raises:
        CheckpointError: see `to_network`.
    """
    try:
        spec = infer_resnet_spec(state, _infer_norm(state, "model.1.bias"))
    except KeyError as error:
        raise CheckpointError(
            f"is like a ResNet generator, but lacks {error.args[0]}, which that of the original has, with two layers "
            f"that halve the side and two transposed convolutions that double it; {EXPECTED}"
        ) from None
    except IndexError:
        raise CheckpointError(
            f"is like a ResNet generator, but has single numbers in place of weights; {EXPECTED}"
        ) from None
    _require_channels("a ResNet generator", spec.input_nc, spec.output_nc)
    network = _build(lambda: ResnetGenerator(spec), "a ResNet generator")
    _fill(network, state, spec.norm, f"a ResNet generator of {plural(spec.blocks, 'block')} and ngf {spec.ngf}")
    return network.float().eval()


def _build(make: Callable[[], _Network], kind: str) -> _Network:
    """Make a network of shapes alone: a file that only claims to be huge must not make us allocate.

    Raises:
        CheckpointError: its sizes are too large to multiply.
    """
    try:
        with torch.device("meta"):
            return make()
    except RuntimeError as error:
        raise CheckpointError(f"is like {kind}, but is none ({printable(str(error))}); {EXPECTED}") from None


def _fill(network: torch.nn.Module, state: Mapping[str, Tensor], norm: Norm, kind: str) -> None:
    """Give a network of shapes the weights of a state_dict.

    Raises:
        CheckpointError: the keys are others, or a tensor does not fit.
    """
    if norm != "batch":  # old InstanceNorms saved statistics they never used
        state = {key: value for key, value in state.items() if key.rpartition(".")[2] not in _STATISTICS}
    expected = network.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    optional = [key for key in missing if key.endswith("num_batches_tracked")]  # absent before PyTorch 0.4.1
    missing = [key for key in missing if key not in optional]
    _require_same_keys(missing, extra, kind)
    for key, value in state.items():
        _check_tensor(key, value, expected[key])
    network.load_state_dict({key: torch.tensor(0) for key in optional} | _copied(state, expected), assign=True)


def _to_modulated(state: Mapping[str, Tensor]) -> ModulatedGenerator:
    """Build the modulated generator of a state_dict.

    Raises:
        CheckpointError: see `to_network`.
    """
    try:
        spec: ModulatedSpec = infer_modulated_spec(state)
        with torch.device("meta"):
            network = ModulatedGenerator(spec)
    except KeyError as error:
        raise CheckpointError(f"is like a modulated generator, but lacks {error.args[0]}; {EXPECTED}") from None
    except IndexError:
        raise CheckpointError(
            f"is like a modulated generator, but has single numbers in place of weights; {EXPECTED}"
        ) from None
    except (ValueError, RuntimeError) as error:  # the latter of sizes that are too large to multiply
        raise CheckpointError(
            f"is like a modulated generator, but is none ({printable(str(error))}); {EXPECTED}"
        ) from None
    expected = network.state_dict()
    _require_same_keys(expected.keys() - state.keys(), state.keys() - expected.keys(), "a modulated generator")
    taken = state["mlp.0.weight"].shape[1:]
    if taken != (spec.numbers,):
        raise CheckpointError(
            f"names {plural(spec.numbers, 'number')} of an appearance, but has mlp.0.weight for {tuple(taken)}; "
            f"{EXPECTED}"
        )
    for key, value in state.items():
        _check_tensor(key, value, expected[key])
    if not (state["std"] > 0).all():
        raise CheckpointError("has numbers in std that are not above 0, and appearances are divided by them")
    unknown = next((name for name in spec.names if name not in KNOWN_NAMES), None)
    if unknown is not None:
        raise CheckpointError(
            f"has appearances with a number '{printable(unknown)}'; this m2l knows {list_names(KNOWN_NAMES)}; a later "
            "version may know more"
        )
    if len(set(spec.names)) != spec.numbers:
        raise CheckpointError(f"has appearances with two numbers of one name: {', '.join(spec.names)}; {EXPECTED}")
    if not spec.appearance_rows:
        raise CheckpointError(
            f"keeps no appearances of the images trained on, which a bundle's are drawn from; {EXPECTED}"
        )
    network.load_state_dict(_copied(state, expected), assign=True)
    return network.float().eval()


def _require_same_keys(missing: Collection[str], extra: Collection[str], kind: str) -> None:
    if missing or extra:
        raise CheckpointError(
            f"is like {kind}, but "
            + " and ".join(
                f"{verb} {printable(min(keys))}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
                for verb, keys in (("lacks", missing), ("also has", extra))
                if keys
            )
            + f"; {EXPECTED}"
        )


def _copied(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, in the types that are expected."""
    return {
        key: value.to(expected[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, value in state.items()
    }


def _check_tensor(key: str, value: Tensor, expected: Tensor) -> None:
    if value.shape != expected.shape:
        raise CheckpointError(
            f"has {key} of shape {tuple(value.shape)} where the other layers ask for {tuple(expected.shape)}; "
            f"{EXPECTED}"
        )
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise CheckpointError(f"has {key} in a form that is not plain numbers ({value.dtype}, {value.layout})")
    if not value.is_floating_point() and expected.is_floating_point():
        raise CheckpointError(f"has {key} as {value.dtype}; expected floating-point weights, as they were trained")
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise CheckpointError(f"has {key} of shape {tuple(value.shape)} but fewer numbers than that in the file")
    if not torch.isfinite(value.float()).all():
        raise CheckpointError(f"has NaN or infinite numbers in {key}; the training has diverged")


def infer_spec(state: Mapping[str, Tensor]) -> UnetSpec:
    """Infer depth, width, channels and norm from keys and shapes.

    Raises:
        CheckpointError: the keys are not those of a U-Net generator; the message says whose they look like.
    """
    first = state.get("model.model.0.weight")
    levels, prefix = 0, "model."
    while first is not None:
        index = 0 if levels == 0 else 1
        if f"{prefix}model.{index}.weight" not in state:
            break
        levels += 1
        prefix += f"model.{1 if levels == 1 else 3}."
    if first is None or first.ndim != 4 or levels < MIN_DEPTH:
        raise CheckpointError(f"holds {_describe_unknown_checkpoint(state)}; {EXPECTED}")
    last = state.get("model.model.3.weight")
    if last is None or last.ndim != 4 or tuple(first.shape[2:]) != (4, 4):
        raise CheckpointError(f"holds {_describe_unknown_checkpoint(state)}; {EXPECTED}")
    upsample: Upsample = "resize" if tuple(last.shape[2:]) == (3, 3) else "deconv"
    table = state.get("appearance.table")
    spec = UnetSpec(
        levels=levels,
        ngf=first.shape[0],
        input_nc=first.shape[1],
        output_nc=last.shape[0 if upsample == "resize" else 1],
        norm=_infer_norm(state, "model.model.0.bias"),
        upsample=upsample,
        appearance_rows=table.shape[0] if table is not None and table.ndim == 2 else 0,
    )
    _require_channels("a U-Net generator", spec.input_nc, spec.output_nc)
    return spec


def _require_channels(kind: str, input_nc: int, output_nc: int) -> None:
    """Check that a mask can go in and an image come out.

    Raises:
        CheckpointError: there are other numbers of channels.
    """
    for what, count in (("input", input_nc), ("output", output_nc)):
        if count not in (1, 3):
            raise CheckpointError(
                f"holds {kind} with {count} {what} channels; expected 1 or 3 "
                "(a mask goes in as equal channels, a grey or RGB image comes out)"
            )


def _infer_norm(state: Mapping[str, Tensor], first_bias: str) -> Norm:
    """Infer the norm: a batch norm has a weight beside its statistics; an instance norm has a bias before it."""
    norms = {key.rpartition(".")[0] for key in state if key.endswith(".running_mean")}
    if any(f"{norm}.weight" in state for norm in norms):
        return "batch"
    return "instance" if first_bias in state else "none"


def _describe_unknown_checkpoint(state: Mapping[str, Tensor]) -> str:
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    four = {key: shape for key, shape in shapes.items() if len(shape) == 4}
    channels = next((shape[1] for shape in four.values()), 0)
    if "model.0.weight" in four and four and list(four.values())[-1][0] == 1:
        return f"a PatchGAN discriminator ({channels} input channels, as latest_net_D.pth)"
    if "net.0.weight" in four:
        return f"a pixel discriminator ({channels} input channels)"
    if "model.model.0.weight" in four:
        return f"a network like a U-Net generator but with fewer than {MIN_DEPTH} levels"
    some = printable(", ".join(list(shapes)[:3]))
    return f"a state_dict of {plural(len(shapes), 'tensor')} that is no generator ({some}, ...)"
