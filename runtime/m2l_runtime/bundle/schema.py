"""Describe a bundle's manifest: one struct for each part of manifest.json."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

import msgspec

from m2l_runtime.literals import Norm, Upsample

SCHEMA: Final = "m2l-bundle"

SCHEMA_VERSION: Final = 1

MANIFEST_NAME: Final = "manifest.json"

KNOWN_ROLES: Final = ("mask", "appearance", "dropout_bits")
"""Roles of inputs that this version can supply; a bundle with any other role is refused."""

APPEARANCES_NAME: Final = "appearances.npz"

APPEARANCES_ARRAY: Final = "appearance"

# No honest bundle comes near these; they bound what a damaged or hostile one can make us allocate.
MAX_MANIFEST_BYTES: Final = 1 << 20

MAX_FILE_BYTES: Final = (1 << 31) - 1  # a protocol buffer ends here as well

MAX_SIDE: Final = 8192

MAX_DROPOUT_BYTES: Final = 1 << 24

MAX_ARRAY_BYTES: Final = 1 << 28

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]

Length = Annotated[int, msgspec.Meta(ge=1, le=MAX_DROPOUT_BYTES)]

Count = Annotated[int, msgspec.Meta(ge=0)]

BatchSize = Annotated[int, msgspec.Meta(ge=1, le=4096)]

DType = Literal["uint8", "float32"]

Precision = Literal["fp32", "fp16", "bf16", "int8"]

TensorRtVariant = Literal["tensorrt", "tensorrt_rtx"]
"""Of plans: TensorRT, or TensorRT for RTX."""

ConvolutionArithmetic = Literal["fp32", "fp16", "bf16", "int8", "fp8", "other"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the bundle, by its path relative to the folder, with ``/`` between parts."""

    path: str
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    sha256: Sha256

    @classmethod
    def from_content(cls, path: str, content: bytes) -> FileEntry:
        """The entry of a file with this content."""
        return cls(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input or output of the generator."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    role: str
    """Of an input mask | appearance | dropout_bits, of an output image; later versions add others."""
    dtype: DType
    shape: tuple[Literal["batch"] | Length, ...]
    """The first entry is "batch"."""


class Resampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a mask of another size came to `image_size` in training, hence how the runtime does it."""

    filter: Literal["bicubic"]
    """Pillow's filter of that name, which antialiases when it shrinks."""
    fit: Literal["squash"]
    """The whole frame to the whole frame; the aspect ratio is not kept."""


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How far a file's images are from others of the same network, over `mask_count` masks."""

    reference: str
    """What computed the images compared with: PyTorch, or the fp32 file where the precision is a lower one."""
    engine: str
    """What computed the file's images."""
    mask_count: Count
    batch_sizes: tuple[int, ...]
    """Batch sizes at which all masks were compared."""
    max_level_difference: Count
    """Largest difference of a byte, 0..255."""
    mean_level_difference: float
    psnr_db: float | None
    """Peak signal-to-noise ratio over all bytes; null where every byte is equal."""
    accepted_max_level_difference: Count | None = None
    """What the export was told to accept: in fp32 1 unless a known miss was accepted; null where PSNR decides."""
    mean_psnr_db: float | None = None
    """Mean over images of the PSNR of each; where that decides."""
    worst_psnr_db: float | None = None
    """PSNR of the image that is farthest off; where that decides."""
    colour_shift_levels: tuple[float, float, float] | None = None
    """Mean signed difference of red, green and blue over all images; where PSNR decides."""
    accepted_psnr_db: tuple[float, float] | None = None
    """Lowest mean and lowest worst PSNR that the export was told to accept."""
    kind: Literal["measured", "emulated"] = "measured"
    """emulated: `engine` is not what the file is for, but computed the same graph, as nearly alike as it can."""


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A way to run the generator: a file, the engines it is meant for, and the precision that they compute with.

    Several may share a file.
    """

    file: FileEntry
    format: Literal["onnx"]
    opset: Count
    precision: Precision
    """What convolutions are computed with."""
    form: Literal["deconvolution", "sub-pixel", "resize"]
    """How the decoder's upsampling layers are written; the images are the same."""
    engines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Backends this file is meant for."""
    parity: Parity
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    """How weights are stored."""
    float_layers: tuple[str, ...] = ()
    """Of int8: convolutions that stay in float."""


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the ONNX files, compiled by TensorRT for one of its versions and one kind of card."""

    file: FileEntry
    log: FileEntry
    """What the builder said."""
    flavour: TensorRtVariant
    version: str
    """Of the library; a plan runs in no other."""
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}\.[0-9]\Z")]
    """Of the cards that it runs on."""
    card: str | None
    """The card that it was built on, whose likes alone it runs on; null where it was built for a compute capability."""
    precision: Precision
    batch_sizes: tuple[BatchSize, BatchSize, BatchSize]
    """Least, most likely and largest number of masks of a call."""
    onnx_sha256: Sha256
    """Of the file that it was built from, which is one of the bundle's."""
    convolutions: Annotated[dict[ConvolutionArithmetic, Count], msgspec.Meta(min_length=1)]
    """How many compute in what."""
    types_read_from: Literal["network", "engine"]
    """Where that was read: in the network as TensorRT parsed it, or in the finished engine, which takes a card."""
    parity: Parity | Literal["not measured"]
    """Of the plan's images; not measured where it was built for a card that was not there."""


class AppearanceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What was measured of the training's images, which appearances are drawn from: an .npz with one float32 array."""

    file: FileEntry
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """Rows."""
    names: tuple[str, ...]
    """Of the columns: those of :mod:`m2l_runtime.conditioning.appearance`."""
    min_contrast: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """Delta E*ab by which the mean colours of lesion and skin differ in every row; rows of less were left out."""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Inputs and the images they gave when the bundle was made: an .npz with an array per tensor name."""

    file: FileEntry
    count: Annotated[int, msgspec.Meta(ge=1, le=64)]
    engine: str


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The trained network that the files were made of, in the terms of pytorch-CycleGAN-and-pix2pix."""

    architecture: Literal["unet"]
    levels: Count
    ngf: Count
    input_nc: Count
    output_nc: Count
    norm: Norm
    norm_statistics: Literal["instance", "running", "none"]
    """Whether images are normalised by their own statistics or by those collected in training."""
    parameter_count: Count
    upsample: Upsample = "deconv"
    """resize is m2l's own: pixels repeated, then a 3x3 convolution."""
    appearance: bool = False
    """Whether it takes an appearance (:mod:`m2l_runtime.conditioning.appearance`) beside the mask; m2l's own."""
    dropout: Literal["off", "input"] = "off"
    """input: what is dropped comes in as an input."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `m2l train` came to the weights."""

    config: dict[str, int | float | bool | str | None]
    """All settings of the run, by name."""
    pair_count: Count
    """Pairs trained on."""
    epoch: Count | None
    """From 1; null where the run was interrupted between writing the weights and writing how far they are."""
    step: Count | None
    hours: float | None
    val_l1_levels: float | None
    """Mean absolute difference from the validation split's images, in levels of 0..255; null if not measured."""
    device: str | None
    versions: dict[str, str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Where the weights came from and what made the bundle."""

    checkpoint: str
    """File name, without its folder."""
    checkpoint_sha256: Sha256
    versions: dict[str, str]
    """Version of each package that took part."""
    training: Training | None = None
    """Where the weights are of a run of `m2l train`."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What manifest.json holds."""

    schema: Literal["m2l-bundle"] = SCHEMA
    schema_version: int = SCHEMA_VERSION
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    image_size: tuple[Side, Side]
    """Height, width in pixels."""
    resampling: Resampling
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    models: Annotated[tuple[ModelFile, ...], msgspec.Meta(min_length=1, max_length=64)]
    golden: Golden
    model_card: FileEntry
    network: Network
    provenance: Provenance
    warnings: tuple[str, ...] = ()
    """What the export warned about."""
    appearance: AppearanceTable | None = None
    """Where there is an input of that role, and only there."""
    plans: Annotated[tuple[PlanFile, ...], msgspec.Meta(max_length=256)] = ()
    """Left out where there are none."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file but the manifest."""
        table = () if self.appearance is None else (self.appearance.file,)
        models = dict.fromkeys(model.file for model in self.models)
        plans = (entry for plan in self.plans for entry in (plan.file, plan.log))
        return (*models, self.golden.file, self.model_card, *table, *plans)

    def fields(self) -> dict[str, Any]:
        """What stands in manifest.json."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.appearance is None:
            del fields["appearance"]
        if not self.plans:
            del fields["plans"]
        return fields

    def input(self, role: str) -> TensorSpec | None:
        """The input of a role, if there is one."""
        return next((spec for spec in self.inputs if spec.role == role), None)


class _Head(msgspec.Struct, frozen=True):
    schema: str
    schema_version: int
