"""Training, step by step, against what the original code computed; and what must not pass for it."""

from __future__ import annotations

import pytest
from reference_trainer import SABOTAGES, STEPS, TINY_STEPS, Steps, distance, read_steps, take_steps


@pytest.fixture(params=["original", "tiny"])
def steps(request: pytest.FixtureRequest) -> Steps:
    path = STEPS if request.param == "original" else TINY_STEPS
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return read_steps(path)


def test_pix2pix_against_reference__steps_are_those_of_the_original(steps: Steps) -> None:
    found = distance(steps, take_steps(steps))
    assert found.losses <= 1e-3
    assert found.fake <= 1e-5
    assert found.gradients_G <= 1e-3
    assert found.gradients_D <= 1e-3
    assert found.weights_median <= 0.06
    assert found.weights_worst <= 0.25
    assert found.agrees


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_pix2pix_against_reference__sabotage_is_noticed(steps: Steps, sabotage: str) -> None:
    found = distance(steps, SABOTAGES[sabotage](steps))
    assert not found.agrees
    if sabotage == "D's loss not halved":  # Adam hides it from the weights; D's gradient shows it
        assert found.gradients_D == pytest.approx(1, abs=1e-3)
        assert found.gradients_G <= 1e-3
