"""Compare the images of a file with those of the network that it was made from.

The network as trained runs in PyTorch, in fp32, one mask at a time. The file runs on the engine it is meant for.
The network's side uses nothing of the deploy graph, so validation sees every mistake in it. Where the file takes more
than the mask, each mask is run in `ROUNDS` rounds, with other appearances, dropout bits and noise in each.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from m2l_export.checkpoint import Generator
from m2l_export.graph.deploy import NormStatistics
from m2l_export.graph.onnx_writer import APPEARANCE, BATCH, DROPOUT_BITS, MASK, NOISE
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.schema import Parity, TensorSpec
from m2l_runtime.conditioning.conditions import Appearances, dropout_bits, item_seed, noise_bytes
from m2l_runtime.conditioning.random import random_below, random_uint64
from m2l_runtime.errors import InputError, ParityError
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.types import Images, Mask, Masks
from m2l_train.models.modulated import ModulatedGenerator, scale_noise
from m2l_train.models.networks import UnetGenerator
from m2l_train.models.resnet import ResnetGenerator

Inputs = Mapping[str, npt.NDArray[Any]]
"""Arrays by the name of the input, the mask first. One row of all of them makes one image."""

BATCH_SIZES: Final = (1, 3, 8)
ROUNDS: Final = 4
"""How often each mask runs where the file takes more than the mask."""
BLINDNESS_THRESHOLD: Final = 3.0
"""Mean difference in levels below which black, white and a disc count as the same picture."""


def black(image_size: tuple[int, int]) -> Mask:
    """Make a mask without a lesion."""
    return np.zeros(image_size, np.uint8)


def white(image_size: tuple[int, int]) -> Mask:
    """Make a mask that is all lesion."""
    return np.full(image_size, 255, np.uint8)


def disc(image_size: tuple[int, int], radius: float = 0.25) -> Mask:
    """Draw a disc in the middle, its radius a fraction of the shorter side."""
    height, width = image_size
    y, x = np.ogrid[:height, :width]
    inside = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) <= radius * min(image_size)
    return np.where(inside, np.uint8(255), np.uint8(0))


def dot(image_size: tuple[int, int]) -> Mask:
    """Draw two by two pixels off the middle, which leave an instance norm next to no variance to divide by."""
    mask = black(image_size)
    y, x = image_size[0] // 3, image_size[1] // 4
    mask[y : y + 2, x : x + 2] = 255
    return mask


def noise(image_size: tuple[int, int]) -> Mask:
    """Draw independent black and white pixels, from raw bits of Philox, which are the same in every NumPy."""
    words = np.random.Philox(key=20190716).random_raw(-(-image_size[0] * image_size[1] // 64))
    bits = np.unpackbits(words.view(np.uint8))[: image_size[0] * image_size[1]]
    return bits.reshape(image_size) * np.uint8(255)


PROBES: Final[Mapping[str, Callable[[tuple[int, int]], Mask]]] = {
    "black": black,
    "white": white,
    "disc": disc,
    "dot": dot,
    "noise": noise,
}
"""Masks that are always validated on, first in :func:`gate_masks` and in this order."""


def probe_index(name: str) -> int:
    """Find the index of the probe `name` in :func:`gate_masks`."""
    return list(PROBES).index(name)


def interrupt_uniform(masks: Masks) -> Masks:
    """Draw a disc of the other value into each mask that is one value everywhere; return all masks."""
    masks = masks.copy()
    small = disc((masks.shape[1], masks.shape[2]), 0.125) > 0
    for mask in masks:
        if mask.min() == mask.max():
            mask[small] = 255 - mask[0, 0]
    return masks


UNDEFINED_UNIFORM: Final = (
    "a mask that is one value everywhere (no lesion, or nothing else) has no defined image: this network normalizes "
    "what is then the same in every pixel, so its images are rounding errors made large, and each engine gives others; "
    "it was validated on masks with a disc in their place"
)
"""A warning on a network for which `defines_uniform` is False."""


def defines_uniform(network: Generator, image_size: tuple[int, int], norm_statistics: NormStatistics) -> bool:
    """Tell whether a black and a white mask have images that rounding in single precision does not change.

    Without zeros around its first layer, a network with instance norms turns such a mask into planes that are the same
    in every pixel. What a norm then divides by a variance of 0 is rounding alone, layer after layer. Here each value
    that comes in is changed by at most its last bit: a defined image moves by thousandths of a level, another by
    hundreds.

    Only ResNet generators are tried: the others' layers all have zeros around them, or no norms.
    """
    if not isinstance(network, ResnetGenerator):
        return True
    network = _as_tested(network, norm_statistics)
    random = torch.Generator().manual_seed(0)
    last_bit = torch.randint(-1, 2, image_size, generator=random) * torch.finfo(torch.float32).eps
    with torch.inference_mode():
        for value in (-1.0, 1.0):
            x = torch.full(image_size, value)
            plain, changed = (_reference_image(network, one, {}) for one in (x, x * (1 + last_bit)))
            if float((plain - changed).abs().max()) * 127.5 > 0.5:
                return False
    return True


def gate_masks(image_size: tuple[int, int], folder: str | os.PathLike[str] | None) -> Masks:
    """Read the example masks and all masks in `folder`, and put the probes before them.

    Raises:
        InputError: a mask in `folder` cannot be read, or there is none.
    """
    files = find_masks(embedded.EXAMPLE_MASKS).paths
    if folder is not None:
        more = find_masks(folder).paths
        if not more:
            raise InputError(f"{printable(folder)} holds no mask files to validate on")
        files += more
    masks_ = [probe(image_size) for probe in PROBES.values()]
    return np.stack(masks_ + [read_mask(file, image_size).mask for file in files])


def gate_inputs(masks: Masks, specs: Sequence[TensorSpec], table: Appearances | None = None) -> Inputs:
    """Make what is validated on: `masks`, and in `ROUNDS` rounds of them what else `specs` name.

    Round by round, appearances are the table's mean, a row drawn for each mask, then the rows that are least and those
    that are most in one of the numbers, in turns. Dropout bits are drawn for each image; every second mask keeps all
    values in the third round and none in the last. So is noise, whose bytes are all 0 and all 255 there.

    Args:
        masks: of :func:`gate_masks`.
        specs: the file's inputs, the mask first.
        table: float32 (count, numbers), where there are appearances.
    """
    count, more = len(masks), specs[1:]
    if not more:
        return {MASK: masks}
    inputs: dict[str, npt.NDArray[Any]] = {MASK: np.concatenate([masks] * ROUNDS)}
    for spec in more:
        rows = ROLE_ROWS[spec.role]
        random = functools.partial(rows.random, spec, table)
        inputs[spec.name] = rows.gate(random, count, table)
    return inputs


def _random_appearances(
    spec: TensorSpec, table: Appearances | None, count: int, words: Sequence[str]
) -> npt.NDArray[Any]:
    assert table is not None  # noqa: S101 - a network that takes appearances has their table
    rows: npt.NDArray[Any] = table[random_below(len(table), random_uint64(count, 0, *words))]
    return rows


def _random_dropout_bits(
    spec: TensorSpec, table: Appearances | None, count: int, words: Sequence[str]
) -> npt.NDArray[Any]:
    size = next(side for side in spec.shape if side != BATCH)
    seeds = [item_seed(0, " ".join(words), sample) for sample in range(1, count + 1)]
    return np.stack([dropout_bits(seed, size) for seed in seeds])


def _random_noise(spec: TensorSpec, table: Appearances | None, count: int, words: Sequence[str]) -> npt.NDArray[Any]:
    size = next(side for side in spec.shape if side != BATCH)
    seeds = [item_seed(0, " ".join(words), sample) for sample in range(1, count + 1)]
    return np.stack([noise_bytes(seed, size) for seed in seeds])


def _gate_noise(random: RandomRows, count: int, table: Appearances | None) -> npt.NDArray[Any]:
    rows = random(ROUNDS * count, ("gate", "noise")).reshape(ROUNDS, count, -1)
    rows[-2, ::2], rows[-1, ::2] = 0, 255
    return rows.reshape(ROUNDS * count, -1)


def _gate_appearances(random: RandomRows, count: int, table: Appearances | None) -> npt.NDArray[Any]:
    assert table is not None  # noqa: S101 - as above
    columns = np.arange(count) % table.shape[1]
    mean = np.broadcast_to(table.mean(0, np.float64).astype(np.float32), (count, table.shape[1]))
    sampled = random(count, ("gate", "appearance"))
    return np.concatenate([mean, sampled, table[table.argmin(0)[columns]], table[table.argmax(0)[columns]]])


def _gate_dropout_bits(random: RandomRows, count: int, table: Appearances | None) -> npt.NDArray[Any]:
    bits = random(ROUNDS * count, ("gate",)).reshape(ROUNDS, count, -1)
    bits[-2, ::2], bits[-1, ::2] = 255, 0
    return bits.reshape(ROUNDS * count, -1)


RandomRows = Callable[[int, Sequence[str]], npt.NDArray[Any]]
"""Sample a number of rows; the words say for what."""


@dataclass(frozen=True)
class RoleRows:
    """Say which values of an input validation and calibration run."""

    random: Callable[[TensorSpec, Appearances | None, int, Sequence[str]], npt.NDArray[Any]]
    """Sample rows for a tensor: (tensor, table of appearances, number of rows, words that say for what)."""
    gate: Callable[[RandomRows, int, Appearances | None], npt.NDArray[Any]]
    """Make the rows of all `ROUNDS` rounds: (random rows, number of masks, table of appearances)."""


ROLE_ROWS: Final[Mapping[str, RoleRows]] = {
    "appearance": RoleRows(_random_appearances, _gate_appearances),
    "dropout_bits": RoleRows(_random_dropout_bits, _gate_dropout_bits),
    "noise": RoleRows(_random_noise, _gate_noise),
}
"""By role of the input, see :data:`m2l_runtime.bundle.roles.ROLES`; the mask is not among them."""


def golden_rows(inputs: Inputs, mask_count: int) -> list[int]:
    """Choose the rows that the bundle keeps: disc, dot and the first example mask, each from another round.

    Args:
        inputs: the result of :func:`gate_inputs`.
        mask_count: how many masks `inputs` were made of.
    """
    per_round = mask_count if len(inputs) > 1 else 0
    masks = (probe_index("disc"), probe_index("dot"), len(PROBES))
    return [index + number * per_round for number, index in enumerate(masks)]


def reference_images(network: Generator, inputs: Inputs, norm_statistics: NormStatistics) -> Images:
    """Run the network as trained on `inputs`, and round to bytes. Dropout is off unless its bits are among them.

    Raises:
        ParityError: the network gives NaN or infinite pixels.
    """
    network = _as_tested(network, norm_statistics)
    images = []
    with torch.inference_mode():
        for index, mask in enumerate(inputs[MASK]):
            x = torch.from_numpy(mask).float().div(255).sub(0.5).div(0.5)
            others = {name: torch.from_numpy(rows[index : index + 1].copy()) for name, rows in inputs.items()}
            y = _reference_image(network, x, others)
            if not torch.isfinite(y).all():
                raise ParityError(
                    f"the network itself gives NaN or infinite pixels (mask {index} of those to "
                    f"validate on); nothing was written"
                )
            levels = ((y.double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            images.append(np.broadcast_to(levels.transpose(1, 2, 0), (*mask.shape, 3)))
    return np.stack(images)


def _as_tested(network: Generator, norm_statistics: NormStatistics) -> Generator:
    """Copy a network as trained, to run in single precision on one image at a time."""
    network = copy.deepcopy(network).float().eval()
    if norm_statistics == "instance":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()  # normalizes by the batch, which is one image
    return network


def _reference_image(network: Generator, mask: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run the network on a mask (H, W) in [-1, 1] and one row of each input: (C, H, W) in [-1, 1], to be clipped."""
    if isinstance(network, ModulatedGenerator):
        drawn: Tensor = network(mask[None, None], inputs[APPEARANCE], scale_noise(inputs[NOISE]))
        return drawn[0]
    x = mask.expand(1, network.spec.input_nc, *mask.shape)
    with contextlib.ExitStack() as stack:
        if DROPOUT_BITS in inputs:
            stack.enter_context(_dropout_from_bits(network, inputs[DROPOUT_BITS][0].numpy()))
        batch: Tensor = network(x, inputs[APPEARANCE]) if APPEARANCE in inputs else network(x)
    return batch[0]


@contextlib.contextmanager
def _dropout_from_bits(network: UnetGenerator | ResnetGenerator, bits: npt.NDArray[np.uint8]) -> Iterator[None]:
    """Let dropout of `network`, which is off, keep what `bits` say, in the order in which its layers run."""
    kept, used = np.unpackbits(bits, bitorder="little"), 0

    def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        nonlocal used
        assert isinstance(module, nn.Dropout)  # noqa: S101 - hooked to no others
        part = torch.from_numpy(kept[used : used + output.numel()]).view_as(output)
        used += output.numel()
        return output * part / (1 - module.p)

    hooks = [module.register_forward_hook(drop) for module in network.modules() if isinstance(module, nn.Dropout)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if used != len(kept):
        raise ParityError(f"the network drops {used:,} values, and there are bits for {len(kept):,}; report this")


def compare(reference: Images, images: Images) -> tuple[int, float, float | None]:
    """Compare images byte by byte.

    Returns:
        The largest and the mean difference in levels, and the PSNR in dB, or None where all bytes are equal.

    PSNR is ``10 log10(255^2 / MSE)`` over all bytes.
    """
    difference: npt.NDArray[np.int16] = np.abs(images.astype(np.int16) - reference)
    square_mean = float(np.square(difference, dtype=np.int32).mean())  # a mean of integers is added up in float64
    psnr = None if square_mean == 0 else 10 * math.log10(255**2 / square_mean)
    return int(difference.max(initial=0)), float(difference.mean()), psnr


def measure(
    reference: Images, inputs: Inputs, mask_count: int, source: ModelSource, engine: str, accepted: int
) -> Parity:
    """Compare a file with the reference at each of `BATCH_SIZES`. The worst metrics count.

    Args:
        reference: the result of :func:`reference_images` for the same `inputs`.
        inputs: the result of :func:`gate_inputs`.
        mask_count: how many masks `inputs` were made of.
        source: the file.
        engine: name of the engine that runs it.
        accepted: largest difference of a byte that is accepted, in levels.

    Raises:
        ParityError: any byte is more than `accepted` levels off; the message says where and how far.
        EngineNotInstalled, EngineError: the engine does not run the file.
    """
    worst, mean, psnr, name = 0, 0.0, None, ""
    for size in BATCH_SIZES:
        backend = backend_module(engine).load(source, BackendOptions(device="cpu", batch_size=size))
        images = run_in_batches(backend, inputs)
        name = backend.settings.engine
        backend.close()
        difference, found_mean, found_psnr = compare(reference, images)
        if difference > accepted:
            index = (
                int(np.abs(images.astype(np.int16) - reference).reshape(len(images), -1).max(1).argmax()) % mask_count
            )
            raise ParityError(
                f"{source.name} on {name} differs from the network by up to {difference} levels (mean "
                f"{found_mean:.4f}, {plural(mask_count, 'mask')}, batch size {size}, worst at mask {index}); at most "
                f"{accepted} accepted; nothing was written. If that is known and fine: --max-level-difference "
                f"{difference}"
            )
        worst, mean = max(worst, difference), max(mean, found_mean)
        psnr = min((p for p in (psnr, found_psnr) if p is not None), default=None)
    dropout = ", dropout on, by the same bits" if DROPOUT_BITS in inputs else ", dropout off"
    if NOISE in inputs:  # of a network without dropout
        dropout = ""
    rounds = f" ({ROUNDS} times, each with {_listed(list(inputs)[1:])})" if len(inputs) > 1 else ""
    return Parity(
        reference=f"PyTorch {torch.__version__}, the network as trained, fp32, one mask at a time{rounds}{dropout}",
        engine=f"{name}, CPU",
        mask_count=mask_count,
        batch_sizes=BATCH_SIZES,
        max_level_difference=worst,
        mean_level_difference=round(mean, 6),
        psnr_db=None if psnr is None else round(psnr, 2),
        accepted_max_level_difference=accepted,
    )


def _listed(names: Sequence[str]) -> str:
    """Describe what differs from round to round, by the inputs beside the mask."""
    words = {APPEARANCE: "another appearance", DROPOUT_BITS: "other dropout bits", NOISE: "other noise"}
    return " and ".join(words[name] for name in names)


def mask_blindness(images: Images) -> str | None:
    """Return a warning if a black, a white and a disc mask give nearly the same picture, else None.

    A network does that if it was trained the other way round, or on other inputs.

    Args:
        images: images of :func:`gate_masks`.
    """
    black, white, disc = (images[probe_index(name)].astype(np.int16) for name in ("black", "white", "disc"))
    largest = max(float(np.abs(a - b).mean()) for a, b in ((black, white), (black, disc), (white, disc)))
    if largest >= BLINDNESS_THRESHOLD:
        return None
    return (
        f"a black mask, a white one and a disc give nearly the same picture (at most {largest:.1f} levels apart on "
        "average): was this network trained the other way round (image to mask), or on other inputs than masks?"
    )
