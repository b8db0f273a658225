"""Files of cameras, scanners and downloads."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import disc

from m2l_runtime.errors import MaskFileError, PictureFileError
from m2l_runtime.masks import tiff_tags
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


def tiff(*entries: tuple[int, int, int, int], tail: bytes = b"", order: str = "<") -> bytes:
    """A TIFF file of one directory: (tag, type, count, value or place) of each entry."""
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + packed + bytes(4) + tail


def small_tiff(*more: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    """A black pixel, and other tags."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    return tiff(*tags, (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1), *more, tail=tail)


OVERLAPPING = [(tag, 7, 1 << 20, 1000) for tag in range(1000, 3000)]


def test_image_file__tags_that_share_their_bytes_are_not_read_into_gigabytes() -> None:
    assert decode(small_tiff()).size == (1, 1)
    assert decode(small_tiff((1000, 7, 1 << 20, 200), tail=bytes((1 << 20) + 300))).size == (1, 1)
    bomb = small_tiff(*OVERLAPPING, tail=bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(PictureFileError, match="its tags have many times the bytes of the file"):
        decode(bomb)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_image_file__nor_those_of_exif_data(file_format: str) -> None:
    exif = tiff(*[(tag, 7, 40_000, 3000) for tag in range(1000, 1200)], tail=bytes(45_000))
    buffer = io.BytesIO()
    Image.fromarray(DISC).save(buffer, file_format, exif=b"Exif\0\0" + exif)
    with pytest.raises(PictureFileError, match="its tags have many times the bytes"):
        decode(buffer.getvalue())


def test_image_file__a_tile_of_gigabytes_is_refused() -> None:
    with pytest.raises(PictureFileError, match="its tiles have 60,000 x 60,000 pixels"):
        decode(small_tiff((322, 4, 1, 60_000), (323, 4, 1, 60_000)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_tags__directories_in_a_circle_end(order: str) -> None:
    content = bytearray(tiff((256, 3, 1, 1), order=order))
    content[-4:] = struct.pack(f"{order}I", 8)
    tiff_tags.check_tags(bytes(content), 100)


def test_image_file__a_jpeg_of_scans_without_end_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(DISC).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    assert 1 < content.count(b"\xff\xda") < 20
    last = content.rindex(b"\xff\xda")
    with pytest.raises(PictureFileError, match="JPEG picture in 5,00. scans; at most 100 are read"):
        decode(content[:-2] + content[last:-2] * 5000 + b"\xff\xd9")


def test_image_file__many_frames_of_a_gif_are_not_counted() -> None:
    with pytest.raises(PictureFileError, match="holds 2 pictures or more"):
        decode(several("GIF", 64, 64, 64, other=True))


def test_image_file__more_pixels_than_memory_is_for_are_refused() -> None:
    for side in (6400, 20_000):
        buffer = io.BytesIO()
        Image.new("1", (side, side)).save(buffer, "PNG")
        assert len(buffer.getvalue()) < 100_000
        with pytest.raises(PictureFileError, match="at most 40,000,000 .* for want of memory; make it smaller"):
            decode(buffer.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA", "LA"])
def test_image_file__a_mask_of_the_most_pixels_takes_bounded_memory(tmp_path: Path, mode: str) -> None:
    mask = np.zeros((6300, 6300), np.uint8)
    mask[1500:3000, 1500:3000] = 255
    mask[1500, ::7] = 100
    picture = Image.fromarray(mask).convert(mode)
    if mode == "P":
        picture.putpalette([level for index in range(256) for level in (index, index, max(0, index - 3))])
    picture.save(tmp_path / "m.png", compress_level=1)
    code = (
        "import resource, sys\nfrom m2l_runtime import read_mask\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\nread_mask(sys.argv[1], (256, 256))\nprint((peak() - before) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.png")]
    megabytes = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert megabytes < 800


def test_image_file__decoders_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255
    Image.fromarray(noise).save(buffer, "TIFF", compression="tiff_deflate")
    content = bytearray(buffer.getvalue())
    for at in range(100, 200):
        content[at] ^= 0x55
    (tmp_path / "a.tif").write_bytes(content)
    (tmp_path / "b.tif").write_bytes(tiff((256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 9, 8), (277, 3, 1, 9)))
    logging.getLogger("PIL").error("what Pillow logs")
    for name in ("a.tif", "b.tif"):
        with pytest.raises(MaskFileError):
            read_mask(tmp_path / name, (64, 64))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("levels", [1, 255, 65535])
@pytest.mark.parametrize("places", [((30, 30), (10, 10)), (None, (10, 10)), ((30, 30), None)])
def test_image_file__pages_of_small_lesions_are_no_previews(
    levels: int, places: tuple[tuple[int, int] | None, ...]
) -> None:
    """Masks of several lesions, a page each: nearly all is black, so they differ little."""
    pages = []
    for place in places:
        page = np.zeros((64, 64), np.uint16 if levels > 255 else np.uint8)
        if place is not None:
            page[place[0] : place[0] + 4, place[1] : place[1] + 4] = levels
        pages.append(Image.fromarray(page))
    target = io.BytesIO()
    pages[0].save(target, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(PictureFileError, match="holds 2 pictures"):
        decode(target.getvalue())
    smaller = io.BytesIO()
    pages[0].save(smaller, "TIFF", save_all=True, append_images=[pages[1].resize((32, 32))])
    with pytest.raises(PictureFileError, match="holds 2 pictures"):
        decode(smaller.getvalue())
    same = io.BytesIO()
    pages[0].save(same, "TIFF", save_all=True, append_images=[pages[0].resize((32, 32))])
    assert decode(same.getvalue()).size == (64, 64)


def test_image_file__a_tiff_of_another_kind_is_called_one() -> None:
    content = b"II*\0\x08\0\0\0" + bytes(8)
    with pytest.raises(PictureFileError, match="is a TIFF picture of a kind that is not read"):
        decode(content)
