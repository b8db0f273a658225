"""The load test runs from end to end, with a small program in the place of `hey`; its numbers are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, TINY_BUNDLE

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "benchmarks" / "serve_load.py"

FAKE_HEY = """#!{python}
import sys, time, urllib.error, urllib.request
words = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
headers = {{"Content-Type": words["-T"], **dict([words["-H"].split(": ")] if "-H" in words else [])}}
print("response-time,status-code")
for _ in range(5):
    began = time.perf_counter()
    request = urllib.request.Request(sys.argv[-1], open(words["-D"], "rb").read(), headers, method="POST")
    try:
        status = urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        status = error.code
    print(f"{{time.perf_counter() - began:.4f}},{{status}}")
"""


def test_serve_load__measures_and_draws(tmp_path: Path) -> None:
    hey = tmp_path / "hey"
    hey.write_text(FAKE_HEY.format(python=sys.executable))
    hey.chmod(0o755)
    results, plot = tmp_path / "results.jsonl", tmp_path / "plot.png"
    options = ("--hey", hey, "--bundle", TINY_BUNDLE, "--seconds", "0.1", "--rounds", "1", "--requests", "1")
    subprocess.run([sys.executable, SCRIPT, *options, "--out", results], check=True, timeout=600)
    (line,) = map(json.loads, results.read_text().splitlines())
    assert line["exit_status"] == 0
    for kind in ("infer", "synthesize"):
        for load in ("single", "half", "overload", "after"):
            assert line["kinds"][kind][load]["counts"] == {"200": 5}
    subprocess.run([sys.executable, SCRIPT, "plot", results, plot], check=True, timeout=600)
    assert plot.stat().st_size > 1000
