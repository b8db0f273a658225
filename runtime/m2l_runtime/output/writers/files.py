"""Write images to files of their own, and with `pairs` the masks beside them."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_system import is_name_error
from m2l_runtime._utils.held_folder import make_folder
from m2l_runtime._utils.text import stem
from m2l_runtime.errors import OutputError
from m2l_runtime.output.encoding import encode_image, encode_mask
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers.base import EncodableItem, RefusedNameError, Written

IMAGES: Final = "images"
MASKS: Final = "masks"


class FileWriter:
    """Write one image file per mask, named as the mask is. `encode` writes it, so that threads share the writing."""

    def __init__(self, out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> None:
        self._out, self._options, self._text, self._tag = out, options, text, tag
        self._made: set[Path] = set()
        self._added: list[Written] = []

    def targets(self, name: str, index: int) -> list[str]:
        """See Writer."""
        suffix = self._options.image_encoding.suffix
        if self._options.pairs:
            return [f"{IMAGES}/{stem(name)}{suffix}", f"{MASKS}/{stem(name)}.png"]
        return [f"{stem(name)}{suffix}"]

    def places(self, output: str, names: Sequence[str]) -> range:
        """See Writer."""
        name = output
        if self._options.pairs:
            folder, _, name = output.partition("/")
            if folder not in (IMAGES, MASKS):
                return range(0)
        place = bisect.bisect_left(names, stem(name), key=stem)
        is_it = place < len(names) and output in self.targets(names[place], place)
        return range(place, place + is_it)

    def encode(self, item: EncodableItem) -> Written:
        """See Writer."""
        text = {**self._text, **item.about}
        contents = [encode_image(item.image, item.mask, self._options.image_encoding, text)]
        if self._options.pairs:
            contents.append(encode_mask(item.mask))
        targets = self.targets(item.name, item.index)
        for target, content in zip(targets, contents, strict=True):
            path = self._out / target
            try:
                self._make_folder(path.parent)
                atomic.write_file(path, content, tag=self._tag)
            except OutputError as error:
                if not is_name_error(error.__cause__):
                    raise
                for written in targets[: targets.index(target)]:
                    atomic.remove_inside(self._out, written)
                raise RefusedNameError.of(target, cast(OSError, error.__cause__)) from error
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        return Written(*(part for pair in zip(targets, hashes, strict=True) for part in pair))

    def _make_folder(self, folder: Path) -> None:
        """Make each folder once: if the output is removed during the run, that is an error, not mended in silence."""
        if folder not in self._made:
            with atomic.output_errors(folder):
                if folder != self._out:
                    make_folder(folder)
                else:
                    folder.mkdir(exist_ok=True)
            self._made.add(folder)

    def begin(self, group: int) -> None:
        """See Writer."""
        self._added = []

    def add(self, encoded: object) -> None:
        """See Writer."""
        self._added.append(cast(Written, encoded))

    def finish(self) -> list[Written]:
        """See Writer."""
        return self._added

    def abandon(self) -> None:
        """See Writer."""


class SingleFileWriter(FileWriter):
    """Write the image of one mask to a file of a given name."""

    def __init__(self, target: Path, options: OutputOptions, text: dict[str, str], tag: str) -> None:
        super().__init__(target.parent, options, text, tag)
        self._name = target.name

    def targets(self, name: str, index: int) -> list[str]:
        """See Writer."""
        return [self._name]
