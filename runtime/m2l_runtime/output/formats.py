"""List the output formats and what can be chosen about each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from m2l_runtime.errors import InputError
from m2l_runtime.output.encoding import Encoding

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
