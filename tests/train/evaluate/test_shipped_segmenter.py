"""The segmenter inside the package: its files, its card, its ONNX form, and where it is used."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import CommandLine
from evaluation_data import masks, photographs
from PIL import Image
from support import REFERENCE, Array

from m2l_export.graph.onnx_segmenter import segmenter_to_onnx
from m2l_train.evaluate import SHIPPED_SEGMENTER, EvaluationOptions, load_segmenter
from m2l_train.evaluate.metrics import mask_fidelity
from m2l_train.evaluate.segmenter import Segmenter, SegmenterSpec, new_network, save_segmenter

MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    return load_segmenter()


def run_onnx(content: bytes, images: Array) -> tuple[Array, Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    probabilities, features = session.run(["probabilities", "features"], {"images": images})
    return probabilities, features


def test_shipped_segmenter__files_are_small_and_kernels_half_precision() -> None:
    for suffix in (".pt", ".onnx"):
        assert SHIPPED_SEGMENTER.with_suffix(suffix).stat().st_size < MAX_BYTES
    weights = torch.load(SHIPPED_SEGMENTER, weights_only=True)["weights"]
    assert {value.dtype for value in weights.values() if value.dim() == 4} == {torch.float16}
    assert {value.dtype for value in weights.values() if value.dim() == 1} == {torch.float32}


def test_shipped_segmenter__it_opens_in_single_precision_and_can_be_trained_on() -> None:
    network = load_segmenter().network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    loss = network.train()(torch.zeros(2, 3, 128, 128)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_shipped_segmenter__it_finds_what_it_never_saw(shipped: Segmenter) -> None:
    """Drawn photographs: dark discs on lighter skin."""
    given = masks(4, 256, 300)
    lesions, _ = shipped(photographs(4, 256, 300))
    assert mask_fidelity.compare(given, lesions).dice.mean() > 0.8


def test_shipped_segmenter__its_card_has_the_facts_of_the_file(shipped: Segmenter) -> None:
    card = (SHIPPED_SEGMENTER.parent / "MODEL_CARD.md").read_text()
    assert hashlib.sha256(SHIPPED_SEGMENTER.read_bytes()).hexdigest() in card
    assert shipped.facts.data_fingerprint in card
    assert f"| {shipped.facts.val_dice:.3f} |" in card
    assert f"{shipped.facts.train_count:,} image and mask pairs" in card
    parameters = sum(parameter.numel() for parameter in shipped.network.parameters())
    assert f"{parameters:,} parameters" in card
    for word in ("CC-0", "Apache-2.0", "Never for diagnosis", "Limits"):
        assert word in card


def test_shipped_segmenter__its_onnx_file_is_what_its_weights_give(shipped: Segmenter) -> None:
    assert SHIPPED_SEGMENTER.with_suffix(".onnx").read_bytes() == segmenter_to_onnx(shipped)


@pytest.mark.parametrize("size", [(256, 256), (128, 128), (96, 64), (300, 210)])
def test_shipped_segmenter__onnx_computes_what_pytorch_does(shipped: Segmenter, size: tuple[int, int]) -> None:
    pictures = [Image.fromarray(image).resize((size[1], size[0])) for image in photographs(3, 256, 300)]
    images = np.stack([np.asarray(picture) for picture in pictures])
    expected, expected_features = shipped(images)
    found, features = run_onnx(SHIPPED_SEGMENTER.with_suffix(".onnx").read_bytes(), images)
    assert (found.shape, features.shape) == (expected.shape, (3, shipped.spec.feature_count))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(features, expected_features, atol=1e-3 * float(np.abs(expected_features).max()))


def test_segmenter_to_onnx__other_layouts_too() -> None:
    """Random weights, statistics of batch norm that are not those of a new network, another depth and side."""
    spec = SegmenterSpec(width=3, levels=2, side=64)
    network = new_network(spec, 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.linspace(-1, 1, module.num_features)
            module.running_var = torch.linspace(0.5, 2, module.num_features)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4 and "last" not in name:  # as the file stores them
            parameter.data = parameter.data.half().float()
    segmenter = Segmenter(spec, network, None, "")  # type: ignore[arg-type]
    images = photographs(2, 100, 5)
    found, features = run_onnx(segmenter_to_onnx(segmenter), images)
    expected, expected_features = segmenter(images)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(features, expected_features, atol=1e-2)
    assert found.std() > 0.01


def test_save_segmenter__half_precision_changes_kernels_by_a_thousandth_at_most(tmp_path: Path) -> None:
    spec = SegmenterSpec(width=2, levels=1, side=32)
    network = new_network(spec, 0)
    facts = load_segmenter().facts
    save_segmenter(tmp_path / "half.pt", spec, network, facts, is_half=True)
    read = load_segmenter(tmp_path / "half.pt").network.state_dict()
    for name, value in network.state_dict().items():
        if value.dim() == 4:
            torch.testing.assert_close(read[name], value, rtol=2**-11, atol=1e-7)
            assert not torch.equal(read[name], value)
        else:
            assert torch.equal(read[name], value)


def test_evaluation__the_shipped_segmenter_is_used_unless_another_is_named(
    m2l: CommandLine, synthetic: Path, data: Path, segmenter: Path, tmp_path: Path
) -> None:
    assert EvaluationOptions().segmenter == SHIPPED_SEGMENTER
    arguments = ("evaluate", "images", synthetic, data, "--workers", 1, "--encoding", "none", "--overwrite")
    results = {}
    for name, more in (("default", ()), ("other", ("--segmenter", segmenter)), ("none", ("--segmenter", "none"))):
        done = m2l(*arguments, *more, "--out", tmp_path / "result.json")
        assert done.code == 0, done
        results[name] = (json.loads((tmp_path / "result.json").read_text()), done.out)
    default, shown = results["default"]
    sha256 = hashlib.sha256(SHIPPED_SEGMENTER.read_bytes()).hexdigest()
    assert default["provenance"]["segmenter_sha256"] == sha256
    assert default["provenance"]["segmenter"] == "m2l: segmenter inside the package"
    assert "lesions found by m2l: segmenter inside the package, Dice 0.840 on its validation pairs" in shown
    assert all(default["figures"][name]["value"] is not None for name in ("dice", "boundary", "kid"))
    other, _ = results["other"]
    assert other["provenance"]["segmenter"] == "segmenter.pt"
    assert other["provenance"]["segmenter_sha256"] == hashlib.sha256(segmenter.read_bytes()).hexdigest()
    without, shown = results["none"]
    assert (without["provenance"]["segmenter"], without["provenance"]["segmenter_sha256"]) == (None, None)
    assert without["figures"]["dice"]["value"] is None
    assert "not measured (no segmenter was asked for: --segmenter none): kid, dice, boundary" in shown


def test_shipped_segmenter__it_is_among_the_package_data() -> None:
    folder = resources.files("m2l_train.evaluate.shipped")
    assert {"segmenter.pt", "segmenter.onnx", "MODEL_CARD.md"} <= {entry.name for entry in folder.iterdir()}


@pytest.mark.skipif(not (REFERENCE.parent / "isic2017-256").is_dir(), reason="needs the pairs of ISIC 2017")
def test_shipped_segmenter__its_dice_is_what_the_card_says(shipped: Segmenter) -> None:
    """On every fourth validation pair; the card has 0.842 of all, and the standard error of 38 is 0.03."""
    folder = REFERENCE.parent / "isic2017-256" / "val"
    images = sorted((folder / "images").iterdir())[::4]
    pictures = np.stack([np.asarray(Image.open(path)) for path in images])
    given = np.stack([np.asarray(Image.open(folder / "masks" / f"{p.stem}.png").convert("L")) for p in images])
    dice = mask_fidelity.compare(given, shipped(pictures)[0]).dice
    assert dice.mean() == pytest.approx(0.842, abs=0.06)
