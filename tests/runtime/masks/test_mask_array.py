"""Masks from memory: what a file of the same values gives, from whatever holds them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import Array, disc, save

from m2l_runtime import Synthesizer, read_mask
from m2l_runtime.errors import ArrayError, MaskFileError
from m2l_runtime.masks.mask_file import stack_masks

SIZE = (64, 64)
DISC = disc(120, 40, 60, 66)


class OnlyArray:
    """A tensor of a library that has the array protocol alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array, dtype)


class OnlyDlpack:
    """A tensor of a library that has DLPack alone."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class OnGpu:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Array:
    return read_mask(save(tmp_path_factory.mktemp("m") / "mask.png", DISC), SIZE).mask


KINDS: dict[str, Callable[[Array], Any]] = {
    "uint8": lambda mask: mask,
    "0 and 1": lambda mask: mask // 255,
    "bool": lambda mask: mask > 0,
    "int64": lambda mask: (mask // 255).astype(np.int64),
    "uint16": lambda mask: mask.astype(np.uint16) * 257,
    "float32 of 1": lambda mask: (mask / 255).astype(np.float32),
    "float64 of 255": lambda mask: mask.astype(np.float64),
    "float16": lambda mask: (mask // 255).astype(np.float16),
    "channel last": lambda mask: mask[:, :, None],
    "channel first": lambda mask: mask[None],
    "batch of one": lambda mask: mask[None, None],
    "gray as RGB": lambda mask: np.repeat(mask[:, :, None], 3, 2),
    "RGB, colors first": lambda mask: np.repeat(mask[None] > 0, 3, 0),
    "list of lists": lambda mask: (mask // 255).tolist(),
    "strided": lambda mask: np.repeat(mask, 2, 0)[::2],
    "other byte order": lambda mask: mask.astype(">u2"),
    "array protocol": lambda mask: OnlyArray(mask > 0),
    "DLPack": lambda mask: OnlyDlpack(mask),
    "Pillow": lambda mask: Image.fromarray(mask),
    "Pillow of 1 bit": lambda mask: Image.fromarray(mask > 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_read_mask__what_is_in_memory_is_read_as_its_file(kind: str, expected: Array) -> None:
    given = KINDS[kind](DISC)
    file = read_mask(given, SIZE, keep_original=True)
    np.testing.assert_array_equal(file.mask, expected)
    assert (file.original_size, file.note) == ((120, 120), None)
    np.testing.assert_array_equal(file.original, DISC)
    np.testing.assert_array_equal(DISC, disc(120, 40, 60, 66))  # only read
    assert file.mask.flags.owndata or file.mask.base is not given


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "BytesIO", "open file", "Pillow, not decoded"])
def test_read_mask__content_of_a_file_is_the_file(tmp_path: Path, kind: str) -> None:
    """16-bit colors of 0 and 1, which a picture that Pillow has decoded has lost."""
    rows = np.zeros((9, 9, 3), ">u2")
    rows[2:6, 3:7] = 1
    path = tmp_path / "deep.png"
    path.write_bytes(_png16(rows))
    content, asked = path.read_bytes(), read_mask(path, SIZE)
    with path.open("rb") as file, Image.open(path) as picture:
        given: Any = {
            "bytes": content,
            "bytearray": bytearray(content),
            "memoryview": memoryview(content),
            "BytesIO": io.BytesIO(content),
            "open file": file,
            "Pillow, not decoded": picture,
        }[kind]
        found = read_mask(given, SIZE)
    np.testing.assert_array_equal(found.mask, asked.mask)
    assert (found.sha256, found.note) == (asked.sha256, None)
    assert found.mask.max() == 255


def _png16(rows: Any) -> bytes:
    """Encode 16-bit RGB, by the specification: Pillow cannot."""
    import struct
    import zlib

    height, width, _ = rows.shape
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw))]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in [*chunks, (b"IEND", b"")]:
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))]
    return b"".join(parts)


def test_read_mask__a_camera_turned_picture_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", np.pad(DISC, ((0, 40), (0, 0))), exif=exif)
    with Image.open(path) as picture:
        picture.load()
        np.testing.assert_array_equal(read_mask(picture, SIZE).mask, read_mask(path, SIZE).mask)


LABELS = np.zeros((8, 8), np.uint8)
LABELS[2:6, 2:6] = 1
LABELS[2, 2:6] = 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LABELS, "an array: holds 0 .* as a map of class labels does"),
        (np.where(LABELS == 2, 255, LABELS), "as a map of class labels does"),
        (np.zeros((3, 8, 9)), r"^(?!.*several)|shape"),
        (np.zeros((5, 64, 64)), r"has the shape \(5, 64, 64\); .* several masks"),
        (np.zeros((8, 8, 4), np.uint8), r"array\[:, :, :3\]"),
        (np.zeros((0, 8)), r"has the shape \(0, 8\)"),
        (np.full((8, 8), -1), "holds values from -1 to -1"),
        (np.full((8, 8), np.nan), "infinite or undefined"),
        (np.full((8, 8), 1 << 20), "holds values from"),
        (np.zeros((8, 8), complex), "is of type complex128"),
        (np.array([["a"]]), "is of type <U1"),
        (OnGpu(), r"OnGpu that NumPy cannot read \(can't convert cuda:0.*detach\(\)\.cpu\(\)"),
        (b"", "bytes: is empty"),
        (b"text", "bytes: is not a PNG"),
        (io.StringIO("text"), "open it to read bytes, in mode 'rb'"),
        (7, "a whole number: is no mask; expected a path, bytes, an open file, a picture of Pillow, or an array"),
        (None, "None: is no mask"),
        ([[0, 1], [0]], "a list: is no mask"),
    ],
)
def test_read_mask__what_is_no_mask_is_refused_with_words(given: Any, message: str) -> None:
    if message.startswith("^(?!"):
        assert read_mask(given, SIZE).note == "empty"  # colors first
        return
    with pytest.raises(MaskFileError, match=message):
        read_mask(given, SIZE)


def test_read_mask__an_open_file_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "no mask.png"
    path.write_bytes(b"text")
    with path.open("rb") as file, pytest.raises(MaskFileError, match=r"no mask\.png: is not a PNG"):
        read_mask(file, SIZE)


STACKS: dict[str, Callable[[Array], Any]] = {
    "0 and 1": lambda masks: masks // 255,
    "bool": lambda masks: masks > 0,
    "float": lambda masks: (masks / 255).astype(np.float32),
    "int32": lambda masks: masks.astype(np.int32),
    "channels": lambda masks: masks[:, None],
    "channels last": lambda masks: masks[..., None] > 0,
    "list of arrays": list,
    "tuple of bool arrays": lambda masks: tuple(masks > 0),
    "list of pictures": lambda masks: [Image.fromarray(mask) for mask in masks],
    "larger": lambda masks: masks.repeat(3, 1).repeat(3, 2),
    "DLPack": OnlyDlpack,
}


@pytest.mark.parametrize("kind", STACKS)
def test_synthesizer__takes_masks_of_any_kind(kind: str, tiny_synth: Synthesizer) -> None:
    masks = np.stack([disc(radius=20), disc(radius=70)])
    given = STACKS[kind](masks)
    if kind == "larger":  # resampled as files are
        masks = np.stack([read_mask(mask, (256, 256)).mask for mask in given])
    np.testing.assert_array_equal(tiny_synth(given), tiny_synth(masks))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((256, 256), np.uint8), r"synth\(\[mask\]\)"),
        (np.zeros((256, 256, 3), np.uint8), r"got \(256, 256, 3\) uint8; .*synth\(\[mask\]\)"),
        (Image.new("L", (8, 8)), r"got an Image; .*synth\(\[mask\]\)"),
        (b"bytes", r"got bytes; .*synth\(\[mask\]\)"),
        ("mask.png", r"got a text; .*synth\(\[mask\]\)"),
        (None, r"masks must be \(N, 256, 256\), or a list of masks, got None"),
        (np.zeros((1, 2, 3, 4)), r"got \(1, 2, 3, 4\)"),
        ([np.zeros((9, 9)), LABELS], r"mask 1 of 2: an array: holds 0 .* class labels"),
        ([np.zeros((9, 9)), "missing.png"], r"mask 1 of 2: missing\.png: cannot be read"),
        (OnGpu(), r"this is an OnGpu that NumPy cannot read.*\.cpu\(\)"),
    ],
)
def test_synthesizer__what_are_no_masks_is_refused_with_words(given: Any, message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        stack_masks(given, (256, 256))


def test_stack_masks__none_are_none() -> None:
    assert stack_masks([], (8, 9)).shape == stack_masks(np.zeros((0, 8, 9), bool), (8, 9)).shape == (0, 8, 9)
