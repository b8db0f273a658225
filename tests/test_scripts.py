"""What the scripts rest on."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from support import ROOT
from torch import nn

from m2l_export.graph.deploy import SubPixelConv2d
from m2l_runtime.bundle.embedded import BUNDLE
from m2l_runtime.bundle.io import open_bundle


@pytest.fixture
def quantize_bundle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("quantize_bundle")


@pytest.mark.parametrize("bias", [False, True])
def test_scripts__a_sub_pixel_convolution_is_made_a_transposed_one_again(quantize_bundle: Any, bias: bool) -> None:
    torch.manual_seed(0)
    original = nn.ConvTranspose2d(5, 3, 4, 2, 1, bias=bias)
    again = quantize_bundle.transposed(SubPixelConv2d(original))
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert again.state_dict().keys() == original.state_dict().keys()


def test_scripts__a_network_read_back_from_a_bundle_gives_its_golden_images(quantize_bundle: Any) -> None:
    bundle = open_bundle(BUNDLE)
    graph = quantize_bundle.graph_of(bundle, bundle.read_model(bundle.manifest.models[0]))
    inputs, images = bundle.read_golden()
    with torch.inference_mode():
        made = graph(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
    assert np.abs(made.astype(int) - images).max() <= 1
