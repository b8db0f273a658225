"""Put a segmenter into the package: its file with kernels in half precision, the same in ONNX, and its card.

    python scripts/ship_segmenter.py segmenter.pt DATA

SEGMENTER is a file of `m2l evaluate segmenter DATA`; what the card says of it is measured on the validation pairs of
DATA. `make shipped-segmenter DATA=data` trains one and puts it in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from m2l_export.graph.onnx_segmenter import segmenter_to_onnx
from m2l_runtime._utils import atomic
from m2l_train.data.data_folder import open_data
from m2l_train.evaluate.metrics import bootstrap, mask_fidelity
from m2l_train.evaluate.metrics.mask_fidelity import Fidelity
from m2l_train.evaluate.segmenter import Segmenter, load_segmenter, save_segmenter
from m2l_train.evaluate.sets import RealSet, read_pairs
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

SIDE = 256
"""Pixels of the images that the card's figures are of."""
SIZES = ((0.0, 0.05), (0.05, 0.2), (0.2, 1.0))
"""Shares of the image that lesions cover, for a figure each."""
TEMPLATE = Path(__file__).resolve().parent / "shipped_segmenter_card.md"


def ship(source: Path, data: Path, out: Path = SHIPPED_SEGMENTER) -> str:
    """Write the three files beside `out`, and return the card.

    Raises:
        InputError: a file or the data cannot be used.
        OutputError: a file cannot be written.
    """
    full = load_segmenter(source)
    pairs = read_pairs(open_data(data).val, SIDE, workers=1)
    sha256 = save_segmenter(out, full.spec, full.network, full.facts, is_half=True)
    half = load_segmenter(out)
    atomic.write_file(out.with_suffix(".onnx"), segmenter_to_onnx(half))
    card = TEMPLATE.read_text().format(
        facts=half.facts,
        spec=half.spec,
        channels=", ".join(map(str, half.spec.channels)),
        feature_count=half.spec.feature_count,
        parameters=f"{sum(p.numel() for p in half.network.parameters()):,}",
        sha256=sha256,
        side=SIDE,
        **_figures(full, half, pairs),
    )
    atomic.write_file(out.parent / "MODEL_CARD.md", card.encode())
    return card


def _figures(full: Segmenter, half: Segmenter, pairs: RealSet) -> dict[str, str]:
    found, _ = half(pairs.images)
    measured = mask_fidelity.compare(pairs.masks, found)
    before = mask_fidelity.compare(pairs.masks, full(pairs.images)[0])
    areas = (pairs.masks >= mask_fidelity.LESION_FROM).mean((1, 2))
    return {
        "dice": _with_interval(measured.dice),
        "dice_before": f"{before.dice.mean():.4f}",
        "dice_after": f"{measured.dice.mean():.4f}",
        "largest_change": f"{np.abs(before.dice - measured.dice).max():.4f}",
        "boundary": _with_interval(measured.boundary_px),
        "worst": f"{int((measured.dice < 0.5).sum())} of {len(pairs.names)}",
        "by_size": _by_size(measured, areas),
    }


def _with_interval(values: npt.NDArray[np.float64]) -> str:
    places = bootstrap.resample_indices(len(values), 0, "shipped segmenter")
    estimate = bootstrap.estimate(float(values.mean()), values[places].mean(1), len(values))
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _by_size(measured: Fidelity, areas: npt.NDArray[np.float64]) -> str:
    rows = []
    for low, high in SIZES:
        chosen = (areas >= low) & (areas < high)
        if chosen.any():
            rows.append(
                f"| {100 * low:.0f} to {100 * high:.0f} % | {int(chosen.sum())} | {measured.dice[chosen].mean():.3f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    print(ship(Path(sys.argv[1]), Path(sys.argv[2])))
