"""Define what a writer is: its protocol, what it is given and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from m2l_runtime.types import Image, Mask


@dataclass(frozen=True)
class EncodableItem:
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

    def encode(self, item: EncodableItem) -> object:
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
