"""Write WebDataset tars: for each mask KEY.json, KEY.mask.png and the image, in this order.

The key is the mask's place in the sorted input, nine digits. WebDataset cuts keys at the first dot and tar headers are
short, so names stand in the json. Headers are fixed (no time, no user), so the same items give the same bytes.
Format: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import utf8
from m2l_runtime.output.encoding import encode_image, encode_mask
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers.base import EncodableItem, Written, places_in_container

NAME: Final = "lesions-{group}.tar"

Member = tuple[str, bytes]


class TarWriter:
    """Write tars; tar t holds masks [tK, (t+1)K) of the sorted input, K being `masks_per_file`."""

    def __init__(self, out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> None:
        self._out, self._options, self._text, self._tag = out, options, text, tag
        self._file: atomic.HashedFile | None = None
        self._tar: tarfile.TarFile | None = None
        self._count = 0

    def targets(self, name: str, index: int) -> list[str]:
        """See Writer."""
        return [self._name(index // self._options.masks_per_file)]

    def places(self, output: str, names: Sequence[str]) -> range:
        """See Writer."""
        return places_in_container(output, NAME, self._options.masks_per_file, len(names))

    @staticmethod
    def _name(group: int) -> str:
        return NAME.format(group=f"{group:06}")

    def encode(self, item: EncodableItem) -> list[Member]:
        """See Writer."""
        key, encoding = f"{item.index:09}", self._options.image_encoding
        text = {**self._text, **item.about}
        about = {"name": utf8(item.name), "mask_sha256": item.mask_sha256, **text}
        return [
            (f"{key}.json", msgspec.json.encode(about)),
            (f"{key}.mask.png", encode_mask(item.mask)),
            (f"{key}{encoding.suffix}", encode_image(item.image, item.mask, encoding, text)),
        ]

    def begin(self, group: int) -> None:
        """See Writer."""
        self._file = atomic.HashedFile(self._out / self._name(group), tag=self._tag)
        self._tar = tarfile.open(fileobj=cast(IO[bytes], self._file), mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._count = 0

    def add(self, encoded: object) -> None:
        """See Writer."""
        assert self._tar is not None  # noqa: S101 - begin came first
        assert self._file is not None  # noqa: S101
        with atomic.output_errors(self._file.path):
            for name, content in cast(list[Member], encoded):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                self._tar.addfile(header, io.BytesIO(content))
        self._count += 1

    def finish(self) -> list[Written]:
        """See Writer."""
        assert self._tar is not None  # noqa: S101 - begin came first
        assert self._file is not None  # noqa: S101
        tar, file = self._tar, self._file
        self._tar = self._file = None
        if not self._count:  # nothing but bad masks
            _close_quietly(tar)
            file.discard()
            return []
        with atomic.output_errors(file.path):
            tar.close()
        return [Written(file.path.name, file.commit())] * self._count

    def abandon(self) -> None:
        """See Writer."""
        if self._tar is not None:
            _close_quietly(self._tar)
        if self._file is not None:
            self._file.discard()
        self._tar = self._file = None


def _close_quietly(tar: tarfile.TarFile) -> None:
    """Keep a tar that is dropped from writing its end to a closed file."""
    cast(Any, tar.fileobj).closed = True
