"""Hold the options of an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from m2l_export.graph.deploy import NormStatistics, Upsampling
from m2l_export.parity.metrics import ParityLimits
from m2l_export.precisions import MAX_FP16_LEVELS
from m2l_export.tensorrt import PlanOptions
from m2l_runtime._utils.arguments import check_types
from m2l_runtime.bundle.schema import Precision

Weights = Literal["fp32", "fp16"]

DEFAULT_CALIBRATION: Final = "shapes:200,seed=1"

ACCEPTED_LEVELS: Final[Mapping[Weights, int]] = {"fp32": 1, "fp16": 2}
"""Largest difference that validation accepts by default, in levels of 0..255, by how weights are stored."""


@check_types(renamed={"form": "upsampling"})
@dataclass(frozen=True)
class ExportOptions:
    """Describe how a checkpoint is exported. The defaults give one fp32 file.

    Example:
        >>> from m2l_export import ExportOptions
        >>> ExportOptions(name="my-network", precisions=("fp32", "int8")).lower_precisions
        ('int8',)
    """

    name: str | None = None
    """Name of the bundle. None: the folder's name."""
    image_size: int | str | tuple[int, int] | None = None
    """Side of masks and images in pixels, or height x width as ``256x512`` or (256, 512): multiples of 2 to the power
    of the network's depth. None: what the training run says, or that power, or 256 where the layers do not tell."""
    norm_statistics: NormStatistics = "instance"
    """What a batch norm normalizes by. ``instance``: each image's own statistics, as the original's test does.
    ``running``: those collected in training, as the original's test does with ``--eval``."""
    upsampling: Upsampling = "pixel-shuffle"
    """How layers that double the side are written: as convolutions and a pixel shuffle, as transposed convolutions,
    or as repeated pixels and a convolution (only for networks trained so). The images are the same, speed is not:
    onnxruntime runs ``pixel-shuffle`` faster on CPUs where the network is wide; ``resize`` takes nearly twice the
    time."""
    stochastic: bool = False
    """Whether dropout is an input: the same mask gives other images with other bits. Otherwise dropout is off."""
    weights: Weights = "fp32"
    """How weights are stored. ``fp16`` halves the file. Arithmetic is fp32 either way, from rounded weights."""
    masks: str | os.PathLike[str] | None = None
    """Folder of more masks to validate on."""
    max_level_difference: int | None = None
    """Largest difference of a byte that validation accepts, 0..255. It is recorded in the manifest.
    None: see `ACCEPTED_LEVELS`."""
    precisions: Sequence[Precision] = ("fp32",)
    """What convolutions compute in, on each engine that can: `bf16` on OpenVINO; `int8` on onnxruntime, OpenVINO and
    TensorRT, one file each; `fp16` on onnxruntime and TensorRT, on GPUs only. fp32 is always made."""
    require: bool = False
    """Whether to refuse, before the work, if a precision cannot be validated on this machine. Otherwise it is left out
    with a note, unless nothing asked for is left."""
    engines: Sequence[str] | None = None
    """Engines that lower precisions are made for. None: all that are installed and can, and TensorRT if `plans` is
    given."""
    calibrate: str | os.PathLike[str] | None = None
    """Masks that int8 is calibrated on, and that bf16 and int8 are evaluated on: a folder of at least 16 different
    masks, or a mask source such as ``shapes:300``. None: generated shapes."""
    limits: ParityLimits = field(default_factory=ParityLimits)
    """How far bf16 and int8 may be from fp32."""
    min_contrast: float = 0.0
    """Least difference of the mean colors of lesion and skin, in Delta E*ab. Appearances below it are sampled only
    where they are asked for (``min_contrast=0`` of an appearance), because nobody sees there where the mask is."""
    random_orientation: bool = False
    """Whether masks are rotated and flipped at random before the generator runs, and its images back, so that what it
    leaves at fixed places lies elsewhere from image to image. For networks trained on rotated and flipped pairs, that
    take more than the mask. Images that are not square are flipped alone."""
    overwrite: bool = False
    """Whether an existing bundle is replaced."""
    origin: str = ""
    """A paragraph for the model card: data, licence, training."""
    plans: PlanOptions | None = None
    """TensorRT plans to build, in each of `precisions` that TensorRT computes. None: no plans."""

    @property
    def accepted_levels(self) -> int:
        """Largest difference that validation accepts of files in fp32, in levels."""
        return ACCEPTED_LEVELS[self.weights] if self.max_level_difference is None else self.max_level_difference

    @property
    def accepted_fp16_levels(self) -> int:
        """Largest difference that validation accepts of files in fp16, in levels."""
        return max(MAX_FP16_LEVELS, self.accepted_levels)

    @property
    def lower_precisions(self) -> tuple[Precision, ...]:
        """Precisions other than fp32, each once, in the given order."""
        return tuple(precision for precision in dict.fromkeys(self.precisions) if precision != "fp32")
