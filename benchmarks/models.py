"""Make networks of random weights, their checkpoints, bundles and plain ONNX files.

Bundles in every precision take minutes, so they are kept in build/benchmarks, by what they were made with.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch_backend import unet_256

from m2l_export import ExportOptions, ParityLimits, export_checkpoint
from m2l_export.graph.deploy import DeployUnet, Stage, SubPixelConv2d, deploy
from m2l_export.graph.onnx_writer import OPSET, input_specs, to_onnx
from m2l_runtime.bundle.schema import Precision
from m2l_train.models.networks import UnetGenerator, UnetSpec

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / "build" / "benchmarks"
SIDE: Final = 256
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
CALIBRATION: Final = "shapes:200"
LOW_LIMITS: Final = ParityLimits(psnr_db=20.0, worst_psnr_db=15.0, mean_levels=30.0, colour_shift_levels=20.0)
"""Random weights make no images that can be validated; with these every convolution is in int8."""


def random_network(spec: UnetSpec) -> UnetGenerator:
    """Make a network with random weights of seed 0."""
    torch.manual_seed(0)
    network = UnetGenerator(spec)
    if network.appearance is not None:
        network.appearance.set_table(torch.rand(spec.appearance_rows, 12) * 50)
    return network.eval()


def save_checkpoint(network: UnetGenerator, path: Path) -> Path:
    """Save a checkpoint as training leaves it."""
    torch.save(network.state_dict(), path)
    return path


def random_bundle(root: Path, ngf: int, *, rows: int = 0, **options: Any) -> tuple[Path, Path]:
    """Make (checkpoint, bundle) in the new folder `root`.

    Args:
        root: folder.
        ngf: width.
        rows: appearances that the network keeps; 0: it takes none.
        options: of :func:`m2l_export.export_checkpoint`.
    """
    root.mkdir(exist_ok=True, parents=True)
    checkpoint = save_checkpoint(random_network(unet_256(ngf, appearance_rows=rows)), root / "latest_net_G.pth")
    export_checkpoint(checkpoint, root / "bundle", ExportOptions(**options))
    return checkpoint, root / "bundle"


def cached_bundle(ngf: int) -> tuple[Path, Path]:
    """Return (checkpoint, bundle in every precision), made if sources or versions are others than when it was."""
    folder = CACHE / f"ngf{ngf}-{_key()}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True, parents=True)
        for old in CACHE.glob(f"ngf{ngf}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            root = Path(made, "made")
            random_bundle(
                root, ngf, name=f"random-ngf{ngf}", precisions=PRECISIONS, calibrate=CALIBRATION, limits=LOW_LIMITS
            )
            root.rename(folder)
    return folder / "latest_net_G.pth", folder / "bundle"


def _key() -> str:
    """Hash all that a bundle's bytes depend on."""
    digest = hashlib.sha256()
    sources = [
        *(ROOT / "m2l_export").rglob("*.py"),
        ROOT / "train" / "m2l_train" / "models" / "networks.py",
        Path(__file__),
    ]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    for package in ("torch", "onnx", "onnxruntime", "openvino"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:12]


def plain_export(network: UnetGenerator, path: Path) -> Path:
    """Export the network as PyTorch's exporter writes it: float32 `input` (batch, 3, 256, 256) to `output` likewise."""
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    return path


def mixed_export(network: UnetGenerator, deconvolutions: Collection[int], path: Path) -> Path:
    """Export the deploy graph, transposed at these levels (0 is the outermost), in sub-pixel form elsewhere."""
    graph = deploy(network, upsampling="transposed").graph
    unet = graph.unet
    assert isinstance(unet, DeployUnet)  # noqa: S101 - deploy made it
    for level, stage in enumerate(unet.ups):
        assert isinstance(stage, Stage)  # noqa: S101
        if level not in deconvolutions:
            assert isinstance(stage.layer, torch.nn.ConvTranspose2d)  # noqa: S101
            stage.layer = SubPixelConv2d(stage.layer)
    path.write_bytes(to_onnx(graph.eval(), input_specs(network.spec, (SIDE, SIDE))))
    return path
