"""The measurement of the page runs from end to end in Chromium; its numbers are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from browser import chromium, onnxruntime_web
from support import ROOT

from m2l_runtime.bundle import embedded
from m2l_runtime.page import SiteOptions, write_site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]


def test_page_latency__measures_visits_and_changes(tmp_path: Path) -> None:
    write_site(embedded.BUNDLE, tmp_path / "site", SiteOptions(onnxruntime_web=onnxruntime_web()))
    script = ROOT / "benchmarks" / "page_latency.py"
    arguments: list[str | Path] = [tmp_path / "site", "--visits", "2", "--changes", "2", "--out", tmp_path / "out.json"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out.json").read_text()
    visits = json.loads(done.stdout)["visits"]
    assert [len(visit["change_ms"]) for visit in visits] == [2, 2]
    for visit in visits:
        assert 0 < visit["load_event_ms"] < visit["first_ms"]
        assert 0 < visit["first_engine_ms"] < visit["first_ms"]
