"""Time PyTorch from the start of its process to the PNG bytes of one image of a checkpoint; print a line of JSON.

The moment when the process was asked for, by `time.monotonic()`, is on its standard input (`harness.run_side`). What
`m2l bench` calls `first_image_s` is the same for a bundle. Argument: a folder that models.py filled.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from models import load_network

from m2l_runtime.bundle import embedded
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.output.encoding import encode_png


def main() -> None:
    began = float(sys.stdin.readline())
    network = load_network(Path(sys.argv[1]))
    side = 1 << network.spec.levels
    mask = read_mask(min(embedded.EXAMPLE_MASKS.glob("*.png")), (side, side)).mask
    x = torch.from_numpy(mask)[None, None].expand(1, 3, side, side).float() / 127.5 - 1
    with torch.no_grad():
        y = network(x) if network.appearance is None else network(x, network.appearance.table[:1])
    encode_png(((y[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy(), {})
    print(json.dumps({"first_image_s": time.monotonic() - began, "engine": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
