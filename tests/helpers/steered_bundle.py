"""A bundle whose generator gives its inputs back as pixels: red the mask, green the appearance, blue bits or noise.

Its ONNX file is written here byte by byte, as the protocol buffers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
say, so that tests of the runtime need no onnx. Green and blue are the same in every row, a column each of the twelve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from support import Array, npz, philox_stream

from m2l_runtime.bundle.io import Bundle, write_bundle
from m2l_runtime.bundle.schema import (
    AppearanceTable,
    FileEntry,
    Golden,
    Manifest,
    ModelFile,
    Network,
    Parity,
    Provenance,
    Resampling,
    TensorSpec,
)
from m2l_runtime.types import NAMES

Role = Literal["appearance", "dropout_bits", "noise"]
BOTH: tuple[Role, ...] = ("appearance", "dropout_bits")
SIDE = 12
"""Of masks and images, and how many numbers and bytes come in beside them."""
ROWS = 60

_FLOAT, _UINT8, _INT64 = 1, 2, 7


def table() -> npt.NDArray[np.float32]:
    """(ROWS, 12): whole numbers that are bytes, so that they come back exactly."""
    return np.random.default_rng(5).integers(1, 99, (ROWS, len(NAMES))).astype(np.float32)


def table_of(names: Sequence[str]) -> npt.NDArray[np.float32]:
    """(ROWS, len(names)): the columns of `table`, and beyond those halves from -2 to 2."""
    more = np.random.default_rng(6).integers(-4, 5, (ROWS, max(0, len(names) - len(NAMES)))) / 2
    return np.hstack([table()[:, : len(names)], more.astype(np.float32)])


def contrasts() -> npt.NDArray[np.float64]:
    """(ROWS,): distances of the lesion's mean color from the skin's."""
    rows = table().astype(np.float64)
    distances: npt.NDArray[np.float64] = np.sqrt(((rows[:, 0:3] - rows[:, 6:9]) ** 2).sum(1))
    return distances


def steered_bundle(
    folder: Path,
    roles: Sequence[Role] = BOTH,
    side: int = SIDE,
    names: Sequence[str] = NAMES,
    min_contrast: float = 0.0,
) -> Bundle:
    """The bundle, with the inputs asked for. Of another side or number of names only the fake backend runs it."""
    rows = table_of(names)
    inputs = [TensorSpec(name="mask", role="mask", dtype="uint8", shape=("batch", side, side))]
    if "appearance" in roles:
        inputs.append(TensorSpec(name="appearance", role="appearance", dtype="float32", shape=("batch", len(names))))
    if "dropout_bits" in roles:
        inputs.append(TensorSpec(name="dropout_bits", role="dropout_bits", dtype="uint8", shape=("batch", SIDE)))
    if "noise" in roles:
        inputs.append(TensorSpec(name="noise", role="noise", dtype="uint8", shape=("batch", SIDE)))
    rng = np.random.default_rng(1)
    masks = np.where(rng.random((2, side, side)) < 0.5, np.uint8(0), np.uint8(255))
    extra: dict[str, npt.NDArray[Any]] = {
        "appearance": rows[:2],
        "dropout_bits": rng.integers(0, 256, (2, SIDE)).astype(np.uint8),
        "noise": rng.integers(0, 256, (2, SIDE)).astype(np.uint8),
    }
    given = {role: extra[role] for role in roles}
    blue = given.get("dropout_bits", given.get("noise"))
    green = given["appearance"][:, :SIDE] if "appearance" in given else None
    images = np.stack([image(masks[i], *(None if row is None else row[i] for row in (green, blue))) for i in range(2)])
    files = {
        "generator.onnx": onnx_of(roles),
        "golden.npz": npz(mask=masks, image=images, **given),
        "MODEL_CARD.md": b"Gives back what it is given.\n",
    }
    if "appearance" in roles:
        files["appearances.npz"] = npz(appearance=rows)
    entries = {name: FileEntry.from_content(name, content) for name, content in files.items()}
    manifest = Manifest(
        name="steered",
        image_size=(side, side),
        resampling=Resampling(filter="bicubic", fit="squash"),
        inputs=tuple(inputs),
        outputs=(TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", side, side, 3)),),
        models=(
            ModelFile(
                file=entries["generator.onnx"],
                format="onnx",
                opset=17,
                precision="fp32",
                form="deconvolution",
                engines=("onnxruntime",),
                parity=Parity(
                    reference="-",
                    engine="-",
                    mask_count=1,
                    batch_sizes=(1,),
                    max_level_difference=0,
                    mean_level_difference=0.0,
                    psnr_db=None,
                    accepted_max_level_difference=1,
                ),
            ),
        ),
        golden=Golden(file=entries["golden.npz"], count=2, engine="-"),
        model_card=entries["MODEL_CARD.md"],
        network=Network(
            architecture="unet",
            levels=1,
            ngf=1,
            input_nc=1,
            output_nc=3,
            norm="none",
            norm_statistics="none",
            parameter_count=0,
            appearance="appearance" in roles,
            dropout="input" if "dropout_bits" in roles else "off",
        ),
        provenance=Provenance(checkpoint="-", checkpoint_sha256="0" * 64, versions={}),
        appearance=AppearanceTable(
            file=entries["appearances.npz"],
            count=ROWS,
            names=tuple(names),
            min_contrast=min_contrast,
            sampled_count=int((contrasts() >= min_contrast).sum()) if min_contrast else None,
        )
        if "appearance" in roles
        else None,
    )
    return write_bundle(folder, manifest, files)


def image(mask: Array, appearance: npt.NDArray[np.float32] | None, bits: Array | None) -> Array:
    """What the generator makes of one mask (S, S), twelve numbers and twelve bytes."""
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    pixels[..., 0] = mask
    for channel, row in enumerate((appearance, bits), 1):
        if row is not None:
            pixels[:, :SIDE, channel] = row.astype(np.uint8)
    return pixels


def drawn(seed: int, name: str, sample: int = 1) -> tuple[npt.NDArray[np.float32], Array]:
    """(appearance, bits) that an item is to have, by the definition of what is drawn and with another Philox."""
    (item,) = philox_stream(1, seed, "item", name, sample)
    (row,) = philox_stream(1, item, "appearance")
    raw = b"".join(number.to_bytes(8, "little") for number in philox_stream(2, item, "dropout_bits"))
    return table()[row % ROWS], np.frombuffer(raw[:SIDE], np.uint8)


def onnx_of(roles: Sequence[Role] = BOTH) -> bytes:
    """The ONNX file; what is not among `roles` is black."""
    nodes = [
        _node("Cast", ["mask"], "mask_f", to=_FLOAT),
        _node("Unsqueeze", ["mask_f", "last"], "red"),
        _node("Sub", ["red", "red"], "black"),
    ]
    colors = ["red"]
    blue: Role = "noise" if "noise" in roles else "dropout_bits"
    for role, is_float in (("appearance", True), (blue, False)):
        if role not in roles:
            colors.append("black")
            continue
        if not is_float:
            nodes.append(_node("Cast", [role], f"{role}_f", to=_FLOAT))
        nodes.append(_node("Unsqueeze", [role if is_float else f"{role}_f", "around"], f"{role}_row"))
        nodes.append(_node("Add", [f"{role}_row", "black"], f"{role}_all"))
        colors.append(f"{role}_all")
    nodes.append(_node("Concat", colors, "pixels", axis=3))
    nodes.append(_node("Cast", ["pixels"], "image", to=_UINT8))
    inputs = [_tensor_info("mask", _UINT8, SIDE, SIDE)]
    inputs += [
        _tensor_info(role, _FLOAT if role == "appearance" else _UINT8, SIDE)
        for role in (*BOTH, "noise")
        if role in roles
    ]
    graph = b"".join(_field(1, node) for node in nodes)
    graph += _field(2, b"steered")
    graph += _field(5, _axes("last", 3)) + _field(5, _axes("around", 1, 3))
    graph += b"".join(_field(11, info) for info in inputs)
    graph += _field(12, _tensor_info("image", _UINT8, SIDE, SIDE, 3))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 17))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    content = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode())
    content += _field(3, f"to_{output}".encode()) + _field(4, operator.encode())
    for name, value in attributes.items():
        content += _field(5, _field(1, name.encode()) + _field(3, value) + _field(20, 2))
    return content


def _axes(name: str, *values: int) -> bytes:
    return (
        _field(1, len(values)) + _field(2, _INT64) + b"".join(_field(7, v) for v in values) + _field(8, name.encode())
    )


def _tensor_info(name: str, kind: int, *sides: int) -> bytes:
    dims = [_field(2, b"batch"), *(_field(1, side) for side in sides)]
    tensor = _field(1, kind) + _field(2, b"".join(_field(1, dim) for dim in dims))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
