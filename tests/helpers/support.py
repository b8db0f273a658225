"""What several tests share: where data lies, and what it means to equal the original."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from m2l_runtime.masks.mask_file import read_mask

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "tiny"
TINY_BUNDLE = ROOT / "tests" / "data" / "tiny-bundle"
REFERENCE = ROOT.parent / "shared" / "reference"
"""Images of the original code for a trained network; tests on it are skipped where it is absent."""

Array = npt.NDArray[np.uint8]
_WORD = (1 << 64) - 1
Change = Callable[[dict[str, Any]], None]

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
"""A case of a parametrized test that only `make test-slow` runs; docs/testing.md says why."""


def disc(side: int = 256, radius: float = 60.0, y: float = 120.0, x: float = 130.0) -> Array:
    rows, columns = np.ogrid[:side, :side]
    return np.where(np.hypot(rows - y, columns - x) < radius, np.uint8(255), np.uint8(0))


def save(path: Path, array: npt.NDArray[np.generic], **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def oracle(masks: Path, images: Path) -> Iterator[tuple[str, Array, Array]]:
    """(name, mask read as the runtime reads it, image of the original code)."""
    for image in sorted(images.glob("*.png")):
        with Image.open(image) as picture:
            yield image.stem, read_mask(masks / image.name, (256, 256)).mask, np.array(picture.convert("RGB"))


def assert_equals_original(images: Array, originals: Array) -> None:
    """The original truncates where we round: ours minus the original's is 0 or 1, 0.5 on average off the clipping.

    One byte in 10,000 may miss that by one level: float sums have another order on other processors.
    """
    difference = images.astype(np.int16) - originals
    off = (difference != 0) & (difference != 1)
    assert off.mean() <= 1e-4, f"{off.mean():.2%} of bytes are neither 0 nor 1 above the original's"
    assert difference.min() >= -1
    assert difference.max() <= 2
    inside = (originals > 0) & (originals < 255)
    assert 0.4 <= difference[inside].mean() <= 0.6


def assert_truncates_to_original(pixels: npt.NDArray[np.float32], originals: Array) -> None:
    """Pixels (H, W, 3) in [-1, 1] that have not been rounded, brought to bytes as the original does, are its bytes.

    Sharper than the comparison of rounded bytes, which cannot see less than half a level: all but one byte in
    10,000 must be the same.
    """
    truncated = ((pixels + 1) / 2.0 * 255.0).astype(np.uint8)
    different = (truncated != originals).mean()
    assert different <= 1e-4, f"{different:.4%} of the bytes differ"


def edit(bundle: Path, change: Change) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def add_model_entry(bundle: Path, engine: str, precision: str = "fp32", **parity: Any) -> None:
    """Say that the first file of a bundle also runs so, with what is given changed in its parity."""

    def change(manifest: dict[str, Any]) -> None:
        first = manifest["models"][0]
        way = {"engines": [engine], "precision": precision, "parity": first["parity"] | parity}
        if precision == "int8":
            way["weights"] = "int8"
        manifest["models"].append(first | way)

    edit(bundle, change)


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Put other content in, and into the manifest: a bundle that is consistent but wrong."""

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("path") == name:
                node.update(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    (bundle / name).write_bytes(content)
    edit(bundle, visit)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def philox_stream(count: int, seed: int, *names: str | int) -> list[int]:
    """The numbers that m2l_runtime.conditioning.random is to draw, from the definition of its key and of the cipher."""
    words = [str(seed).encode(), *(f"{type(name).__name__} {name}".encode() for name in names)]
    text = b"".join(len(word).to_bytes(8, "little") + word for word in words)
    digest = hashlib.blake2b(text, digest_size=16).digest()
    key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return [number for block in range(-(-count // 4)) for number in _philox4x64_10(key, block + 1)][:count]


def _philox4x64_10(key: tuple[int, int], counter: int) -> list[int]:
    """From the paper: Salmon et al., SC 2011, section 3.2 and table 2."""
    x, k = [counter, 0, 0, 0], list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [second >> 64 ^ x[1] ^ k[0], second & _WORD, first >> 64 ^ x[3] ^ k[1], first & _WORD]
        k = [k[0] + 0x9E3779B97F4A7C15 & _WORD, k[1] + 0xBB67AE8584CAA73B & _WORD]
    return x
