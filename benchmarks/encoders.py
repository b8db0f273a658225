"""Measure the CPU time and the bytes that image encoders take for images of the model inside the package.

    .venv/bin/python benchmarks/encoders.py --rounds 5

One thread; encoders take turns. imagecodecs, OpenCV and fpng, which m2l does not need, are measured where they are
installed. Prints a Markdown table, as that of docs/measurements.md.
"""

from __future__ import annotations

import importlib
import io
import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image
from tables import Side, metric, ratio, table

from m2l_runtime import Synthesizer
from m2l_runtime.bench.timing import example_masks
from m2l_runtime.bundle import embedded
from m2l_runtime.output.encoding import encode_png

Encode = Callable[[npt.NDArray[np.uint8]], bytes]
PNG_LEVELS: Final = (6, 0, 1, 2, 3, 4, 9)
"""Pillow's default first."""


def pillow(**options: Any) -> Encode:
    """Make an encoder of Pillow with these options."""

    def encode(image: npt.NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, **options)
        return buffer.getvalue()

    return encode


def built_in() -> dict[str, Encode]:
    """Return encoders that take no more than m2l has."""
    encoders = {f"Pillow PNG level {n}": pillow(format="PNG", compress_level=n) for n in PNG_LEVELS}
    encoders["Pillow PNG level 1, runs alone"] = pillow(format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    webp: dict[str, Any] = {"format": "WEBP", "lossless": True}
    encoders |= {f"Pillow WebP lossless, method {n}": pillow(**webp, method=n) for n in (0, 4, 6)}
    encoders["Pillow JPEG 95 4:4:4"] = pillow(format="JPEG", quality=95, subsampling=0)
    encoders["Pillow WebP 95"] = pillow(format="WEBP", quality=95)
    encoders["m2l PNG (its default)"] = lambda image: bytes(encode_png(image, {}))
    return encoders


OF_PACKAGES: Final[Mapping[str, Callable[[Any], dict[str, Encode]]]] = {
    "imagecodecs": lambda codecs: {
        "imagecodecs PNG level 1, runs alone": lambda image: codecs.png_encode(image, level=1, strategy=zlib.Z_RLE),
        "imagecodecs QOI": codecs.qoi_encode,
        "imagecodecs JPEG 95 4:4:4": lambda image: codecs.jpeg8_encode(image, level=95, subsampling="444"),
    },
    "cv2": lambda cv2: {"OpenCV PNG (its default)": lambda image: bytes(cv2.imencode(".png", image[:, :, ::-1])[1])},
    "fpng": lambda fpng: {"fpng PNG": fpng.from_ndarray},
}
"""Encoders of other packages, by the module that each takes."""


def is_lossless(encode: Encode, image: npt.NDArray[np.uint8]) -> bool | None:
    """Return whether Pillow reads the same pixels back; None: it cannot read the format."""
    try:
        with Image.open(io.BytesIO(encode(image))) as opened:
            return bool(np.array_equal(np.asarray(opened.convert("RGB")), image))
    except OSError:
        return None


def measure(encoders: Mapping[str, Encode], images: npt.NDArray[np.uint8], rounds: int) -> dict[str, Side]:
    """Measure CPU milliseconds and kB an image of each encoder."""
    sides = {name: Side() for name in encoders}
    for number in range(rounds):
        for name, encode in encoders.items():
            began = time.process_time()
            sizes = [len(encode(image)) for image in images]
            cpu_ms = (time.process_time() - began) * 1e3 / len(images)
            sides[name].add(number, {"cpu_ms": cpu_ms, "kilobytes": statistics.fmean(sizes) / 1e3}, None)
    return sides


def main(rounds: Annotated[int, typer.Option(help="Rounds.")] = 5) -> None:
    """Measure CPU time and bytes of image encoders."""
    encoders = built_in()
    for module, make in OF_PACKAGES.items():
        try:
            encoders |= make(importlib.import_module(module))
        except ImportError as error:
            print(f"not measured: {error}")
    with Synthesizer.open(embedded.BUNDLE, device="cpu") as synthesizer:
        images = synthesizer(example_masks(synthesizer.image_size))
    sides = measure(encoders, images, rounds)
    first = next(iter(sides))
    lossless = {id(sides[name]): is_lossless(encode, images[0]) for name, encode in encoders.items()}
    columns = {
        "CPU ms": metric("cpu_ms"),
        f"times as fast as {first}": ratio("cpu_ms", "cpu_ms", sides[first], is_inverse=True),
        "kB": metric("kilobytes", is_short=True),
        "lossless": lambda side: {True: "yes", False: "no", None: "another reader's"}[lossless[id(side)]],
    }
    print(table(columns, sides, first="encoder"))


if __name__ == "__main__":
    typer.run(main)
