"""Check a manifest beyond what its types can say."""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.schema import KNOWN_ROLES, MANIFEST_NAME, SCHEMA, SCHEMA_VERSION, Manifest, TensorSpec, _Head
from m2l_runtime.errors import BundleDamaged, BundleTooNew
from m2l_runtime.types import NAMES


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
            f"('batch', {len(NAMES)}) and one uint8 dropout_bits ('batch', N), each of a name of its own, "
            f"and gives one uint8 image {image}; got {got or 'nothing'}"
        )
    table = manifest.appearance
    if (table is not None) != (manifest.input("appearance") is not None):
        raise BundleDamaged(
            f"{where}: an input of the role 'appearance' and a table of appearances go together; got "
            + ("the input alone" if table is None else "the table alone")
        )
    if table is not None and table.names != NAMES:
        raise BundleTooNew(
            f"{where}: appearances are {printable(', '.join(table.names))}; this m2l measures "
            f"{', '.join(NAMES)}; install a newer m2l"
        )
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        _check_path(path, where)
    if len(set(paths)) != len(paths):
        raise BundleDamaged(f"{where} lists a file twice")
    sides = [(engine, model.precision) for model in manifest.models for engine in model.engines]
    if len(set(sides)) != len(sides):
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
        return (spec.dtype, spec.shape) == ("float32", ("batch", len(NAMES)))
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
