"""Mask files as people have them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import disc, save

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.mask_file import read_mask

SIZE = (256, 256)
DISC = disc()
INSIDE = DISC == 255
COLUMNS = np.tile(np.arange(256, dtype=np.uint8), (256, 1))


def rgba(inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    return np.where(INSIDE[:, :, None], np.array(inside, np.uint8), np.array(outside, np.uint8))


def palette(path: Path, colors: list[int], **options: Any) -> Path:
    picture = Image.fromarray(INSIDE.astype(np.uint8), "L").convert("P")
    picture.putdata(INSIDE.astype(np.uint8).ravel().tolist())
    picture.putpalette(colors)
    picture.save(path, **options)
    return path


def same_disc(path: Path) -> None:
    found = read_mask(path, SIZE)
    np.testing.assert_array_equal(found.mask, DISC)
    assert found.note is None
    assert found.mask.flags.owndata or found.mask.base is None or found.mask.flags.writeable


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_mask_file__black_and_white_in_each_lossless_format(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    same_disc(save(tmp_path / f"mask{suffix}", DISC, **options))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 255), (7, 9), (0, 128), (254, 255)], ids=lambda value: str(value)
)
def test_mask_file__two_values_are_background_and_lesion_whatever_they_are(tmp_path: Path, low: int, high: int) -> None:
    same_disc(save(tmp_path / "mask.png", np.where(INSIDE, np.uint8(high), np.uint8(low))))


@pytest.mark.parametrize("high", [1, 255, 65535])
def test_mask_file__sixteen_bits(tmp_path: Path, high: int) -> None:
    same_disc(save(tmp_path / "mask.png", np.where(INSIDE, high, 0).astype(np.uint16)))


def test_mask_file__sixteen_bit_greys_are_scaled_not_cut(tmp_path: Path) -> None:
    wide = DISC.astype(np.uint16) * 257
    wide[:, 100] = 40 * 257
    assert read_mask(save(tmp_path / "mask.png", wide), SIZE).mask[5, 100] == 40


def test_mask_file__one_bit(tmp_path: Path) -> None:
    same_disc(save(tmp_path / "mask.png", INSIDE))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_mask_file__wide_tiff(tmp_path: Path, dtype: type) -> None:
    same_disc(save(tmp_path / "mask.tif", INSIDE.astype(dtype)))


def test_mask_file__a_palette_of_any_two_colors(tmp_path: Path) -> None:
    same_disc(palette(tmp_path / "voc.png", [0, 0, 0, 128, 0, 0]))
    same_disc(palette(tmp_path / "grey.png", [10, 10, 10, 200, 200, 200]))


def test_mask_file__a_palette_whose_background_is_transparent(tmp_path: Path) -> None:
    same_disc(palette(tmp_path / "mask.png", [0, 255, 0, 255, 255, 255], transparency=0))


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((255, 255, 255, 255), (0, 0, 0, 255)),
        ((255, 255, 255, 255), (255, 255, 255, 0)),  # the mask is the alpha channel
        ((255, 255, 255, 255), (0, 0, 0, 0)),
    ],
)
def test_mask_file__transparent_is_background(
    tmp_path: Path, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    same_disc(save(tmp_path / "mask.png", rgba(inside, outside)))


def test_mask_file__rgb_of_two_colors(tmp_path: Path) -> None:
    same_disc(save(tmp_path / "mask.png", rgba((255, 255, 0), (0, 0, 90))))


def test_mask_file__jpeg_noise_on_edges_is_kept_as_grey(tmp_path: Path) -> None:
    found = read_mask(save(tmp_path / "mask.jpg", DISC, quality=75), SIZE)
    assert found.note is None
    assert ((found.mask > 127) == INSIDE).mean() > 0.999
    assert len(np.unique(found.mask)) > 2


def test_mask_file__greys_are_kept_as_they_are(tmp_path: Path) -> None:
    soft = DISC.copy()
    soft[60:64, :] = 77
    np.testing.assert_array_equal(read_mask(save(tmp_path / "mask.png", soft), SIZE).mask, soft)


@pytest.mark.parametrize(("value", "note"), [(0, "empty"), (255, "full"), (1, "full"), (128, "full")])
def test_mask_file__one_value(tmp_path: Path, value: int, note: str) -> None:
    found = read_mask(save(tmp_path / "mask.png", np.full((50, 70), value, np.uint8)), SIZE)
    assert found.note == note
    assert set(np.unique(found.mask)) == {0 if note == "empty" else 255}
    assert found.original_size == (50, 70)


def test_mask_file__an_empty_jpeg_with_noise_is_empty(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 6, (256, 256), dtype=np.uint8)
    found = read_mask(save(tmp_path / "mask.jpg", noise, quality=95), SIZE)
    assert (found.note, found.mask.max()) == ("empty", 0)


def test_mask_file__exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    tall = np.zeros((120, 60), np.uint8)
    tall[:30, :20] = 255
    path = save(tmp_path / "mask.jpg", np.rot90(tall), exif=exif, quality=100)
    found = read_mask(path, (120, 60))
    assert found.original_size == (120, 60)
    assert found.mask[10, 10] > 250
    assert found.mask[100, 50] < 5


def test_mask_file__it_is_squashed_with_pillows_antialiased_bicubic(tmp_path: Path) -> None:
    """Against float64 sums of the filter's weights (Keys, a = -0.5), per axis, 8 bits between the passes."""
    big = np.zeros((300, 400), np.uint8)
    big[60:200, 90:333] = 255

    def weights(source: int, target: int) -> np.ndarray:
        scale = source / target
        center = (np.arange(target) + 0.5) * scale
        x = np.abs((np.arange(source) + 0.5)[None] - center[:, None]) / scale
        w = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
        return np.asarray(w / w.sum(1, keepdims=True))

    across = np.clip(np.round(big @ weights(400, 256).T), 0, 255)
    expected = np.clip(np.round(weights(300, 256) @ across), 0, 255)
    found = read_mask(save(tmp_path / "mask.png", big), SIZE).mask
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert ((found > 0) & (found < 255)).any()


def test_mask_file__a_one_bit_mask_is_not_resized_with_nearest(tmp_path: Path) -> None:
    big = np.zeros((300, 400), bool)
    big[60:200, 90:333] = True
    assert len(np.unique(read_mask(save(tmp_path / "mask.png", big), SIZE).mask)) > 2


def png_header(width: int, height: int) -> bytes:
    """A PNG of one grey row's worth of nothing, whatever its header says."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


PHOTOGRAPH = np.random.default_rng(0).normal(150, 40, (256, 256, 3)).clip(0, 255).astype(np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "is empty"),
        ("text.png", b"these are words\n" * 9, "is not a PNG, JPEG"),
        ("eps.png", EPS, "is not a PNG, JPEG"),
        ("huge.png", png_header(60_000, 60_000), "too large"),
        ("wide.png", png_header(100_000, 1000), "too large"),
        ("short.png", png_header(256, 256), "damaged or truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_mask_file__files_that_are_no_pictures(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaskFileError, match=message) as error:
        read_mask(tmp_path / name, SIZE)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_mask_file__truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"mask.{suffix}", np.where(COLUMNS > 99, DISC, np.uint8(0)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    try:
        found = read_mask(path, SIZE)
    except MaskFileError as error:
        assert str(path) in str(error)
    else:  # nothing but padding was cut off
        np.testing.assert_array_equal(found.mask > 127, np.where(COLUMNS > 99, DISC, 0) > 127)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PHOTOGRAPH, r"looks like a photograph: \d+ grey levels, \d+ % of pixels neither black nor white"),
        (COLUMNS, r"looks like a photograph: 256 grey levels, 88 % of pixels"),
        (np.where((COLUMNS > 250)[:, :, None], np.uint8(255), rgba((255, 0, 0), (0, 0, 0))), "is colored"),
        (DISC // 255 + 2 * (COLUMNS > 200).astype(np.uint8), "class labels"),
        (np.where(INSIDE, np.float32("nan"), np.float32(0)), "undefined"),
        (np.where(INSIDE, np.float32(-1), np.float32(0)), "from -1 to 0"),
    ],
    ids=["photograph", "gradient", "three colors", "labels", "nan", "negative"],
)
def test_mask_file__pictures_that_are_no_masks(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = save(tmp_path / ("mask.tif" if array.dtype == np.float32 else "mask.png"), array)
    with pytest.raises(MaskFileError, match=message):
        read_mask(path, SIZE)


@pytest.mark.parametrize(("share", "kept"), [(0.19, True), (0.21, False)])
def test_mask_file__the_limit_of_greys_is_a_fifth(tmp_path: Path, share: float, kept: bool) -> None:
    array = np.zeros((100, 100), np.uint8)
    array[:50] = 255
    array[40 : 40 + round(share * 100)] = 128
    path = save(tmp_path / "mask.png", array)
    if kept:
        assert read_mask(path, (100, 100)).mask[45, 0] == 128
    else:
        with pytest.raises(MaskFileError, match="21 % of pixels"):
            read_mask(path, (100, 100))


def test_mask_file__channels_may_differ_by_eight_levels(tmp_path: Path) -> None:
    for blue, fine in ((100 + 8, True), (100 + 9, False)):
        array = np.stack([DISC] * 3, axis=2)
        array[60] = (100, 100, blue)
        path = save(tmp_path / "mask.png", array)
        if fine:
            read_mask(path, SIZE)
        else:
            with pytest.raises(MaskFileError, match="differ by up to 9 levels"):
                read_mask(path, SIZE)


def test_mask_file__several_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(DISC), Image.fromarray(255 - DISC)]
    frames[0].save(tmp_path / "mask.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(MaskFileError, match="holds 2 pictures"):
        read_mask(tmp_path / "mask.tif", SIZE)


def test_mask_file__what_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path, tmp_path / "nul\0.png"):
        with pytest.raises(MaskFileError):
            read_mask(path, SIZE)


def test_mask_file__names_are_escaped_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31mb.png"
    path.write_bytes(b"no")
    with pytest.raises(MaskFileError) as error:
        read_mask(path, SIZE)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert r"a\n\x1b[31mb.png" in str(error.value)


def test_mask_file__a_white_frame_is_noted_and_black_on_nothing_is_a_shape(tmp_path: Path) -> None:
    save(tmp_path / "inverted.png", 255 - disc(64, 20, 30, 30))
    assert read_mask(tmp_path / "inverted.png", (64, 64)).note == "inverted?"
    save(tmp_path / "mask.png", disc(64, 20, 30, 30))
    assert read_mask(tmp_path / "mask.png", (64, 64)).note is None
    drawn = np.dstack([np.zeros((64, 64, 3), np.uint8), disc(64, 20, 30, 30)])
    save(tmp_path / "rgba.png", drawn)
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.png", (64, 64)).mask, disc(64, 20, 30, 30))
    drawn[:, :, 3] = 255
    save(tmp_path / "rgba.png", drawn)
    assert read_mask(tmp_path / "rgba.png", (64, 64)).note == "empty"
