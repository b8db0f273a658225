"""Open, check and write bundles."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.npz import read_npz
from m2l_runtime._utils.reading import decode_line, open_input, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle import onnx_file
from m2l_runtime.bundle.schema import (
    APPEARANCES_ARRAY,
    MANIFEST_NAME,
    MAX_ARRAY_BYTES,
    MAX_MANIFEST_BYTES,
    SCHEMA,
    DType,
    FileEntry,
    Manifest,
    ManifestHead,
    ModelFile,
    TensorSpec,
)
from m2l_runtime.bundle.validate import check_path, lowest_schema_version, parse_manifest
from m2l_runtime.errors import BundleDamaged, BundleError, BundleNotFound, OutputError


@dataclass(frozen=True)
class Bundle:
    """Read the files of an opened bundle.

    The manifest has been read and checked. Other files are read, and hashed, when they are asked for. Safe to use from
    several threads.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> bundle = Synthesizer.open(backend="fake").bundle  # the model inside the package
        >>> bundle.read(bundle.manifest.model_card)[:1]
        b'#'
        >>> bundle.read_appearances().shape[1] == len(bundle.manifest.appearance.names)
        True
    """

    path: Path
    """The bundle's folder."""
    manifest: Manifest
    sha256: str
    """SHA-256 of manifest.json. It stands for the whole bundle."""

    def read(self, entry: FileEntry) -> bytes:
        """Read a file once and check its hash: the bytes returned are the bytes that were hashed.

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
        """Read an ONNX file, and check that it needs no other file.

        Raises:
            BundleDamaged: as :meth:`read`, or not ONNX, or with weights outside the file.
        """
        content = self.read(model.file)
        with reader_errors(BundleDamaged, self.path / model.file.path, "is not an ONNX model"):
            outside = onnx_file.external_tensors(content)
        if outside:
            raise BundleDamaged(
                f"{_name(self.path, model.file.path)} keeps weights outside the file "
                f"({printable(outside[0])} and perhaps more); m2l reads self-contained ONNX only"
            )
        return content

    def read_golden(self) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.uint8]]:
        """Read the golden pairs, recorded when the bundle was exported.

        Returns:
            The inputs by name, and the images uint8 (count, H, W, 3).

        Raises:
            BundleDamaged: as :meth:`read`, or arrays of other names, shapes or types than the manifest says.
        """
        golden, where = self.manifest.golden, _name(self.path, self.manifest.golden.file.path)
        arrays = _arrays(self.read(golden.file), where)
        for spec in (*self.manifest.inputs, *self.manifest.outputs):
            _check_array(arrays, spec.name, spec.dtype, (golden.count, *_sides(spec)), where)
        return {s.name: arrays[s.name] for s in self.manifest.inputs}, arrays[self.manifest.outputs[0].name]

    def read_appearances(self) -> npt.NDArray[np.float32]:
        """Read the table of appearances: float32 (count, K), a row for each training image.

        Its columns are those that the manifest names, :attr:`AppearanceTable.names`.

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
    """Return a tensor's shape without the batch."""
    return tuple(side for side in spec.shape if side != "batch")


def _arrays(content: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an .npz, by name."""
    with reader_errors(BundleDamaged, where, "is not an .npz of arrays"):
        return read_npz(content, MAX_ARRAY_BYTES)


def _check_array(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, dtype: DType, shape: tuple[int, ...], where: str
) -> None:
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype != np.dtype(dtype):
        got = "nothing" if array is None else f"{array.shape} {array.dtype}"
        raise BundleDamaged(f"{where}: '{printable(name)}' must be {shape} {dtype}, got {got}")
    if not np.isfinite(array).all():
        raise BundleDamaged(f"{where}: '{printable(name)}' holds values that are infinite or undefined")


@check_types()
def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle: read and check its manifest, and check that its files are there with the right sizes.

    The files are hashed later, when they are read (:meth:`Bundle.check` reads them all).

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> folder = Synthesizer.open(backend="fake").bundle.path  # the model inside the package
        >>> open_bundle(folder).manifest.name
        'm2l embedded model'
        >>> open_bundle("no-such-folder")
        Traceback (most recent call last):
        m2l_runtime.errors.BundleNotFound: no-such-folder does not exist; ...

    Args:
        path: the bundle's folder.

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


def _name(folder: Path, path: str) -> str:
    return printable(folder / path)


def _open_plain_file(folder: Path, path: str, size: int | None) -> os.stat_result:
    """Return the lstat of a plain file, reached through no link, of the size that the manifest says."""
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
        with open_input(folder / path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise BundleDamaged(f"{_name(folder, path)} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise BundleDamaged(f"{_name(folder, path)} does not fit in memory: {limit:,} bytes") from None
    if len(content) != limit:
        raise BundleDamaged(f"{_name(folder, path)} changed while it was read")
    return content


@check_types()
def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    contents: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle beside `path`, read it back, and rename it into place.

    Example:
        >>> import tempfile
        >>> from m2l_runtime import Synthesizer
        >>> bundle = Synthesizer.open(backend="fake").bundle
        >>> contents = {entry.path: bundle.read(entry) for entry in bundle.manifest.files}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy = write_bundle(f"{folder}/copy", bundle.manifest, contents)
        >>> copy.manifest == bundle.manifest
        True

    Args:
        path: the folder to write.
        manifest: the content of manifest.json. It is written in the lowest schema version that it needs.
        contents: the content of each file the manifest lists, by its path.
        overwrite: replace a bundle that is at `path`. Anything else there is never replaced.

    Returns:
        The bundle, opened.

    Raises:
        OutputError: `path` exists and may not be replaced, or cannot be written.
        BundleError: manifest and contents do not make a bundle that can be read.
    """
    manifest = msgspec.structs.replace(manifest, schema_version=lowest_schema_version(manifest))
    text = msgspec.json.format(msgspec.json.encode(manifest.fields()), indent=2) + b"\n"
    target = Path(path)
    if set(contents) != {entry.path for entry in manifest.files}:
        raise BundleError(f"the manifest lists other files than {sorted(contents)}")
    with atomic.staged_folder(target, may_replace=require_bundle if overwrite else None) as staging:
        for name, content in contents.items():
            check_path(name, MANIFEST_NAME)
            atomic.create_file(staging / name, content)
        atomic.create_file(staging / MANIFEST_NAME, text)
        open_bundle(staging).check()
    return open_bundle(target)


def require_bundle(path: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        OutputError: `path` is not a folder with a manifest of this schema in it.
    """
    try:
        content = _read_plain_file(path, MANIFEST_NAME, None)
    except BundleError:
        content = b""
    head = decode_line(content, ManifestHead) if path.is_dir() else None
    is_bundle = head is not None and head.schema == SCHEMA
    if not is_bundle:
        raise OutputError(f"{printable(path)} is not a bundle, so it is not overwritten; choose another name")
