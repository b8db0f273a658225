"""Draw the dozen example masks: the 1-bit PNGs in runtime/m2l_runtime/data/masks.

    python scripts/draw_example_masks.py OUT

Shapes are drawn as signed fields at 256x256 and thresholded; blobs are circles whose radius is a sum of a few
cosines. Nothing is random, so the same files come out everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256
Field = npt.NDArray[np.float64]
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> Field:
    """Make a field positive inside an ellipse of half axes `across` and `down` pixels, turned by `turn` radians."""
    u = (X - x) * np.cos(turn) + (Y - y) * np.sin(turn)
    v = -(X - x) * np.sin(turn) + (Y - y) * np.cos(turn)
    inside: Field = 1 - np.hypot(u / across, v / down)
    return inside


def polygon(x: float, y: float, radius: float, corners: int, turn: float = 0.0, inner: float | None = None) -> Field:
    """Positive inside a regular polygon, or a star whose notches lie at `inner` pixels from the middle."""
    angle = np.arctan2(Y - y, X - x) - turn
    step = np.pi / corners
    folded = np.abs((angle + step) % (2 * step) - step)
    notch = radius * np.cos(step) if inner is None else inner
    # the edge is the line from (radius, 0) to notch at angle `step`
    ax, ay, bx, by = radius, 0.0, notch * np.cos(step), notch * np.sin(step)
    distance = np.hypot(X - x, Y - y)
    px, py = distance * np.cos(folded), distance * np.sin(folded)
    inside: Field = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    return inside


def blob(x: float, y: float, radius: float, waves: tuple[tuple[int, float, float], ...]) -> Field:
    """Positive inside a circle whose radius swings: (waves around, share of the radius, phase) each."""
    angle = np.arctan2(Y - y, X - x)
    edge = radius * (1 + sum(share * np.cos(count * angle + phase) for count, share, phase in waves))
    inside: Field = edge - np.hypot(X - x, Y - y)
    return inside


MASKS: dict[str, Callable[[], Field]] = {
    "01_disc": lambda: ellipse(128, 128, 58, 58),
    "02_ellipse": lambda: ellipse(122, 134, 80, 44, 0.6),
    "03_square": lambda: polygon(128, 126, 84, 4, np.pi / 4 + 0.2),
    "04_hexagon": lambda: polygon(132, 128, 72, 6, 0.3),
    "05_star": lambda: polygon(128, 130, 90, 5, -np.pi / 2, inner=42),
    "06_oval_blob": lambda: blob(124, 128, 60, ((2, 0.18, 0.4), (3, 0.07, 1.9), (5, 0.04, 0.2))),
    "07_lobed_blob": lambda: blob(134, 120, 66, ((3, 0.16, 2.2), (4, 0.08, 0.5), (7, 0.05, 1.0))),
    "08_ragged_blob": lambda: blob(
        126, 130, 70, ((2, 0.10, 1.1), (5, 0.07, 0.3), (9, 0.05, 2.0), (14, 0.035, 0.9), (21, 0.02, 0.1))
    ),
    "09_small_blob": lambda: blob(104, 142, 20, ((2, 0.2, 0.9), (3, 0.1, 0.3))),
    "10_large_blob": lambda: blob(130, 128, 108, ((2, 0.08, 0.2), (3, 0.05, 2.5), (6, 0.03, 1.0))),
    "11_cut_by_the_frame": lambda: blob(214, 74, 78, ((2, 0.14, 0.2), (4, 0.06, 1.4))),
    "12_two_lesions": lambda: np.maximum(
        blob(88, 96, 40, ((2, 0.15, 0.2), (3, 0.08, 1.0))),
        blob(178, 172, 27, ((2, 0.12, 2.0), (5, 0.06, 0.3))),
    ),
}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in MASKS.items():
        Image.fromarray(draw() > 0).save(out / f"{name}.png", optimize=True)
    print(f"{len(MASKS)} masks in {out}")


if __name__ == "__main__":
    main()
