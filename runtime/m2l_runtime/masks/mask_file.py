"""Read mask files and resize them to the model's size. Training reads masks with it too.

The rule, on the samples that a file decodes to (:mod:`m2l_runtime.masks.channels`):

- exactly two colors: the darker becomes 0 and the brighter 255, whatever they were (0/1, 0/255, palette);
- one color: black is an empty mask, anything else a full one (legal, with a note);
- more: kept as greys if the color channels agree within `MAX_CHANNEL_DIFFERENCE` levels, or are shades of one color on
  black, and at most `MAX_GRAY_FRACTION` of the pixels lie in 16..239, as after resampling or JPEG; otherwise it is not
  a mask;
- unless the values are those of class labels (:mod:`m2l_runtime.masks.labels`): 0, 1 and a border of 255 are no mask.

Then it is resized with Pillow's antialiased bicubic filter, as in training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import ArrayError, MaskFileError, PictureFileError, kind_of
from m2l_runtime.masks.channels import Samples, mask_samples
from m2l_runtime.masks.image_file import MAX_FILE_BYTES, MAX_PIXELS, decode_deep, read_bytes, turned
from m2l_runtime.masks.labels import check_is_no_label_map
from m2l_runtime.masks.lossy_areas import check_areas, even_squares
from m2l_runtime.masks.mask_array import SupportsArray, SupportsDLPack, array_sha256, as_array, samples_of
from m2l_runtime.masks.one_color import shades_of_one_color
from m2l_runtime.masks.row_parts import extremes, row_parts
from m2l_runtime.types import Mask, Masks, describe

MAX_CHANNEL_DIFFERENCE: Final = 8
MAX_GRAY_FRACTION: Final = 0.20
BLACK_BELOW: Final = 16
WHITE_FROM: Final = 240
LOSSY_FORMATS: Final = ("JPEG", "WEBP")
"""Formats whose noise can turn one value into several."""


_MAX_LABELS: Final = 16
"""Values up to which a mask that is at its final size may be a map of labels; resizing leaves more on edges."""
_IN_MEMORY: Final = "array"
"""In place of a format, for what was never a file: nothing of it is noise."""

MaskInput: TypeAlias = (
    str | os.PathLike[str] | bytes | IO[bytes] | PillowImage.Image | npt.NDArray[Any] | SupportsArray | SupportsDLPack
)
"""What :func:`read_mask` takes."""


def stack_masks(masks: object, image_size: tuple[int, int]) -> Masks:
    """Stack masks of whatever kind :func:`read_mask` takes, each brought to `image_size`.

    Example:
        >>> import numpy as np
        >>> stack_masks([np.eye(9) > 0, np.eye(300)], (256, 256)).shape
        (2, 256, 256)

    Args:
        masks: an array of several, (N, H, W), (N, 1, H, W) or (N, H, W, 1), or a list of single ones.
        image_size: height and width in pixels.

    Returns:
        uint8 (N, H, W), owned by the caller.

    Raises:
        ArrayError: it is a single one, or one of them cannot be read.
    """
    height, width = image_size
    expected = f"masks must be (N, {height}, {width}), or a list of masks"
    single = "; of a single mask make a list: synth([mask])"
    array = None if isinstance(masks, list | tuple | PillowImage.Image) else _array_of_masks(masks, expected)
    if array is None and not isinstance(masks, list | tuple):
        is_mask = isinstance(masks, str | os.PathLike | bytes | bytearray | PillowImage.Image) or hasattr(masks, "read")
        raise ArrayError(f"{expected}, got {describe(masks)}{single if is_mask else ''}")
    if array is not None and array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        array = array[:, 0] if array.shape[1] == 1 else array[:, :, :, 0]
    if array is not None and (array.ndim != 3 or array.shape[2] in (3, 4)):
        is_mask = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
        raise ArrayError(f"{expected}, got {describe(array)}{single if is_mask else ''}")
    items = cast("Sequence[MaskInput]", masks if array is None else array)
    stacked = np.empty((len(items), height, width), np.uint8)
    for place, item in enumerate(items):
        try:
            stacked[place] = read_mask(item, image_size).mask
        except PictureFileError as error:
            raise ArrayError(f"mask {place} of {len(items)}: {error}") from None
    return stacked


def stack_gray(masks: Masks) -> Masks:
    """Take masks of which some are neither black nor white: greys as they are, and 1 for 255 where nothing is above it.

    Each is looked at by itself, so that it gives the same image alone and among others.

    Example:
        >>> import numpy as np
        >>> masks = np.zeros((2, 8, 8), np.uint8)
        >>> masks[0, 2:6, 2:6], masks[1, 2:6, 2:6] = 1, 255
        >>> stack_gray(masks).max(axis=(1, 2)).tolist()
        [255, 255]

    Args:
        masks: uint8 (N, H, W); only read.

    Returns:
        uint8 (N, H, W): `masks` itself where nothing had to be changed.

    Raises:
        ArrayError: one of them is a map of class labels (:mod:`m2l_runtime.masks.labels`).
    """
    stacked = masks
    for place, mask in enumerate(masks):
        value_count = np.count_nonzero(np.bincount(mask.ravel(), minlength=256))
        if mask.max(initial=0) == 1:
            stacked = masks.copy() if stacked is masks else stacked
            stacked[place] = mask * 255
        elif 2 < value_count <= _MAX_LABELS:
            try:
                check_is_no_label_map(mask)
            except MaskFileError as error:
                raise ArrayError(f"mask {place} of {len(masks)} {error}") from None
    return stacked


def _array_of_masks(masks: object, expected: str) -> npt.NDArray[Any] | None:
    try:
        return as_array(masks)
    except MaskFileError as error:
        raise ArrayError(f"{expected}; this {error}") from None


@dataclass(frozen=True)
class MaskFile:
    """Hold a mask read from a file.

    Example:
        >>> from m2l_runtime import DrawnMasks, Shapes
        >>> file = DrawnMasks(Shapes(kinds=("circle",)), 1).read("000000-circle.png", (64, 64))
        >>> file.mask.shape, file.original_size, file.note
        ((64, 64), (256, 256), None)
    """

    mask: Mask
    """uint8 (H, W) at the size asked for, owned by the caller."""
    sha256: str
    """SHA-256 of the file's bytes; of an array or a decoded picture, of its type, shape and values."""
    original_size: tuple[int, int]
    """Height and width of the image in the file, turned as its EXIF orientation says."""
    original: Mask | None
    """uint8 (H, W) of `original_size`, the mask before it was resized; None unless it was asked for."""
    note: str | None
    """What is unusual about a legal mask, None otherwise: 'empty'; 'full'; 'inverted?' (lesion all along the frame,
    background inside); 'opacity' (its colors alone would say the opposite); 'gray areas'; 'one color' (its shades are
    taken as greys)."""


@check_types(renamed={"path": "source"})
def read_mask(source: MaskInput, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
    """Read a mask, of a file or from memory, and resize it to `image_size`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (100, 80), 255).save(f"{folder}/mask.png")
        ...     file = read_mask(f"{folder}/mask.png", (64, 64))
        >>> file.mask.shape, file.original_size, file.note
        ((64, 64), (80, 100), 'full')
        >>> import numpy as np
        >>> read_mask(np.eye(100) > 0, (64, 64)).mask.shape
        (64, 64)

    Args:
        source: PNG, JPEG, BMP, TIFF, WebP, GIF or PGM file: its path, its bytes, or the file opened to read bytes. Or a
            picture opened with Pillow. Or an array (H, W) of any size, of NumPy or another library
            (:mod:`m2l_runtime.masks.mask_array`): bool, 0 and 1, 0 to 255, or floats from 0 to 1.
        image_size: height and width in pixels.
        keep_original: also return the mask before it was resized.

    Raises:
        MaskFileError: it cannot be read, is not an image of a known format, is too large, or is not a mask. The message
            begins with the file's name and says what was found and what was expected.
    """
    try:
        return _read(source, image_size, keep_original)
    except PictureFileError as error:
        raise MaskFileError(f"{_label(source)}: {error}") from None
    except MemoryError:
        raise MaskFileError(f"{_label(source)}: does not fit in memory") from None


def _label(source: MaskInput) -> str:
    """Name what was given, for a message."""
    if isinstance(source, str | os.PathLike):
        return printable(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return printable(name) if name and isinstance(name, str | os.PathLike) else kind_of(source)


def _read(source: MaskInput, image_size: tuple[int, int], keep_original: bool) -> MaskFile:
    """Read a mask of whatever kind; see :func:`read_mask`."""
    if isinstance(source, str | os.PathLike):
        content = read_bytes(Path(source))
    elif isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
    elif isinstance(source, PillowImage.Image):
        unread = _unread_bytes(source)
        if unread is None:
            picture = turned(source)
            picture.format = source.format
            pixels = hashlib.sha256(f"{source.mode} {source.size} ".encode() + source.tobytes()).hexdigest()
            return _mask_file(*to_gray(picture), pixels, image_size, keep_original)
        content = unread
    elif hasattr(source, "read"):
        content = _read_open_file(source)
    else:
        array = as_array(source)
        if array is None:
            raise MaskFileError("is no mask; expected a path, bytes, an open file, a picture of Pillow, or an array")
        return _mask_file(
            *gray_of_samples(samples_of(array), _IN_MEMORY), array_sha256(array), image_size, keep_original
        )
    return parse_mask(content, image_size, keep_original=keep_original)


def _read_open_file(file: Any) -> bytes:
    try:
        content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PictureFileError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(content, bytes | bytearray | memoryview):
        raise PictureFileError("is opened as text; open it to read bytes, in mode 'rb'")
    if len(content) > MAX_FILE_BYTES:
        raise PictureFileError(f"has more than {MAX_FILE_BYTES:,} bytes; no more are read")
    return bytes(content)


def _unread_bytes(picture: PillowImage.Image) -> bytes | None:
    """Return the bytes of the file of a picture that is opened and not decoded yet, which have all of its samples."""
    file = getattr(picture, "fp", None)
    if file is None or not getattr(picture, "tile", None) or getattr(picture, "tell", lambda: 0)() != 0:
        return None
    try:
        place = file.tell()
        file.seek(0)
        content = _read_open_file(file)
        file.seek(place)
    except (OSError, ValueError, AttributeError):
        return None
    return content


def parse_mask(
    content: bytes, image_size: tuple[int, int], *, keep_original: bool = False, max_pixels: int = MAX_PIXELS
) -> MaskFile:
    """Read a mask from the bytes of a file, of at most `max_pixels`; see :func:`read_mask`.

    Raises:
        PictureFileError, MaskFileError: as there, without the file's name.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    return _mask_file(*to_gray(*decode_deep(content, max_pixels)), sha256, image_size, keep_original)


def _mask_file(gray: Mask, note: str | None, sha256: str, image_size: tuple[int, int], keep_original: bool) -> MaskFile:
    return MaskFile(
        mask=resize(gray, image_size),
        sha256=sha256,
        original_size=(gray.shape[0], gray.shape[1]),
        original=gray if keep_original else None,
        note=note,
    )


def to_gray(picture: PillowImage.Image, low: PillowImage.Image | None = None) -> tuple[Mask, str | None]:
    """Turn an image into a mask of its size, and a note; see the rule at the top of this module.

    Args:
        picture: decoded.
        low: the low bytes of its 16-bit color samples, see :func:`m2l_runtime.masks.image_file.decode_deep`.

    Raises:
        MaskFileError: more colors or greys than a mask has, or class labels.
    """
    channels, is_by_opacity = mask_samples(picture, low)
    gray, note = gray_of_samples(channels, picture.format)
    return gray, "opacity" if is_by_opacity and note is None else note


def gray_of_samples(channels: Samples, file_format: str | None) -> tuple[Mask, str | None]:
    """Turn samples into a mask; without a format, dark ones may be noise that was decoded before."""
    is_noisy = file_format in LOSSY_FORMATS
    first = channels[0, 0]
    is_first = _equal(channels, first)
    if is_first.all():
        return (_constant(is_first, 255), "full") if first.any() else (_constant(is_first, 0), "empty")
    row, column = np.unravel_index(int(np.argmin(is_first)), is_first.shape)
    second = channels[row, column]
    if (is_first | _equal(channels, second)).all():
        first_is_lesion = _brightness(first) > _brightness(second)
        mask = np.where(is_first == first_is_lesion, np.uint8(255), np.uint8(0))
        return mask, _looks_inverted(mask)
    unit = 257 if channels.dtype == np.uint16 and int(channels.max()) > 255 else 1  # samples per 8-bit level
    highest, unscaled = extremes(channels)
    difference = round(unscaled / unit)
    if difference > MAX_CHANNEL_DIFFERENCE:
        levels = channels if unit == 1 else _rounded(channels, lambda part: part / unit, channels.shape)
        shades = shades_of_one_color(levels, MAX_CHANNEL_DIFFERENCE, is_noisy=is_noisy)
        if shades is not None:
            gray, note = gray_of_samples(shades[:, :, None], file_format)
            return gray, note or "one color"
    gray = _rounded(channels, lambda part: part.astype(np.float32).mean(axis=2) / unit, channels.shape[:2])
    middle = float(((gray >= BLACK_BELOW) & (gray < WHITE_FROM)).mean())
    areas = None
    is_dark = int(gray.max()) < BLACK_BELOW
    if difference <= MAX_CHANNEL_DIFFERENCE and not is_noisy and not (is_dark and file_format is None):
        areas = check_is_no_label_map(highest)
    if middle > MAX_GRAY_FRACTION:
        raise MaskFileError(
            f"looks like a photograph: {len(np.unique(gray))} grey levels, {middle * 100:.0f} % of pixels "
            "neither black nor white; expected a mask of black background and white lesion, with greys on at "
            f"most {MAX_GRAY_FRACTION * 100:.0f} % of the pixels"
        )
    if difference > MAX_CHANNEL_DIFFERENCE:
        raise MaskFileError(
            f"is colored: its channels differ by up to {difference} levels; "
            f"expected black, white and greys, within {MAX_CHANNEL_DIFFERENCE} levels, or shades of one color on "
            "black; save the channel that shows the lesion as a greyscale PNG"
        )
    if is_noisy and (np.count_nonzero(even_squares(gray)) > 1 if is_dark else int(gray.max()) < 128):
        raise MaskFileError(
            f"is dark: its brightest grey is {int(gray.max())} of 255; expected 0 (background) and 255 (lesion), so "
            "brighten it"
        )
    if is_dark:
        return _constant(is_first, 0), "empty"
    if is_noisy:
        areas = check_areas(gray, BLACK_BELOW, WHITE_FROM)
    return gray, "full" if int(gray.min()) >= WHITE_FROM else _looks_inverted(gray) or areas


def _looks_inverted(mask: Mask) -> str | None:
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return "inverted?" if min(int(edge.min()) for edge in edges) >= WHITE_FROM else None


def resize(gray: Mask, image_size: tuple[int, int]) -> Mask:
    """Resize a mask to `image_size` (height, width): bicubic with antialiasing, the frame squashed to fit."""
    height, width = image_size
    if gray.shape == (height, width):
        return gray
    picture = PillowImage.fromarray(gray).resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.array(picture)


def _equal(channels: Samples, color: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = channels[:, :, 0] == color[0]
    for channel in range(1, len(color)):
        equal &= channels[:, :, channel] == color[channel]
    return equal


def _rounded(
    channels: Samples, compute: Callable[[Samples], npt.NDArray[np.floating[Any]]], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    """Compute levels from samples by parts, rounded."""
    levels = np.empty(shape, np.uint8)
    for rows in row_parts(channels):
        levels[rows] = np.round(compute(channels[rows]))
    return levels


def _constant(like: npt.NDArray[np.bool_], value: int) -> Mask:
    return np.full(like.shape, value, np.uint8)


def _brightness(color: npt.NDArray[np.generic]) -> float:
    """Compute the ITU-R BT.601 luma, as Pillow's conversion to grey does."""
    weights = (0.299, 0.587, 0.114) if len(color) == 3 else (1.0,)
    return sum(float(c) * w for c, w in zip(color, weights, strict=True))
