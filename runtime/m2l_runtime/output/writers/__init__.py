"""Where images go: one file each, or many in a tar or a parquet file.

A sink deals items out in groups. A group is finished at once: its file appears under its final name whole, or not at
all. Files of their own are groups of one. What groups there are follows from the sorted input alone, so any split of
the groups over processes gives the same files.
"""

from __future__ import annotations

from pathlib import Path

from m2l_runtime.errors import EngineNotInstalled
from m2l_runtime.output.formats import OutputOptions
from m2l_runtime.output.writers.base import Sink


def open_sink(out: Path, options: OutputOptions, text: dict[str, str], tag: str) -> Sink:
    """The sink for a format.

    Args:
        out: output folder.
        options: what is written.
        text: what images say about themselves.
        tag: stands in temporary names, so that what a killed run left can be told from what another one needs.

    Raises:
        EngineNotInstalled: parquet asked for, and pyarrow is not there.
    """
    if options.format == "webdataset":
        from m2l_runtime.output.writers.webdataset import TarSink

        return TarSink(out, options, text, tag)
    if options.format == "parquet":
        try:
            from m2l_runtime.output.writers.parquet import ParquetSink
        except ModuleNotFoundError as error:
            raise EngineNotInstalled(
                f"parquet needs {error.name}, which is not installed: pip install '.[parquet]' in a checkout of m2l"
            ) from error
        return ParquetSink(out, options, text, tag)
    from m2l_runtime.output.writers.files import FileSink

    return FileSink(out, options, text, tag)
