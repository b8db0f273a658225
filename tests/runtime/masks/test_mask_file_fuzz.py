"""Damaged picture files in great number: never anything but a mask or our error."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import read_mask


@pytest.mark.slow
@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_mask_file_fuzz__two_hundred_damaged_files(tmp_path: Path, picture_format: str, mode: str) -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(disc(64, 20, 30, 30))
    try:
        (Image.fromarray(disc(64).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)).save(
            buffer, picture_format
        )
    except (OSError, KeyError):
        pytest.skip(f"{picture_format} has no {mode}")
    whole = buffer.getvalue()
    path = tmp_path / "mask.png"
    for seed in range(200):
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for _ in range(int(random.integers(1, 6))):
            content[int(random.integers(min(len(content), 600)))] = int(random.integers(256))
        path.write_bytes(content[: int(random.integers(8, len(content) + 1))] if seed % 3 == 0 else content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read_mask(path, (256, 256))
            except MaskFileError as error:
                assert str(path) in str(error), seed
            else:
                assert found.mask.shape == (256, 256), seed
                assert found.mask.dtype == np.uint8
