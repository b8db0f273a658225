"""Encode images as the real files are, so that figures do not tell a file format from a generator.

Real photographs have been through JPEG: its quantization takes fine detail away, and halved color does so for color.
A synthesized image has not, and any metric of texture would see that first.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from PIL import JpegImagePlugin

from m2l_runtime.masks.image_file import open_header
from m2l_runtime.types import Image, Images
from m2l_train.evaluate.sets import in_threads

Tables = tuple[tuple[int, ...], ...]

SAMPLINGS: Final = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_TABLE_SIZE: Final = 64


@dataclass(frozen=True)
class JpegEncoding:
    """Hold how JPEG files are quantized.

    Example:
        >>> import numpy as np
        >>> from m2l_train.evaluate.encoding import jpeg_of_quality
        >>> encoding = jpeg_of_quality(75)
        >>> encoding.quality, encoding.label
        (75, 'JPEG, quality 75, 4:2:0')
        >>> encoding.encode(np.zeros((8, 8, 3), np.uint8)).shape
        (8, 8, 3)
    """

    tables: Tables
    """Of luminance and color, 64 each."""
    sampling: int
    """0 color in full, 1 half across, 2 half both ways."""

    @property
    def quality(self) -> int:
        """1 to 100: the quality of libjpeg whose luminance table is nearest."""
        luma = np.array(self.tables[0])
        apart = [np.abs(np.array(jpeg_of_quality(q).tables[0]) - luma).sum() for q in range(1, 101)]
        return 1 + int(np.argmin(apart))

    @property
    def label(self) -> str:
        """What it is, in words."""
        return f"JPEG, quality {self.quality}, {SAMPLINGS[self.sampling]}"

    def encode(self, image: Image) -> Image:
        """Encode and decode an image (H, W, 3) uint8."""
        file = io.BytesIO()
        tables = [list(table) for table in self.tables]
        PillowImage.fromarray(image).save(file, "JPEG", qtables=tables, subsampling=self.sampling)
        return np.asarray(PillowImage.open(file, formats=("JPEG",)).convert("RGB"))

    def encode_all(
        self, images: Images, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
    ) -> Images:
        """Encode and decode images (N, H, W, 3) uint8."""
        encoded = []
        for image in in_threads(self.encode, images, workers):
            encoded.append(image)
            on_image(1)
        return np.stack(encoded)


def jpeg_of_quality(quality: int, sampling: int = 2) -> JpegEncoding:
    """Return the encoding that libjpeg, and so Pillow, uses for a quality of 1 to 100.

    Example:
        >>> jpeg_of_quality(75).tables[0][:3]
        (8, 6, 5)
    """
    file = io.BytesIO()
    PillowImage.new("RGB", (16, 16)).save(file, "JPEG", quality=quality, subsampling=sampling)
    with PillowImage.open(file, formats=("JPEG",)) as picture:
        found = _encoding_of(picture)
    assert found is not None  # noqa: S101 -- just written
    return found


def _encoding_of(picture: PillowImage.Image) -> JpegEncoding | None:
    """Return how an opened picture is encoded; None if it is no JPEG file in color."""
    if not isinstance(picture, JpegImagePlugin.JpegImageFile) or picture.mode != "RGB":
        return None
    sampling = JpegImagePlugin.get_sampling(picture)
    tables = [tuple(int(step) for step in table) for _, table in sorted(picture.quantization.items())]
    if sampling not in SAMPLINGS or not tables or any(len(table) != _TABLE_SIZE for table in tables):
        return None
    return JpegEncoding((tables[0], tables[min(1, len(tables) - 1)]), sampling)


def read_encoding(path: Path) -> tuple[JpegEncoding | None, tuple[int, int]]:
    """Read how a file is encoded, None if it is no JPEG in color, and its width and height; (0, 0) if it is none."""
    try:
        with open_header(path) as picture:
            return _encoding_of(picture), picture.size
    except Exception:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        return None, (0, 0)  # told when it is read


def common_encoding(paths: Sequence[Path], workers: int) -> JpegEncoding | None:
    """Return the encoding that most of the files have; None if most are no JPEG in color.

    Example:
        >>> common_encoding([], 1)
    """
    plain = [path for path in paths if path.is_file()]  # a pipe would wait for somebody to write to it
    counts = Counter(encoding for encoding, _ in in_threads(read_encoding, plain, workers))
    return counts.most_common(1)[0][0] if counts else None


def encode_once(encoding: JpegEncoding, path: Path, image: Image) -> Image:
    """Encode the image (H, W, 3) that was read from a file, unless its pixels are those of a JPEG file already.

    A file whose picture was resized counts as not encoded; a combined picture is two of them wide.
    """
    found, (width, height) = read_encoding(path)
    rows, columns = image.shape[:2]
    if found is not None and height == rows and width in (columns, 2 * columns):
        return image
    return encoding.encode(image)
