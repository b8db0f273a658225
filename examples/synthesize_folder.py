"""Synthesize a lesion image for every mask in a folder, and look at the result.

    python examples/synthesize_folder.py [OUT [MASKS]]

MASKS is a folder of mask files, or masks to draw; without it twelve shapes are drawn. OUT gets images/, masks/,
pairs.csv and sheet.png. The model is the one inside the package.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from m2l_runtime import OutputOptions, Summary, Synthesizer, open_source, synthesize_folder


def main(out: str = "example-lesions", masks: str = "shapes:12,seed=1") -> Summary:
    """Write the images of `masks` to `out`, each beside its mask."""
    source = open_source(masks) if ":" in masks else masks
    with Synthesizer.open() as synthesizer:
        summary = synthesize_folder(
            source,
            out,
            synthesizer,
            OutputOptions(pairs=True, contact_sheet=Path(out) / "sheet.png"),
            seed=7,  # the model takes colors beside the mask; they are drawn with this
            resume=True,  # run it again, and what is there is kept
        )
    print(f"{summary.image_count} images made, {summary.kept_count} kept, {summary.bad_count} masks skipped")
    for message in summary.bad_masks:
        print("skipped", message)
    with (Path(out) / "pairs.csv").open(newline="") as table:
        for row in list(csv.DictReader(table))[:3]:
            print(row["mask"], "->", row["image"])
    return summary


if __name__ == "__main__":
    main(*sys.argv[1:])
