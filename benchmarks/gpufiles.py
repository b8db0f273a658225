"""Make what the sides of gpu.py run: a network, its files, masks, and the images to compare with.

PyTorch is imported where files are made alone: an engine's process must not hold its libraries.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt

from m2l_export.parity.metrics import Fidelity, fidelity
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bench.timing import example_masks
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.bundle.schema import Precision, TensorSpec
from m2l_runtime.errors import M2LError
from m2l_runtime.types import Images, Mask, Masks

if TYPE_CHECKING:
    from m2l_train.models.networks import UnetGenerator, UnetSpec

CHECKPOINT: Final = "latest_net_G.pth"
BUNDLE: Final = "bundle"
EXPECTED: Final = "expected.npz"
MASK: Final = "mask"
SPEC: Final = "spec.json"
MIN_DEPTH: Final = 5
"""As :mod:`m2l_train.models.networks` has it, which imports PyTorch."""
MAX_DEPTH: Final = 8
CALIBRATION: Final = "shapes:200"


def levels(side: int) -> int:
    """Return the depth of a network for images of this side: 8, or as many as a smaller image has halvings.

    Raises:
        ValueError: the side is no power of two that a network can be made for.
    """
    halvings = side.bit_length() - 1
    if halvings < MIN_DEPTH or side != 1 << halvings:
        raise ValueError(f"a side is a power of two from {1 << MIN_DEPTH} on, got {side}")
    return min(MAX_DEPTH, halvings)


def read_spec(folder: Path) -> UnetSpec:
    """Read the description of the network in `folder`."""
    from m2l_train.models.networks import UnetSpec

    return UnetSpec(**json.loads((folder / SPEC).read_text()))


def probes(side: int) -> dict[str, Mask]:
    """Return, by name, the example masks, and those where norms have next to no variance: black, white, one pixel."""
    masks = {f"example {number}": mask for number, mask in enumerate(example_masks((side, side)), 1)}
    pixel = np.zeros((side, side), np.uint8)
    pixel[side // 3, side // 4] = 255
    plain = {"black": np.zeros_like(pixel), "white": np.full_like(pixel, 255), "one pixel": pixel}
    return masks | plain


def make_network(folder: Path, ngf: int, side: int) -> UnetGenerator:
    """Make a network, its checkpoint, and masks with the images expected of them.

    Expected are those of the network as trained in PyTorch on the CPU, fp32, one mask at a time, whose pixels were
    found to be finite: the same whatever the GPU, and what every bundle's gate compares with.
    """
    from models import random_network, save_checkpoint

    from m2l_export.parity.gate import reference_images
    from m2l_train.models.networks import UnetSpec

    spec = UnetSpec(levels=levels(side), ngf=ngf, input_nc=3, output_nc=3, norm="instance")
    network = random_network(spec)
    (folder / SPEC).write_text(json.dumps(dataclasses.asdict(spec)))
    save_checkpoint(network, folder / CHECKPOINT)
    named = probes(side)
    masks = np.stack(list(named.values()))
    images = reference_images(network, {MASK: masks}, "instance")
    np.savez(folder / EXPECTED, names=np.array(list(named)), masks=masks, images=images)
    return network


def make_files(folder: Path, network: UnetGenerator, side: int, names: Collection[str]) -> dict[str, str]:
    """Make those of the network's bundle and ONNX files that are named.

    Returns:
        Why there is no file, by the name of the file.
    """
    from m2l_export import ExportOptions, export_checkpoint
    from m2l_export.graph.deploy import deploy
    from m2l_export.graph.half_precision import to_half_precision
    from m2l_export.graph.onnx_writer import input_specs, to_onnx
    from m2l_export.quantize.calibration import read_calibration
    from m2l_export.quantize.quantizer import Quantizer

    specs, reasons = input_specs(network.spec, (side, side)), dict[str, str]()

    def attempt(name: str, make: Callable[[], object]) -> None:
        try:
            made = make()
            if isinstance(made, bytes):
                (folder / name).write_bytes(made)
        except Exception as error:  # noqa: BLE001 - what can be made without is measured without
            reasons[name] = one_line(error)

    def bundle() -> None:
        export_checkpoint(folder / CHECKPOINT, folder / BUNDLE, ExportOptions(name="random", image_size=side))

    @functools.cache
    def fp32() -> bytes:
        if not (folder / BUNDLE).exists():
            return to_onnx(deploy(network).graph, specs)
        opened = open_bundle(folder / BUNDLE)
        return opened.read_model(next(model for model in opened.manifest.models if model.precision == "fp32"))

    def fp16() -> bytes:
        return to_onnx(to_half_precision(deploy(network).graph), specs)

    def int8() -> bytes:
        evaluation_inputs = {MASK: np.stack(list(probes(side).values()))}
        calibration = read_calibration(CALIBRATION, specs, None, evaluation_inputs)
        return Quantizer(fp32(), calibration.calibration_inputs, "tensorrt").quantize()

    makers: Mapping[str, Callable[[], object]] = {
        BUNDLE: bundle,
        "fp32.onnx": fp32,
        "fp16.onnx": fp16,
        "int8.onnx": int8,
    }
    for name, make in makers.items():
        if name in names:
            attempt(name, make)
    return reasons


def onnx_file(folder: Path, precision: str) -> Path:
    """Return the path of the file in a precision."""
    return folder / f"{precision}.onnx"


def model_source(folder: Path, precision: str) -> ModelSource:
    """Describe a file as a manifest does."""
    path = onnx_file(folder, precision)
    content, (_, height, width) = path.read_bytes(), read_expected(folder)[0].shape
    mask = TensorSpec(name=MASK, role="mask", dtype="uint8", shape=("batch", height, width))
    image = TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", height, width, 3))
    digest = hashlib.sha256(content).hexdigest()
    return ModelSource(path.name, content, cast(Precision, precision), (mask,), (image,), digest)


def read_expected(folder: Path) -> tuple[Masks, Images]:
    """Read (masks, the images expected of them)."""
    with np.load(folder / EXPECTED) as arrays:
        return arrays["masks"], arrays["images"]


def parity(folder: Path, rows: npt.NDArray[np.intp], images: Images) -> dict[str, float | str]:
    """Measure how far images are from those expected of the masks at `rows`."""
    with np.load(folder / EXPECTED) as arrays:
        measured: Fidelity = fidelity(arrays["images"][rows], images)
        worst = str(arrays["names"][rows[measured.worst_index]])
    return {
        "max_levels": measured.max_levels,
        "mean_levels": measured.mean_levels,
        "psnr_db": measured.psnr_db,
        "worst_psnr_db": measured.worst_psnr_db,
        "worst_mask": worst,
    }


def one_line(error: BaseException) -> str:
    """Describe what went wrong; the kind of error where it is none of m2l's own, whose messages need none."""
    text = " ".join(str(error).split())
    return text if isinstance(error, M2LError) else f"{type(error).__name__}: {text}"
