"""Write Parquet files that Hugging Face datasets reads with `image` and `mask` as images.

Images are structs of bytes and path, and the schema's metadata names them as datasets' Image feature:
https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import stem, utf8
from m2l_runtime.output.encoding import encode_image, encode_mask
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers.base import EncodableItem, Written, places_in_container

_PICTURE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES: Final = {
    "image": {"_type": "Image"},
    "mask": {"_type": "Image"},
    "name": {"dtype": "string", "_type": "Value"},
    "mask_sha256": {"dtype": "string", "_type": "Value"},
    "bundle_sha256": {"dtype": "string", "_type": "Value"},
    "description": {"dtype": "string", "_type": "Value"},
}
SCHEMA: Final = pa.schema(
    [(name, _PICTURE if kind["_type"] == "Image" else pa.string()) for name, kind in _FEATURES.items()],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
NAME: Final = "lesions-{group}.parquet"
_ROWS_PER_GROUP: Final = 100


class ParquetWriter:
    """Write Parquet files; file p holds masks [pK, (p+1)K) of the sorted input, a row each. K is `masks_per_file`."""

    def __init__(self, out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> None:
        self._out, self._options, self._text, self._tag = out, options, text, tag
        self._file: atomic.HashedFile | None = None
        self._writer: Any = None
        self._rows: list[dict[str, object]] = []
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

    def encode(self, item: EncodableItem) -> dict[str, object]:
        """See Writer."""
        encoding, name = self._options.image_encoding, utf8(item.name)
        return {
            "image": {
                "bytes": encode_image(item.image, item.mask, encoding, {**self._text, **item.about}),
                "path": f"{stem(name)}{encoding.suffix}",
            },
            "mask": {"bytes": encode_mask(item.mask), "path": f"{stem(name)}.png"},
            "name": name,
            "mask_sha256": item.mask_sha256,
            "bundle_sha256": self._text["m2l-bundle-sha256"],
            "description": self._text["Description"],
        }

    def begin(self, group: int) -> None:
        """See Writer."""
        self._file = atomic.HashedFile(self._out / self._name(group), tag=self._tag)
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="none", use_dictionary=False)
        self._rows, self._count = [], 0

    def add(self, encoded: object) -> None:
        """See Writer."""
        self._rows.append(cast(dict[str, object], encoded))
        self._count += 1
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None  # noqa: S101 - begin came first
        with atomic.output_errors(self._file.path):
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def finish(self) -> list[Written]:
        """See Writer."""
        assert self._file is not None  # noqa: S101 - begin came first
        if not self._count:
            self.abandon()
            return []
        if self._rows:
            self._flush()
        file, self._file = self._file, None
        with atomic.output_errors(file.path):
            self._writer.close()
        return [Written(file.path.name, file.commit())] * self._count

    def abandon(self) -> None:
        """See Writer."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # such as a full disk
                self._writer.close()
            self._writer.is_open = False  # else its destructor writes to the closed file, and Python prints that
        if self._file is not None:
            self._writer.is_open = False  # or it writes its end to the closed file when it is collected
            self._file.discard()
        self._file, self._writer, self._rows = None, None, []
