"""Write images: one file each, or many in a tar or a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from m2l_runtime.errors import EngineNotInstalled
from m2l_runtime.output.formats import FORMATS, load_object
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.output.writers.base import Writer


def open_writer(out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> Writer:
    """Open the writer of a format.

    Args:
        out: output folder.
        options: what is written.
        text: what images say about themselves.
        tag: part of temporary names, which tells what a killed run left from what another run needs.

    Raises:
        EngineNotInstalled: the format needs a package that is not installed.
    """
    entry = FORMATS[options.format]
    try:
        kind = load_object(entry.writer)
    except ModuleNotFoundError as error:
        if entry.extra is None:
            raise
        raise EngineNotInstalled(
            f'{options.format} needs {error.name}, which is not installed: pip install "m2l[{entry.extra}]"'
        ) from error
    return cast(Writer, kind(out, options, text, tag))
