"""Register the output formats: everything that is known of each without importing what writes it.

To add an image format, write its encoder in :mod:`m2l_runtime.output.encoding`. To add a container, write its module in
:mod:`m2l_runtime.output.writers`. Then add an entry to `FORMATS`, and its name to one of the types before it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

PlainImageFormat = Literal["png", "jpeg", "webp"]
"""Formats of an image alone, beside which or beside whose file the mask may lie."""

ImageFormat = Literal[PlainImageFormat, "npz"]
"""Formats of one image."""

Format = Literal[ImageFormat, "webdataset", "parquet"]

FormatOption = Literal[Format, "jpg"]
"""Names that the command line takes: formats and their aliases."""

_FILES: Final = "m2l_runtime.output.writers.files:FileWriter"
_ENCODING: Final = "m2l_runtime.output.encoding"

MIN_QUALITY: Final = 1
MAX_QUALITY: Final = 100


@dataclass(frozen=True)
class FormatEntry:
    """Describe an output format.

    Objects are named as "module:name", so that a format that is not used costs no import.
    """

    title: str
    """The name that a person reads."""
    suffixes: tuple[str, ...]
    """File name endings with their dot; files are written with the first."""
    media_type: str
    writer: str = _FILES
    """The class that writes the files, as "module:name"."""
    encoder: str | None = None
    """The function that encodes an image, as "module:name"; None for a container of files of other formats."""
    library: str = "Pillow"
    """The package whose version the bytes depend on."""
    quality: tuple[int, int] | None = None
    """Lowest and highest quality; None where there is no such choice."""
    levels: tuple[int, int] | None = None
    """Lowest and highest compression level; None where there is no such choice."""
    holds_mask: bool = False
    """Whether the file holds the mask too, so that no mask is written beside it."""
    extra: str | None = None
    """The extra of the package that installs what the writer needs; None if it needs nothing more."""
    aliases: tuple[str, ...] = ()
    """Other names that the command line takes."""

    @property
    def is_container(self) -> bool:
        """Whether one file holds many images, each encoded in an image format."""
        return self.encoder is None


FORMATS: Final[Mapping[Format, FormatEntry]] = {
    "png": FormatEntry("PNG", (".png",), "image/png", encoder=f"{_ENCODING}:png_bytes", levels=(0, 9)),
    "jpeg": FormatEntry(
        "JPEG",
        (".jpg", ".jpeg"),
        "image/jpeg",
        encoder=f"{_ENCODING}:jpeg_bytes",
        quality=(MIN_QUALITY, MAX_QUALITY),
        aliases=("jpg",),
    ),
    "webp": FormatEntry(
        "WebP",
        (".webp",),
        "image/webp",
        encoder=f"{_ENCODING}:webp_bytes",
        quality=(MIN_QUALITY, MAX_QUALITY),
    ),
    "npz": FormatEntry(
        "NumPy",
        (".npz",),
        "application/zip",
        encoder=f"{_ENCODING}:npz_bytes",
        library="numpy",
        holds_mask=True,
    ),
    "webdataset": FormatEntry(
        "WebDataset",
        (".tar",),
        "application/x-tar",
        writer="m2l_runtime.output.writers.webdataset:TarWriter",
        holds_mask=True,
    ),
    "parquet": FormatEntry(
        "Parquet",
        (".parquet",),
        "application/vnd.apache.parquet",
        writer="m2l_runtime.output.writers.parquet:ParquetWriter",
        holds_mask=True,
        extra="parquet",
    ),
}
"""Output formats by name."""

IMAGE_FORMATS: Final = tuple(name for name, entry in FORMATS.items() if not entry.is_container)
"""Formats of a single image."""


def format_of_suffix(suffix: str) -> Format | None:
    """Return the format whose files end in `suffix` (with its dot, in any case); None if there is none.

    Example:
        >>> format_of_suffix(".JPG")
        'jpeg'
    """
    return next((name for name, entry in FORMATS.items() if suffix.lower() in entry.suffixes), None)


def load_object(name: str) -> Any:
    """Import an object that is named as "module:name".

    Raises:
        ModuleNotFoundError: a package that the module needs is not installed.
    """
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
