"""Check a manifest beyond what its types can say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

import msgspec

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.reading import reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.roles import ROLES
from m2l_runtime.bundle.schema import MANIFEST_NAME, SCHEMA, SCHEMA_VERSION, Manifest, ManifestHead
from m2l_runtime.errors import BundleDamaged, BundleTooNew
from m2l_runtime.types import KNOWN_NAMES, NAMES, list_names


@check_types()
def parse_manifest(content: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Parse and check the content of a manifest.json.

    Example:
        >>> import msgspec
        >>> from m2l_runtime import Synthesizer
        >>> manifest = Synthesizer.open(backend="fake").bundle.manifest
        >>> parse_manifest(msgspec.json.encode(manifest.fields())) == manifest
        True
        >>> parse_manifest(b'{"schema": "m2l-bundle", "schema_version": 4}')
        Traceback (most recent call last):
        m2l_runtime.errors.BundleTooNew: manifest.json has schema version 4, this m2l reads versions 1 to 3; ...

    Args:
        content: JSON.
        where: the file's name, for messages.

    Raises:
        BundleTooNew: another schema version, or an input with a role that is unknown here.
        BundleDamaged: it is not JSON, or breaks a rule of its schema.
    """
    with reader_errors(BundleDamaged, where, "is not a bundle's manifest"):
        head = msgspec.json.decode(content, type=ManifestHead)
    if head.schema != SCHEMA:
        raise BundleDamaged(
            f"{where} has schema '{printable(head.schema[:100])}', expected '{SCHEMA}': it is not a bundle's manifest"
        )
    if not 1 <= head.schema_version <= SCHEMA_VERSION:
        newer = head.schema_version > SCHEMA_VERSION
        raise BundleTooNew(
            f"{where} has schema version {head.schema_version}, this m2l reads versions 1 to {SCHEMA_VERSION}; "
            + ("install a newer m2l" if newer else "export the bundle again")
        )
    with reader_errors(BundleDamaged, where, "does not follow its schema"):
        manifest = msgspec.json.decode(content, type=Manifest)
        for check in _RULES:
            check(manifest, where)
    return manifest


def lowest_schema_version(manifest: Manifest) -> int:
    """Return the lowest schema version whose readers know all that a manifest says.

    Version 1 has the roles mask, appearance and dropout_bits, and appearances of the twelve numbers
    :data:`m2l_runtime.types.NAMES`, of a U-Net or a modulated generator. Version 3 has appearances that are sampled
    where they are asked for, and random orientations. Whatever else there is takes version 2.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> manifest = Synthesizer.open(backend="fake").bundle.manifest
        >>> manifest.appearance.count > manifest.appearance.sampled_count, lowest_schema_version(manifest)
        (True, 3)
    """
    has_rare_appearances = manifest.appearance is not None and manifest.appearance.sampled_count is not None
    if has_rare_appearances or manifest.random_orientation:
        return 3
    has_new_role = any(spec.role not in _ROLES_OF_VERSION_1 for spec in manifest.inputs)
    has_new_names = manifest.appearance is not None and manifest.appearance.names != NAMES
    is_new_network = manifest.network.architecture == "resnet"
    return 2 if has_new_role or has_new_names or is_new_network else 1


_ROLES_OF_VERSION_1: Final = ("mask", "appearance", "dropout_bits")


def check_path(path: str, where: str) -> None:
    """Check that a path of a manifest stays inside the bundle's folder.

    Raises:
        BundleDamaged: it does not, or is not written in the one way that is allowed.
    """
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


def _check_roles_are_known(manifest: Manifest, where: str) -> None:
    for spec in manifest.inputs:
        if spec.role not in ROLES:
            raise BundleTooNew(
                f"{where}: input '{printable(spec.name)}' has the role '{printable(spec.role)}'; this m2l can "
                f"supply {', '.join(ROLES)}; install a newer m2l"
            )


def _check_tensors(manifest: Manifest, where: str) -> None:
    """Check the inputs' roles, types and shapes, and that one image comes out."""
    size, inputs, outputs = manifest.image_size, manifest.inputs, manifest.outputs
    image = ("batch", *size, 3)
    roles, names = [spec.role for spec in inputs], [spec.name for spec in (*inputs, *outputs)]
    is_right = (
        roles[:1] == ["mask"]
        and len(set(roles)) == len(roles)
        and len(set(names)) == len(names)
        and all(ROLES[spec.role].fits(spec, size) for spec in inputs)
        and [(s.role, s.dtype, s.shape) for s in outputs] == [("image", "uint8", image)]
    )
    if is_right:
        return
    required, optional = (
        " and ".join(
            f"one {role.dtype} {name} {role.shape(size)}"
            for name, role in ROLES.items()
            if role.is_required == is_required
        )
        for is_required in (True, False)
    )
    got = "; ".join(f"{s.role} '{printable(s.name)}' {s.dtype} {s.shape}" for s in (*inputs, *outputs))
    raise BundleDamaged(
        f"{where}: a bundle of image size {size} takes {required}, then perhaps {optional}, each of a name of its own, "
        f"and gives one uint8 image {image}; got {got or 'nothing'}"
    )


def _check_appearance_table(manifest: Manifest, where: str) -> None:
    table = manifest.appearance
    if (table is not None) != (manifest.input("appearance") is not None):
        raise BundleDamaged(
            f"{where}: an input of the role 'appearance' and a table of appearances go together; got "
            + ("the input alone" if table is None else "the table alone")
        )
    spec = manifest.input("appearance")
    if table is None or spec is None:
        return
    unknown = next((name for name in table.names if name not in KNOWN_NAMES), None)
    if unknown is not None:
        raise BundleTooNew(
            f"{where}: appearances have a number '{printable(unknown)}'; this m2l knows {list_names(KNOWN_NAMES)}; "
            "install a newer m2l"
        )
    if len(set(table.names)) != len(table.names):
        raise BundleDamaged(f"{where}: appearances have two numbers of one name: {printable(', '.join(table.names))}")
    if table.sampled_count is not None and not (table.sampled_count < table.count and table.min_contrast):
        raise BundleDamaged(
            f"{where}: {table.sampled_count:,} of {table.count:,} appearances are sampled, of a contrast of "
            f"{table.min_contrast:g} at least; expected some of them, and a contrast above 0"
        )
    if spec.shape[1:] != (len(table.names),):
        raise BundleDamaged(
            f"{where}: the generator takes an appearance {spec.shape}, and its table has {len(table.names)} names; "
            "expected as many"
        )


def _check_orientation(manifest: Manifest, where: str) -> None:
    if manifest.random_orientation and len(manifest.inputs) == 1:
        raise BundleDamaged(
            f"{where}: masks are oriented at random, and the generator takes the mask alone, whose images do not "
            "depend on a seed; expected an input that is sampled"
        )


def _check_schema_version(manifest: Manifest, where: str) -> None:
    needed = lowest_schema_version(manifest)
    if manifest.schema_version < needed:
        raise BundleDamaged(
            f"{where} says schema version {manifest.schema_version}, and has inputs, appearances, orientations or a "
            f"network of version {needed}; export the bundle again"
        )


def _check_paths(manifest: Manifest, where: str) -> None:
    paths = [entry.path for entry in manifest.files]
    for path in paths:
        check_path(path, where)
    if len(set(paths)) != len(paths):
        raise BundleDamaged(f"{where} lists a file twice")


def _check_one_model_per_engine(manifest: Manifest, where: str) -> None:
    pairs = [(engine, model.precision) for model in manifest.models for engine in model.engines]
    if len(set(pairs)) != len(pairs):
        raise BundleDamaged(f"{where} has two models for the same engine and precision")


def _check_int8(manifest: Manifest, where: str) -> None:
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


def _check_plans(manifest: Manifest, where: str) -> None:
    sources = {(model.file.sha256, model.precision) for model in manifest.models if "tensorrt" in model.engines}
    for plan in manifest.plans:
        where_plan = f"{where}: {printable(plan.file.path)}"
        if (plan.onnx_sha256, plan.precision) not in sources:
            raise BundleDamaged(
                f"{where_plan} is said to be made in {plan.precision} of a file with SHA-256 "
                f"{plan.onnx_sha256[:12]}..., and no model for tensorrt in that precision is that file"
            )
        least, likely, most = plan.batch_sizes
        if not least <= likely <= most:
            raise BundleDamaged(f"{where_plan} has batch sizes out of order: {least}, {likely}, {most}")


_RULES: Final[tuple[Callable[[Manifest, str], None], ...]] = (
    _check_roles_are_known,
    _check_tensors,
    _check_appearance_table,
    _check_orientation,
    _check_schema_version,
    _check_paths,
    _check_one_model_per_engine,
    _check_int8,
    _check_plans,
)
"""What the types alone cannot say, in the order in which it is checked; each raises for the first breach it finds."""
