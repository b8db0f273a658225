"""Describe a bundle's manifest: one struct for each part of manifest.json.

docs/bundle.md describes the format for readers in other languages.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

import msgspec

from m2l_runtime.literals import Norm, Upsample

SCHEMA: Final = "m2l-bundle"

SCHEMA_VERSION: Final = 3
"""Newest version that is read and written; a bundle is written in the lowest that it needs."""

MANIFEST_NAME: Final = "manifest.json"

APPEARANCES_NAME: Final = "appearances.npz"

APPEARANCES_ARRAY: Final = "appearance"

# No honest bundle comes near these limits. They bound what a damaged or hostile one can make this process allocate.
MAX_MANIFEST_BYTES: Final = 1 << 20

MAX_FILE_BYTES: Final = (1 << 31) - 1  # also the limit of a protocol buffer

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
"""What convolutions compute with.

Example:
    >>> from typing import get_args
    >>> get_args(Precision)
    ('fp32', 'fp16', 'bf16', 'int8')
"""

TensorRtVariant = Literal["tensorrt", "tensorrt_rtx"]
"""Which TensorRT builds and runs a plan: TensorRT, or TensorRT for RTX."""

ConvolutionArithmetic = Literal["fp32", "fp16", "bf16", "int8", "fp8", "other"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Name a file of the bundle, with its size and hash.

    Example:
        >>> FileEntry.from_content("MODEL_CARD.md", b"# A model").size_bytes
        9
    """

    path: str
    """Relative to the bundle's folder, with ``/`` between parts."""
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    sha256: Sha256

    @classmethod
    def from_content(cls, path: str, content: bytes) -> FileEntry:
        """Make the entry of a file with this content."""
        return cls(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe an input or output of the generator.

    Example:
        >>> spec = TensorSpec(name="mask", role="mask", dtype="uint8", shape=("batch", 256, 256))
        >>> spec.shape[1:]
        (256, 256)
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    role: str
    """Of an input, a key of :data:`m2l_runtime.bundle.roles.ROLES`; of an output, "image"."""
    dtype: DType
    shape: tuple[Literal["batch"] | Length, ...]
    """The first entry is "batch"."""


class Resampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Say how training resized masks to `image_size`. The runtime does the same.

    Example:
        >>> Resampling(filter="bicubic", fit="squash").filter
        'bicubic'
    """

    filter: Literal["bicubic"]
    """Pillow's filter of that name. It antialiases when it shrinks."""
    fit: Literal["squash"]
    """The whole frame fills the whole frame; the aspect ratio is not kept."""


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Record how far a file's images are from reference images of the same network, over `mask_count` masks.

    Example:
        >>> parity = Parity(
        ...     reference="PyTorch 2.11, fp32",
        ...     engine="onnxruntime 1.22, CPU",
        ...     mask_count=17,
        ...     batch_sizes=(1, 3, 8),
        ...     max_level_difference=1,
        ...     mean_level_difference=0.009,
        ...     psnr_db=68.6,
        ... )
        >>> parity.kind
        'measured'
    """

    reference: str
    """What computed the reference: PyTorch, or the fp32 file where the precision is lower."""
    engine: str
    """What computed the file's images."""
    mask_count: Count
    batch_sizes: tuple[int, ...]
    """Batch sizes at which all masks were compared."""
    max_level_difference: Count
    """Largest difference of a byte, in 8-bit levels 0..255."""
    mean_level_difference: float
    """Mean absolute difference of a byte, in the same levels."""
    psnr_db: float | None
    """Peak signal-to-noise ratio over all bytes; null where every byte is equal."""
    accepted_max_level_difference: Count | None = None
    """The limit that the export used: in fp32 1, unless a known miss was accepted; null where PSNR decides."""
    mean_psnr_db: float | None = None
    """Mean of the images' PSNR, where PSNR decides."""
    worst_psnr_db: float | None = None
    """Lowest PSNR of an image, where PSNR decides."""
    colour_shift_levels: tuple[float, float, float] | None = None
    """Mean signed difference of red, green and blue over all images, where PSNR decides."""
    accepted_psnr_db: tuple[float, float] | None = None
    """Lowest mean and lowest worst PSNR that the export accepted."""
    kind: Literal["measured", "emulated"] = "measured"
    """emulated: `engine` is a proxy that computed the same graph, as close as it can to the engine the file is for."""


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Describe one way to run the generator: a file, its engines, and the precision that they compute with.

    Several may share a file.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> model = Synthesizer.open(backend="fake").bundle.manifest.models[0]
        >>> model.format, model.precision, model.engines
        ('onnx', 'fp32', ('onnxruntime',))
    """

    file: FileEntry
    format: Literal["onnx"]
    opset: Count
    precision: Precision
    """What convolutions compute with."""
    form: Literal["deconvolution", "sub-pixel", "resize"]
    """How the decoder's upsampling layers are written; the images are the same."""
    engines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Backends this file is meant for."""
    parity: Parity
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    """How weights are stored."""
    float_layers: tuple[str, ...] = ()
    """Convolutions of an int8 file that stay in float."""


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe a TensorRT plan: one of the ONNX files, compiled for one TensorRT version and one kind of GPU.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> plans = Synthesizer.open(backend="fake").bundle.manifest.plans
        >>> [plan.compute_capability for plan in plans]  # the embedded model has none
        []
    """

    file: FileEntry
    log: FileEntry
    """What TensorRT's builder reported."""
    flavour: TensorRtVariant
    version: str
    """Of the TensorRT library; a plan runs in no other version."""
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}\.[0-9]\Z")]
    """Of the GPUs that it runs on."""
    card: str | None
    """The GPU that it was built on; it runs on this model alone. Null where it was built for a compute capability."""
    precision: Precision
    batch_sizes: tuple[BatchSize, BatchSize, BatchSize]
    """Smallest, most likely and largest number of masks in a call."""
    onnx_sha256: Sha256
    """Of the ONNX file that it was built from, one of the bundle's."""
    convolutions: Annotated[dict[ConvolutionArithmetic, Count], msgspec.Meta(min_length=1)]
    """Number of convolutions by what they compute in."""
    types_read_from: Literal["network", "engine"]
    """Where `convolutions` was read: in the network as TensorRT parsed it, or in the finished engine."""
    parity: Parity | Literal["not measured"]
    """Of the plan's images; "not measured" where no GPU that runs it was there."""


class AppearanceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Describe the table that appearances are sampled from: an .npz with one float32 array, a row for a training image.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> table = Synthesizer.open(backend="fake").bundle.manifest.appearance
        >>> table.count > 1000, table.names[0], table.names[12]
        (True, 'lesion_L', 'sharpness')
    """

    file: FileEntry
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """Rows."""
    names: tuple[str, ...]
    """Names of the columns, some of :data:`m2l_runtime.types.KNOWN_NAMES`; in version 1 the first twelve of these."""
    min_contrast: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    """Delta E*ab by which lesion and skin differ at least, in their mean colors, in rows that are sampled."""
    sampled_count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Rows of that contrast. The others are sampled where an appearance asks for them
    (:data:`m2l_runtime.conditioning.conditions.MIN_CONTRAST`). None: the file has no others."""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe the golden pairs: inputs, and the images they gave when the bundle was exported.

    The file is an .npz with an array for each tensor, by name.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> bundle = Synthesizer.open(backend="fake").bundle
        >>> inputs, images = bundle.read_golden()
        >>> bundle.manifest.golden.count, images.shape
        (3, (3, 256, 256, 3))
    """

    file: FileEntry
    count: Annotated[int, msgspec.Meta(ge=1, le=64)]
    engine: str


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Describe the trained network, in the terms of pytorch-CycleGAN-and-pix2pix where it has them.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> network = Synthesizer.open(backend="fake").bundle.manifest.network
        >>> network.architecture, network.levels, network.ngf
        ('modulated', 5, 48)
    """

    architecture: Literal["unet", "modulated", "resnet"]
    """modulated is an addition of m2l: appearances scale convolutions, and noise comes in (docs/model.md)."""
    levels: Count
    """How often the mask's side is halved, and doubled again."""
    ngf: Count
    """Channels of the outermost layers; of a modulated generator, of the decoder at half the side."""
    input_nc: Count
    output_nc: Count
    norm: Norm
    norm_statistics: Literal["instance", "running", "none"]
    """Whether images are normalized by their own statistics or by those collected in training."""
    parameter_count: Count
    upsample: Upsample = "deconv"
    """resize is an addition of m2l: pixels repeated, then a 3x3 convolution."""
    appearance: bool = False
    """Whether it takes an appearance (:mod:`m2l_runtime.conditioning.appearance`); an addition of m2l."""
    dropout: Literal["off", "input"] = "off"
    """input: an input says which features are dropped."""
    blocks: Count = 0
    """Residual blocks of a ResNet generator; 0 in others."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describe the run of `m2l train` that made the weights.

    Example:
        >>> training = Training(
        ...     config={"batch_size": 4},
        ...     pair_count=1792,
        ...     epoch=17,
        ...     step=7616,
        ...     hours=1.0,
        ...     val_l1_levels=15.2,
        ...     device="cpu",
        ...     versions={"torch": "2.13.0"},
        ... )
        >>> training.epoch, training.config["batch_size"]
        (17, 4)
    """

    config: dict[str, int | float | bool | str | None]
    """All options of the run, by name."""
    pair_count: Count
    """Training pairs."""
    epoch: Count | None
    """From 1; null where the run ended after writing the weights and before writing its progress."""
    step: Count | None
    hours: float | None
    val_l1_levels: float | None
    """Mean absolute difference from the validation split's images, in 8-bit levels; null if not measured."""
    device: str | None
    versions: dict[str, str]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Record where the weights came from and which software made the bundle.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> Synthesizer.open(backend="fake").bundle.manifest.provenance.checkpoint
        'latest_net_G.pth'
    """

    checkpoint: str
    """File name, without its folder."""
    checkpoint_sha256: Sha256
    versions: dict[str, str]
    """Version of each package used."""
    training: Training | None = None
    """Set where a run of `m2l train` made the weights."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hold the content of manifest.json.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> manifest = Synthesizer.open(backend="fake").bundle.manifest
        >>> manifest.image_size, [spec.role for spec in manifest.inputs]
        ((256, 256), ['mask', 'appearance', 'noise'])
    """

    schema: Literal["m2l-bundle"] = SCHEMA
    schema_version: int = 1
    """Of a bundle written, what :func:`m2l_runtime.bundle.validate.lowest_schema_version` says, whatever is here."""
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
    """Warnings of the export."""
    appearance: AppearanceTable | None = None
    """Set where there is an input of that role, and only there."""
    plans: Annotated[tuple[PlanFile, ...], msgspec.Meta(max_length=256)] = ()
    """Left out where there are none."""
    random_orientation: bool = False
    """Whether masks are rotated and flipped at random before the generator runs, and images back
    (:mod:`m2l_runtime.conditioning.orientation`). Golden pairs are what the generator itself takes and gives."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the bundle but the manifest."""
        table = () if self.appearance is None else (self.appearance.file,)
        models = dict.fromkeys(model.file for model in self.models)
        plans = (entry for plan in self.plans for entry in (plan.file, plan.log))
        return (*models, self.golden.file, self.model_card, *table, *plans)

    def fields(self) -> dict[str, Any]:
        """Return what manifest.json holds, as plain dicts and lists."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.appearance is None:
            del fields["appearance"]
        if not self.plans:
            del fields["plans"]
        if not self.random_orientation:
            del fields["random_orientation"]
        return fields

    def input(self, role: str) -> TensorSpec | None:
        """Find the input of a role; None if there is none."""
        return next((spec for spec in self.inputs if spec.role == role), None)


class ManifestHead(msgspec.Struct, frozen=True):
    """Hold what every version of a manifest has: its schema's name and version."""

    schema: str
    schema_version: int
