"""Save an image of a call, with the notice that it is synthetic."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import ArgumentError, ArrayError
from m2l_runtime.output.encoding import Encoding, encode_image, self_description
from m2l_runtime.output.formats import FORMATS, IMAGE_FORMATS, format_of_suffix
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Image, describe


@check_types()
def save_image(
    image: Image,
    path: str | os.PathLike[str],
    synthesizer: Synthesizer,
    *,
    seed: int | None = None,
    encoding: Encoding | None = None,
    overwrite: bool = False,
) -> None:
    """Save an image to a file that says what it is, as the files of `m2l synth` do.

    The file says that the image is synthetic and never for diagnosis, and names bundle, engine and seed: in PNG as
    text, in JPEG and WebP in the EXIF. It appears whole or not at all.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder, Synthesizer.open(backend="fake") as synth:
        ...     image = synth(np.zeros((1, 256, 256), np.uint8))[0]
        ...     save_image(image, f"{folder}/lesion.png", synth)
        ...     with Image.open(f"{folder}/lesion.png") as picture:
        ...         print(picture.info["Description"][:31])
        Made by the fake backend of m2l

    Args:
        image: uint8 (H, W, 3), of a call of `synthesizer`.
        path: a name ending in .png, .jpg, .jpeg or .webp.
        synthesizer: what made the image; it may be closed.
        seed: the seed that the call was given for it, for the file to name.
        encoding: quality or compression; its format is the name's. None: the default of the format.
        overwrite: replace a file that is there.

    Raises:
        ArrayError: the image is of another shape or type.
        ArgumentError: the name has another ending, or that of another format than `encoding`.
        OutputError: the file is there already, or cannot be written.
    """
    target = Path(path)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ArrayError(f"an image must be (H, W, 3) uint8, got {describe(image)}; of several take one: images[0]")
    named = format_of_suffix(target.suffix)
    plain = [name for name in IMAGE_FORMATS if not FORMATS[name].holds_mask]
    if named not in plain:
        endings = ", ".join(suffix for name in plain for suffix in FORMATS[name].suffixes)
        raise ArgumentError(f"{printable(target)} must end in one of {endings}")
    encoding = encoding or Encoding(named)  # type: ignore[arg-type]
    if encoding.format != named:
        raise ArgumentError(f"{printable(target)} ends as {named} does, but the encoding is {encoding.format}")
    atomic.check_new_file(target, overwrite=overwrite)
    about = {} if seed is None else {"m2l-seed": str(seed)}
    text = {**self_description(synthesizer.bundle, synthesizer.settings), **about}
    blank = np.zeros(image.shape[:2], np.uint8)  # of a mask, which these formats do not hold
    atomic.write_file(target, encode_image(image, blank, encoding, text))
