"""A bundle: a folder that says what is in it. One definition, which export writes and the runtime reads.

``manifest.json`` describes the generator (image size, how masks are resampled, inputs with roles, outputs)
and lists every other file with its size and SHA-256. The SHA-256 of ``manifest.json`` itself therefore stands
for the whole bundle. Hashes tell whether files are as they were written; they do not tell who wrote them.
The format is described for readers in other languages in docs/bundle.md.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_runtime import appearance, atomic, onnxfile
from m2l_runtime.errors import BundleDamaged, BundleError, BundleNotFound, BundleTooNew, OutputError
from m2l_runtime.terminal import printable

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
Flavour = Literal["tensorrt", "tensorrt_rtx"]
"""Of plans: TensorRT, or TensorRT for RTX."""
ConvolutionArithmetic = Literal["fp32", "fp16", "bf16", "int8", "fp8", "other"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the bundle, by its path relative to the folder, with ``/`` between parts."""

    path: str
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
    sha256: Sha256

    @classmethod
    def of(cls, path: str, content: bytes) -> FileEntry:
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
    flavour: Flavour
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
    """Of the columns: those of :mod:`m2l_runtime.appearance`."""
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
    norm: Literal["instance", "batch", "none"]
    norm_statistics: Literal["instance", "running", "none"]
    """Whether images are normalised by their own statistics or by those collected in training."""
    parameter_count: Count
    upsample: Literal["deconv", "resize"] = "deconv"
    """resize is m2l's own: pixels repeated, then a 3x3 convolution."""
    appearance: bool = False
    """Whether it was trained with the numbers of :mod:`m2l_runtime.appearance` beside the mask; m2l's own."""
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


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest has been read and checked; files are read, and hashed, when asked for."""

    path: Path
    manifest: Manifest
    sha256: str
    """SHA-256 of manifest.json, which names the whole bundle."""

    def read(self, entry: FileEntry) -> bytes:
        """The content of a file, read once; what is returned is what was hashed.

        Raises:
            BundleDamaged: missing, altered, not a plain file, or reached through a link.
        """
        content = _read_plain_file(self.path, entry.path, entry.size_bytes)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleDamaged(
                f"{_name(self.path, entry.path)} is not the file the bundle was made with "
                "(its SHA-256 differs from the manifest's); copy or export the bundle again"
            )
        return content

    def read_model(self, model: ModelFile) -> bytes:
        """The bytes of an ONNX file that needs no other file.

        Raises:
            BundleDamaged: as :meth:`read`, or not ONNX, or with weights outside the file.
        """
        content = self.read(model.file)
        try:
            outside = onnxfile.external_tensors(content)
        except ValueError as error:
            raise BundleDamaged(f"{_name(self.path, model.file.path)} is not an ONNX model: {error}") from None
        if outside:
            raise BundleDamaged(
                f"{_name(self.path, model.file.path)} keeps weights outside the file "
                f"({printable(outside[0])} and perhaps more); m2l reads self-contained ONNX only"
            )
        return content

    def read_golden(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.uint8]]:
        """(inputs by name, images) recorded when the bundle was made.

        Raises:
            BundleDamaged: as :meth:`read`, or arrays of other names, shapes or types than the manifest says.
        """
        golden, where = self.manifest.golden, _name(self.path, self.manifest.golden.file.path)
        arrays = _arrays(self.read(golden.file), where)
        for spec in (*self.manifest.inputs, *self.manifest.outputs):
            _check_array(arrays, spec.name, spec.dtype, (golden.count, *_sides(spec)), where)
        return {s.name: arrays[s.name] for s in self.manifest.inputs}, arrays[self.manifest.outputs[0].name]

    def read_appearances(self) -> npt.NDArray[np.float32]:
        """float32 (count, 12): what was measured of the training's images, columns as in the manifest.

        Raises:
            BundleDamaged: as :meth:`read`, or not such an array, or not finite.
            BundleError: the bundle has none.
        """
        table = self.manifest.appearance
        if table is None:
            raise BundleError(f"{printable(self.path)} has no table of appearances; its generator takes none")
        where = _name(self.path, table.file.path)
        arrays = _arrays(self.read(table.file), where)
        _check_array(arrays, APPEARANCES_ARRAY, "float32", (table.count, len(table.names)), where)
        return arrays[APPEARANCES_ARRAY]

    def check(self) -> None:
        """Read and hash every file.

        Raises:
            BundleDamaged: as :meth:`read`, :meth:`read_model`, :meth:`read_golden` and :meth:`read_appearances`.
        """
        for plan in self.manifest.plans:
            self.read(plan.file)
            self.read(plan.log)
        for model in {model.file: model for model in self.manifest.models}.values():
            self.read_model(model)
        self.read(self.manifest.model_card)
        self.read_golden()
        if self.manifest.appearance is not None:
            self.read_appearances()


def _sides(spec: TensorSpec) -> tuple[int, ...]:
    """A tensor's shape without the batch."""
    return tuple(side for side in spec.shape if side != "batch")


def _arrays(content: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_ARRAY_BYTES:
            raise BundleDamaged(f"{where} unpacks to {size:,} bytes; at most {MAX_ARRAY_BYTES:,} are read")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, BundleDamaged):
            raise
        raise BundleDamaged(f"{where} is not an .npz of arrays: {error}") from None


def _check_array(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, dtype: DType, shape: tuple[int, ...], where: str
) -> None:
    found = arrays.get(name)
    if found is None or found.shape != shape or found.dtype != np.dtype(dtype):
        got = "nothing" if found is None else f"{found.shape} {found.dtype}"
        raise BundleDamaged(f"{where}: '{printable(name)}' must be {shape} {dtype}, got {got}")
    if not np.isfinite(found).all():
        raise BundleDamaged(f"{where}: '{printable(name)}' holds values that are infinite or undefined")


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle's manifest, and that its files are there with the right sizes.

    Raises:
        BundleNotFound: no folder there, or none with a manifest.
        BundleTooNew: another schema version, or an input with a role unknown here.
        BundleDamaged: the manifest is not what its schema says, or a file is missing, of another size, not a
            plain file, or outside the folder.
    """
    folder = Path(path)
    try:
        is_folder, exists = folder.is_dir(), os.path.lexists(folder)
        has_manifest = is_folder and os.path.lexists(folder / MANIFEST_NAME)
    except (OSError, ValueError) as error:
        raise BundleNotFound(f"cannot look for a bundle at {printable(folder)}: {error}") from None
    if not is_folder:
        what = "is a file, not a folder" if exists else "does not exist"
        raise BundleNotFound(
            f"{printable(folder)} {what}; a bundle is the folder that `m2l export CHECKPOINT BUNDLE` writes"
        )
    if not has_manifest:
        raise BundleNotFound(
            f"{printable(folder)} has no {MANIFEST_NAME}, so it is not a bundle; "
            "`m2l export CHECKPOINT BUNDLE` makes one"
        )
    content = _read_plain_file(folder, MANIFEST_NAME, None)
    manifest = parse_manifest(content, _name(folder, MANIFEST_NAME))
    for entry in manifest.files:
        _open_plain_file(folder, entry.path, entry.size_bytes)
    return Bundle(path=folder, manifest=manifest, sha256=hashlib.sha256(content).hexdigest())


def parse_manifest(content: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Manifest from JSON, checked.

    Raises:
        BundleTooNew, BundleDamaged: see :func:`open_bundle`.
    """
    try:
        head = msgspec.json.decode(content, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleDamaged(f"{where} is not a bundle's manifest: {error}") from None
    if head.schema != SCHEMA:
        raise BundleDamaged(
            f"{where} has schema '{printable(head.schema[:100])}', expected '{SCHEMA}': it is not a bundle's manifest"
        )
    if head.schema_version != SCHEMA_VERSION:
        newer = head.schema_version > SCHEMA_VERSION
        raise BundleTooNew(
            f"{where} has schema version {head.schema_version}, this m2l reads version {SCHEMA_VERSION}; "
            + ("install a newer m2l" if newer else "export the bundle again")
        )
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleDamaged(f"{where} does not follow its schema: {printable(str(error))}") from None
    _check_manifest(manifest, where)
    return manifest


def _check_manifest(manifest: Manifest, where: str) -> None:
    """What the types alone cannot say."""
    for spec in manifest.inputs:
        if spec.role not in KNOWN_ROLES:
            raise BundleTooNew(
                f"{where}: input '{printable(spec.name)}' has the role '{printable(spec.role)}'; this m2l can "
                f"supply {', '.join(KNOWN_ROLES)}; install a newer m2l"
            )
    size = manifest.image_size
    mask, image = ("batch", *size), ("batch", *size, 3)
    inputs, outputs = manifest.inputs, manifest.outputs
    roles, names = [spec.role for spec in inputs], [spec.name for spec in (*inputs, *outputs)]
    is_right = (
        roles[:1] == ["mask"]
        and len(set(roles)) == len(roles)
        and len(set(names)) == len(names)
        and all(_has_its_shape(spec, size) for spec in inputs)
        and [(s.role, s.dtype, s.shape) for s in outputs] == [("image", "uint8", image)]
    )
    if not is_right:
        got = "; ".join(f"{s.role} '{printable(s.name)}' {s.dtype} {s.shape}" for s in (*inputs, *outputs))
        raise BundleDamaged(
            f"{where}: a bundle of image size {size} takes one uint8 mask {mask}, then perhaps one float32 appearance "
            f"('batch', {len(appearance.NAMES)}) and one uint8 dropout_bits ('batch', N), each of a name of its own, "
            f"and gives one uint8 image {image}; got {got or 'nothing'}"
        )
    table = manifest.appearance
    if (table is not None) != (manifest.input("appearance") is not None):
        raise BundleDamaged(
            f"{where}: an input of the role 'appearance' and a table of appearances go together; got "
            + ("the input alone" if table is None else "the table alone")
        )
    if table is not None and table.names != appearance.NAMES:
        raise BundleTooNew(
            f"{where}: appearances are {printable(', '.join(table.names))}; this m2l measures "
            f"{', '.join(appearance.NAMES)}; install a newer m2l"
        )
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        _check_path(path, where)
    if len(set(paths)) != len(paths):
        raise BundleDamaged(f"{where} lists a file twice")
    ways = [(engine, model.precision) for model in manifest.models for engine in model.engines]
    if len(set(ways)) != len(ways):
        raise BundleDamaged(f"{where} has two models for the same engine and precision")
    for model in manifest.models:
        if (model.precision == "int8") != (model.weights == "int8"):
            raise BundleDamaged(
                f"{where}: {printable(model.file.path)} has weights in {model.weights} for the precision "
                f"{model.precision}; int8 weights and the precision int8 go together"
            )
        if model.float_layers and model.precision != "int8":
            raise BundleDamaged(
                f"{where}: {printable(model.file.path)} lists layers left in float, which only int8 has; its precision "
                f"is {model.precision}"
            )
    made_of = {(model.file.sha256, model.precision) for model in manifest.models if "tensorrt" in model.engines}
    for plan in manifest.plans:
        where_plan = f"{where}: {printable(plan.file.path)}"
        if (plan.onnx_sha256, plan.precision) not in made_of:
            raise BundleDamaged(
                f"{where_plan} is said to be made in {plan.precision} of a file with SHA-256 "
                f"{plan.onnx_sha256[:12]}..., and no model for tensorrt in that precision is that file"
            )
        least, likely, most = plan.batch_sizes
        if not least <= likely <= most:
            raise BundleDamaged(f"{where_plan} has batch sizes out of order: {least}, {likely}, {most}")


def _has_its_shape(spec: TensorSpec, size: tuple[int, int]) -> bool:
    """Whether an input has the type and shape of its role."""
    if spec.role == "mask":
        return (spec.dtype, spec.shape) == ("uint8", ("batch", *size))
    if spec.role == "appearance":
        return (spec.dtype, spec.shape) == ("float32", ("batch", len(appearance.NAMES)))
    return spec.dtype == "uint8" and len(spec.shape) == 2 and spec.shape[0] == "batch" and spec.shape[1] != "batch"


def _check_path(path: str, where: str) -> None:
    pure = PurePosixPath(path)
    bad = (
        not path
        or pure.is_absolute()
        or str(pure) != path
        or any(part in ("", ".", "..") for part in path.split("/"))
        or any(c in path for c in "\\:\0")
        or not path.isprintable()
        or path == MANIFEST_NAME
    )
    if bad:
        raise BundleDamaged(f"{where} names the file '{printable(path)}'; a path inside the folder is expected")


def _name(folder: Path, path: str) -> str:
    return printable(folder / path)


def _open_plain_file(folder: Path, path: str, size: int | None) -> os.stat_result:
    """Lstat of a file reached through no link, of the size the manifest says."""
    where, at = _name(folder, path), folder
    try:
        for part in path.split("/"):
            at = at / part
            status = at.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise BundleDamaged(f"{printable(at)} is a symbolic link; a bundle holds its files itself")
    except OSError as error:
        raise BundleDamaged(f"{where} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleDamaged(f"{where} is not a plain file")
    if size is not None and status.st_size != size:
        raise BundleDamaged(
            f"{where} has {status.st_size:,} bytes, the manifest says {size:,}; copy or export the bundle again"
        )
    if size is None and status.st_size > MAX_MANIFEST_BYTES:
        raise BundleDamaged(f"{where} has {status.st_size:,} bytes; at most {MAX_MANIFEST_BYTES:,} are read")
    return status


def _read_plain_file(folder: Path, path: str, size: int | None) -> bytes:
    limit = _open_plain_file(folder, path, size).st_size
    try:
        with (folder / path).open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise BundleDamaged(f"{_name(folder, path)} cannot be read: {error.strerror or error}") from None
    if len(content) != limit:
        raise BundleDamaged(f"{_name(folder, path)} changed while it was read")
    return content


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    contents: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle beside `path`, read it back, and rename it into place.

    Args:
        path: the folder to make.
        manifest: what to write as manifest.json.
        contents: the content of each file the manifest lists, by its path.
        overwrite: replace a bundle that is at `path`. Anything else there is never replaced.

    Raises:
        OutputError: `path` exists and may not be replaced, or cannot be written.
        BundleError: manifest and contents do not make a bundle that can be read.
    """
    text = msgspec.json.format(msgspec.json.encode(manifest.fields()), indent=2) + b"\n"
    target = Path(path)
    if set(contents) != {entry.path for entry in manifest.files}:
        raise BundleError(f"the manifest lists other files than {sorted(contents)}")
    with atomic.staged_folder(target, may_replace=require_bundle if overwrite else None) as staging:
        for name, content in contents.items():
            _check_path(name, MANIFEST_NAME)
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
        (staging / MANIFEST_NAME).write_bytes(text)
        open_bundle(staging).check()
    return open_bundle(target)


def require_bundle(path: Path) -> None:
    """Let a bundle be replaced, and nothing else.

    Raises:
        OutputError: `path` is not a folder with a manifest of this schema in it.
    """
    try:
        content = _read_plain_file(path, MANIFEST_NAME, None)
        is_bundle = path.is_dir() and msgspec.json.decode(content, type=_Head).schema == SCHEMA
    except (BundleError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        is_bundle = False
    if not is_bundle:
        raise OutputError(f"{printable(path)} is not a bundle, so it is not overwritten; choose another name")
