"""What the page is told of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from steered_bundle import steered_bundle

from m2l_runtime import AppearanceChoice, Synthesizer
from m2l_runtime.bundle import embedded, open_bundle
from m2l_runtime.conditioning.conditions import sampled_appearances
from m2l_runtime.conditioning.skin_tone import skin_class
from m2l_runtime.errors import ArgumentError
from m2l_runtime.output.encoding import SYNTHETIC
from m2l_runtime.page import page_config
from m2l_runtime.types import KNOWN_NAMES, NAMES


def test_page_config__is_plain_json() -> None:
    config = page_config(open_bundle(embedded.BUNDLE))
    assert json.loads(json.dumps(config, allow_nan=False)) == config


def test_page_config__says_what_the_bundle_is() -> None:
    bundle = open_bundle(embedded.BUNDLE)
    config = page_config(bundle, mode="browser")
    assert config["mode"] == "browser"
    assert config["bundle"] == {"name": bundle.manifest.name, "sha256": bundle.sha256}
    assert config["image_size"] == [256, 256]
    assert config["description"] == SYNTHETIC
    assert [one["role"] for one in config["inputs"]] == ["mask", "appearance", "noise"]


def test_page_config__ranges_hold_most_training_images() -> None:
    bundle = open_bundle(embedded.BUNDLE)
    table = sampled_appearances(bundle)
    appearance = page_config(bundle)["appearance"]
    assert appearance["names"] == [number["name"] for number in appearance["numbers"]]
    for place, number in enumerate(appearance["numbers"]):
        low, high = number["covered"]
        assert number["low"] <= low < high <= number["high"], number
        inside = (table[:, place] >= low - 0.01) & (table[:, place] <= high + 0.01)
        assert inside.mean() >= 0.95, number


def test_page_config__all_it_offers_can_be_asked_for() -> None:
    appearance = page_config(open_bundle(embedded.BUNDLE))["appearance"]
    bounds = [{number["name"]: bound} for number in appearance["numbers"] for bound in number["covered"]]
    switches = [number for number in appearance["numbers"] if number["group"] == "switches"]
    assert {number["name"] for number in switches} == {"hair", "ink", "vignette"}
    wishes = [*bounds, *({number["name"]: number["with"]} for number in switches)]
    for wish in wishes:
        AppearanceChoice.from_values(wish)  # raises if it cannot
    for one in appearance["skin_tone"]["classes"]:
        assert skin_class(one["angle"]) == one["label"].lower()


def test_page_config__of_a_bundle_that_takes_the_mask_alone(tmp_path: Path) -> None:
    config = page_config(steered_bundle(tmp_path / "plain", ()))
    assert config["appearance"] is None
    assert config["is_random"] is False


@pytest.mark.parametrize("roles", [("dropout_bits",), ("noise",)])
def test_page_config__of_a_bundle_without_appearance(tmp_path: Path, roles: tuple[str, ...]) -> None:
    config = page_config(steered_bundle(tmp_path / "plain", roles))  # type: ignore[arg-type]
    assert config["appearance"] is None
    assert config["is_random"] is True
    assert [one["role"] for one in config["inputs"]] == ["mask", *roles]


def test_page_config__has_no_skin_tone_without_its_numbers(tmp_path: Path) -> None:
    names = tuple(name for name in KNOWN_NAMES[:16] if name != "skin_b")
    config = page_config(steered_bundle(tmp_path / "some", ("appearance",), 64, names))
    assert config["appearance"]["skin_tone"] is None
    assert page_config(steered_bundle(tmp_path / "all", ("appearance",), 64, NAMES))["appearance"]["skin_tone"]


def test_page_config__a_number_that_is_always_0_is_no_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = steered_bundle(tmp_path / "some", ("appearance",), 64, (*NAMES, "hair"))
    table = np.zeros((bundle.manifest.appearance.count, 13), np.float32)  # type: ignore[union-attr]
    monkeypatch.setattr(type(bundle), "read_appearances", lambda _: table)
    assert page_config(bundle)["appearance"]["numbers"][-1]["with"] is None


def test_page_config__refuses_another_mode() -> None:
    with pytest.raises(ArgumentError, match="mode"):
        page_config(Synthesizer.open(backend="fake").bundle, mode="elsewhere")  # type: ignore[arg-type]
