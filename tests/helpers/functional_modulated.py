"""The modulated generator as functions of its state_dict, one sample at a time: an oracle. And small ones to try.

Written from the formulas (Karras et al., arXiv:1912.04958, equations 1 and 3; ITU-T T.871), not from our modules: the
weights of each layer are scaled, put beside those of mask and noise, and divided by their norm, before they convolve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.types import KNOWN_NAMES
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec

Floats = npt.NDArray[np.float64]

SMALL = ModulatedSpec(encoder=(2, 3, 4), decoder=(6, 5, 4), names=KNOWN_NAMES[:13], hidden=6, appearance_rows=9)
FILTERED = dataclasses.replace(SMALL, sharpening=0.375, chroma_passes=2)
"""The same with the filters at its end."""


def appearances(spec: ModulatedSpec = SMALL, seed: int = 5) -> Tensor:
    """(rows, numbers) around the middle of what real images have."""
    torch.manual_seed(seed)
    middle = torch.tensor([45.0, 18, 14, 9, 5, 5, 68, 12, 12, 6, 3, 3, 1])[: spec.numbers]
    middle = torch.cat([middle, torch.zeros(spec.numbers - len(middle))])
    return middle + torch.randn(spec.appearance_rows, spec.numbers) * (middle / 6 + 0.5)


def small_modulated(spec: ModulatedSpec = SMALL, seed: int = 0) -> ModulatedGenerator:
    """Random weights in which everything that comes in shows, biases too."""
    torch.manual_seed(seed)
    made = ModulatedGenerator(spec).eval()
    made.set_table(appearances(spec))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif name.endswith("noise_weight"):
                parameter.normal_(0, 0.15)
        made.head.weight[3:].normal_(0, 0.05)
    return made


def images_by_formula(
    state: Mapping[str, Tensor],
    masks: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.float32],
    noise: npt.NDArray[np.uint8],
) -> Floats:
    """RGB (B, H, W, 3) in [-1, 1], not clipped, of masks (B, H, W), appearances (B, K) and bytes of noise (B, n)."""
    weights = {name: tensor.double().numpy() for name, tensor in state.items() if name != "names"}
    return np.stack([_image(weights, *one) for one in zip(masks, rows, noise, strict=True)])


def _image(
    weights: Mapping[str, Floats],
    mask: npt.NDArray[np.uint8],
    row: npt.NDArray[np.float32],
    noise: npt.NDArray[np.uint8],
) -> Floats:
    z = np.clip((row.astype(np.float64) - weights["mean"]) / weights["std"], -4, 4)
    for layer in ("mlp.0", "mlp.2"):
        z = _leaky(weights[f"{layer}.weight"] @ z + weights[f"{layer}.bias"])
    x, features = mask[None] / 127.5 - 1, []
    for level in range(len([name for name in weights if name.startswith("downs") and name.endswith("weight")])):
        x = _leaky(_convolve(x, weights[f"downs.{level}.weight"], weights[f"downs.{level}.bias"], 2))
        features.append(x)
    skips = features[:-1]
    random = (noise.astype(np.float64) - 127.5) / np.sqrt((256**2 - 1) / 12)
    used = 0
    for number in range(2 * len(features)):
        place = f"layers.{number}"
        scale = 1 + weights[f"{place}.style.weight"] @ z + weights[f"{place}.style.bias"]
        kernels, inputs = [weights[f"{place}.weight"] * scale[None, :, None, None]], [x]
        if number > 1 and number % 2:
            inputs = [x.repeat(2, 1).repeat(2, 2), skips.pop()]
            kernels.append(weights[f"{place}.skip_weight"])
        side = inputs[0].shape[1:]
        inputs.append(random[used : used + side[0] * side[1]].reshape(1, *side))
        kernels.append(weights[f"{place}.noise_weight"])
        used += side[0] * side[1]
        kernel = np.concatenate(kernels, 1)
        norm = np.sqrt((kernel**2).sum((1, 2, 3)) + 1e-8)
        y = _convolve(np.concatenate(inputs), kernel, weights[f"{place}.bias"], 1) / norm[:, None, None]
        x = _leaky(y) * np.sqrt(2 / (1 + 0.2**2))
    assert (used, skips) == (len(noise), [])
    drawn = _convolve(x, weights["head.weight"], weights["head.bias"], 1)
    sharpening, passes = weights.get("filters", (0, 1))
    low, blue, red, phases = drawn[0], drawn[1], drawn[2], drawn[3:]
    if sharpening:  # edges: as much is repeated as the filters reach, of all that comes from phases
        low, phases = np.pad(low, 2, mode="edge"), np.pad(phases, ((0, 0), (2, 2), (2, 2)), mode="edge")
    fine = np.empty((2 * low.shape[0], 2 * low.shape[1]))
    for phase, plane in enumerate(phases):
        fine[phase // 2 :: 2, phase % 2 :: 2] = plane
    luma = enlarged(low) + filtered(fine)
    if sharpening:
        luma = (luma + sharpening * (luma - smoothed(smoothed(luma))))[4:-4, 4:-4]
    reach = int(passes)
    blue, red = np.pad(blue, reach, mode="edge"), np.pad(red, reach, mode="edge")
    for _ in range(reach):
        blue, red = smoothed(blue), smoothed(red)
    blue, red = (enlarged(plane[reach:-reach, reach:-reach]) for plane in (blue, red))
    of_red, of_green, of_blue = 0.299, 0.587, 0.114
    rgb = (
        luma + 2 * (1 - of_red) * red,
        luma - 2 * (1 - of_blue) * of_blue / of_green * blue - 2 * (1 - of_red) * of_red / of_green * red,
        luma + 2 * (1 - of_blue) * blue,
    )
    return np.stack(rgb, -1)


def _convolve(x: Floats, kernel: Floats, bias: Floats, stride: int) -> Floats:
    image, weight, added = (torch.from_numpy(one.copy()) for one in (x[None], kernel, bias))
    found: Floats = F.conv2d(image, weight, added, stride, 1)[0].numpy()
    return found


def _leaky(x: Floats) -> Floats:
    return np.where(x > 0, x, 0.2 * x)


def smoothed(plane: Floats) -> Floats:
    """(H, W) to the same: half of each pixel and a quarter of its neighbours, down and across, edges repeated."""
    for _ in range(2):
        before, after = np.vstack([plane[:1], plane[:-1]]), np.vstack([plane[1:], plane[-1:]])
        plane = ((before + 2 * plane + after) / 4).T
    return plane


def filtered(plane: Floats) -> Floats:
    """(H, W) to the same: twice the binomial filter of `smoothed` less its square, down and across.

    At edges, pairs of rows and columns are repeated, as the 2x2 phases of the image are planes of their own.
    """
    taps = 2 * np.array([0.0, 1, 2, 1, 0]) / 4 - np.convolve([1, 2, 1], [1, 2, 1]) / 16
    for _ in range(2):
        padded = np.vstack([plane[:2], plane, plane[-2:]])
        plane = sum(tap * padded[place : place + len(plane)] for place, tap in enumerate(taps)).T
    return plane


def enlarged(plane: Floats) -> Floats:
    """(H, W) to (2H, 2W) as libjpeg's "fancy upsampling" does: three quarters of the near pixel, one of the next."""
    for _ in range(2):
        before, after = np.vstack([plane[:1], plane[:-1]]), np.vstack([plane[1:], plane[-1:]])
        rows = np.empty((2 * len(plane), plane.shape[1]))
        rows[::2], rows[1::2] = (3 * plane + before) / 4, (3 * plane + after) / 4
        plane = rows.T
    return plane


def drawn_inputs(
    spec: ModulatedSpec, batch: int, size: tuple[int, int] = (32, 32)
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Masks (B, H, W), of which the first is black and the last noise, appearances and noise."""
    random = np.random.default_rng(3)
    y, x = np.ogrid[: size[0], : size[1]]
    discs = [np.hypot(y - size[0] / 2, x - size[1] / 3) < min(size) * k / 8 for k in range(batch)]
    masks = np.stack(discs).astype(np.uint8) * np.uint8(255)
    masks[-1] = random.integers(0, 256, size)
    rows = appearances(spec).numpy()[np.arange(batch) % spec.appearance_rows]
    return masks, rows, random.integers(0, 256, (batch, spec.noise_count(size)), dtype=np.uint8)
