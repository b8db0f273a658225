"""Files of cameras, scanners and downloads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc

from m2l_runtime.errors import MaskFileError, PictureFileError
from m2l_runtime.masks.image_file import decode
from m2l_runtime.masks.mask_file import read_mask

DISC = disc(128, 40, 60, 70)


def several(file_format: str, *sides: int, other: bool = False) -> bytes:
    """A disc, and copies of it at other sizes, or other pictures."""
    pictures = [Image.fromarray(DISC).resize((side, side)) for side in sides]
    if other:
        pictures[1:] = [Image.fromarray(255 - np.array(each)) for each in pictures[1:]]
    target = io.BytesIO()
    if file_format == "MPO":
        pictures = [each.convert("RGB") for each in pictures]
    pictures[0].save(target, file_format, save_all=True, append_images=pictures[1:])
    return target.getvalue()


@pytest.mark.parametrize("sides", [(128, 64), (128, 128), (128, 64, 16)])
@pytest.mark.parametrize("file_format", ["MPO", "TIFF"])
def test_image_file__the_first_picture_is_taken_where_others_are_previews(
    tmp_path: Path, file_format: str, sides: tuple[int, ...]
) -> None:
    content = several(file_format, *sides)
    picture = decode(content)
    assert picture.size == (128, 128)
    assert picture.format == ("JPEG" if file_format == "MPO" else file_format)
    (tmp_path / "mask.jpg").write_bytes(content)
    assert ((read_mask(tmp_path / "mask.jpg", (128, 128)).mask > 127) == (DISC > 127)).mean() > 0.99


def test_image_file__a_page_that_says_that_it_is_reduced_is_a_preview() -> None:
    pages = [Image.fromarray(DISC), Image.new("L", (32, 32), 128)]  # not alike: a thumbnail with other tones
    target = io.BytesIO()
    pages[0].save(target, "TIFF", save_all=True, append_images=pages[1:])
    content = target.getvalue()
    with pytest.raises(PictureFileError, match="holds 2 pictures"):
        decode(content)
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    target = io.BytesIO()
    pages[0].save(target, "TIFF", save_all=True, append_images=pages[1:])
    assert decode(target.getvalue()).size == (128, 128)


@pytest.mark.parametrize(("file_format", "sides"), [("TIFF", (128, 64)), ("TIFF", (64, 128)), ("MPO", (128, 128))])
def test_image_file__other_pictures_are_refused(file_format: str, sides: tuple[int, ...]) -> None:
    with pytest.raises(PictureFileError, match="holds 2 pictures or more, and number 2 is no smaller copy"):
        decode(several(file_format, *sides, other=True))


def test_image_file__of_many_pages_a_few_are_looked_at() -> None:
    with pytest.raises(PictureFileError, match="holds 9 pictures or more"):
        decode(several("TIFF", *[64] * 200))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n", "Git LFS pointer.*git lfs pull"),
        (b"/annex/objects/MD5E-s12--ab.png\n", "git-annex pointer"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page.*download it again"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "error message"),
    ],
)
def test_image_file__what_downloads_leave_in_place_of_a_picture(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(MaskFileError, match=rf"mask.png: is a.*{message}.*expected a picture"):
        read_mask(tmp_path / "mask.png", (64, 64))
