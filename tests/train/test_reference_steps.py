"""Training, step by step, against what the original code computed; and what must not pass for it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support import REFERENCE, TINY
from torch import Tensor, nn

from m2l_train import losses as losses_module
from m2l_train.config import TrainConfig
from m2l_train.pix2pix import Losses, Pix2Pix, to_input

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


def assert_losses_agree(steps: Steps, outcome: Outcome) -> None:
    for step, (ours, theirs) in enumerate(zip(outcome.losses, steps.losses, strict=True)):
        for name in ("G_GAN", "G_L1", "D_real", "D_fake"):
            expected = theirs[name]
            assert getattr(ours, name) == pytest.approx(expected, rel=1e-3), f"{name} of step {step}"


def assert_gradients_agree(steps: Steps, outcome: Outcome, kinds: str = "GD") -> None:
    dead = dead_biases(steps)
    expected = {f"{k}/{n}": g for k in kinds for n, g in steps.group(f"step0/grad/{k}/").items()}
    assert expected
    for name, gradient in expected.items():
        if name in dead:
            continue
        error = float((outcome.gradients[name] - gradient).norm() / gradient.norm())
        assert error <= 1e-3, f"gradient of {name} is off by {error:.2g} of its norm"


def weight_errors(steps: Steps, outcome: Outcome) -> list[float]:
    """How far each final tensor is from the original's, as a share of how far the original moved it."""
    dead, errors = dead_biases(steps), []
    for kind in "GD":
        before, after = steps.group(f"init/{kind}/"), steps.group(f"final/{kind}/")
        for name, reference in after.items():
            if f"{kind}/{name}" not in dead:
                error = (outcome.final[f"{kind}/{name}"] - reference).norm()
                errors.append(float(error / (reference - before[name]).norm()))
    return errors


def assert_weights_agree(steps: Steps, outcome: Outcome) -> None:
    errors = weight_errors(steps, outcome)
    assert np.median(errors) <= 0.06, f"median {np.median(errors):.3f}"
    assert max(errors) <= 0.25, f"worst {max(errors):.3f}"


def assert_all_agree(steps: Steps, outcome: Outcome) -> None:
    if "step0/fake" in steps.arrays:
        np.testing.assert_allclose(outcome.fake.numpy(), steps.arrays["step0/fake"], atol=1e-5)
    assert_losses_agree(steps, outcome)
    assert_gradients_agree(steps, outcome)
    assert_weights_agree(steps, outcome)


def generator_first(networks: Pix2Pix) -> None:
    discriminator_step, generator_step = networks._discriminator_step, networks._generator_step
    kept: list[Any] = []

    def first(mask: Tensor, fake: Tensor, real: Tensor) -> Any:
        kept.append(generator_step(mask, fake, real))
        return discriminator_step(mask, fake, real)

    networks._discriminator_step = first  # type: ignore[method-assign]
    networks._generator_step = lambda *_: kept.pop()  # type: ignore[method-assign]


def swapped_colours(steps: Steps) -> Steps:
    arrays = {k: v[..., ::-1].copy() if k.endswith("/image") else v for k, v in steps.arrays.items()}
    return replace(steps, arrays=arrays)


@pytest.fixture(params=["original", "tiny"])
def steps(request: pytest.FixtureRequest) -> Steps:
    path = STEPS if request.param == "original" else TINY_STEPS
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return read_steps(path)


def test_steps_are_those_of_the_original(steps: Steps) -> None:
    assert_all_agree(steps, take_steps(steps))


def test_adam_with_beta1_of_0_9_is_noticed(steps: Steps) -> None:
    with pytest.raises(AssertionError):
        assert_all_agree(steps, take_steps(steps, replace(config_of(steps), beta1=0.9)))


def test_the_generator_stepping_first_is_noticed(steps: Steps) -> None:
    with pytest.raises(AssertionError):
        assert_all_agree(steps, take_steps(steps, change=generator_first))


def test_lambda_of_10_is_noticed(steps: Steps) -> None:
    with pytest.raises(AssertionError):
        assert_all_agree(steps, take_steps(steps, replace(config_of(steps), lambda_l1=10.0)))


def test_bgr_is_noticed(steps: Steps) -> None:
    with pytest.raises(AssertionError):
        assert_all_agree(steps, take_steps(swapped_colours(steps)))


def test_a_discriminator_loss_that_is_not_halved_is_noticed(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "discriminator_loss", lambda fake, real: fake + real)
    outcome = take_steps(steps)
    assert_gradients_agree(steps, outcome, "G")
    with pytest.raises(AssertionError, match="gradient of D/"):
        assert_gradients_agree(steps, outcome, "D")
