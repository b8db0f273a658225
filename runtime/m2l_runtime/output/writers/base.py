"""Define what a writer is: its protocol, what it is given and what it reports.

A writer deals items out in groups. A group is finished at once: its file appears under its final name whole, or not at
all. An image in a file of its own is a group of one. The groups follow from the sorted input alone, so any split of the
groups over processes gives the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import OutputError
from m2l_runtime.types import Image, Mask


@dataclass(frozen=True)
class EncodableItem:
    """Hold an item that is ready to be written."""

    index: int
    """Place in the sorted input, from 0."""
    name: str
    """Name of the mask file, relative to its folder."""
    mask: Mask
    """uint8 (H, W) at the size to be written."""
    image: Image
    """uint8 (H, W, 3) at the size to be written."""
    mask_sha256: str
    about: Mapping[str, str] = field(default_factory=dict)
    """What this image says about itself, beside what all images of the run say."""


class Written(msgspec.Struct, frozen=True):
    """Hold the files of an item: relative path and SHA-256 of the image's, and of the mask's if it has its own."""

    output: str
    output_sha256: str
    mask_output: str | None = None
    mask_output_sha256: str | None = None


class RefusedNameError(OutputError):
    """Signal that the disk takes no file of an item's name; nothing of the item is written."""

    @classmethod
    def of(cls, target: str, why: OSError) -> RefusedNameError:
        """Make the error about a file that could not be written, by its name relative to the output folder."""
        return cls(
            f"the disk takes no file called {printable(target)} ({why.strerror}); rename the mask, or write tars"
        )


class Writer(Protocol):
    """Write items. `encode` may run on several threads; the others run on one, a group after the other."""

    def targets(self, name: str, index: int) -> list[str]:
        """Return the files that will hold an item, relative to the output folder."""
        ...

    def places(self, output: str, names: Sequence[str]) -> range:
        """Return the places in the sorted input that file `output` holds; none if it is no file of this writer."""
        ...

    def encode(self, item: EncodableItem) -> object:
        """Do the heavy part of writing an item; the result is handed to `add`.

        Raises:
            RefusedNameError: the disk takes no file of its name.
            OutputError: a file cannot be written.
        """
        ...

    def begin(self, group: int) -> None:
        """Begin group `group`."""
        ...

    def add(self, encoded: object) -> None:
        """Add an item to the group, in order."""
        ...

    def finish(self) -> list[Written]:
        """Make the group's file appear under its final name.

        Returns:
            What was written for each item added, in order.

        Raises:
            OutputError: the file cannot be written.
        """
        ...

    def abandon(self) -> None:
        """Drop a group that is not finished, if there is one."""
        ...


def places_in_container(output: str, pattern: str, per_file: int, count: int) -> range:
    """Return the places that container file `output` holds; `pattern` has one ``{group}`` of at least six digits."""
    before, after = pattern.split("{group}")
    number = output.removeprefix(before).removesuffix(after)
    if not (number.isascii() and number.isdecimal()) or output != pattern.format(group=f"{int(number):06}"):
        return range(0)
    return range(min(count, int(number) * per_file), min(count, (int(number) + 1) * per_file))
