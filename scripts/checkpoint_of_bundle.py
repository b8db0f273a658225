"""Write the checkpoint that a bundle of a modulated generator was made from, as near as the bundle holds it.

    .venv/bin/python scripts/checkpoint_of_bundle.py runtime/m2l_runtime/data/bundle run/latest_net_G.pth
    make embedded-model RUN=run

So the model inside the package can be exported anew without the training that it comes from. Weights are those of the
file, in half precision where it stores them so; appearances are those that the bundle was given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
import torch
import typer
from onnx import numpy_helper
from torch import Tensor

from m2l_runtime.bundle.io import open_bundle
from m2l_train.models.modulated import (
    NOISE_DEVIATION,
    YCBCR_TO_RGB,
    ModulatedGenerator,
    ModulatedSpec,
    luma_weights,
)

HALF: Final = ".fp16"
"""Ending of the names of weights that are stored in half precision."""


def main(bundle: Path, out: Path) -> None:
    """Write the state_dict of BUNDLE's generator to OUT."""
    opened = open_bundle(bundle)
    if opened.manifest.network.architecture != "modulated" or opened.manifest.appearance is None:
        raise SystemExit(f"{bundle} is of a {opened.manifest.network.architecture} generator; expected a modulated one")
    model = next(one for one in opened.manifest.models if one.precision == "fp32")
    graph = onnx.load(bundle / model.file.path).graph
    table = torch.from_numpy(opened.read_appearances().copy())
    network = to_network(graph, opened.manifest.appearance.names, table)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), out)
    typer.echo(f"{out}: {sum(one.numel() for one in network.parameters()):,} weights, {len(table):,} appearances")


def to_network(graph: onnx.GraphProto, names: tuple[str, ...], table: Tensor) -> ModulatedGenerator:
    """Build the network that :mod:`m2l_export.graph.modulated` turned into a graph."""
    stored = {
        one.name.removesuffix(HALF): torch.from_numpy(numpy_helper.to_array(one).copy()).float()
        for one in graph.initializer
        if one.name.startswith(("unet.", "head."))
    }

    def sizes(form: str, axis: int = 0) -> list[int]:
        found: list[int] = []
        while (name := form.format(len(found))) in stored:
            found.append(stored[name].shape[axis])
        return found

    spec = ModulatedSpec(
        encoder=tuple(sizes("unet.downs.{}.weight")),
        decoder=tuple(sizes("unet.ups.{}.layer.weight")[::2]),
        names=names,
        hidden=len(stored["unet.numbers.mlp.0.bias"]),
        appearance_rows=len(table),
        sharpening=_sharpening(stored["head.fine.taps"]),
        chroma_passes=sum(node.op_type == "AveragePool" for node in graph.node) // 2,
    )
    network = ModulatedGenerator(spec)
    state = network.state_dict()
    state |= {"table": table, "mean": stored["unet.numbers.mean"], "std": stored["unet.numbers.std"]}
    state |= {key: stored[f"unet.numbers.{key}"] for key in state if key.startswith("mlp.")}
    state |= {key: stored[f"unet.{key}"] for key in state if key.startswith("downs.")}
    for number in range(2 * len(spec.decoder)):
        of, to = f"unet.ups.{number}", f"layers.{number}"
        state |= {f"{to}.{part}": stored[f"{of}.layer.{part}"] for part in ("weight", "bias")}
        state[f"{to}.noise_weight"] = stored[f"{of}.noise.weight"] * NOISE_DEVIATION
        state[f"{to}.style.weight"] = stored[f"{of}.factors.style.weight"]
        state[f"{to}.style.bias"] = stored[f"{of}.factors.style.bias"] - 1
        if f"{to}.skip_weight" in state:
            state[f"{to}.skip_weight"] = stored[f"{of}.skip.weight"]
    (_, _, red), _, (_, blue, _) = YCBCR_TO_RGB
    for part in ("weight", "bias"):
        head = stored[f"unet.head.{part}"]  # luma; what red, green and blue add to it; phases
        state[f"head.{part}"] = torch.cat([head[:1], head[3:4] / blue, head[1:2] / red, head[4:]])
    network.load_state_dict(state)
    return network


def _sharpening(taps: Tensor) -> float:
    """Find the sharpening whose filter is stored: what it does to luma is proportional to it."""
    if taps.shape[-1] == 3:
        return 0.0
    once = torch.tensor(luma_weights(1.0))[:, 0]
    return round(float((taps[:, 0] * once).sum() / once.square().sum()), 3)


if __name__ == "__main__":
    typer.run(main)
