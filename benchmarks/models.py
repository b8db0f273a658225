"""Make what sides run: networks of random weights, their files, masks, and the images to compare with.

PyTorch is imported where something is made alone: an engine's process must not hold its libraries.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.bundle.schema import Precision, TensorSpec
from m2l_runtime.errors import M2LError
from m2l_runtime.types import Images, Mask, Masks

if TYPE_CHECKING:
    from m2l_train.models.networks import UnetGenerator, UnetSpec

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / "build" / "benchmarks"
CHECKPOINT: Final = "latest_net_G.pth"
BUNDLE: Final = "bundle"
EXPECTED: Final = "expected.npz"
PLAIN: Final = "plain.onnx"
SPEC: Final = "spec.json"
MASK: Final = "mask"
MIN_DEPTH: Final = 5
"""As :mod:`m2l_train.models.networks` has it, which imports PyTorch."""
MAX_DEPTH: Final = 8
CALIBRATION: Final = "shapes:200"


def depth_for(side: int) -> int:
    """Return the depth of a network for images of this side: 8, or as many as a smaller image has halvings.

    Raises:
        ValueError: the side is no power of two that a network can be made for.
    """
    halvings = side.bit_length() - 1
    if halvings < MIN_DEPTH or side != 1 << halvings:
        raise ValueError(f"a side is a power of two from {1 << MIN_DEPTH} on, got {side}")
    return min(MAX_DEPTH, halvings)


def probe_masks(side: int) -> dict[str, Mask]:
    """Return, by name, the example masks, and those where norms have next to no variance: black, white, one pixel."""
    from m2l_runtime.bench.timing import example_masks

    masks = {f"example {number}": mask for number, mask in enumerate(example_masks((side, side)), 1)}
    pixel = np.zeros((side, side), np.uint8)
    pixel[side // 3, side // 4] = 255
    plain = {"black": np.zeros_like(pixel), "white": np.full_like(pixel, 255), "one pixel": pixel}
    return masks | plain


def save_random(folder: Path, spec: UnetSpec) -> UnetGenerator:
    """Make a network with random weights of seed 0, and save its description and its checkpoint in `folder`."""
    import torch

    from m2l_train.models.networks import UnetGenerator

    torch.manual_seed(0)
    network = UnetGenerator(spec).eval()
    (folder / SPEC).write_text(json.dumps(dataclasses.asdict(spec)))
    torch.save(network.state_dict(), folder / CHECKPOINT)
    return network


def load_network(folder: Path) -> UnetGenerator:
    """Load the network that :func:`save_random` saved."""
    import torch

    from m2l_train.models.networks import UnetGenerator, UnetSpec

    network = UnetGenerator(UnetSpec(**json.loads((folder / SPEC).read_text())))
    network.load_state_dict(torch.load(folder / CHECKPOINT, weights_only=True))
    return network.eval()


def make_network(folder: Path, ngf: int, side: int) -> UnetGenerator:
    """Make a network, its checkpoint, and masks with the images expected of them.

    Expected are those of the network as trained in PyTorch on the CPU, fp32, one mask at a time, whose pixels were
    found to be finite: the same whatever the GPU, and what every bundle's gate compares with.
    """
    from m2l_export.parity.gate import reference_images
    from m2l_train.models.networks import UnetSpec

    spec = UnetSpec(levels=depth_for(side), ngf=ngf, input_nc=3, output_nc=3, norm="instance")
    network = save_random(folder, spec)
    named = probe_masks(side)
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
        evaluation_inputs = {MASK: np.stack(list(probe_masks(side).values()))}
        calibration = read_calibration(CALIBRATION, specs, None, evaluation_inputs)
        return Quantizer(fp32(), calibration.calibration_inputs, "tensorrt").quantize()

    makers: Mapping[str, Callable[[], bytes | None]] = {
        BUNDLE: bundle,
        "fp32.onnx": fp32,
        "fp16.onnx": fp16,
        "int8.onnx": int8,
    }
    for name in (name for name in makers if name in names):
        try:
            content = makers[name]()
            if content is not None:
                (folder / name).write_bytes(content)
        except Exception as error:  # noqa: BLE001 - what can be made without is measured without
            reasons[name] = one_line(error)
    return reasons


def make_bundle(folder: Path, ngf: int, side: int, precisions: tuple[Precision, ...]) -> None:
    """Make a network, what PyTorch's own exporter writes of it, and its bundle, with every convolution in int8."""
    from m2l_export import ExportOptions, ParityLimits, export_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    export_plain(make_network(folder, ngf, side), side, folder / PLAIN)
    low = ParityLimits(psnr_db=20.0, worst_psnr_db=15.0, mean_levels=30.0, colour_shift_levels=20.0)
    options = ExportOptions(name=f"random-ngf{ngf}", image_size=side, precisions=precisions, limits=low)
    if "int8" in precisions:
        options = dataclasses.replace(options, calibrate=CALIBRATION)
    export_checkpoint(folder / CHECKPOINT, folder / BUNDLE, options)


def cached_bundle(ngf: int) -> Path:
    """Return a folder of :func:`make_bundle`, 256x256 in every precision, made anew if sources or versions changed.

    That takes minutes, so it is kept in build/benchmarks.
    """
    digest = hashlib.sha256()
    networks = ROOT / "train" / "m2l_train" / "models" / "networks.py"
    for path in sorted([*(ROOT / "m2l_export").rglob("*.py"), networks, Path(__file__)]):
        digest.update(path.read_bytes())
    for package in ("torch", "onnx", "onnxruntime", "openvino"):
        digest.update(version(package).encode())
    folder = CACHE / f"ngf{ngf}-{digest.hexdigest()[:12]}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True, parents=True)
        for old in CACHE.glob(f"ngf{ngf}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            make_bundle(Path(temporary, "new"), ngf, 256, ("fp32", "bf16", "int8"))
            Path(temporary, "new").rename(folder)
    return folder


def export_plain(network: UnetGenerator, side: int, path: Path) -> None:
    """Export as PyTorch's exporter writes it: float32 `input` (batch, 3, side, side) to `output` likewise."""
    import torch

    from m2l_export.graph.onnx_writer import OPSET

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side),),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )


def onnx_file(folder: Path, precision: str) -> Path:
    """Return the path of the file in a precision."""
    return folder / f"{precision}.onnx"


def model_source(folder: Path, precision: str) -> ModelSource:
    """Describe a file of a precision as a manifest does."""
    _, height, width = read_expected(folder)[0].shape
    mask = TensorSpec(name=MASK, role="mask", dtype="uint8", shape=("batch", height, width))
    image = TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", height, width, 3))
    return _source(onnx_file(folder, precision), precision, mask, image)


def plain_source(folder: Path) -> ModelSource:
    """Describe the file of :func:`export_plain` likewise."""
    shape: Any = ("batch", 3, *read_expected(folder)[0].shape[1:])
    mask = TensorSpec(name="input", role="mask", dtype="float32", shape=shape)
    image = TensorSpec(name="output", role="image", dtype="float32", shape=shape)
    return _source(folder / PLAIN, "fp32", mask, image)


def _source(path: Path, precision: str, mask: TensorSpec, image: TensorSpec) -> ModelSource:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return ModelSource(path.name, content, cast(Precision, precision), (mask,), (image,), digest)


def read_expected(folder: Path) -> tuple[Masks, Images]:
    """Read (masks, the images expected of them)."""
    with np.load(folder / EXPECTED) as arrays:
        return arrays["masks"], arrays["images"]


def parity(folder: Path, rows: npt.NDArray[np.intp], images: Images) -> dict[str, float | str]:
    """Measure how far images are from those expected of the masks at `rows`."""
    from m2l_export.parity.metrics import fidelity

    with np.load(folder / EXPECTED) as arrays:
        measured = fidelity(arrays["images"][rows], images)
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
