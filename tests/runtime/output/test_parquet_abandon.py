"""A Parquet file that is given up in the middle leaves nothing behind, on the disk or on standard error."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from m2l_runtime import OutputOptions


def test_parquet_writer__given_up_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    from m2l_runtime.output.writers.parquet import ParquetWriter

    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    writer = ParquetWriter(tmp_path, OutputOptions(format="parquet"), {}, "tag")
    writer.begin(0)
    writer.add({"name": "a"})
    writer.abandon()
    del writer
    gc.collect()
    assert printed == []
    assert list(tmp_path.iterdir()) == []
