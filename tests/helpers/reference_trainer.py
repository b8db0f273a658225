"""Steps of training as the original code took them, ours from the same start, and how far apart the two are.

    python tests/helpers/reference_trainer.py

prints the table of docs/training.md: what must agree, and the sabotages that must not.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from support import REFERENCE, TINY
from torch import Tensor, nn

from m2l_train.config import TrainConfig
from m2l_train.models import losses as losses_module
from m2l_train.models.losses import Losses
from m2l_train.models.pix2pix import Pix2Pix, to_input

STEPS = Path(os.environ.get("M2L_TRAIN_STEPS", REFERENCE / "train_steps.npz"))
TINY_STEPS = TINY / "train_steps.npz"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Steps:
    """A few steps of training as the original took them."""

    arrays: Arrays
    losses: list[Any]

    @property
    def batches(self) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
        return [(self.arrays[f"step{s}/mask"], self.arrays[f"step{s}/image"]) for s in range(len(self.losses))]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key begins with `prefix`, without it."""
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in self.arrays.items() if k.startswith(prefix)}


def read_steps(path: Path) -> Steps:
    with np.load(path) as found:
        arrays = {key: found[key] for key in found.files}
    return Steps(arrays, json.loads(arrays.pop("losses").tobytes()))


def config_of(steps: Steps) -> TrainConfig:
    ngf = steps.arrays["init/G/model.model.0.weight"].shape[0]
    ndf = steps.arrays["init/D/model.0.weight"].shape[0]
    return TrainConfig(ngf=ngf, ndf=ndf, dropout=False, batch_size=len(steps.batches[0][0]))


@dataclass
class Outcome:
    """Our steps from the same start."""

    losses: list[Losses]
    fake: Tensor
    gradients: dict[str, Tensor]
    """Of the first step."""
    final: dict[str, Tensor]


Change = Callable[[Pix2Pix], None]


def take_steps(steps: Steps, config: TrainConfig | None = None, change: Change = lambda _: None) -> Outcome:
    torch.manual_seed(1)
    networks = Pix2Pix(config or config_of(steps))
    networks.generator.load_state_dict(steps.group("init/G/"))
    networks.discriminator.load_state_dict(steps.group("init/D/"))
    change(networks)
    mask, _ = steps.batches[0]
    with torch.no_grad():
        fake = networks.generator(to_input(mask[:1], networks.device))
    outcome = Outcome([], fake, {}, {})
    for masks, images in steps.batches:
        outcome.losses.append(networks.step(masks, images))
        if not outcome.gradients:
            outcome.gradients = {
                f"{kind}/{name}": parameter.grad.clone()
                for kind, network in (("G", networks.generator), ("D", networks.discriminator))
                for name, parameter in network.named_parameters()
                if parameter.grad is not None
            }
    for kind, network in (("G", networks.generator), ("D", networks.discriminator)):
        outcome.final |= {f"{kind}/{name}": value.clone() for name, value in network.state_dict().items()}
    return outcome


def dead_biases(steps: Steps) -> set[str]:
    """Biases ahead of an InstanceNorm: their gradient is zero but for rounding, which Adam blows up to full steps."""
    networks = Pix2Pix(config_of(steps))
    dead = set()
    for kind, network in (("G", networks.generator), ("D", networks.discriminator)):
        for prefix, module in network.named_modules():
            if isinstance(module, nn.Sequential):
                layers = list(module)
                for index, (one, after) in enumerate(itertools.pairwise(layers)):
                    if isinstance(after, nn.InstanceNorm2d) and hasattr(one, "bias"):
                        dead.add(f"{kind}/{prefix}.{index}.bias")
    return dead


@dataclass(frozen=True)
class Distance:
    """How far our steps are from the original's."""

    losses: float
    """Worst relative difference of a loss at any step."""
    fake: float
    """Largest difference of the first fake in [-1, 1]; 0 where the file has none."""
    gradients_G: float  # noqa: N815
    """Worst relative norm of the difference of a tensor's first gradient."""
    gradients_D: float  # noqa: N815
    weights_median: float
    """Of |w - w_ref| / |w_ref - w_init| over the tensors after the last step."""
    weights_worst: float

    @property
    def agrees(self) -> bool:
        """Whether all are within what float sums of another order explain."""
        return (
            self.losses <= 1e-3
            and self.fake <= 1e-5
            and max(self.gradients_G, self.gradients_D) <= 1e-3
            and self.weights_median <= 0.06
            and self.weights_worst <= 0.25
        )


def distance(steps: Steps, outcome: Outcome) -> Distance:
    """Biases ahead of an InstanceNorm are left out."""
    dead = dead_biases(steps)
    losses = [
        abs(getattr(ours, name) - theirs[name]) / abs(theirs[name])
        for ours, theirs in zip(outcome.losses, steps.losses, strict=True)
        for name in ("G_GAN", "G_L1", "D_real", "D_fake")
    ]
    fake = 0.0
    if "step0/fake" in steps.arrays:
        fake = float(np.abs(outcome.fake.numpy() - steps.arrays["step0/fake"]).max())
    gradients: dict[str, list[float]] = {"G": [], "D": []}
    weights: list[float] = []
    for kind, found in gradients.items():
        for name, gradient in steps.group(f"step0/grad/{kind}/").items():
            if f"{kind}/{name}" not in dead:
                found.append(float((outcome.gradients[f"{kind}/{name}"] - gradient).norm() / gradient.norm()))
        before = steps.group(f"init/{kind}/")
        for name, reference in steps.group(f"final/{kind}/").items():
            if f"{kind}/{name}" not in dead:
                error = (outcome.final[f"{kind}/{name}"] - reference).norm()
                weights.append(float(error / (reference - before[name]).norm()))
    return Distance(
        max(losses), fake, max(gradients["G"]), max(gradients["D"]), float(np.median(weights)), max(weights)
    )


def generator_first(networks: Pix2Pix) -> None:
    discriminator_step, generator_step = networks._discriminator_step, networks._generator_step
    kept: list[Any] = []

    def first(mask: Tensor, fake: Tensor, real: Tensor) -> Any:
        kept.append(generator_step(mask, fake, real))
        return discriminator_step(mask, fake, real)

    networks._discriminator_step = first  # type: ignore[method-assign]
    networks._generator_step = lambda *_: kept.pop()  # type: ignore[method-assign]


def swapped_colors(steps: Steps) -> Steps:
    arrays = {k: v[..., ::-1].copy() if k.endswith("/image") else v for k, v in steps.arrays.items()}
    return replace(steps, arrays=arrays)


@contextmanager
def unhalved() -> Iterator[None]:
    """The discriminator's loss without its 0.5."""
    before = losses_module.discriminator_loss
    losses_module.discriminator_loss = lambda on_fake, on_real: on_fake + on_real
    try:
        yield
    finally:
        losses_module.discriminator_loss = before


def unhalved_steps(steps: Steps) -> Outcome:
    with unhalved():
        return take_steps(steps)


SABOTAGES: dict[str, Callable[[Steps], Outcome]] = {
    "Adam beta1 0.9": lambda steps: take_steps(steps, replace(config_of(steps), beta1=0.9)),
    "G stepped before D": lambda steps: take_steps(steps, change=generator_first),
    "lambda 10": lambda steps: take_steps(steps, replace(config_of(steps), lambda_l1=10.0)),
    "BGR": lambda steps: take_steps(swapped_colors(steps)),
    "D's loss not halved": unhalved_steps,
}


def main() -> None:
    columns = ("losses", "fake", "gradients_G", "gradients_D", "weights_median", "weights_worst")
    print("| oracle | | losses | first fake | gradients of G | of D | weights, median | worst |\n|" + "---|" * 8)
    for name, path in (("original", STEPS), ("tiny", TINY_STEPS)):
        steps = read_steps(path)
        for what, run in ({"faithful": take_steps} | SABOTAGES).items():
            found = distance(steps, run(steps))
            cells = " | ".join(f"{getattr(found, column):.2g}" for column in columns)
            print(f"| {name} | {what}{'' if found.agrees else ' (noticed)'} | {cells} |")


if __name__ == "__main__":
    main()
