"""Take masks from memory: arrays of any library, of any size and of the values people have, and opened pictures.

Values are read as those of a file are (:mod:`m2l_runtime.masks.mask_file`): True is lesion; of two values the larger
is, as 1 of 0 and 1; fractions of 1 are stretched to 255. Arrays come by the array protocol or DLPack, so tensors of
PyTorch and JAX do, while neither is imported here.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import MaskFileError, kind_of
from m2l_runtime.masks.channels import Samples, from_wide
from m2l_runtime.masks.image_file import MAX_PIXELS

_MOST_CHANNELS: Final = 4
_EXPECTED: Final = "expected (H, W) with 0 for background"


@runtime_checkable
class SupportsArray(Protocol):
    """Stand for what NumPy makes an array of."""

    def __array__(self, *args: Any, **kwargs: Any) -> npt.NDArray[Any]:
        """Return the array."""
        ...


@runtime_checkable
class SupportsDLPack(Protocol):
    """Stand for what holds a tensor: https://dmlc.github.io/dlpack/latest/python_spec.html."""

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Return the capsule."""
        ...


def as_array(value: object) -> npt.NDArray[Any] | None:
    """Return what `value` holds as an array, without a copy where that can be; None if it is no array.

    Example:
        >>> as_array([[0, 1]]).shape, as_array("mask.png")
        ((1, 2), None)

    Raises:
        MaskFileError: it is one that NumPy cannot read, such as a tensor on a GPU.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        try:
            array = np.asarray(value)
        except ValueError:  # of several lengths
            return None
        return array if array.dtype.kind in "buif" else None
    if not (isinstance(value, SupportsArray | SupportsDLPack) or hasattr(value, "__array_interface__")):
        return None
    failure: Exception | None = None
    for read in (np.asarray, np.from_dlpack):
        try:
            array = read(cast(Any, value))
        except Exception as error:  # noqa: BLE001 - each library raises what it likes
            failure = failure or error
            continue
        if array.dtype.kind != "O":
            return array
    raise MaskFileError(
        f"is {kind_of(value)} that NumPy cannot read ({printable(str(failure)[:200])}); bring it to the CPU, "
        "without gradients, as bool, uint8 or float32: tensor.detach().cpu()"
    )


def samples_of(array: npt.NDArray[Any]) -> Samples:
    """Return the samples (H, W, 1 or 3) of an array that is one mask; see the rule at the top of this module.

    Example:
        >>> samples_of(np.array([[False, True]])).tolist()
        [[[0], [255]]]

    Args:
        array: (H, W), (H, W, 1), (1, H, W), or three colors first or last; bool, integers or floats.

    Raises:
        MaskFileError: of another shape or type, negative, infinite, or above 65535.
    """
    planes = _channels_last(array)
    if planes.shape[0] * planes.shape[1] > MAX_PIXELS:
        raise MaskFileError(f"is too large: {array.shape}; at most {MAX_PIXELS:,} pixels are read")
    if planes.dtype.kind == "b":
        return np.where(planes, np.uint8(255), np.uint8(0))
    if planes.dtype.kind == "f":
        return from_wide(planes.astype(np.float32))
    if planes.dtype.kind not in "iu":
        raise MaskFileError(f"is of type {array.dtype}; {_EXPECTED}, as bool, integers or floats")
    low, high = int(planes.min()), int(planes.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise MaskFileError(f"holds values from {low} to {high}; {_EXPECTED} and 1 or 255 for lesion")
    return planes.astype(np.uint8) if high <= np.iinfo(np.uint8).max else planes.astype(np.uint16)


def array_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array: of its type, shape and values."""
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (H, W, channels)."""
    shape, planes = array.shape, array
    while planes.ndim > 3 and planes.shape[0] == 1:
        planes = planes[0]
    if planes.ndim == 2:
        planes = planes[:, :, None]
    elif planes.ndim == 3 and planes.shape[2] not in (1, 3) and planes.shape[0] in (1, 3):
        planes = np.moveaxis(planes, 0, 2)
    if planes.ndim != 3 or planes.shape[2] not in (1, 3) or not planes.size:
        advice = ""
        if planes.ndim == 3 and min(planes.shape) > _MOST_CHANNELS:
            advice = "; these are several masks: take one, or call a synthesizer with all of them"
        elif planes.ndim == 3 and planes.shape[2] == _MOST_CHANNELS:
            advice = "; without opacity that is array[:, :, :3]"
        raise MaskFileError(f"has the shape {shape}; {_EXPECTED}, or three colors{advice}")
    return planes
