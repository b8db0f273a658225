"""Measure the CPU time and the bytes that each encoder takes for the pictures in a .npy file.

    python benchmarks/coders.py pictures.npy --rounds 5

It runs in any environment with numpy and Pillow, and measures what is there of m2l (which takes msgspec), imagecodecs,
OpenCV, fpng and simplejpeg. `cpu.py encoders` makes the pictures and runs it. One thread; the ways take turns.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, features

Picture = npt.NDArray[np.uint8]
Encode = Callable[[Picture], bytes]

PACKAGES: Final = ("imagecodecs", "opencv-python-headless", "fpng", "simplejpeg")
PILLOWS_DEFAULT: Final = "Pillow PNG level 6 (its default)"
_Z_RLE: Final = zlib.Z_RLE
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def pillow(**options: Any) -> Encode:
    """A way to write a picture with Pillow."""

    def encode(picture: Picture) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, **options)
        return buffer.getvalue()

    return encode


def png_of_one_filter(kind: int, strategy: int) -> Encode:
    """PNG by NumPy and zlib alone, level 1, one filter: 2 the pixel above, 3 the mean of it and that on the left."""

    def encode(picture: Picture) -> bytes:
        height, width = picture.shape[:2]
        pixels = picture.reshape(height, 3 * width)
        rows = np.empty((height, 1 + 3 * width), np.uint8)
        rows[:, 0] = kind
        above = np.zeros_like(pixels)
        above[1:] = pixels[:-1]
        if kind == 2:
            np.subtract(pixels, above, out=rows[:, 1:])
        else:
            left = np.zeros_like(pixels)
            left[:, 3:] = pixels[:, :-3]
            np.subtract(pixels, (left & above) + ((left ^ above) >> 1), out=rows[:, 1:])
        squeeze = zlib.compressobj(1, zlib.DEFLATED, 15, 8, strategy)
        data = squeeze.compress(rows.data) + squeeze.flush()
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")

    return encode


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def built_in() -> dict[str, Encode]:
    """Ways that take no more than m2l has: NumPy, Pillow and Python's own zlib."""
    candidates = {
        PILLOWS_DEFAULT: pillow(format="PNG"),
        "Pillow PNG level 1, runs alone": pillow(format="PNG", compress_level=1, compress_type=_Z_RLE),
    }
    candidates |= {f"Pillow PNG level {n}": pillow(format="PNG", compress_level=n) for n in (0, 1, 2, 3, 4, 9)}
    for filter_name, kind in (("above", 2), ("mean", 3)):
        for search, strategy in (("runs", _Z_RLE), ("Huffman", zlib.Z_HUFFMAN_ONLY)):
            candidates[f"NumPy and zlib PNG, filter {filter_name}, {search} alone"] = png_of_one_filter(kind, strategy)
    webp: dict[str, Any] = {"format": "WEBP", "lossless": True}
    candidates["Pillow WebP lossless, method 0, quality 0"] = pillow(**webp, method=0, quality=0)
    candidates["Pillow WebP lossless, method 1, quality 20"] = pillow(**webp, method=1, quality=20)
    candidates |= {f"Pillow WebP lossless, method {n}": pillow(**webp, method=n) for n in range(7)}
    candidates["Pillow JPEG 95 4:4:4"] = pillow(format="JPEG", quality=95, subsampling=0)
    candidates["Pillow WebP 95"] = pillow(format="WEBP", quality=95)
    candidates["NumPy npz"] = _npz
    return candidates


def _npz(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image=picture)
    return buffer.getvalue()


def _m2l(encoders: Any) -> dict[str, Encode]:
    return {"m2l PNG (its default)": lambda p: bytes(encoders.encode_png(p, {}))}


def _imagecodecs(codecs: Any) -> dict[str, Encode]:
    one_filter = codecs.PNG.FILTER.UP
    return {
        "imagecodecs PNG level 1": lambda p: bytes(codecs.png_encode(p, level=1)),
        "imagecodecs PNG level 1, runs alone": lambda p: bytes(codecs.png_encode(p, level=1, strategy=_Z_RLE)),
        "imagecodecs PNG level 1, runs alone, one filter": lambda p: bytes(
            codecs.png_encode(p, level=1, strategy=_Z_RLE, filter=one_filter)
        ),
        "imagecodecs SPNG level 1": lambda p: bytes(codecs.spng_encode(p, level=1)),
        "imagecodecs WebP lossless, method 0": lambda p: bytes(codecs.webp_encode(p, lossless=True, method=0, level=0)),
        "imagecodecs QOI": lambda p: bytes(codecs.qoi_encode(p)),
        "imagecodecs JPEG 95 4:4:4": lambda p: bytes(codecs.jpeg8_encode(p, level=95, subsampling="444")),
    }


def _opencv(cv2: Any) -> dict[str, Encode]:
    cv2.setNumThreads(1)

    def encode(suffix: str, *options: int) -> Encode:
        return lambda p: bytes(cv2.imencode(suffix, cv2.cvtColor(p, cv2.COLOR_RGB2BGR), options)[1])

    runs = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    return {
        "OpenCV PNG (its default)": encode(".png"),
        "OpenCV PNG level 1, runs alone": encode(".png", *runs),
        "OpenCV WebP lossless": encode(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    }


def _fpng(fpng: Any) -> dict[str, Encode]:
    return {"fpng PNG": lambda p: bytes(fpng.from_ndarray(p))}


def _simplejpeg(simplejpeg: Any) -> dict[str, Encode]:
    options = {"quality": 95, "colorspace": "RGB", "colorsubsampling": "444"}
    return {"simplejpeg JPEG 95 4:4:4": lambda p: bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(p), **options))}


OF_PACKAGES: Final[Mapping[str, Callable[[Any], dict[str, Encode]]]] = {
    "m2l_runtime.output.encoding": _m2l,
    "imagecodecs": _imagecodecs,
    "cv2": _opencv,
    "fpng": _fpng,
    "simplejpeg": _simplejpeg,
}
"""Ways of other packages, by the module that each takes."""


def installed() -> tuple[dict[str, Encode], dict[str, str]]:
    """(ways by name, why the ways of a module are not here)."""
    candidates, reasons = built_in(), {}
    for module, make in OF_PACKAGES.items():
        try:
            candidates |= make(importlib.import_module(module))
        except ImportError as error:
            reasons[module] = f"not installed ({error})" if isinstance(error, ModuleNotFoundError) else str(error)
    return candidates, reasons


def is_lossless(encode: Encode, picture: Picture) -> bool | None:
    """Whether Pillow reads the same pixels back; None: it cannot read the format."""
    try:
        with Image.open(io.BytesIO(encode(picture))) as again:
            return bool(np.array_equal(np.asarray(again.convert("RGB")), picture))
    except OSError:
        return None


def measure(candidates: Mapping[str, Encode], pictures: Picture, rounds: int) -> dict[str, dict[str, Any]]:
    """By way: CPU milliseconds a picture in each round, bytes a picture, whether it is lossless."""
    found: dict[str, dict[str, Any]] = {
        name: {
            "cpu_ms": [],
            "bytes": round(statistics.fmean(len(encode(picture)) for picture in pictures)),
            "is_lossless": is_lossless(encode, pictures[0]),
        }
        for name, encode in candidates.items()
    }
    for _ in range(rounds):
        for name, encode in candidates.items():
            began = time.process_time()
            for picture in pictures:
                encode(picture)
            found[name]["cpu_ms"].append((time.process_time() - began) * 1e3 / len(pictures))
    return found


def main() -> None:
    """Print what was found as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="uint8 (N, H, W, 3)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pictures = np.load(given.pictures)
    candidates, reasons = installed()
    versions: dict[str, str] = {}
    for package in ("numpy", "pillow", *PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for library in ("zlib", "zlib_ng", "libjpeg_turbo", "webp"):
        check = features.version(library)
        if check is not None:
            versions[f"Pillow's {library}"] = check
    versions["Python's zlib"] = zlib.ZLIB_RUNTIME_VERSION
    found = measure(candidates, pictures, given.rounds)
    json.dump({"ways": found, "reasons": reasons, "versions": versions}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
