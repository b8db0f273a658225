"""PNG as this package writes it, read by Pillow."""

from __future__ import annotations

import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from m2l_runtime.errors import ArrayError
from m2l_runtime.output.encoding import Encoding, encode_png

Picture = npt.NDArray[np.uint8]
RNG = np.random.default_rng(20190716)


def smooth(height: int, width: int) -> Picture:
    """Slopes and noise of a few levels, as in photographs of skin."""
    y, x = np.mgrid[:height, :width][..., None] / 64
    clean = 128 + 60 * np.sin(x + np.arange(3)) + 50 * np.cos(y)
    return np.asarray(np.clip(clean + RNG.normal(0, 2, (height, width, 3)), 0, 255), np.uint8)


PICTURES = {
    "noise": RNG.integers(0, 256, (37, 53, 3), np.uint8),
    "black": np.zeros((16, 16, 3), np.uint8),
    "white": np.full((16, 16, 3), 255, np.uint8),
    "stripes": np.tile(np.array([[[0, 255, 0]], [[255, 0, 255]]], np.uint8), (8, 9, 1)),
    "a pixel": np.array([[[1, 128, 255]]], np.uint8),
    "a row": RNG.integers(0, 256, (1, 40, 3), np.uint8),
    "a column": RNG.integers(0, 256, (40, 1, 3), np.uint8),
    "smooth": smooth(256, 256),
    "a window": RNG.integers(0, 256, (40, 40, 3), np.uint8)[5:30:2, ::-1],
}


@pytest.mark.parametrize("level", [0, 1, 2, 6])
@pytest.mark.parametrize("name", PICTURES)
def test_encoding__pixels_and_text_come_back(name: str, level: int) -> None:
    text = {"Description": "lésion synthétique", "m2l-seed": "7", "Long": "x" * 5000, "Other script": "皮膚"}
    content = encode_png(PICTURES[name], text, level)
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()  # every chunk's checksum
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode, picture.info.get("interlace")) == ("PNG", "RGB", None)
        np.testing.assert_array_equal(np.asarray(picture), PICTURES[name])
        assert {key: picture.info[key] for key in text} == text


def test_encoding__a_damaged_byte_is_noticed() -> None:
    content = bytearray(encode_png(PICTURES["smooth"], {}))
    content[len(content) // 2] ^= 1
    with pytest.raises((SyntaxError, OSError)), Image.open(io.BytesIO(content)) as picture:
        picture.verify()


def test_encoding__the_filter_is_that_of_the_standard() -> None:
    """Filter type 3, Average: x - floor((left + above) / 2) modulo 256, with zeros outside, one pixel to the left."""
    image = PICTURES["noise"]
    content = encode_png(image, {})
    place = content.index(b"IDAT")
    size = int.from_bytes(content[place - 4 : place])
    rows = np.frombuffer(zlib.decompress(content[place + 4 : place + 4 + size]), np.uint8).reshape(37, 1 + 53 * 3)
    assert (rows[:, 0] == 3).all()
    for y, x, channel in ((0, 0, 0), (0, 5, 1), (4, 0, 2), (20, 30, 1), (36, 52, 2)):
        left = int(image[y, x - 1, channel]) if x else 0
        above = int(image[y - 1, x, channel]) if y else 0
        assert rows[y, 1 + 3 * x + channel] == (int(image[y, x, channel]) - (left + above) // 2) % 256


def test_encoding__the_default_is_no_larger_than_pillows() -> None:
    """Of pictures without repeats, within a tenth."""
    mine, pillows = (len(encode_png(PICTURES["smooth"], {}, level)) for level in (Encoding.png_level, 6))
    assert mine < 1.1 * pillows


def test_encoding__the_same_picture_gives_the_same_bytes() -> None:
    assert encode_png(PICTURES["smooth"], {"a": "b"}) == encode_png(PICTURES["smooth"].copy(), {"a": "b"})


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        (Encoding(), f"png mean filter, zlib {zlib.ZLIB_RUNTIME_VERSION}"),
        (Encoding(png_level=6), "png level 6, Pillow "),
        (Encoding("jpeg", quality=90), "jpeg quality 90, Pillow "),
        (Encoding("npz"), f"npz, numpy {np.__version__}"),
    ],
)
def test_encoding__the_log_names_all_that_bytes_depend_on(encoding: Encoding, said: str) -> None:
    assert encoding.label.startswith(said)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 4), (0, 4, 3), (4, 0, 3)])
@pytest.mark.parametrize("level", [1, 6])
def test_encoding__arrays_that_are_no_images(shape: tuple[int, ...], level: int) -> None:
    with pytest.raises(ArrayError, match=r"\(H, W, 3\) uint8 .*, got \("):
        encode_png(np.zeros(shape, np.uint8), {}, level)
    with pytest.raises(ArrayError, match="float32"):
        encode_png(np.zeros((4, 4, 3), np.float32), {}, level)
