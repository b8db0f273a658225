"""Measure in headless Chromium how soon the static page shows a lesion, and how soon a changed mask becomes its image.

    m2l web embedded site
    python benchmarks/page_latency.py site [--visits 3] [--changes 14] [--out FILE]

Times are the page's own: from the start of its navigation to its load event and to the first image, and from a click on
"a new shape", which asks for an image as the end of a stroke does, to the image of it. The site is served from this
process; browser and server share the CPUs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

from browser import Browser, browser, static_host

NOTE_IMAGES = """
document.addEventListener("m2l-image", (event) => {
  (window.images ??= []).push([performance.now(), event.detail.ms]);
})
"""
FIRST = """new Promise((done) => {
  const look = () => (window.images?.length ? done(window.images[0]) : setTimeout(look, 5));
  look();
})"""
CHANGE = """(async () => {
  const count = images.length, from = performance.now();
  document.getElementById("shape").click();
  while (images.length === count) await new Promise((next) => setTimeout(next, 4));
  return [images[count][0] - from, images[count][1]];
})()"""
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
READY = "document.getElementById('engine').textContent.includes('golden')"


def visit(page: Browser, url: str, changes: int) -> dict[str, Any]:
    """Open the page, wait for its first image, then change the mask again and again."""
    page.open(url)
    first_ms, first_engine_ms = page.evaluate(FIRST)
    while not page.evaluate(READY):  # the check of the model, which runs once beside the first images
        time.sleep(0.05)
    found = [page.evaluate(CHANGE) for _ in range(changes)]
    return {
        "load_event_ms": round(page.evaluate(LOADED)),
        "first_ms": round(first_ms),
        "first_engine_ms": round(first_engine_ms),
        "change_ms": [round(one) for one, _ in found],
        "change_engine_ms": [round(one) for _, one in found],
        "median_change_ms": round(statistics.median(one for one, _ in found)),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--changes", type=int, default=14)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with static_host(args.site) as address, tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as page:
        page.send("Page.addScriptToEvaluateOnNewDocument", source=NOTE_IMAGES)
        version = page.send("Browser.getVersion")["product"]
        visits = [visit(page, f"{address}/index.html", args.changes) for _ in range(args.visits)]
    result = {"browser": version, "cpus": len(os.sched_getaffinity(0)), "load_average_1min": load, "visits": visits}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
