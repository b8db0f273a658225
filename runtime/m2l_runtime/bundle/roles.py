"""List the roles that an input of a generator may have.

To add a role, add its entry to `ROLES`. Then say how its values are sampled, in
:data:`m2l_runtime.conditioning.conditions.SAMPLERS`, and which ones a new file is validated with, in
`m2l_export.parity.gate.ROLE_ROWS`; and let the network take it (`m2l_train.models.networks`,
`m2l_export.graph.deploy`, `m2l_export.graph.onnx_writer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from m2l_runtime.bundle.schema import DType, TensorSpec


@dataclass(frozen=True)
class Role:
    """Describe one role: the type and shape of its tensor, and what it means."""

    dtype: DType
    sides: tuple[int | str, ...]
    """The sides after the batch: a number, "height" or "width" of the image, or any letter for any length."""
    meaning: str
    """What the values mean and where they come from, for `m2l inspect`."""
    is_required: bool = False

    def shape(self, image_size: tuple[int, int]) -> str:
        """Write the shape for an image size (height, width), as a message shows it."""
        return f"('batch', {', '.join(map(str, self._sides(image_size)))})"

    def fits(self, spec: TensorSpec, image_size: tuple[int, int]) -> bool:
        """Tell whether a tensor has the type and shape of this role, for an image size (height, width)."""
        sides = self._sides(image_size)
        return (
            spec.dtype == self.dtype
            and spec.shape[:1] == ("batch",)
            and len(spec.shape) == 1 + len(sides)
            and all(
                isinstance(side, int) and (isinstance(expected, str) or side == expected)
                for side, expected in zip(spec.shape[1:], sides, strict=True)
            )
        )

    def _sides(self, image_size: tuple[int, int]) -> tuple[int | str, ...]:
        known = dict(zip(("height", "width"), image_size, strict=True))
        return tuple(known.get(side, side) if isinstance(side, str) else side for side in self.sides)


ROLES: Final[Mapping[str, Role]] = {
    "mask": Role("uint8", ("height", "width"), "0 background, 255 lesion", is_required=True),
    "appearance": Role(
        "float32", ("K",), "colors of lesion and skin, and more: drawn with --seed, or chosen with --appearance"
    ),
    "dropout_bits": Role("uint8", ("N",), "which features are kept, eight a byte: drawn with --seed"),
    "noise": Role("uint8", ("N",), "what varies beside the appearance, uniform bytes: drawn with --seed"),
}
"""Roles of inputs that this version can supply, the required one first. A bundle with any other role is refused."""
