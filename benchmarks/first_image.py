"""Time PyTorch from the start of its process to the PNG bytes of one image of a checkpoint; print a line of JSON.

The moment when the process was asked for, by `time.monotonic()`, is on its standard input (`harness.run_side`). What
`m2l bench` calls `first_image_s` is the same for a bundle. Argument: a folder that cpu.py put a checkpoint into.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

import torch
from models import CHECKPOINT

from m2l_runtime.bundle import embedded
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.output.encoding import encode_png
from m2l_train.models.modulated import ModulatedGenerator, infer_modulated_spec, scale_noise

SIDE: Final = 256


def main() -> None:
    began = float(sys.stdin.readline())
    state = torch.load(Path(sys.argv[1]) / CHECKPOINT, weights_only=True)
    network = ModulatedGenerator(infer_modulated_spec(state)).eval()
    network.load_state_dict(state)
    mask = read_mask(min(embedded.EXAMPLE_MASKS.glob("*.png")), (SIDE, SIDE)).mask
    x = torch.from_numpy(mask)[None, None].float() / 127.5 - 1
    noise = torch.randint(0, 256, (1, network.spec.noise_count((SIDE, SIDE))), dtype=torch.uint8)
    with torch.no_grad():
        y = network(x, network.table[:1], scale_noise(noise))
    encode_png(((y[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy(), {})
    print(json.dumps({"first_image_s": time.monotonic() - began, "engine": f"torch {torch.__version__}"}))


if __name__ == "__main__":
    main()
