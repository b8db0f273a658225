"""A network and the file made of it to figures that say how far apart their images are.

The network as trained runs in PyTorch, fp32, one mask at a time; the file runs on the engine it is meant for.
Nothing of the deploy graph takes part on the network's side, so the gate sees every mistake in it.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from m2l_export.deploy import NormStatistics
from m2l_runtime import embedded
from m2l_runtime.arrays import Images, Mask, Masks
from m2l_runtime.backends import BackendOptions, ModelSource, backend_module
from m2l_runtime.bundle import Parity
from m2l_runtime.errors import InputError, ParityError
from m2l_runtime.maskfile import read_mask
from m2l_runtime.maskfolder import find_masks
from m2l_runtime.synthesizer import run_in_batches
from m2l_runtime.terminal import plural, printable
from m2l_train.networks import UnetGenerator

BATCH_SIZES: Final = (1, 3, 8)
SAME_PICTURE_BELOW: Final = 3.0
"""Mean level difference under which black, white and a disc count as the same picture."""


def black(image_size: tuple[int, int]) -> Mask:
    """No lesion."""
    return np.zeros(image_size, np.uint8)


def white(image_size: tuple[int, int]) -> Mask:
    """All lesion."""
    return np.full(image_size, 255, np.uint8)


def disc(image_size: tuple[int, int], radius: float = 0.25) -> Mask:
    """A disc in the middle, its radius a fraction of the shorter side."""
    height, width = image_size
    y, x = np.ogrid[:height, :width]
    inside = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) <= radius * min(image_size)
    return np.where(inside, np.uint8(255), np.uint8(0))


def dot(image_size: tuple[int, int]) -> Mask:
    """Two by two pixels off the middle, where an instance norm has next to no variance to divide by."""
    mask = black(image_size)
    y, x = image_size[0] // 3, image_size[1] // 4
    mask[y : y + 2, x : x + 2] = 255
    return mask


def noise(image_size: tuple[int, int]) -> Mask:
    """Independent black and white pixels: raw bits of Philox, which are the same in every NumPy."""
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
"""Masks drawn for every gate, first in :func:`gate_masks` and in this order."""


def probe_index(name: str) -> int:
    """Where the probe `name` stands in :func:`gate_masks`."""
    return list(PROBES).index(name)


def gate_masks(image_size: tuple[int, int], folder: str | os.PathLike[str] | None) -> Masks:
    """The probes, the example masks, and all masks in `folder`.

    Raises:
        InputError: a mask in `folder` cannot be read, or there is none.
    """
    files = find_masks(embedded.EXAMPLE_MASKS).paths
    if folder is not None:
        more = find_masks(folder).paths
        if not more:
            raise InputError(f"{printable(folder)} holds no mask files for the gate")
        files += more
    made = [draw(image_size) for draw in PROBES.values()]
    return np.stack(made + [read_mask(file, image_size).mask for file in files])


def reference_images(network: UnetGenerator, masks: Masks, norm_statistics: NormStatistics) -> Images:
    """What the network as trained makes of masks, dropout off, rounded to bytes.

    Raises:
        ParityError: it gives NaN or infinite pixels.
    """
    network = copy.deepcopy(network).float().eval()
    if norm_statistics == "instance":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()  # normalises by the batch, which is one image
    images = []
    with torch.inference_mode():
        for index, mask in enumerate(masks):
            x = torch.from_numpy(mask).float().div(255).sub(0.5).div(0.5)
            y = network(x.expand(1, network.spec.input_nc, *mask.shape))[0]
            if not torch.isfinite(y).all():
                raise ParityError(
                    f"the network itself gives NaN or infinite pixels (mask {index} of the gate); nothing was written"
                )
            levels = ((y.double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
            images.append(np.broadcast_to(levels.transpose(1, 2, 0), (*mask.shape, 3)))
    return np.stack(images)


def compare(reference: Images, images: Images) -> tuple[int, float, float | None]:
    """(largest, mean difference in levels, PSNR in dB or None where all bytes are equal).

    PSNR is ``10 log10(255^2 / MSE)`` over all bytes.
    """
    difference: npt.NDArray[np.int16] = images.astype(np.int16) - reference
    square_mean = float((difference.astype(np.float64) ** 2).mean())
    psnr = None if square_mean == 0 else 10 * math.log10(255**2 / square_mean)
    return int(np.abs(difference).max(initial=0)), float(np.abs(difference).mean()), psnr


def measure(reference: Images, masks: Masks, source: ModelSource, engine: str, accepted: int) -> Parity:
    """Compare a file with the reference at every one of `BATCH_SIZES`; the worst figures count.

    Raises:
        ParityError: any byte is more than `accepted` levels off; the message says where and how far.
        EngineNotInstalled, EngineError: the engine does not run the file.
    """
    worst, mean, psnr, name = 0, 0.0, None, ""
    for size in BATCH_SIZES:
        backend = backend_module(engine).load(source, BackendOptions(device="cpu", batch_size=size))
        images = run_in_batches(backend, source.inputs[0].name, masks)
        name = backend.settings.engine
        backend.close()
        found, found_mean, found_psnr = compare(reference, images)
        if found > accepted:
            index = int(np.abs(images.astype(np.int16) - reference).reshape(len(masks), -1).max(1).argmax())
            raise ParityError(
                f"{source.name} on {name} differs from the network by up to {found} levels (mean "
                f"{found_mean:.4f}, {plural(len(masks), 'mask')}, batch size {size}, worst at mask {index}); at most "
                f"{accepted} accepted; nothing was written. If that is known and fine: --max-level-difference {found}"
            )
        worst, mean = max(worst, found), max(mean, found_mean)
        psnr = min((p for p in (psnr, found_psnr) if p is not None), default=None)
    return Parity(
        reference=f"PyTorch {torch.__version__}, the network as trained, fp32, one mask at a time, dropout off",
        engine=f"{name}, CPU",
        mask_count=len(masks),
        batch_sizes=BATCH_SIZES,
        max_level_difference=worst,
        mean_level_difference=round(mean, 6),
        psnr_db=None if psnr is None else round(psnr, 2),
        accepted_max_level_difference=accepted,
    )


def mask_blindness(images: Images) -> str | None:
    """A warning if a black, a white and a disc mask give nearly the same picture.

    That is what a network does that was trained the other way round, or on other inputs.

    Args:
        images: of :func:`gate_masks`.
    """
    black, white, disc = (images[probe_index(name)].astype(np.int16) for name in ("black", "white", "disc"))
    largest = max(float(np.abs(a - b).mean()) for a, b in ((black, white), (black, disc), (white, disc)))
    if largest >= SAME_PICTURE_BELOW:
        return None
    return (
        f"a black mask, a white one and a disc give nearly the same picture (at most {largest:.1f} levels apart on "
        "average): was this network trained the other way round (image to mask), or on other inputs than masks?"
    )
