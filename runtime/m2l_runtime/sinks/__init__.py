"""Where images go: one file each, or many in a tar or a parquet file.

A sink deals items out in groups. A group is finished at once: its file appears under its final name whole, or not at
all. Files of their own are groups of one. What groups there are follows from the sorted input alone, so any split of
the groups over processes gives the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from m2l_runtime.arrays import Image, Mask
from m2l_runtime.encoders import Encoding
from m2l_runtime.errors import EngineNotInstalled, InputError

Format = Literal["png", "jpeg", "webp", "npz", "webdataset", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("png", "jpeg", "webp", "npz", "webdataset", "parquet")
CONTAINERS: Final = ("webdataset", "parquet")
PAIRED: Final = ("png", "jpeg", "webp")
"""Formats beside whose files masks may be written; the others hold masks anyway."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written for each mask, and where."""

    format: Format = "png"
    image_encoding: Encoding = field(default_factory=Encoding)
    """Of images on their own, and inside a tar or parquet file."""
    pairs: bool = False
    """Also write the mask: images/NAME and masks/NAME, and pairs.csv."""
    original_size: bool = False
    """Bring image and mask to the size of the mask's file."""
    masks_per_file: int = 1000
    """Masks dealt to each tar or parquet file."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"there is no format '{self.format}'; choose one of {', '.join(FORMATS)}")
        if self.pairs and self.format not in PAIRED:
            raise InputError(f"{self.format} holds the mask beside the image already; leave out --pairs")
        if not 1 <= self.masks_per_file <= 1_000_000:
            raise InputError(f"the masks per file must be between 1 and 1,000,000, got {self.masks_per_file}")

    @property
    def group_size(self) -> int:
        """Masks per group."""
        return self.masks_per_file if self.format in CONTAINERS else 1

    @property
    def label(self) -> str:
        """Everything the files depend on beside pixels and encoding, for the log."""
        words = {
            str(self.format): True,
            "pairs": self.pairs,
            "original size": self.original_size,
            f"{self.masks_per_file} masks a file": self.format in CONTAINERS,
        }
        return ", ".join(word for word, holds in words.items() if holds)


@dataclass(frozen=True)
class Finished:
    """An item ready to be written."""

    index: int
    """Place in the sorted input, from 0."""
    name: str
    """Of the mask file, relative to its folder."""
    mask: Mask
    """At the size to be written."""
    image: Image
    mask_sha256: str
    about: Mapping[str, str] = field(default_factory=dict)
    """What the image says about itself beside what all images of the run do."""


class Written(msgspec.Struct, frozen=True):
    """Files that hold an item: relative path and SHA-256."""

    output: str
    output_sha256: str
    mask_output: str | None = None
    mask_output_sha256: str | None = None


class Sink(Protocol):
    """Writes items. `encode` may run on several threads; the others run on one, a group after the other."""

    def targets(self, name: str, index: int) -> list[str]:
        """Files that will hold an item, relative to the output folder."""
        ...

    def places(self, output: str, names: Sequence[str]) -> range:
        """Places in the sorted input whose items a file of this name would hold; none if it is no file of this sink."""
        ...

    def encode(self, item: Finished) -> object:
        """The heavy part of writing an item; the result is handed to `add`."""
        ...

    def begin(self, group: int) -> None:
        """Begin group `group`."""
        ...

    def add(self, encoded: object) -> None:
        """Add an item to the group, in order."""
        ...

    def finish(self) -> list[Written]:
        """Make the group's file appear; what was written for each item added, in order.

        Raises:
            OutputError
        """
        ...

    def abandon(self) -> None:
        """Drop a group that is not finished, if there is one."""
        ...


def places_in_container(output: str, pattern: str, per_file: int, count: int) -> range:
    """Places that container file `output` holds; `pattern` has one ``{group}`` of at least six digits."""
    before, after = pattern.split("{group}")
    number = output.removeprefix(before).removesuffix(after)
    if not (number.isascii() and number.isdecimal()) or output != pattern.format(group=f"{int(number):06}"):
        return range(0)
    return range(min(count, int(number) * per_file), min(count, (int(number) + 1) * per_file))


def open_sink(out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> Sink:
    """The sink for a format.

    Args:
        out: output folder.
        options: what is written.
        text: what images say about themselves.
        tag: stands in temporary names, so that what a killed run left can be told from what another one needs.

    Raises:
        EngineNotInstalled: parquet asked for, and pyarrow is not there.
    """
    if options.format == "webdataset":
        from m2l_runtime.sinks.tar import TarSink

        return TarSink(out, options, text, tag)
    if options.format == "parquet":
        try:
            from m2l_runtime.sinks.parquet import ParquetSink
        except ModuleNotFoundError as error:
            raise EngineNotInstalled(
                f"parquet needs {error.name}, which is not installed: pip install '.[parquet]' in a checkout of m2l"
            ) from error
        return ParquetSink(out, options, text, tag)
    from m2l_runtime.sinks.files import FileSink

    return FileSink(out, options, text, tag)
