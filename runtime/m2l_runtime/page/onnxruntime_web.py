"""Get onnxruntime-web, the engine of the page in a browser: from the npm registry, or from an unpacked package."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.reading import read_bounded, read_input, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.backends.cache_key import user_folder
from m2l_runtime.errors import InputError, OutputError

VERSION: Final = "1.30.0"
"""Version that the page is tested with."""

INTEGRITY: Final = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Hash of that version's package, as the registry and package-lock.json write it."""

WASM_FILES: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What runs the model on any browser's CPU."""

WEBGPU_FILES: Final = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What runs it with WebGPU."""

_REGISTRY: Final = "https://registry.npmjs.org"
_REGISTRY_VARIABLES: Final = ("NPM_CONFIG_REGISTRY", "npm_config_registry")
_MAX_BYTES: Final = 1 << 27
_TIMEOUT_S: Final = 60
_ADVICE: Final = (
    f"get it elsewhere with `npm pack onnxruntime-web@{VERSION}`, unpack it, and give the folder `package` as "
    "--onnxruntime-web"
)


@dataclass(frozen=True)
class OnnxRuntimeWeb:
    """Hold the files of onnxruntime-web that a site needs.

    Example:
        >>> engine = OnnxRuntimeWeb("1.30.0", {"ort.wasm.min.mjs": b""})
        >>> engine.version
        '1.30.0'
    """

    version: str
    files: Mapping[str, bytes]
    """Content by name, without a folder."""


def read_package(folder: Path, names: tuple[str, ...]) -> OnnxRuntimeWeb:
    """Read files of an unpacked npm package of onnxruntime-web.

    Args:
        folder: with package.json and dist/ in it.
        names: of files in dist/.

    Raises:
        InputError: it is no such folder, or a file is missing or cannot be read.
    """
    with reader_errors(InputError, folder, "is not an unpacked npm package of onnxruntime-web", f"; {_ADVICE}"):
        about = json.loads(read_input(folder / "package.json", 1 << 20))
        if about["name"] != "onnxruntime-web":
            raise ValueError(f"package.json is of '{printable(str(about['name'])[:80])}'")
        files = {name: read_input(folder / "dist" / name, _MAX_BYTES) for name in names}
        return OnnxRuntimeWeb(str(about["version"])[:40], files)


def fetch_package(names: tuple[str, ...]) -> OnnxRuntimeWeb:
    """Read files of the pinned version, kept in m2l's cache folder or got from the npm registry.

    The package is checked against :data:`INTEGRITY` each time, also the one that was kept. NPM_CONFIG_REGISTRY or
    npm_config_registry names another registry.

    Raises:
        InputError: the registry does not answer, or what it sends is another package.
    """
    name = f"onnxruntime-web-{VERSION}.tgz"
    cache: Path | None = None
    content = b""
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        cache = user_folder() / name
        content = read_input(cache, _MAX_BYTES)
    if not _is_pinned(content):
        content = _download(name)
        if cache is not None:
            with contextlib.suppress(OSError, OutputError):  # the next time it is got again
                cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                atomic.write_file(cache, content)
    with reader_errors(InputError, name, "is not the package it should be", f"; {_ADVICE}"):
        return OnnxRuntimeWeb(VERSION, _unpack(content, names))


def _is_pinned(content: bytes) -> bool:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}" == INTEGRITY


def _download(name: str) -> bytes:
    registry = next((os.environ[key] for key in _REGISTRY_VARIABLES if os.environ.get(key)), _REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/{name}"
    try:
        if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
            raise ValueError("expected an address that begins with https://")
        request = urllib.request.Request(url, headers={"User-Agent": f"m2l/{__version__}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - its hash is checked
            content = read_bounded(answer, _MAX_BYTES)
    except (OSError, ValueError, urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{printable(url)} cannot be got: {printable(str(reason)[:200])}; {_ADVICE}") from None
    if not _is_pinned(content):
        raise InputError(
            f"{printable(url)} is not onnxruntime-web {VERSION}: its {len(content):,} bytes have another SHA-512 than "
            f"expected; {_ADVICE}"
        )
    return content


def _unpack(content: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in names:
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise ValueError(f"it has no {name}")
            files[name] = member.read()
    return files
