"""Hair, vignette and ink beside what was seen by eye in photographs of ISIC 2017 (tests/data/detectors/labels.csv)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from m2l_runtime.conditioning.numbers import measure_numbers

ROOT = Path(__file__).resolve().parents[3]
LABELS = ROOT / "tests" / "data" / "detectors" / "labels.csv"
DATA = ROOT.parent / "shared" / "isic2017-256" / "train"

THRESHOLDS: Final = {"hair": 0.5, "vignette": 10.0, "ink": 0.5}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the photographs are not here")
def test_detectors__find_what_was_seen_by_eye() -> None:
    with LABELS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = tuple(THRESHOLDS)
    numbers = np.stack([measure_numbers(*pair(row["id"]), names) for row in rows])
    is_seen = np.array([[row[name] == "1" for name in names] for row in rows])
    is_found = numbers >= np.array([THRESHOLDS[name] for name in names])
    both = (is_found & is_seen).sum(0)
    precision, recall = both / is_found.sum(0), both / is_seen.sum(0)
    assert precision.tolist() == pytest.approx([0.76, 0.84, 0.80], abs=0.03)
    assert recall.tolist() == pytest.approx([0.82, 0.72, 0.82], abs=0.03)


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and its mask."""
    with Image.open(DATA / "images" / f"{name}.jpg") as image, Image.open(DATA / "masks" / f"{name}.png") as mask:
        return np.asarray(image.convert("RGB")), np.asarray(mask.convert("L"))
