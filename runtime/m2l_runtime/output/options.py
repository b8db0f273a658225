"""Define what can be chosen about the files that are written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import InputError
from m2l_runtime.output.encoding import Encoding
from m2l_runtime.output.formats import FORMATS, Format


@check_types()
@dataclass(frozen=True)
class OutputOptions:
    """Choose what is written for each mask, and where.

    Example:
        >>> OutputOptions(format="webdataset", image_encoding=Encoding("jpeg"), masks_per_file=500).group_size
        500
        >>> OutputOptions(pairs=True).label
        'png, pairs'

    Raises:
        InputError: an option is out of range, or two do not go together.
    """

    format: Format = "png"
    image_encoding: Encoding = field(default_factory=Encoding)
    """Encoding of images on their own, and of those inside a tar or parquet file."""
    pairs: bool = False
    """Whether to write the masks too: images/NAME, masks/NAME and pairs.csv."""
    original_size: bool = False
    """Whether to bring image and mask to the size of the mask's file."""
    masks_per_file: int = 1000
    """Masks dealt to each tar or parquet file."""
    contact_sheet: str | os.PathLike[str] | None = None
    """PNG file that gets a sheet of mask and lesion pairs, of images made now; None: no sheet."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"there is no format '{self.format}'; choose one of {', '.join(FORMATS)}")
        if self.pairs and FORMATS[self.format].holds_mask:
            raise InputError(f"{self.format} holds the mask beside the image already; leave out --pairs")
        if not 1 <= self.masks_per_file <= 1_000_000:
            raise InputError(f"the masks per file must be between 1 and 1,000,000, got {self.masks_per_file}")

    @property
    def is_container(self) -> bool:
        """Whether one file holds many images."""
        return FORMATS[self.format].is_container

    @property
    def group_size(self) -> int:
        """Number of masks per group: those of one file."""
        return self.masks_per_file if self.is_container else 1

    @property
    def label(self) -> str:
        """Everything that the files depend on beside pixels and encoding, for the log."""
        words = {
            str(self.format): True,
            "pairs": self.pairs,
            "original size": self.original_size,
            f"{self.masks_per_file} masks a file": self.is_container,
        }
        return ", ".join(word for word, holds in words.items() if holds)
